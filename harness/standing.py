"""How far the sweeps of a results folder are, from the ledger and what each sweep planned."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import pyarrow.compute as pc

from harness.store import lock_owner, read_table
from harness.summary import first_lines
from harness.sweep import PLAN_PREFIX
from harness.units import format_duration

_COLUMNS = ["sweep", "source", "point_id", "environment_id", "repetition", "attempt", "purpose", "status", "reason",
            "started_at"]  # fmt: skip
_MOST_REASONS = 5


@dataclass(frozen=True, slots=True)
class SweepStanding:
    """One sweep in one folder. `progress` is a share of the planned repetitions, null without a plan."""

    folder: str
    sweep: str
    source: str
    points_planned: int | None
    points_done: int
    points_infeasible: int
    points_given_up: int
    runs: dict[str, int]
    progress: float | None
    left: str
    state: str
    reasons: tuple[tuple[str, str, int], ...]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def folder_standing(folder: Path) -> list[SweepStanding]:
    """One standing for each sweep that has runs in the folder.

    Raises:
        BadInput: no such folder.
        StoreRefused: its schema is newer.
    """
    runs = read_table(folder, "runs", _COLUMNS, pc.field("purpose") != "warmup").to_pandas()
    owner = lock_owner(folder)
    return [_standing(folder, str(name), group, owner) for name, group in runs.groupby("sweep")]


def _standing(folder: Path, sweep: str, runs: pd.DataFrame, owner: str) -> SweepStanding:
    plan = _plan(folder, sweep)
    repetitions, max_attempts = plan.get("repetitions"), plan.get("max_attempts")
    taken = runs[runs["repetition"] > 0]
    settled = taken[taken["status"].isin(["ok", "saturated"])]
    per_point = settled.groupby(["point_id", "environment_id"])["repetition"].nunique()
    infeasible = int(runs[runs["status"] == "infeasible"].groupby(["point_id", "environment_id"]).ngroups)
    keys = ["point_id", "environment_id", "repetition"]
    attempts = taken.groupby(keys).agg(attempt=("attempt", "max"))
    attempts["settled"] = attempts.index.isin(pd.MultiIndex.from_frame(settled[keys]))
    lost = attempts[~attempts["settled"] & (attempts["attempt"] >= (max_attempts or 1))]
    planned = plan.get("points")
    progress = None
    left = ""
    if planned is not None and repetitions:
        wanted = max((planned - infeasible) * repetitions, 1)
        progress = min(len(settled.drop_duplicates(keys)) / wanted, 1.0)
        left = _time_left(taken, wanted - len(settled.drop_duplicates(keys)), owner)
    bad = taken[~taken["status"].isin(["ok", "saturated"])]
    counted = bad.groupby(["status", first_lines(bad["reason"])]).size().sort_values(ascending=False)
    done = int((per_point >= (repetitions or 1)).sum())
    return SweepStanding(
        folder=str(folder),
        sweep=sweep,
        source=", ".join(sorted(runs["source"].unique())),
        points_planned=planned,
        points_done=done,
        points_infeasible=infeasible,
        points_given_up=len(lost.reset_index()[["point_id", "environment_id"]].drop_duplicates()),
        runs={str(status): int(count) for status, count in taken["status"].value_counts().sort_index().items()},
        progress=progress,
        left=left,
        state=f"running: {owner}" if owner else "not running",
        reasons=tuple((str(key[0]), str(key[1]), int(n)) for key, n in counted.head(_MOST_REASONS).items()),  # type: ignore[index]
    )


def _time_left(taken: pd.DataFrame, runs: int, owner: str) -> str:
    """Remaining time at the pace of the last runs; only for a sweep that is running on a real clock."""
    if runs <= 0 or not owner or len(taken) < 2 or (taken["source"] == "simulated").any():
        return ""
    started = taken["started_at"].sort_values().tail(50)
    return format_duration(float(started.diff().dt.total_seconds().median()) * runs)


def _plan(folder: Path, sweep: str) -> dict[str, int]:
    try:
        content = json.loads((folder / f"{PLAN_PREFIX}{sweep}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
