"""What a report needs of a results folder: only its columns and rows, so that large folders are read in seconds."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from harness.errors import BadInput
from harness.labels import LABEL_COLUMNS, deployment_labels, replay_labels
from harness.records import SETTLED
from harness.repeatability import COLUMNS as REPEATABILITY_COLUMNS
from harness.store import read_table
from harness.store.layout import GENERATIONS
from harness.sweep import PLAN_PREFIX
from harness.workload.azure import Trace
from harness.workload.library import PROFILE_SUFFIX, find_trace, manifest

_DOMAINS = ("gpu", "cpu", "dram")
_RUN_COLUMNS = {
    "run_id", "sweep", "source", "node", "cpu", "harness_version", "n_gpus", "reason", "flags", "repetition", "attempt",
    "started_at", "window_s", "prefill_window_s", "duration_s", "requests", "tokens_generated", "batches_in_window",
    "gap_fraction", "prefill_gap_fraction", "decode_batch_mean", "ttft_mean_s", "gpu_gain_uncertainty",
    "gpu_power_integral_j", "gpu_sampling_bound_j", "gpu_energy_uncertainty_j", "gpu_prefill_energy_j",
    "gpu_prefill_energy_uncertainty_j", "client_cpu_s_per_1000_tokens",
    *(f"{domain}_{name}" for domain in _DOMAINS for name in ("energy_j", "source", "reason")),
    *(f"{domain}_{state}_idle_w" for domain in _DOMAINS for state in ("cold", "loaded")),
    *LABEL_COLUMNS, *REPEATABILITY_COLUMNS,
}  # fmt: skip
_REQUEST_COLUMNS = (
    "run_id", "scheduled_s", "sent_s", "admitted_s", "finished_s", "prompt_tokens", "generated_tokens", "outcome",
)  # fmt: skip
_STEP_COLUMNS = ("run_id", "n_steps", "start_s", "duration_s", "prefill_tokens", "decode_requests")
_LENGTHS = ("point_id", "prompt_tokens", "generated_tokens")
STEADY = "steady_state_window"
"""Flag of a saturated replay of which only the steady state counts."""


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """A results folder, ready for the tables of a report.

    Attributes:
        runs: all runs but warm-ups, index 0 to n-1; `deployment` and `replay` are their names.
        requests: of all replays, index `run` of `runs` beside each; `settled` of a replay that counts, `counted` when
            the request also finished within the run's window (its steady state, where that is all that counts).
        steps: rows of `iterations` of settled replays, within the windows, with the same `run`.
        lengths: point_id, prompt_tokens, generated_tokens as served in batches, each combination once.
        traces: by the names in `runs`, those that are known here: the trace itself, or where its file was not fetched
            a sample of its profile, which has another name.
    """

    folder: Path
    runs: pd.DataFrame
    requests: pd.DataFrame
    steps: pd.DataFrame
    lengths: pd.DataFrame
    traces: dict[str, Trace]

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(sorted(self.runs["source"].unique()))


def read_results(folder: Path) -> Results:
    """Read what a report needs.

    Raises:
        BadInput: no results folder.
        StoreRefused: its schema is newer.
        UnreadableFile: a damaged file.
    """
    runs = read_table(folder, "runs", sorted(_RUN_COLUMNS), pc.field("purpose") != "warmup").to_pandas()
    if runs.empty:
        _require_harness_folder(folder)
    runs = runs.assign(deployment=deployment_labels(runs), replay=replay_labels(runs))
    settled = runs["status"].isin(SETTLED)
    batches = runs.loc[settled & (runs["workload"] == "batch"), "point_id"].unique()
    return Results(
        folder=folder,
        runs=runs,
        requests=_requests(folder, runs, settled),
        steps=_steps(folder, runs, settled),
        lengths=_lengths(folder, batches),
        traces=_traces(runs["trace"].unique()),
    )


def _require_harness_folder(folder: Path) -> None:
    """An empty folder, and one whose sweep has yet to yield a run, have an empty report; others are a mistake."""
    ours = any(path.name == GENERATIONS or path.name.startswith(PLAN_PREFIX) for path in folder.iterdir())
    if not ours and any(folder.iterdir()):
        raise BadInput("RESULTS", str(folder), "a results folder, which holds a table `runs`", "check the path")


def _with_run(table: pa.Table, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows whose run is in `runs`; `run` takes the place of the long ids."""
    index = pc.index_in(table["run_id"], pa.array(runs["run_id"], pa.string()))
    table = table.drop_columns(["run_id"]).append_column("run", index)
    frame: pd.DataFrame = table.filter(pc.is_valid(table["run"])).to_pandas()
    return frame


def _requests(folder: Path, runs: pd.DataFrame, settled: "pd.Series[bool]") -> pd.DataFrame:
    rows = _with_run(read_table(folder, "requests", _REQUEST_COLUMNS, pc.field("window") == "replay"), runs)
    settled_here = settled[rows["run"]].to_numpy()
    window_s, steady = runs["window_s"][rows["run"]].to_numpy(), _steady(runs)[rows["run"]].to_numpy()
    inside = ~steady | rows["finished_s"].between(0.0, window_s)
    return rows.assign(settled=settled_here, counted=settled_here & rows["finished_s"].notna() & inside)


def _steps(folder: Path, runs: pd.DataFrame, settled: "pd.Series[bool]") -> pd.DataFrame:
    rows = _with_run(read_table(folder, "iterations", _STEP_COLUMNS, pc.field("window") == "replay"), runs)
    window_s, steady = runs["window_s"][rows["run"]].to_numpy(), _steady(runs)[rows["run"]].to_numpy()
    inside = ~steady | ((rows["start_s"] >= 0.0) & (rows["start_s"] < window_s))
    return rows[settled[rows["run"]].to_numpy() & inside]


def _steady(runs: pd.DataFrame) -> "pd.Series[bool]":
    return runs["flags"].map(lambda flags: STEADY in flags).astype(bool)


def _lengths(folder: Path, point_ids: Iterable[str]) -> pd.DataFrame:
    rows = read_table(folder, "requests", _LENGTHS, pc.field("window") == "full")
    wanted = pc.is_in(rows["point_id"], pa.array(point_ids, pa.string()))
    frame: pd.DataFrame = rows.filter(wanted).group_by(list(_LENGTHS)).aggregate([]).to_pandas()
    return frame


def _traces(names: Iterable[str]) -> dict[str, Trace]:
    known = {entry.name for entry in manifest()}
    found = {}
    for name in sorted(names):
        if name.removesuffix(PROFILE_SUFFIX) in known:
            try:
                found[name] = find_trace(name)
            except BadInput:
                continue  # A fetched file that is not the published one: `harness traces list` says so.
    return found
