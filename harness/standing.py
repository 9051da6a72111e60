"""How far the sweeps of a results folder are, from the runs and from what each sweep planned."""

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import pyarrow.compute as pc
from pydantic import BaseModel, ValidationError

from harness.probes import probe_numbers
from harness.records import SETTLED
from harness.repeatability import COLUMNS as REPEATABILITY_COLUMNS
from harness.repeatability import Repeatability, repeatability
from harness.store import lock_owner, read_table
from harness.summary import first_lines, of_points
from harness.sweep import PLAN_PREFIX
from harness.units import format_duration

_COLUMNS = sorted({"sweep", "source", "repetition", "attempt", "reason", "started_at", *REPEATABILITY_COLUMNS})
_KEYS = ["point_id", "environment_id", "repetition"]
_MOST_REASONS = 5


class _Plan(BaseModel):
    """What a sweep left in its plan file."""

    sweep: str
    repetitions: int
    max_attempts: int
    pid: int
    points: list[tuple[str, str]]
    probes: list[tuple[str, str]] = []
    probe_launches: int = 0


@dataclass(frozen=True, slots=True)
class SweepStanding:
    """One planned sweep in one folder.

    `progress` is the share of its repetitions and probes that are settled; `probe_runs_...` count the probes' runs,
    `runs` those of both; `owner` is the process that is measuring it now.
    """

    folder: str
    sweep: str
    source: str
    points_planned: int
    points_done: int
    points_infeasible: int
    points_given_up: int
    probe_runs_planned: int
    probe_runs_done: int
    probe_runs_given_up: int
    runs: dict[str, int]
    progress: float
    left: str
    owner: str
    reasons: tuple[tuple[str, str, int], ...]
    repeatability: Repeatability

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def folder_standing(folder: Path) -> list[SweepStanding]:
    """One standing for each sweep that was planned in the folder.

    Raises:
        BadInput: no such folder.
        StoreRefused: its schema is newer.
    """
    runs = read_table(folder, "runs", _COLUMNS, pc.field("purpose") != "warmup").to_pandas()
    owner = lock_owner(folder)
    return [_standing(folder, plan, of_points(runs, plan.points), owner) for plan in _plans(folder)]


def _plans(folder: Path) -> list[_Plan]:
    plans = []
    for path in sorted(folder.glob(f"{PLAN_PREFIX}*.json")):
        try:
            plans.append(_Plan.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue  # Not one of ours, or in the making; the runs themselves are in the tables.
    return plans


def _standing(folder: Path, plan: _Plan, runs: pd.DataFrame, owner: str) -> SweepStanding:
    repetitions = runs[(runs["purpose"] == "sweep") & runs["repetition"].between(1, plan.repetitions)]
    settled, lost = _settled_and_lost(repetitions, plan.max_attempts)
    infeasible = len(runs[runs["status"] == "infeasible"][_KEYS[:2]].drop_duplicates())
    numbers = [number for launch in range(1, plan.probe_launches + 1) for number in probe_numbers(launch)]
    probes = of_points(runs[(runs["purpose"] == "probe") & runs["repetition"].isin(numbers)], plan.probes)
    probes_settled, probes_lost = _settled_and_lost(probes, plan.max_attempts)
    probes_wanted = len(plan.probes) * len(numbers)
    wanted = (len(plan.points) - infeasible) * plan.repetitions + probes_wanted
    done = len(settled) + len(probes_settled)
    taken = pd.concat([repetitions, probes])
    bad = taken[~taken["status"].isin(SETTLED)]
    counted = bad.groupby(["status", first_lines(bad["reason"])]).size().sort_values(ascending=False)
    running = owner.startswith(f"pid {plan.pid} ")
    return SweepStanding(
        folder=str(folder),
        sweep=plan.sweep,
        source=", ".join(sorted(runs["source"].unique())),
        points_planned=len(plan.points),
        points_done=int((settled.groupby(_KEYS[:2]).size() >= plan.repetitions).sum()),
        points_infeasible=infeasible,
        points_given_up=len(lost[_KEYS[:2]].drop_duplicates()),
        probe_runs_planned=probes_wanted,
        probe_runs_done=len(probes_settled),
        probe_runs_given_up=len(probes_lost),
        runs={str(status): int(count) for status, count in taken["status"].value_counts().sort_index().items()},
        progress=done / wanted if wanted else 1.0,
        left=_time_left(taken, wanted - done) if running else "",
        owner=owner if running else "",
        reasons=tuple((str(key[0]), str(key[1]), int(n)) for key, n in counted.head(_MOST_REASONS).items()),  # type: ignore[index]
        repeatability=repeatability(runs),
    )


def _settled_and_lost(taken: pd.DataFrame, max_attempts: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row for each repetition that is settled, and for each that was given up."""
    settled = taken[taken["status"].isin(SETTLED)].drop_duplicates(_KEYS)
    tried = taken.groupby(_KEYS)["attempt"].max()
    lost = tried[(tried >= max_attempts) & ~tried.index.isin(pd.MultiIndex.from_frame(settled[_KEYS]))]
    return settled, lost.reset_index()


def _time_left(taken: pd.DataFrame, runs: int) -> str:
    """Remaining time at the pace of the last runs; a simulated node's clock says nothing of it."""
    if runs <= 0 or len(taken) < 2 or (taken["source"] == "simulated").any():
        return ""
    started = taken["started_at"].sort_values().tail(50)
    return format_duration(float(started.diff().dt.total_seconds().median()) * runs)
