"""What deployments and replays are called, so that no two that differ share a name."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import pandas as pd

from harness.points import KV_BITS

_DEPLOYMENT = ("gpu", "model", "bits", "tp", "pp", "n_nodes", "engine", "token_budget")
_DEPLOYMENT_ALSO = (
    "max_sequences", "max_context_tokens", "enforce_eager", "weights", "revision", "node_kind", "gpu_name",
    "driver_version", "engine_version", "power_limit_w",
)  # fmt: skip
_REPLAY = ("trace", "slice_start_s", "slice_duration_s", "capacity_share", "rate_scale")
_REPLAY_ALSO = ("context_policy", "stream_interval")
LABEL_COLUMNS = (*_DEPLOYMENT, *_DEPLOYMENT_ALSO, *_REPLAY, *_REPLAY_ALSO, "workload")
"""Columns of `runs` that names are made of."""


def deployment_labels(runs: pd.DataFrame) -> "pd.Series[str]":
    """`Deployment.label` of each run, and behind it whatever tells apart those that share one.

    That includes what may not be mixed: another driver or engine version is another name.
    """
    return _named(runs, _DEPLOYMENT, _deployment, _DEPLOYMENT_ALSO)


def replay_labels(runs: pd.DataFrame) -> "pd.Series[str]":
    """Trace, slice and rate of each run's replay; empty for batches."""
    replays = runs[runs["workload"] == "replay"]
    # Below a given share of capacity the scale is found anew in each launch: it is no part of the name.
    replays = replays.assign(rate_scale=replays["rate_scale"].where(replays["capacity_share"].isna()))
    return _named(replays, _REPLAY, _replay, _REPLAY_ALSO).reindex(runs.index, fill_value="")


def _deployment(row: Mapping[Hashable, Any]) -> str:
    bits = "" if row["bits"] == KV_BITS else f" {row['bits']}bit"
    nodes = f" {row['n_nodes']:g}nodes" if row["n_nodes"] > 1 else ""
    return f"{row['gpu']} {row['model']}{bits} tp{row['tp']} pp{row['pp']}{nodes} {row['engine']}@{row['token_budget']}"


def _replay(row: Mapping[Hashable, Any]) -> str:
    share = row["capacity_share"]
    rate = f"x{row['rate_scale']:g}" if pd.isna(share) else f"capacity:{share:g}"
    return f"{row['trace']} {row['slice_start_s']:g}s+{row['slice_duration_s']:g}s {rate}"


def _named(
    runs: pd.DataFrame, base: tuple[str, ...], name: Callable[[Mapping[Hashable, Any]], str], also: tuple[str, ...]
) -> "pd.Series[str]":
    """Runs are many and names few: each combination of the columns is named once."""
    if runs.empty:
        return pd.Series("", index=runs.index, dtype=str)
    columns = [*base, *also]
    kinds = runs.groupby(columns, dropna=False, sort=False).ngroup()
    distinct = runs[columns].assign(kind=kinds).drop_duplicates("kind").set_index("kind")
    labels = pd.Series([name(row) for row in distinct.to_dict("records")], index=distinct.index, dtype=str)
    extra = pd.Series("", index=distinct.index, dtype=str)
    for column in also:
        values = distinct[column].map(lambda value: "" if pd.isna(value) else f"{value}")
        differs = values.groupby(labels).transform("nunique") > 1
        extra = extra.where(~differs, extra + f" {column}=" + values)
    return kinds.map(labels + extra).astype(str)
