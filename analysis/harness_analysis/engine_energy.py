"""What the serving engine takes beside its steps, and how long requests wait for their first one.

Batch formation (LLMCO2, arXiv 2410.02950, section 4.2) lasts from a request's scheduled arrival to the start of the
first step that holds it: queue and wait. Its share is relative to the request's inference latency, from that step to
the last token; so it may exceed 100%.

Serving-engine energy of a replay, E_serv = P_idle x t + E_form:

- Measured: GPU energy less that of the steps (`closure`), plus all of the host's, processors and (where counted) DRAM.
- P_idle x t: GPUs at loaded idle for the time outside steps, the host at loaded idle for the whole window.
- E_form: what serving adds, the host's work above all, as a sum of `FORM_TERMS` with non-negative factors, fitted for
  each deployment on its replays.

The paper's t is the batch formation latency: right where GPUs idle while one batch is formed. With continuous
batching steps run meanwhile, and requests wait side by side; `as_published` counts every request's wait, to show that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from scipy.optimize import nnls

from harness.errors import BadInput
from harness.points import FloatArray
from harness.store import read_table
from harness_analysis.closure import valid_runs

PAPER_SHARE_PCT: Mapping[str, tuple[float, float]] = {"chat": (11.7, 6.4), "code": (1300.0, 1100.0)}
"""Batch formation over inference latency in the paper: mean and median, %. Code: 13 and 11 times the latency."""
PAPER_EBA10_PCT: Mapping[str, float] = {"chat": 89.2, "code": 98.8}
"""Share of its predictions of serving-engine energy within 10%."""
FORM_TERMS: Mapping[str, str] = {
    "second": "duration_s",
    "generated token": "tokens_generated",
    "request": "requests",
    "step": "steps",
}
"""What E_form is a sum of -> the column that counts it. In this order terms are left out where replays are too few."""
_WORKLOAD = ["trace", "load", "slice_start_s", "slice_duration_s", "length_scale"]


def task_of(trace: str) -> str:
    """chat or code, by the trace's name (Azure's conv is chat); else the name itself."""
    small = trace.lower()
    if "code" in small:
        return "code"
    return "chat" if "conv" in small or "chat" in small else trace


def formation(results: Path) -> pd.DataFrame:
    """Every finished request of the valid and saturated replays.

    Returns:
        Columns gpu, model, tp, pp, task, trace, load, run_id, formation_s, inference_s, share_pct.

    Raises:
        BadInput: no such folder, or no replays in it.
        StoreError, StoreRefused, UnreadableFile: as `harness.store.read_table`.
    """
    runs = valid_runs(results)
    runs = runs[runs["workload"] == "replay"]
    if runs.empty:
        raise BadInput("results", str(results), "a folder with valid replays on GPUs", "run harness sweep with replays")
    columns = ("run_id", "scheduled_s", "admitted_s", "finished_s", "outcome")
    rows = pc.field("window") == "replay"
    requests: pd.DataFrame = read_table(results, "requests", columns, rows).to_pandas()
    about = runs[["run_id", "gpu", "model", "tp", "pp", "trace", "load"]]
    requests = requests[requests["outcome"] == "finished"].merge(about, on="run_id")
    inference_s = requests["finished_s"] - requests["admitted_s"]
    formation_s = requests["admitted_s"] - requests["scheduled_s"]
    requests = requests.assign(
        task=requests["trace"].map(task_of),
        formation_s=formation_s,
        inference_s=inference_s,
        share_pct=100 * formation_s / inference_s.where(inference_s > 0),
    )
    return requests.drop(columns=["scheduled_s", "admitted_s", "finished_s", "outcome"])


def formation_table(
    requests: pd.DataFrame, by: Sequence[str] = ("gpu", "model", "tp", "pp", "task", "load")
) -> pd.DataFrame:
    """The distribution of `share_pct`, %, a row for each of `by` (task among them), beside the paper's.

    Columns: requests, mean_pct, p50_pct, p90_pct, p99_pct, formation_s and inference_s (means), paper_mean_pct,
    paper_p50_pct (missing where the trace is neither chat nor code).
    """
    grouped = requests.groupby(list(by), sort=True)
    shares = grouped["share_pct"]
    table = pd.DataFrame(
        {
            "requests": shares.size(),
            "mean_pct": shares.mean(),
            "p50_pct": shares.quantile(0.5),
            "p90_pct": shares.quantile(0.9),
            "p99_pct": shares.quantile(0.99),
            "formation_s": grouped["formation_s"].mean(),
            "inference_s": grouped["inference_s"].mean(),
        }
    ).reset_index()
    paper = [PAPER_SHARE_PCT.get(task, (np.nan, np.nan)) for task in table["task"]]
    return table.assign(paper_mean_pct=[one[0] for one in paper], paper_p50_pct=[one[1] for one in paper])


@dataclass(frozen=True, slots=True, eq=False)
class EngineEnergy:
    """Fitted E_form of one deployment: `factors` in the order of `FORM_TERMS`, W for a second, else J each."""

    factors: FloatArray

    def form_j(self, replays: pd.DataFrame) -> FloatArray:
        """(n,) E_form of each replay."""
        found: FloatArray = _counts(replays) @ self.factors
        return found


def measured_j(replays: pd.DataFrame) -> FloatArray:
    """(n,) E_serv of rows of `closure.Closures.replays`."""
    found: FloatArray = (replays["gpu_energy_j"] - replays["steps_j"]).to_numpy(np.float64) + _host_j(replays)
    return found


def idle_j(replays: pd.DataFrame) -> FloatArray:
    """(n,) P_idle x t: GPUs outside steps, and the host throughout."""
    host_w = replays["cpu_loaded_idle_w"] + replays["dram_loaded_idle_w"].where(replays["dram_energy_j"].notna(), 0.0)
    return (replays["idle_j"] + host_w * replays["duration_s"]).to_numpy(np.float64)


def fit_engine(replays: pd.DataFrame) -> EngineEnergy:
    """Fit E_form on replays of one deployment; relative errors of E_serv are what is made small.

    No more terms than there are different traces and loads: the first of `FORM_TERMS`.

    Raises:
        BadInput: no replays, or the energy or idle power of the processors is not known.
    """
    if replays.empty or np.isnan(measured_j(replays) - idle_j(replays)).any():
        found = "none" if replays.empty else "without the processors' energy or idle power"
        raise BadInput("replays", found, "replays with the energy of the host, which is most of what serving takes")
    workloads = len(replays[_WORKLOAD].drop_duplicates())
    used = min(len(FORM_TERMS), workloads)
    serving_j = measured_j(replays)
    left = _counts(replays)[:, :used] / serving_j[:, None]
    size = np.linalg.norm(left, axis=0)
    size[size == 0] = 1.0
    solved = nnls(left / size, 1 - idle_j(replays) / serving_j)[0] / size
    return EngineEnergy(np.concatenate([solved, np.zeros(len(FORM_TERMS) - used)]))


def held_out(replays: pd.DataFrame) -> pd.DataFrame:
    """E_serv of each replay, predicted from the other traces and loads of its deployment.

    Args:
        replays: `closure.Closures.replays`.

    Returns:
        The rows of deployments with at least two traces or loads, with columns task, serving_j (measured), idle_serv_j
        (P_idle x t), form_j (predicted), predicted_serv_j, published_serv_j (`as_published`, fitted likewise) and
        node_error_pct (steps and E_serv together, beside GPU and host energy).

    Raises:
        BadInput: no deployment has two, or the energy or idle power of the processors is not known.
    """
    found = []
    for _, mine in replays.groupby("deployment", sort=False):
        workload = mine.groupby(_WORKLOAD, dropna=False, sort=False).ngroup().to_numpy()
        form_j, published_j = np.zeros(len(mine)), np.zeros(len(mine))
        if workload.max() == 0:
            continue
        for number in range(workload.max() + 1):
            out = workload == number
            form_j[out] = fit_engine(mine[~out]).form_j(mine[out])
            published_j[out] = as_published(mine[~out], mine[out])
        idle, serving = idle_j(mine), measured_j(mine)
        node_j = mine["gpu_energy_j"].to_numpy(np.float64) + _host_j(mine)
        steps_j = mine["steps_j"].to_numpy(np.float64)
        found.append(
            mine.assign(
                task=mine["trace"].map(task_of),
                serving_j=serving,
                idle_serv_j=idle,
                form_j=form_j,
                predicted_serv_j=idle + form_j,
                published_serv_j=published_j,
                node_error_pct=100 * ((steps_j + idle + form_j) / node_j - 1),
            )
        )
    if not found:
        raise BadInput("replays", "one workload for each deployment", "at least two traces or loads of a deployment")
    return pd.concat(found, ignore_index=True)


def as_published(fitted: pd.DataFrame, asked: pd.DataFrame) -> FloatArray:
    """(n,) E_serv of `asked` if t were the batch formation of every request, and E_form a constant for each request.

    P_idle is of GPUs and host together. The constant is the mean of what is left in `fitted`, not below zero.
    """
    wait_j = _waiting_j(fitted)
    requests = fitted["requests"].to_numpy(np.float64)
    constant_j = max(float(((measured_j(fitted) - wait_j) / requests).mean()), 0.0)
    return _waiting_j(asked) + constant_j * asked["requests"].to_numpy(np.float64)


def engine_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """EBA(10) of E_serv by task, in percent of replay runs, beside the paper's.

    Columns: task, replays, eba10_pct (ours), idle_only_pct (E_form left out), published_pct (`as_published`), form_pct
    (of E_form alone: predicted against measured E_serv - P_idle x t), paper_pct, idle_share_pct (of E_serv).
    """
    rows = []
    for task, mine in predictions.groupby("task"):
        true, idle = mine["serving_j"].to_numpy(np.float64), mine["idle_serv_j"].to_numpy(np.float64)
        rows.append(
            {
                "task": str(task),
                "replays": len(mine),
                "eba10_pct": _near_pct(true, mine["predicted_serv_j"].to_numpy(np.float64)),
                "idle_only_pct": _near_pct(true, idle),
                "published_pct": _near_pct(true, mine["published_serv_j"].to_numpy(np.float64)),
                "form_pct": _near_pct(true - idle, mine["form_j"].to_numpy(np.float64)),
                "paper_pct": PAPER_EBA10_PCT.get(str(task), np.nan),
                "idle_share_pct": float(100 * (idle / true).mean()),
            }
        )
    return pd.DataFrame(rows)


def _near_pct(true: FloatArray, predicted: FloatArray) -> float:
    """`metrics.eba_pct` of 10%, also where what is measured as a difference came out negative: never met there."""
    return float(100 * (np.abs(predicted - true) <= 0.1 * true).mean())


def _waiting_j(replays: pd.DataFrame) -> FloatArray:
    power_w = replays["gpu_loaded_idle_w"] + replays["cpu_loaded_idle_w"]
    return (power_w * replays["formation_mean_s"] * replays["requests"]).to_numpy(np.float64)


def _host_j(replays: pd.DataFrame) -> FloatArray:
    return (replays["cpu_energy_j"] + replays["dram_energy_j"].fillna(0.0)).to_numpy(np.float64)


def _counts(replays: pd.DataFrame) -> FloatArray:
    return np.stack([replays[column].to_numpy(np.float64) for column in FORM_TERMS.values()], axis=1)
