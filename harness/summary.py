"""The closing table of a sweep: what was measured, what was not and why, joules by deployment, what next."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from harness.points import KV_BITS
from harness.sweep import SweepOutcome

_MOST_REASONS = 12
_COLUMNS = (
    "deployment", "batch points", "J/token (min-max)", "replays", "J/token", "J/request", "CPU J/request",
    "batch formed", "TTFT s", "",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DeploymentLine:
    """One row of the table; energies are the GPUs' gross energy (CPU where named), null where nothing was measured.

    Batches: the median over points (min and max beside it). Replays: means over repetitions.
    """

    deployment: str
    batch_points: int
    batch_runs: int
    batch_j_per_token: float | None
    batch_j_per_token_min: float | None
    batch_j_per_token_max: float | None
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
    points: dict[str, int]
    reasons: tuple[tuple[str, str, int], ...]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def summarise(runs: pd.DataFrame, sweep: str) -> Summary:
    """Summarise the runs of one sweep; warm-ups are left out."""
    runs = runs[(runs["sweep"] == sweep) & (runs["purpose"] != "warmup")]
    labels = _labels(runs)
    good = runs["status"].isin(["ok", "saturated"])
    lines = [_line(label, runs[good & (labels == label)]) for label in sorted(labels[good].unique())]
    bad = runs[runs["status"] != "ok"]
    return Summary(
        sources=tuple(sorted(runs["source"].unique())),
        traces=tuple(sorted(set(runs["trace"]) - {""})),
        lines=tuple(lines),
        runs={str(status): int(count) for status, count in runs["status"].value_counts().sort_index().items()},
        points={str(key): int(n) for key, n in runs.groupby("status")["point_id"].nunique().sort_index().items()},
        reasons=_reasons(bad),
    )


def first_lines(reasons: "pd.Series[str]") -> "pd.Series[str]":
    """Reasons without the log tails that may follow them."""
    return reasons.map(lambda reason: reason.partition("\n")[0])


def _reasons(bad: pd.DataFrame) -> tuple[tuple[str, str, int], ...]:
    """Reasons that differ in their numbers only count as one, shown by its first example; most points first."""
    examples: dict[tuple[str, str], str] = {}
    points: dict[tuple[str, str], set[str]] = {}
    reasons = first_lines(bad["reason"]) + " (" + _labels(bad) + ")"
    for status, reason, point_id in zip(bad["status"], reasons, bad["point_id"], strict=True):
        alike = (str(status), re.sub(r"\d+(\.\d+)?", "#", reason.partition(" (")[0]))
        examples.setdefault(alike, reason)
        points.setdefault(alike, set()).add(point_id)
    counted = [(status, examples[status, alike], len(points[status, alike])) for status, alike in examples]
    return tuple(sorted(counted, key=lambda item: -item[2]))


def _labels(runs: pd.DataFrame) -> "pd.Series[str]":
    columns = (runs[name].tolist() for name in ("gpu", "model", "bits", "tp", "pp", "engine"))
    labels = [
        f"{gpu} {model}{'' if bits == KV_BITS else f' {bits}bit'} tp{tp} pp{pp} {engine}"
        for gpu, model, bits, tp, pp, engine in zip(*columns, strict=True)
    ]
    return pd.Series(labels, index=runs.index, dtype=str)


def _line(label: str, runs: pd.DataFrame) -> DeploymentLine:
    batch, replay = runs[runs["workload"] == "batch"], runs[runs["workload"] == "replay"]
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
        replay_runs=len(replay),
        replay_j_per_request=_finite((replay["gpu_energy_j"] / served).mean()),
        replay_j_per_token=_finite((replay["gpu_energy_j"] / (served * replay["generated_tokens"])).mean()),
        replay_cpu_j_per_request=_finite((replay["cpu_energy_j"] / served).mean()),
        replay_decode_batch=_finite(replay["decode_batch_mean"].mean()),
        replay_ttft_s=_finite(replay["ttft_mean_s"].mean()),
        replay_status="saturated" if (replay["status"] == "saturated").any() else "ok" if len(replay) else "",
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def print_summary(summary: Summary, outcome: SweepOutcome, folder: Path, out: Console) -> None:
    """Print the closing table for people."""
    title = f"GPU energy by deployment ({' and '.join(summary.sources) or 'nothing measured'})"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in ("deployment", "") else "right", no_wrap=True)
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
            "saturated" if line.replay_status == "saturated" else "",
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
    if "simulated" in summary.sources:
        out.print("Every number above is simulated: no hardware was measured.", style="bold")
    if summary.traces:
        out.print(f"Traces: {', '.join(summary.traces)}.{_profile_note(summary.traces)}")
    out.print(f"\nResults: {folder}")
    out.print(f"  python -c 'import pandas; print(pandas.read_parquet(\"{folder}/runs\").describe())'", markup=False)
    out.print(f"  harness status --results {folder}", markup=False)


def _profile_note(traces: tuple[str, ...]) -> str:
    sampled = [name.removesuffix("-profile") for name in traces if name.endswith("-profile")]
    if not sampled:
        return ""
    return f" Sampled from a profile, as the trace itself is not here: harness traces fetch {sampled[0]}"


def _print_counts(summary: Summary, outcome: SweepOutcome, out: Console) -> None:
    if outcome.runs_taken == 0 and outcome.runs_left == 0:
        out.print("Nothing left to do: every point has its repetitions.", style="bold green")
    counted = ", ".join(f"{count} {status}" for status, count in summary.runs.items())
    out.print(
        f"Points: {outcome.points_done} done, {outcome.points_infeasible} infeasible, "
        f"{outcome.points_given_up} given up. Runs now: {outcome.runs_taken} taken, {outcome.runs_left} left;"
        f" in the folder: {counted or 'none'}."
    )
    for status, reason, points in summary.reasons[:_MOST_REASONS]:
        out.print(f"  {status:<10} {points:>4} {'points, such as' if points > 1 else 'point'}: {reason}", markup=False)
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
