"""What became of the requests of replays, and how long each part of it took."""

import numpy as np
import pandas as pd

from harness.engines.base import OUTCOMES
from harness.report.data import Results
from harness.report.tables.spread import quantiles

LEVELS = {"p50_s": 0.5, "p90_s": 0.9, "p99_s": 0.99, "max_s": 1.0}
PARTS = ("lag", "formation", "latency")
"""Sent, admitted to a first step, and finished: each less the time a request was scheduled."""
_ENDS = {"lag": "sent_s", "formation": "admitted_s", "latency": "finished_s"}
_REPLAY = ["deployment", "replay"]


def latencies(results: Results) -> pd.DataFrame:
    """Lag behind the schedule, batch formation and whole latency of the requests that count, three rows per replay.

    deployment, replay, part, n (requests), mean_s and quantiles, s. `lag` is sent - scheduled, `formation` is
    admitted - scheduled (LLMCO2 4.2), `latency` is finished - scheduled; a request without the stamp is left out.
    """
    requests = results.requests[results.requests["counted"]]
    rows = []
    for key, group in requests.groupby(_replays(results, requests), sort=True):
        for part in PARTS:
            spent_s = (group[_ENDS[part]] - group["scheduled_s"]).dropna().to_numpy(np.float64)
            mean_s = float(spent_s.mean()) if len(spent_s) else np.nan
            row = {**dict(zip(_REPLAY, key, strict=True)), "part": part, "n": len(spent_s), "mean_s": mean_s}
            rows.append({**row, **quantiles(spent_s, LEVELS)})
    return pd.DataFrame(rows, columns=[*_REPLAY, "part", "n", "mean_s", *LEVELS])


def outcomes(results: Results) -> pd.DataFrame:
    """How many requests of each replay ended how, those of failed and invalid runs included.

    deployment, replay, runs, requests, one column per outcome, and `unknown` where outcomes were not yet kept.
    """
    requests = results.requests
    kind = pd.Categorical(requests["outcome"].fillna("unknown"), [*OUTCOMES, "unknown"])
    keys = _replays(results, requests)
    table = pd.crosstab(keys, kind, dropna=False).reindex(columns=[*OUTCOMES, "unknown"], fill_value=0)
    table.insert(0, "requests", table.sum(axis=1))
    table.insert(0, "runs", requests.groupby(keys)["run"].nunique())
    if not table["unknown"].any():
        table = table.drop(columns="unknown")
    return table.rename_axis(index=_REPLAY, columns=None).reset_index()


def _replays(results: Results, requests: pd.DataFrame) -> list["pd.Series[str]"]:
    return [pd.Series(results.runs[name][requests["run"]].to_numpy(), index=requests.index) for name in _REPLAY]
