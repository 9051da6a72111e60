"""What a report says, in order: its sections, with their tables and plots. A new section is one more function here."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from harness.repeatability import repeatability
from harness.report import tables
from harness.report.data import Results


@dataclass(frozen=True, slots=True, eq=False)
class ReportTable:
    """One table.

    Attributes:
        brief: how many rows the terminal shows of it; with 0 none, and a page folds it.
        wide: few rows of it are turned on their side.
    """

    name: str
    title: str
    note: str
    frame: pd.DataFrame
    brief: int = 80
    wide: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Plot:
    """One plot, made by the function in `harness.report.plots.FIGURES` of this name from this frame."""

    name: str
    caption: str
    frame: pd.DataFrame


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """`anchor` is its place in the page; `text` are paragraphs."""

    anchor: str
    title: str
    text: tuple[str, ...]
    tables: tuple[ReportTable, ...]
    plots: tuple[Plot, ...] = ()


def sections(results: Results) -> tuple[Section, ...]:
    """All sections that the folder has something to say in; none for a folder without runs."""
    if results.runs.empty:
        return ()
    makers: tuple[Callable[[Results], Section], ...] = (_inventory, _energy, _requests, _batch_sizes, _quality)
    made = [make(results) for make in makers]
    return tuple(section for section in made if any(len(table.frame) for table in section.tables))


def headline(results: Results) -> str:
    """The first line: whether anything was measured."""
    if results.runs.empty:
        return "No runs: nothing was measured yet."
    if results.sources == ("measured",):
        return "Measured on hardware."
    return "SIMULATED: no hardware was measured; every number below comes from a model of a node."


def _inventory(results: Results) -> Section:
    runs = results.runs
    sweeps = ", ".join(sorted(runs["sweep"].unique()))
    return Section(
        "inventory",
        "What is in the folder",
        (f"Sweeps: {sweeps}. Runs are repetitions of points; warm-ups are left out of everything.",),
        (
            ReportTable("environments", "Where, and with what", "", tables.environments(runs), wide=True),
            ReportTable("deployments", "Points and runs", "Runs by status, probes included.", tables.deployments(runs)),
            ReportTable(
                "reasons",
                "What is not ok, and why",
                "Reasons that differ only in their numbers count as one.",
                tables.reasons(runs),
            ),
        ),
    )


def _energy(results: Results) -> Section:
    points, replays = tables.batch_points(results.runs), tables.replay_energy(results.runs)
    return Section(
        "energy",
        "Energy by deployment",
        (
            "Gross energy of the GPUs that the engine holds; CPU and DRAM are whole sockets. Intervals are of 95% over"
            " repetitions (Student's t) and leave out the boards' gain, which all runs on a board share.",
        ),
        (
            ReportTable(
                "replay_energy",
                "Replays",
                "Energy of the window over the requests finished, and over the tokens generated, in it.",
                replays,
            ),
            ReportTable(
                "batch_energy",
                "Batches, by batch size",
                "Median, least and most over points. Lengths differ between points and between deployments: compare"
                " deployments by their replays, or by points of the same lengths.",
                tables.batch_energy(points),
            ),
            ReportTable("batch_points", "Batches, point by point", "", points, brief=0),
        ),
        (
            Plot(
                "replay_energy",
                "Energy of replays per request and per generated token, least first. Bars: 95% interval"
                " (often narrower than the dot).",
                replays,
            ),
            Plot(
                "batch_energy",
                "Energy per generated token over batch size. Small dots: points, whose prompt and generated lengths"
                " differ; lines join their medians.",
                points,
            ),
        ),
    )


def _requests(results: Results) -> Section:
    histogram = tables.length_histogram(results)
    return Section(
        "requests",
        "Requests",
        (
            "Tokens per request as the engine counted them, beside the trace's own. Replays clip or drop what is over"
            " the context, and are of one slice; batch points drawn from a trace are each counted once. How far each is"
            " from the trace (apart %) is the largest distance between the two distributions.",
        ),
        (
            ReportTable(
                "length_quantiles", "Tokens per request", "Quantiles of each.", tables.length_quantiles(results)
            ),
            ReportTable("length_histogram", "The histogram", "", histogram, brief=0),
        ),
        (Plot("lengths", "Tokens per request, in bins of half a doubling.", histogram),),
    )


def _batch_sizes(results: Results) -> Section:
    histogram, latencies = tables.decode_batch_histogram(results), tables.latencies(results)
    return Section(
        "batch-sizes",
        "Batch sizes and times in replays",
        (
            "Every step of every settled repetition: how many sequences decoded together, by count of steps and by"
            " their time. A step that also holds prompt chunks is mixed, and takes longer. Of saturated replays the"
            " steady state counts, where it lasted long enough. Times are counted from a request's schedule.",
        ),
        (
            ReportTable(
                "decode_batches",
                "Batch sizes formed",
                "Decode batch over decoding steps: mean and quantiles by count of steps, then by time.",
                tables.decode_batches(results),
            ),
            ReportTable(
                "latencies",
                "Lag, batch formation and latency",
                "From the schedule until a request was sent (lag), in a first step (formation), finished (latency).",
                latencies,
            ),
            ReportTable(
                "outcomes", "What became of the requests", "Failed and invalid runs included.", tables.outcomes(results)
            ),
            ReportTable("decode_batch_histogram", "The histogram", "", histogram, brief=0),
        ),
        (
            Plot(
                "decode_batches",
                "How often each decode batch size was formed: percent of decoding steps by their count (filled) and by"
                " their time (line). Vertical scales differ.",
                histogram,
            ),
            Plot(
                "latencies",
                "Batch formation beside the whole latency of requests, the fastest replays first.",
                latencies,
            ),
        ),
    )


def _quality(results: Results) -> Section:
    runs = results.runs
    return Section(
        "quality",
        "How well it was measured",
        tuple(filter(None, [repeatability(runs).paragraph()])),
        (
            ReportTable(
                "quality",
                "Figures",
                "Over runs; CV over points. Random uncertainties are 95% half-widths. The gain is systematic: it comes"
                " on top, and cancels between runs on one board.",
                tables.quality(runs),
            ),
            ReportTable("flags", "Flags", "Percent of the runs that have a GPU energy.", tables.flags(runs)),
            ReportTable(
                "baselines",
                "Idle power",
                "Medians over launches; GPUs: per GPU.",
                tables.baselines(runs),
            ),
            ReportTable("provenance", "Where each energy comes from", "Settled runs.", tables.provenance(runs)),
        ),
        (Plot("spread", "How far repetitions of a point scatter.", tables.batch_points(runs)),),
    )
