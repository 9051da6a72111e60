"""Batch sizes that replays formed, step by step (the LLMCO2 paper's Fig. 7)."""

import numpy as np
import pandas as pd

from harness.report.data import Results
from harness.report.tables.spread import weighted_quantiles

LEVELS = {"p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
_REPLAY = ["deployment", "replay"]


def decode_batch_histogram(results: Results) -> pd.DataFrame:
    """How often each decode batch size was formed, over all settled repetitions of a replay.

    deployment, replay, decode_requests (sequences that generate a token in a step, 1 or more), steps, time_s (inside
    these steps), share_of_steps_pct, share_of_time_pct. Steps without decoding are left out.
    """
    steps = _named(results)
    decoding = steps[steps["decode_requests"] > 0]
    table = decoding.groupby([*_REPLAY, "decode_requests"], sort=True, observed=True).agg(
        steps=("n_steps", "sum"), time_s=("duration_s", "sum")
    )
    totals = table.groupby(_REPLAY).transform("sum")
    shares = 100.0 * table / totals
    table = table.assign(share_of_steps_pct=shares["steps"], share_of_time_pct=shares["time_s"])
    return table.reset_index()


def decode_batches(results: Results) -> pd.DataFrame:
    """One row per deployment and replay: what its steps held.

    n (repetitions), steps, mixed_steps_pct and mixed_time_pct (steps that hold prompt chunks and decoding sequences),
    prefill_only_time_pct, then the decode batch size over decoding steps: mean, quantiles by count of steps, and
    time_mean and time_p50, weighted by the steps' time.
    """
    steps = _named(results)
    groups = steps.groupby(_REPLAY, sort=True, observed=True)
    rows = [{**dict(zip(_REPLAY, key, strict=True)), **_composition(group)} for key, group in groups]
    columns = [*_REPLAY, "n", "steps", "mixed_steps_pct", "mixed_time_pct", "prefill_only_time_pct", "mean", *LEVELS,
               "time_mean", "time_p50"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _named(results: Results) -> pd.DataFrame:
    # Names as categories: there are millions of steps.
    where = results.steps["run"].to_numpy(np.int64)
    named = {name: results.runs[name].astype("category").array.take(where) for name in _REPLAY}
    return results.steps.assign(**named)


def _composition(steps: pd.DataFrame) -> dict[str, float]:
    count, time_s = steps["n_steps"].to_numpy(np.float64), steps["duration_s"].to_numpy(np.float64)
    decode = steps["decode_requests"].to_numpy(np.float64)
    decoding, prefilling = decode > 0, steps["prefill_tokens"].to_numpy() > 0
    row = {
        "n": steps["run"].nunique(),
        "steps": int(count.sum()),
        "mixed_steps_pct": _percent(count, decoding & prefilling),
        "mixed_time_pct": _percent(time_s, decoding & prefilling),
        "prefill_only_time_pct": _percent(time_s, prefilling & ~decoding),
    }
    if not decoding.any():
        return row
    size, count, time_s = decode[decoding], count[decoding], time_s[decoding]
    return row | {
        "mean": float(np.average(size, weights=count)),
        **weighted_quantiles(size, count, LEVELS),
        "time_mean": float(np.average(size, weights=time_s)),
        "time_p50": weighted_quantiles(size, time_s, {"p50": 0.5})["p50"],
    }


def _percent(
    weights: "np.ndarray[tuple[int], np.dtype[np.float64]]", where: "np.ndarray[tuple[int], np.dtype[np.bool_]]"
) -> float:
    return 100.0 * float(weights[where].sum() / weights.sum())
