"""A resumable queue: asks the controller, lets agents measure, stores each run before the next begins.

Simulated runs are computed faster than they are written one by one, and computed again at no cost. Those that one
launch completes within `HELD_S` are stored together.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from harness.agent import Agent
from harness.assemble import LaunchContext, unmeasured_run
from harness.clock import Clock
from harness.controller import Controller
from harness.deployment.sweepfile import Sweep
from harness.errors import StoreError
from harness.plan import Assignment, LaunchPlan, Probes
from harness.points import Point
from harness.probes import PointKey, ProbeStanding
from harness.records import INTERRUPTED, RunBundle, RunRecord
from harness.space import Space
from harness.store import Writer, read_ledger

PLAN_PREFIX = "plan-"
"""A sweep leaves what it planned in `plan-SWEEP.json`, for `harness status`."""

HELD_S = 0.5
"""Of simulated runs, a kill loses what was computed in so long; measured ones are never held back."""


class Progress(Protocol):
    """Told what happens, for people to see."""

    def planned(self, runs: int) -> None: ...

    def launching(self, agent: Agent, plan: LaunchPlan) -> None: ...

    def skipped(self, agent: Agent, reasons: tuple[str, ...]) -> None: ...

    def measured(self, run: RunRecord) -> None: ...


@dataclass(frozen=True, slots=True)
class SweepOrder:
    """What to do in one call: a sweep, where its results go, and how far to go.

    Attributes:
        points: feasible points per round; None: all of the sweep.
        rounds: so many; the space grows by `points` each round.
        budget_s: stop before a run begins once so much time is spent; None: no limit.
    """

    sweep: Sweep
    results: Path
    seed: int
    points: int | None = None
    rounds: int = 1
    budget_s: float | None = None


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """What one call did, and how the points of its sweep stand now.

    `skipped`: agents that others kept busy when there was something left to measure on them, and why.
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


@dataclass(frozen=True, slots=True)
class Stage:
    """What is to be measured by then, with all before it, and whether its probes are due."""

    space: Space
    probing: bool


Stages = Callable[[], Iterator[Stage]]
"""Asked for the next stage when the last one is done, while the results folder is held for writing."""


def run_sweep(
    order: SweepOrder,
    space: Space,
    agents: list[Agent],
    progress: Progress,
    wall: Clock,
    owner: str,
    stages: Stages | None = None,
) -> SweepOutcome:
    """Measure what is missing, in as many launches as it takes.

    Args:
        wall: the clock of the budget (agents have their own).
        owner: how to name this process in the folder's lock.
        stages: None: the space in its order, by as many points and rounds as the order says.

    Raises:
        StoreRefused: the results folder is in use, not writable, newer, or of another source.
        StoreError: a write failed; all runs before it are stored.
    """
    deadline_s = None if order.budget_s is None else wall.monotonic_s() + order.budget_s

    def out_of_time(taken: int) -> bool:
        # However small the budget, a call gets one repetition further.
        return taken > 0 and deadline_s is not None and wall.monotonic_s() >= deadline_s

    source = agents[0].source
    with Writer(order.results, source=source, owner=owner, durable=source == "measured") as writer:
        taken, spent = 0, False
        for stage in _in_order(order, space, agents) if stages is None else stages():
            shelf = _Shelf(writer, progress, wall, HELD_S if source == "simulated" else 0.0)
            queue = _Round(order, stage.space, len(space) - len(stage.space), agents, shelf, progress, stage.probing)
            taken, spent = queue.run(taken, out_of_time)
            if spent:
                break
        return queue.outcome(taken, spent)


def _in_order(order: SweepOrder, space: Space, agents: list[Agent]) -> Iterator[Stage]:
    """The space grows by so many points each round; probes come once, when the last round's points are done."""
    if order.points is None:
        yield Stage(space, probing=True)
        return
    for number in range(1, order.rounds + 1):
        yield Stage(space.first(order.points * number, can_run(agents)), probing=number == order.rounds)


def can_run(agents: list[Agent]) -> Callable[[Point], bool]:
    """Whether any of them can measure a point."""

    def feasible(point: Point) -> bool:
        return any(agent.hosts(point.deployment) and not agent.obstacle(point) for agent in agents)

    return feasible


class _Shelf:
    """Where runs wait for the store: until the next one of a launch, or for `held_s` at most."""

    def __init__(self, writer: Writer, progress: Progress, wall: Clock, held_s: float) -> None:
        self._writer, self._progress, self._wall, self._held_s = writer, progress, wall, held_s
        self._bundles: list[RunBundle] = []
        self._stored_s = wall.monotonic_s()

    def put(self, bundle: RunBundle) -> None:
        """Store a run with those before it, or leave it until then."""
        self._bundles.append(bundle)
        if self._held_s == 0.0 or self._wall.monotonic_s() - self._stored_s >= self._held_s:
            self.clear()

    def clear(self) -> None:
        """Store what waits.

        Raises:
            StoreError: none of it is stored, nor will it be.
        """
        bundles, self._bundles = self._bundles, []
        self.store(bundles)
        for bundle in bundles:
            if bundle.run.purpose != "warmup":
                self._progress.measured(bundle.run)

    def store(self, bundles: Sequence[RunBundle]) -> None:
        """Store runs at once, without a word to anyone."""
        if bundles:
            self._writer.append(bundles)
            self._writer.compact()
        self._stored_s = self._wall.monotonic_s()


class _Round:
    """One pass over a space until nothing is left for any agent."""

    def __init__(
        self,
        order: SweepOrder,
        space: Space,
        beyond: int,
        agents: list[Agent],
        shelf: _Shelf,
        progress: Progress,
        probing: bool,
    ) -> None:
        self._order, self._space, self._beyond, self._agents = order, space, beyond, agents
        self._shelf, self._progress = shelf, progress
        self._skipped: dict[str, tuple[str, ...]] = {}
        rules = order.sweep.rules if probing else replace(order.sweep.rules, probes=Probes())
        self._controller = Controller(order.sweep.name, space, rules, order.seed)
        self._controller.tell(read_ledger(order.results))

    def run(self, taken: int, out_of_time: Callable[[int], bool]) -> tuple[int, bool]:
        """Runs taken (warm-ups not counted) with those of earlier rounds, and whether time ran out."""
        self._record_infeasible()
        remaining = self._controller.remaining(self._agents)
        planned = self._leave_plan(None)
        self._progress.planned(remaining)
        for agent in self._agents:
            while not out_of_time(taken) and self._has_work(agent) and not self._is_skipped(agent):
                # Asked after the look, which is when a node finds its limits and drivers changed.
                plan = self._controller.ask(agent)
                if plan is None:
                    break
                taken = self._launch(agent, plan, taken, out_of_time)
                planned = self._leave_plan(planned)
            if out_of_time(taken) and self._controller.remaining(self._agents):
                return taken, True
        return taken, False

    def _has_work(self, agent: Agent) -> bool:
        return next(self._controller.preview(agent, 1), None) is not None

    def _is_skipped(self, agent: Agent) -> bool:
        """Whether others use the node; then it gets no launch in this round."""
        reasons = agent.wait_until_free()
        if reasons:
            self._skipped[agent.name] = reasons
            self._progress.skipped(agent, reasons)
        return bool(reasons)

    def _launch(self, agent: Agent, plan: LaunchPlan, taken: int, out_of_time: Callable[[int], bool]) -> int:
        """Measure one launch, as far as time allows; returns the runs taken with those before it."""
        self._progress.launching(agent, plan)
        bundles = agent.measure(plan)
        try:
            for bundle in bundles:
                self._shelf.put(bundle)
                self._controller.tell([bundle.run])
                taken += bundle.run.purpose != "warmup"
                if out_of_time(taken) and bundle.run.reason != INTERRUPTED:
                    break
        finally:
            # Closing the generator stops the engine, whatever ended the loop.
            try:
                bundles.close()
            finally:
                self._shelf.clear()
                self._controller.finished(plan, agent)
        return taken

    def _leave_plan(self, planned: ProbeStanding | None) -> ProbeStanding:
        """Write the plan file where the points to probe are not those of `planned`: they leave points given up out."""
        probes = self._controller.probe_standing(self._agents)
        if planned is None or planned.points != probes.points:
            _write_plan(self._order, self.points(), probes)
        return probes

    def _record_infeasible(self) -> None:
        for agent in self._agents:
            bundles = [
                _infeasible_run(agent, self._order, assignment, obstacle)
                for assignment, obstacle in self._controller.infeasible(agent)
            ]
            if bundles:
                self._shelf.store(bundles)
                self._controller.tell([bundle.run for bundle in bundles])

    def points(self) -> dict[PointKey, tuple[Point, Agent]]:
        """Every point of the space in every environment of the agents, each with an agent that measures it there."""
        found = {}
        for agent in self._agents:
            for group in self._space.groups:
                if agent.hosts(group.deployment):
                    environment_id = agent.environment(group.deployment).environment_id
                    for item in group.candidates:
                        found[item.point.point_id, environment_id] = (item.point, agent)
        return found

    def outcome(self, taken: int, spent: bool) -> SweepOutcome:
        points = self.points()
        standings = [self._controller.standing(point, agent) for point, agent in points.values()]
        return SweepOutcome(
            runs_taken=taken,
            runs_left=self._controller.remaining(self._agents),
            points_done=sum(standing.done and not standing.infeasible for standing in standings),
            points_given_up=sum(standing.given_up > 0 and not standing.done for standing in standings),
            points_infeasible=sum(standing.infeasible for standing in standings),
            points_beyond=self._beyond,
            probes=self._controller.probe_standing(self._agents),
            budget_spent=spent,
            points=frozenset(points),
            skipped=tuple(self._skipped.items()),
        )


def _infeasible_run(agent: Agent, order: SweepOrder, assignment: Assignment, obstacle: str) -> RunBundle:
    deployment = assignment.point.deployment
    plan = LaunchPlan(order.sweep.name, deployment, (assignment,), order.sweep.rules, order.seed)
    context = LaunchContext(agent.node, plan, agent.environment(deployment), launch_id="")
    return unmeasured_run(context, assignment, "infeasible", obstacle)


def _write_plan(order: SweepOrder, points: Iterable[PointKey], probes: ProbeStanding) -> None:
    """Leave what is planned beside the tables; small, and replaced in one step."""
    content = {
        "sweep": order.sweep.name,
        "file": order.sweep.path,
        "seed": order.seed,
        "repetitions": order.sweep.rules.repetitions,
        "max_attempts": order.sweep.rules.max_attempts,
        "pid": os.getpid(),
        "points": sorted(points),
        "probes": sorted(probes.points),
        "probe_launches": order.sweep.rules.probes.launches,
    }
    path = order.results / f"{PLAN_PREFIX}{order.sweep.name}.json"
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.touch(mode=0o664)
        temporary.write_text(json.dumps(content) + "\n", "utf-8")
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
