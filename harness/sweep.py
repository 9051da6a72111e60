"""A resumable queue: asks the controller, lets agents measure, stores each run before the next begins."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.agent import Agent
from harness.assemble import LaunchContext, unmeasured_run
from harness.clock import Clock
from harness.controller import Controller
from harness.deployment.sweepfile import Sweep
from harness.plan import Assignment, LaunchPlan
from harness.points import Point
from harness.records import RunBundle, RunRecord
from harness.space import Space
from harness.store import Writer, read_ledger

PLAN_PREFIX = "plan-"
"""A sweep leaves what it planned in `plan-SWEEP.json`, for `harness status`."""


class Progress(Protocol):
    """Told what happens, for people to see."""

    def planned(self, runs: int) -> None: ...

    def launching(self, agent: Agent, plan: LaunchPlan) -> None: ...

    def measured(self, run: RunRecord) -> None: ...


@dataclass(frozen=True, slots=True)
class SweepOrder:
    """What to do in one call: a sweep, where its results go, and how far to go.

    Attributes:
        points: feasible points per round; None: all of the sweep.
        rounds: the space grows by `points` each round.
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
    """What one call did, and how the sweep stands now."""

    runs_taken: int
    runs_left: int
    points_done: int
    points_given_up: int
    points_infeasible: int
    budget_spent: bool


def run_sweep(
    order: SweepOrder, space: Space, agents: list[Agent], progress: Progress, wall: Clock, owner: str
) -> SweepOutcome:
    """Measure what is missing, in as many launches as it takes.

    Args:
        wall: the clock of the budget (agents have their own).
        owner: how to name this process in the folder's lock.

    Raises:
        StoreRefused: the results folder is in use, not writable, newer, or of another source.
        StoreError: a write failed; all runs before it are stored.
    """
    deadline_s = None if order.budget_s is None else wall.monotonic_s() + order.budget_s
    source = agents[0].source
    with Writer(order.results, source=source, owner=owner, durable=source == "measured") as writer:
        taken, spent = 0, False
        for number in range(1, order.rounds + 1):
            points = None if order.points is None else order.points * number
            queue = _Round(order, space.first(points, _feasible(agents)), agents, writer, progress)
            taken_now, spent = queue.run(lambda: deadline_s is not None and wall.monotonic_s() >= deadline_s)
            taken += taken_now
            if spent or points is None:
                break
        return queue.outcome(taken, spent)


def _feasible(agents: list[Agent]) -> Callable[[Point], bool]:
    def feasible(point: Point) -> bool:
        return any(agent.hosts(point.deployment) and not agent.obstacle(point) for agent in agents)

    return feasible


class _Round:
    """One pass over a space until nothing is left for any agent."""

    def __init__(
        self, order: SweepOrder, space: Space, agents: list[Agent], writer: Writer, progress: Progress
    ) -> None:
        self._order, self._space, self._agents = order, space, agents
        self._writer, self._progress = writer, progress
        self._controller = Controller(order.sweep.name, space, order.sweep.rules, order.seed)
        self._controller.tell(read_ledger(order.results))

    def run(self, out_of_time: Callable[[], bool]) -> tuple[int, bool]:
        """Runs taken (warm-ups not counted), and whether time ran out."""
        self._record_infeasible()
        remaining = self._controller.remaining(self._agents)
        _write_plan(self._order, self._space, remaining)
        self._progress.planned(remaining)
        taken = 0
        for agent in self._agents:
            while not out_of_time() and (plan := self._controller.ask(agent)) is not None:
                taken += self._launch(agent, plan, out_of_time)
            if out_of_time() and self._controller.remaining(self._agents):
                return taken, True
        return taken, False

    def _launch(self, agent: Agent, plan: LaunchPlan, out_of_time: Callable[[], bool]) -> int:
        """Measure one launch, as far as time allows; returns how many repetitions were stored."""
        self._progress.launching(agent, plan)
        taken = 0
        bundles = agent.measure(plan)
        try:
            for bundle in bundles:
                self._keep(bundle)
                taken += bundle.run.purpose == "sweep"
                if out_of_time():
                    break
        finally:
            # Closing the generator stops the engine, whatever ended the loop.
            bundles.close()
            self._controller.finished(plan, agent)
        return taken

    def _keep(self, bundle: RunBundle) -> None:
        self._writer.append([bundle])
        self._writer.compact()
        self._controller.tell([bundle.run])
        if bundle.run.purpose == "sweep":
            self._progress.measured(bundle.run)

    def _record_infeasible(self) -> None:
        for agent in self._agents:
            bundles = [
                _infeasible_run(agent, self._order, assignment, obstacle)
                for assignment, obstacle in self._controller.infeasible(agent)
            ]
            if bundles:
                self._writer.append(bundles)
                self._controller.tell([bundle.run for bundle in bundles])

    def outcome(self, taken: int, spent: bool) -> SweepOutcome:
        standings = []
        for group in self._space.groups:
            hosts = [agent for agent in self._agents if agent.hosts(group.deployment)]
            for environment_id in {agent.environment(group.deployment).environment_id for agent in hosts}:
                standings += [self._controller.standing(item.point, environment_id) for item in group.candidates]
        return SweepOutcome(
            runs_taken=taken,
            runs_left=self._controller.remaining(self._agents),
            points_done=sum(standing.done and not standing.infeasible for standing in standings),
            points_given_up=sum(standing.given_up > 0 for standing in standings),
            points_infeasible=sum(standing.infeasible for standing in standings),
            budget_spent=spent,
        )


def _infeasible_run(agent: Agent, order: SweepOrder, assignment: Assignment, obstacle: str) -> RunBundle:
    deployment = assignment.point.deployment
    plan = LaunchPlan(order.sweep.name, deployment, (assignment,), order.sweep.rules, order.seed)
    context = LaunchContext(agent.node, plan, agent.environment(deployment), launch_id="")
    return unmeasured_run(context, assignment, "infeasible", obstacle)


def _write_plan(order: SweepOrder, space: Space, remaining: int) -> None:
    content = {
        "sweep": order.sweep.name,
        "file": order.sweep.path,
        "seed": order.seed,
        "points": sum(len(group.candidates) for group in space.groups),
        "repetitions": order.sweep.rules.repetitions,
        "runs_remaining_at_start": remaining,
        "max_attempts": order.sweep.rules.max_attempts,
    }
    path = order.results / f"{PLAN_PREFIX}{order.sweep.name}.json"
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    temporary.replace(path)
