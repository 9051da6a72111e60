"""What a sweep is asked for, who watches it, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.agent import MeasuringAgent
from harness.deployment.sweepfile import Sweep
from harness.plan import LaunchPlan
from harness.probes import PointKey, ProbeStanding
from harness.records import RunRecord
from harness.space import Space


class Progress(Protocol):
    """Told what happens, for people to see."""

    def planned(self, runs: int) -> None: ...

    def launching(self, agent: MeasuringAgent, plan: LaunchPlan) -> None: ...

    def skipped(self, agent: MeasuringAgent, reasons: tuple[str, ...]) -> None:
        """Others use its node, or it was lost."""
        ...

    def measured(self, run: RunRecord) -> None: ...


@dataclass(frozen=True, slots=True)
class SweepOrder:
    """What to do in one call: a sweep, where its results go, and how far to go.

    Attributes:
        points: feasible points per round; None: all of the sweep.
        rounds: so many; the space grows by `points` each round.
        budget_s: stop before a run begins once so much time is spent; None: no limit.
        expected_s: how long a launch is expected to take up to the end of its first repetition; with a budget, one
            that has not so long left is not begun.
    """

    sweep: Sweep
    results: Path
    seed: int
    points: int | None = None
    rounds: int = 1
    budget_s: float | None = None
    expected_s: Callable[[LaunchPlan], float] | None = None


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """What one call did, and how the points of its sweep stand now.

    Attributes:
        skipped: agents that others kept busy when there was something left to measure on them, and why.
        lost: agents that stopped answering, each time, and how that was noticed.
        withheld: deployments of which no further launch was begun, and why: nodes were lost with it, or the budget
            does not suffice.
    """

    runs_taken: int
    runs_left: int
    points_done: int
    points_given_up: int
    points_infeasible: int
    points_beyond: int
    probes: ProbeStanding
    budget_spent: bool
    points: frozenset[PointKey]
    skipped: tuple[tuple[str, tuple[str, ...]], ...] = ()
    lost: tuple[tuple[str, str], ...] = ()
    withheld: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """What is to be measured by then, with all before it, and whether its probes are due."""

    space: Space
    probing: bool
