"""Closure: a replay's energy from the records of its steps, beside what was measured.

Batches prove little about serving unless what they teach adds up to a replay: predicted = sum over steps + idle power
for the time outside them (`gap_fraction` of the window; what the GPUs take while no step runs). GPUs only; the host is
in `engine_energy`.

A step is known by what the `iterations` table holds: prompt tokens and chunks, decoding sequences, keys read. What it
takes is fitted on the gated batches of the same deployment, which no replay took part in, or asked of a predictor of
batches. In a pipeline each micro-batch is a step, and they overlap; what stages take while they wait for one another
goes by the time that any step was under way, 1 - `gap_fraction` of the window.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from harness.errors import BadInput
from harness.points import NO_GPU, FloatArray
from harness.store import read_table
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples, from_runs
from harness_analysis.predictor import Predictor
from harness_analysis.steps import PredictedSteps, StepEnergy, StepRows, fit_steps

DEPLOYMENT = (
    "environment_id", "gpu", "model", "bits", "tp", "pp", "engine", "token_budget", "max_sequences",
    "max_context_tokens", "enforce_eager", "weights",
)  # fmt: skip
"""Columns that runs of one deployment in one environment share."""
REPLAY = ("trace", "capacity_share", "rate_scale", "length_scale", "slice_start_s", "slice_duration_s", "point_id")
_RUN = (
    "run_id", "source", "status", "purpose", "workload", "repetition", "requests", "tokens_generated", "window_s",
    "duration_s", "gap_fraction", "prefill_s", "prefill_gap_fraction", "gpu_energy_j", "gpu_prefill_energy_j",
    "cpu_energy_j", "dram_energy_j", "gpu_loaded_idle_w", "cpu_loaded_idle_w", "dram_loaded_idle_w", "formation_mean_s",
)  # fmt: skip
_STEP = (
    "run_id", "window", "start_s", "n_steps", "duration_s", "prefill_requests", "prefill_tokens", "decode_requests",
    "context_tokens",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Closures:
    """What `closures` found.

    Attributes:
        replays: a row for each run of a replay. Columns of `runs`, and: deployment (label), load (`valid_runs`), steps
            (number), steps_j, gap_s, idle_j, measured_j, predicted_j, error_pct.
        models: by deployment, what says what its steps take.
        skipped: deployments that have replays but no such thing -> why.
    """

    replays: pd.DataFrame
    models: dict[str, StepEnergy]
    skipped: dict[str, str]


def closures(results: Path, predictor: Predictor | None = None) -> Closures:
    """Every valid or saturated replay of a results folder, by the batches of its deployment in the same folder.

    Args:
        predictor: ask this one, fitted before, what steps take; the batches then say no more than what is deployed.

    Raises:
        BadInput: no folder; no replay on GPUs; none whose deployment has batches.
        StoreError, StoreRefused, UnreadableFile: as `harness.store.read_table`.
    """
    runs = valid_runs(results)
    rows: list[pd.DataFrame] = []
    models: dict[str, StepEnergy] = {}
    skipped: dict[str, str] = {}
    known = None if predictor is None else from_runs(results)
    for label, mine in _deployments(runs):
        replays, batches = mine[mine["workload"] == "replay"], mine[mine["workload"] == "batch"]
        if replays.empty:
            continue
        try:
            if predictor is None or known is None:
                models[label] = fit_steps(batches, _steps_of(results, batches))
            else:
                models[label] = PredictedSteps(predictor, _deployed(known, batches))
        except BadInput as error:
            skipped[label] = str(error)
            continue
        rows.append(closed(replays, _steps_of(results, replays), models[label]).assign(deployment=label))
    if not rows:
        why = "; ".join(f"{label}: {reason}" for label, reason in skipped.items()) or "no valid replays on GPUs"
        accepted = "a folder with batches and replays of the same deployments"
        raise BadInput("results", f"{results} ({why})", accepted, "run harness sweep with batches and replays")
    return Closures(pd.concat(rows, ignore_index=True), models, skipped)


def valid_runs(results: Path) -> pd.DataFrame:
    """Runs on GPUs that count: batches that are `ok`, replays that are `ok` or `saturated`; no warm-ups.

    Those without an energy or a loaded idle power are left out.

    `load` is added: "capacity:0.6", or "x1.5" where the rate was given as a factor.
    """
    runs: pd.DataFrame = read_table(results, "runs", (*DEPLOYMENT, *REPLAY, *_RUN)).to_pandas()
    status_ok = (runs["status"] == "ok") | ((runs["status"] == "saturated") & (runs["workload"] == "replay"))
    known = runs["gpu_energy_j"].notna() & runs["gpu_loaded_idle_w"].notna()
    runs = runs[status_ok & known & (runs["purpose"] != "warmup") & (runs["gpu"] != NO_GPU)]
    pairs = zip(runs["capacity_share"], runs["rate_scale"], strict=True)
    return runs.assign(load=[f"x{rate:g}" if pd.isna(share) else f"capacity:{share:g}" for share, rate in pairs])


def closed(replays: pd.DataFrame, steps: pd.DataFrame, energy: StepEnergy) -> pd.DataFrame:
    """The replays of one deployment with the columns of `Closures.replays`, all but the label.

    Args:
        steps: rows of `iterations` that are of them. Of a replay whose energies are of its steady state, steps outside
            it are left out, and of rows that it cuts their part within.
    """
    of_step = replays.set_index("run_id").loc[steps["run_id"]]
    inside = within(steps, of_step["duration_s"].to_numpy(np.float64), of_step["pp"].to_numpy(np.float64))
    rows = StepRows.of(inside)
    summed = pd.DataFrame({"steps": rows.n_steps, "steps_j": energy.step_j(rows)})
    each = summed.groupby(inside["run_id"].to_numpy()).sum().reindex(replays["run_id"], fill_value=0.0)
    duration_s = replays["duration_s"].to_numpy(np.float64)
    gap_s = replays["gap_fraction"].fillna(1.0).to_numpy(np.float64) * duration_s
    idle_j = gap_s * replays["gpu_loaded_idle_w"].to_numpy(np.float64)
    steps_j = each["steps_j"].to_numpy(np.float64) + energy.under_way_w * (duration_s - gap_s)
    measured_j = replays["gpu_energy_j"].to_numpy(np.float64)
    return replays.assign(
        steps=each["steps"].to_numpy(np.float64),
        steps_j=steps_j,
        gap_s=gap_s,
        idle_j=idle_j,
        measured_j=measured_j,
        predicted_j=steps_j + idle_j,
        error_pct=100 * ((steps_j + idle_j) / measured_j - 1),
    )


def within(steps: pd.DataFrame, end_s: FloatArray, stages: FloatArray) -> pd.DataFrame:
    """Steps of the window from 0 to `end_s` (m,); rows that it cuts count by the part of their time inside.

    The steps of one row follow one another or, in a pipeline of `stages` (m,), are taken to fill it.
    """
    start_s, duration_s = steps["start_s"].to_numpy(np.float64), steps["duration_s"].to_numpy(np.float64)
    lasts_s = duration_s / np.minimum(stages, steps["n_steps"].to_numpy(np.float64))
    overlap_s = np.minimum(start_s + lasts_s, end_s) - np.maximum(start_s, 0)
    part = np.clip(np.divide(overlap_s, lasts_s, out=np.ones_like(overlap_s), where=lasts_s > 0), 0, 1)
    cut = steps.assign(**{name: steps[name] * part for name in ("n_steps", "duration_s", "context_tokens")})
    found: pd.DataFrame = cut[part > 0]
    return found


def _deployments(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each deployment's name and runs; what the name does not say is counted behind it."""
    seen: dict[str, int] = {}
    for _, mine in runs.groupby(list(DEPLOYMENT), dropna=False, sort=False):
        one = mine.iloc[0]
        name = f"{one['gpu']} {one['model']} tp{one['tp']} pp{one['pp']} {one['engine']}@{one['token_budget']}"
        name += "" if one["bits"] == 16 else f" {one['bits']}bit"
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name} #{seen[name]}", mine


def _deployed(known: Examples, batches: pd.DataFrame) -> Configurations:
    """One configuration of the deployment that ran these batches.

    Raises:
        BadInput: no batches.
    """
    points = [] if known.point_id is None else np.flatnonzero(np.isin(known.point_id, batches["point_id"].unique()))
    if not len(points):
        raise BadInput("batches", "none", "valid batches of the deployment")
    return known.configurations.take(points[:1])


def _steps_of(results: Path, runs: pd.DataFrame) -> pd.DataFrame:
    rows = pc.field("run_id").isin(runs["run_id"].tolist())
    found: pd.DataFrame = read_table(results, "iterations", _STEP, rows).to_pandas()
    return found
