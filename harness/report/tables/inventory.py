"""What is in a folder: where it was measured, which deployments, what came of it."""

import pandas as pd

from harness.summary import summarise

STATUSES = ("ok", "saturated", "invalid", "failed", "infeasible")
_PLACE = ("source", "node", "node_kind", "gpu_name", "power_limit_w", "cpu", "driver_version", "engine",
          "engine_version", "harness_version", "weights")  # fmt: skip


def environments(runs: pd.DataFrame) -> pd.DataFrame:
    """Where runs come from, and with what: one row per node and version of anything, with its runs and when they began.

    Infeasible points are left out: nothing was measured.
    """
    taken = runs[runs["status"] != "infeasible"]
    grouped = taken.groupby(list(_PLACE), dropna=False, sort=True)
    return grouped.agg(
        deployments=("deployment", "nunique"),
        launches=("launch_id", "nunique"),
        runs=("run_id", "size"),
        first_started_at=("started_at", "min"),
        last_started_at=("started_at", "max"),
    ).reset_index()


def deployments(runs: pd.DataFrame) -> pd.DataFrame:
    """Points and runs of each deployment, the runs by status (probes included)."""
    by_status = pd.crosstab(runs["deployment"], runs["status"]).reindex(columns=list(STATUSES), fill_value=0)
    points = runs.groupby(["deployment", "workload"])["point_id"].nunique().unstack(fill_value=0)
    points = points.reindex(columns=["batch", "replay"], fill_value=0)
    points.columns = pd.Index(["batch_points", "replay_points"])
    launches = runs[runs["launch_id"] != ""].groupby("deployment")["launch_id"].nunique()
    counted = points.assign(launches=launches.reindex(points.index, fill_value=0)).join(by_status)
    return counted.rename_axis(index="deployment", columns=None).reset_index()


def reasons(runs: pd.DataFrame) -> pd.DataFrame:
    """Why runs are not ok: reasons that differ only in numbers count as one, shown by an example; most points first."""
    bad = runs[runs["status"] != "ok"]
    found = summarise(bad, zip(bad["point_id"], bad["environment_id"], strict=True)).reasons
    return pd.DataFrame(
        [{"status": status, "points": points, "example": example} for status, example, points in found],
        columns=["status", "points", "example"],
    )
