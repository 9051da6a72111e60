"""The closing table of a sweep: what was measured, what was not and why, joules by deployment, what next."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from harness.labels import LABEL_COLUMNS, deployment_labels, replay_labels
from harness.records import SETTLED
from harness.repeatability import COLUMNS as SPREAD_COLUMNS
from harness.repeatability import Repeatability, repeatability
from harness.sweep import SweepOutcome

COLUMNS = tuple(
    dict.fromkeys(
        (
            *SPREAD_COLUMNS, *LABEL_COLUMNS, "source", "reason", "requests", "tokens_generated", "gpu_energy_j",
            "cpu_energy_j", "decode_batch_mean", "ttft_mean_s",
        )
    )
)  # fmt: skip
"""Of `runs`: all that a summary is made of. Whole rows take several times the memory."""
_MOST_REASONS = 12
_COLUMNS = (
    "\ndeployment", "batch\npoints", "batches\nJ/token (min-max)", "replay\nruns", "replay\nJ/token",
    "replay\nJ/request", "CPU\nJ/request", "batch\nformed", "TTFT\ns", "",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DeploymentLine:
    """One row of the table; energies are the GPUs' gross energy (CPU where named), null where nothing was measured.

    Batches: the median over points (min and max beside it), on the first row of a deployment only. Replays: means
    over the repetitions of one replay.
    """

    deployment: str
    batch_points: int
    batch_runs: int
    batch_j_per_token: float | None
    batch_j_per_token_min: float | None
    batch_j_per_token_max: float | None
    replay: str
    replay_runs: int
    replay_j_per_request: float | None
    replay_j_per_token: float | None
    replay_cpu_j_per_request: float | None
    replay_decode_batch: float | None
    replay_ttft_s: float | None
    replay_status: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What a sweep's runs say, ready to be printed or written as JSON.

    `reasons`: status, an example and whose it is, and how many points share it but for its numbers.
    """

    sources: tuple[str, ...]
    traces: tuple[str, ...]
    lines: tuple[DeploymentLine, ...]
    runs: dict[str, int]
    reasons: tuple[tuple[str, str, int], ...]
    repeatability: Repeatability

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def of_points(runs: pd.DataFrame, points: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """The runs of some points, each given by point_id and environment_id."""
    wanted = {f"{point_id}.{environment_id}" for point_id, environment_id in points}
    return runs[(runs["point_id"] + "." + runs["environment_id"]).isin(wanted)]


def summarise(runs: pd.DataFrame, points: Iterable[tuple[str, str]]) -> Summary:
    """Summarise the runs (with `COLUMNS`) of a sweep's points; warm-ups are left out."""
    runs = of_points(runs[runs["purpose"] != "warmup"], points)
    labels = deployment_labels(runs)
    good = runs["status"].isin(SETTLED)
    lines: list[DeploymentLine] = []
    for label in sorted(labels[good].unique()):
        lines += _deployment_lines(label, runs[good & (labels == label)])
    return Summary(
        sources=tuple(sorted(runs["source"].unique())),
        traces=tuple(sorted(set(runs["trace"]) - {""})),
        lines=tuple(lines),
        runs={str(status): int(count) for status, count in runs["status"].value_counts().sort_index().items()},
        reasons=_reasons(runs[runs["status"] != "ok"]),
        repeatability=repeatability(runs),
    )


def first_lines(reasons: "pd.Series[str]") -> "pd.Series[str]":
    """Reasons without the log tails that may follow them."""
    return reasons.map(lambda reason: reason.partition("\n")[0])


def _reasons(bad: pd.DataFrame) -> tuple[tuple[str, str, int], ...]:
    """Reasons that differ in their numbers only count as one, shown by its first example; most points first."""
    examples: dict[tuple[str, str], str] = {}
    points: dict[tuple[str, str], set[str]] = {}
    reasons = first_lines(bad["reason"]) + " (" + deployment_labels(bad) + ")"
    for status, reason, point_id in zip(bad["status"], reasons, bad["point_id"], strict=True):
        alike = (str(status), re.sub(r"\d+(\.\d+)?", "#", reason.partition(" (")[0]))
        examples.setdefault(alike, reason)
        points.setdefault(alike, set()).add(point_id)
    counted = [(status, examples[status, alike], len(points[status, alike])) for status, alike in examples]
    return tuple(sorted(counted, key=lambda item: -item[2]))


def _deployment_lines(label: str, runs: pd.DataFrame) -> list[DeploymentLine]:
    batch, replays = runs[runs["workload"] == "batch"], runs[runs["workload"] == "replay"]
    names = replay_labels(replays)
    rows = [(name, replays[names == name]) for name in sorted(names.unique())] or [("", replays)]
    return [_line(label, batch if not number else batch.iloc[:0], *row) for number, row in enumerate(rows)]


def _line(label: str, batch: pd.DataFrame, replay_name: str, replay: pd.DataFrame) -> DeploymentLine:
    per_token = batch["gpu_energy_j"] / (batch["batch_size"] * batch["generated_tokens"])
    by_point = per_token.groupby(batch["point_id"]).mean()
    served = replay["requests"].astype(float)
    return DeploymentLine(
        deployment=label,
        batch_points=len(by_point),
        batch_runs=len(batch),
        batch_j_per_token=_finite(by_point.median()),
        batch_j_per_token_min=_finite(by_point.min()),
        batch_j_per_token_max=_finite(by_point.max()),
        replay=replay_name,
        replay_runs=len(replay),
        replay_j_per_request=_ratio(replay["gpu_energy_j"], served),
        replay_j_per_token=_ratio(replay["gpu_energy_j"], replay["tokens_generated"]),
        replay_cpu_j_per_request=_ratio(replay["cpu_energy_j"], served),
        replay_decode_batch=_finite(replay["decode_batch_mean"].mean()),
        replay_ttft_s=_finite(replay["ttft_mean_s"].mean()),
        replay_status="saturated" if (replay["status"] == "saturated").any() else "ok" if len(replay) else "",
    )


def _ratio(energy_j: "pd.Series[float]", count: "pd.Series[float]") -> float | None:
    """Mean energy per item over the repetitions that have any."""
    some = count > 0
    return _finite((energy_j[some] / count[some]).mean())


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def print_summary(summary: Summary, outcome: SweepOutcome, folder: Path, out: Console) -> None:
    """Print the closing table for people."""
    title = f"GPU energy by deployment ({' and '.join(summary.sources) or 'nothing measured'})"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    several = len({line.replay for line in summary.lines if line.replay}) > 1
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in ("\ndeployment", "") else "right", no_wrap=True)
    for line in summary.lines:
        spread = ""
        if line.batch_j_per_token is not None:
            spread = f" ({_number(line.batch_j_per_token_min)}-{_number(line.batch_j_per_token_max)})"
        table.add_row(
            line.deployment,
            str(line.batch_points or "-"),
            _number(line.batch_j_per_token) + spread,
            str(line.replay_runs or "-"),
            _number(line.replay_j_per_token),
            _number(line.replay_j_per_request),
            _number(line.replay_cpu_j_per_request),
            _number(line.replay_decode_batch),
            _number(line.replay_ttft_s),
            " ".join(filter(None, [line.replay if several else "", "saturated" * (line.replay_status == "saturated")])),
        )
    out.print(table)
    if summary.lines:
        out.print(
            "  J/token: gross GPU joules per generated token; batches: median over points (range), replays: mean over"
            " repetitions.\n  Batch points differ between deployments (each fills another part of the space): compare"
            " replays, not medians.\n  batch formed: mean sequences decoding together in the replay. TTFT: from the"
            " schedule.",
            style="dim",
        )
    out.print()
    _print_counts(summary, outcome, out)
    if paragraph := summary.repeatability.paragraph():
        out.print(paragraph)
    if "simulated" in summary.sources:
        out.print("Every number above is simulated: no hardware was measured.", style="bold")
    if summary.traces:
        out.print(f"Traces: {', '.join(summary.traces)}.{_profile_note(summary.traces)}")
    out.print(f"\nResults: {folder}")
    out.print(f"  python -c 'import pandas; print(pandas.read_parquet(\"{folder}/runs\").describe())'")
    out.print(f"  harness status --results {folder}")


def _profile_note(traces: tuple[str, ...]) -> str:
    sampled = [name.removesuffix("-profile") for name in traces if name.endswith("-profile")]
    if not sampled:
        return ""
    return (
        f" A profile stands for a trace that was not here; to have the trace itself: harness traces fetch {sampled[0]}"
    )


def _print_counts(summary: Summary, outcome: SweepOutcome, out: Console) -> None:
    if outcome.points_given_up:
        out.print(
            f"{outcome.points_given_up} points were given up after failed or invalid attempts, for the reasons below;"
            " to try them again, allow more: --max-attempts 6",
            style="bold red",
        )
    elif outcome.runs_taken == 0 and outcome.runs_left == 0:
        beyond = f" (of the first {outcome.points_done}; more without --points)" if outcome.points_beyond else ""
        out.print(f"Nothing left to do: every point has its repetitions{beyond}.", style="bold green")
    probes = outcome.probes
    if probes.given_up:
        out.print(f"{probes.given_up} runs of probes were given up after failed or invalid attempts.", style="bold red")
    counted = ", ".join(f"{count} {status}" for status, count in summary.runs.items())
    out.print(
        f"Points: {outcome.points_done} done, {outcome.points_infeasible} infeasible, "
        f"{outcome.points_given_up} given up."
        + f" Probes: {probes.settled} of {probes.wanted} runs."
        * (probes.wanted > 0)
        + f" Runs now: {outcome.runs_taken} taken, {outcome.runs_left} left;"
        f" in the folder: {counted or 'none'}."
    )
    for status, reason, points in summary.reasons[:_MOST_REASONS]:
        out.print(f"  {status:<10} {points:>4} {'points, such as' if points > 1 else 'point'}: {reason}")
    if len(summary.reasons) > _MOST_REASONS:
        out.print(f"  ... and {len(summary.reasons) - _MOST_REASONS} more reasons: column `reason` of runs")


def _number(value: float | None) -> str:
    """Three significant digits, without exponents; a dash for nothing."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{digits}f}"
