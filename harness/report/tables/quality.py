"""How well it was measured: windows, uncertainty, spread, flags, baselines, and where each energy comes from."""

import numpy as np
import pandas as pd

from harness.report.tables.spread import quantiles, spread
from harness.statistics import settled_runs

LEVELS = {"min": 0.0, "p5": 0.05, "p50": 0.5, "p95": 0.95, "max": 1.0}
_DOMAINS = ("gpu", "cpu", "dram")
_IDLE = tuple(f"{domain}_{state}_idle_w" for domain in _DOMAINS for state in ("cold", "loaded"))


def quality(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per workload and figure (its unit is in the name): n (runs or points that have it) and its quantiles.

    Window lengths, share of windows outside steps, random uncertainty of GPU energy (95% half-width), what a sampling
    board may have missed, counter against integrated power, the boards' gain, and CV over the repetitions of a point
    (GPU, CPU, DRAM; those of replays per request, since arrivals are the same and windows are not).
    """
    rows = []
    for workload in ("batch", "replay"):
        settled = settled_runs(runs[runs["workload"] == workload], "gpu_energy_j")
        for figure, values in _figures(settled, workload).items():
            known = np.asarray(values.dropna(), np.float64)
            if len(known):
                rows.append({"workload": workload, "figure": figure, "n": len(known), **quantiles(known, LEVELS)})
    return pd.DataFrame(rows, columns=["workload", "figure", "n", *LEVELS])


def _figures(runs: pd.DataFrame, workload: str) -> "dict[str, pd.Series[float]]":
    energy_j = runs["gpu_energy_j"]
    figures = {
        "window, s": runs["window_s"],
        "prefill window, s": runs["prefill_window_s"],
        "window outside steps, %": 100.0 * runs["gap_fraction"],
        "prefill window outside steps, %": 100.0 * runs["prefill_gap_fraction"],
        "GPU random uncertainty, %": 100.0 * runs["gpu_energy_uncertainty_j"] / energy_j,
        "GPU prefill random uncertainty, %": (
            100.0 * runs["gpu_prefill_energy_uncertainty_j"] / runs["gpu_prefill_energy_j"]
        ),
        "GPU energy that sampling may miss, %": 100.0 * runs["gpu_sampling_bound_j"] / energy_j,
        "GPU power integral less counter, %": 100.0 * (runs["gpu_power_integral_j"] / energy_j - 1.0),
        "GPU gain (systematic), %": 100.0 * runs["gpu_gain_uncertainty"],
    }
    per = 1.0 if workload == "batch" else runs["requests"].astype(float)
    for domain in _DOMAINS:
        keys = [runs["point_id"], runs["environment_id"]]
        figures[f"{domain.upper()} CV over repetitions, %"] = spread(runs[f"{domain}_energy_j"] / per, keys)["cv_pct"]
    return figures


def flags(runs: pd.DataFrame) -> pd.DataFrame:
    """Flags by frequency, of all runs that were measured: flag, batch_runs, replay_runs, runs, share_pct."""
    measured = runs[runs["gpu_energy_j"].notna()]
    found = measured[["flags", "workload"]].explode("flags").dropna()
    table = pd.crosstab(found["flags"], found["workload"]).reindex(columns=["batch", "replay"], fill_value=0)
    table.columns = pd.Index(["batch_runs", "replay_runs"])
    table["runs"] = table.sum(axis=1)
    table["share_pct"] = 100.0 * table["runs"] / max(len(measured), 1)
    return table.rename_axis(index="flag").sort_values("runs", ascending=False, kind="stable").reset_index()


def baselines(runs: pd.DataFrame) -> pd.DataFrame:
    """Idle power, one value per launch: node_kind, gpu, launches, and medians of each baseline, W.

    GPUs' are per GPU that the engine holds; CPU and DRAM of the whole node. `cold`: before the engine; `loaded`: the
    model resident, no work.
    """
    launches = runs[runs["launch_id"] != ""].drop_duplicates("launch_id")
    per_gpu = {name: launches[name] / launches["n_gpus"] for name in _IDLE if name.startswith("gpu_")}
    grouped = launches.assign(**per_gpu).groupby(["node_kind", "gpu"], sort=True)
    table = grouped[list(_IDLE)].median()
    table.insert(0, "launches", grouped.size())
    return table.reset_index()


def provenance(runs: pd.DataFrame) -> pd.DataFrame:
    """Where each domain's energy comes from, of settled runs: domain, source (or `absent`), runs, reason."""
    settled = settled_runs(runs, "status")
    frames = []
    for domain in _DOMAINS:
        source = settled[f"{domain}_source"].where(settled[f"{domain}_energy_j"].notna(), "absent")
        reason = settled[f"{domain}_reason"].fillna("")
        counted = pd.DataFrame({"source": source, "reason": reason}).value_counts(sort=True).reset_index(name="runs")
        frames.append(counted.assign(domain=domain))
    return pd.concat(frames, ignore_index=True)[["domain", "source", "runs", "reason"]]
