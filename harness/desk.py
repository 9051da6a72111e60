"""One pass over a space until nothing is left for any agent: launches are given out, runs come in and are stored."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.agent import Fleet, MeasuringAgent
from harness.assemble import LaunchContext, new_launch_id, unmeasured_run
from harness.clock import Clock
from harness.controller import Controller
from harness.crew import Crew
from harness.errors import AgentLost
from harness.order import Progress, Stage, SweepOrder, SweepOutcome
from harness.plan import Assignment, LaunchPlan, Probes
from harness.points import Deployment, Point
from harness.probes import PointKey, ProbeStanding
from harness.records import INTERRUPTED, RunBundle
from harness.shelf import Shelf
from harness.store import read_ledger
from harness.store.files import write_whole
from harness.units import format_duration

PLAN_PREFIX = "plan-"
"""A sweep leaves what it planned in `plan-SWEEP.json`, for `harness status`."""


class Budget:
    """How much of a call's time is left. However little there was, a call gets one repetition further."""

    def __init__(self, budget_s: float | None, wall: Clock) -> None:
        self._wall, self.taken = wall, 0
        self._deadline_s = float("inf") if budget_s is None else wall.monotonic_s() + budget_s

    @property
    def left_s(self) -> float:
        return self._deadline_s - self._wall.monotonic_s()

    @property
    def is_spent(self) -> bool:
        return self.taken > 0 and self.left_s <= 0.0


class Desk:
    """Of one pass; also what a crew calls its desk."""

    def __init__(
        self,
        order: SweepOrder,
        stage: Stage,
        beyond: int,
        agents: Sequence[MeasuringAgent],
        shelf: Shelf,
        progress: Progress,
        budget: Budget,
    ) -> None:
        self._order, self._space, self._beyond = order, stage.space, beyond
        self._agents = {agent.name: agent for agent in agents}
        self._shelf, self._progress, self._budget = shelf, progress, budget
        self._skipped: dict[str, tuple[str, ...]] = {}
        self._lost: list[tuple[str, str]] = []
        self._withheld: dict[str, str] = {}
        self._lost_in: Counter[Deployment] = Counter()
        self._launch_ids: dict[str, str] = {}
        self._too_late = False
        self._planned: ProbeStanding | None = None
        rules = order.sweep.rules if stage.probing else replace(order.sweep.rules, probes=Probes())
        self._controller = Controller(order.sweep.name, stage.space, rules, order.seed)
        self._controller.tell(read_ledger(order.results))

    @property
    def agents(self) -> list[MeasuringAgent]:
        """All that took part, those that were lost as well; of a node that came back, the last one."""
        return list(self._agents.values())

    def _unlike(self) -> list[MeasuringAgent]:
        """One of each kind: nodes that are alike can run the same points, in the same environments."""
        found: dict[object, MeasuringAgent] = {}
        for agent in self._agents.values():
            found.setdefault((agent.spec, agent.nodes, self._controller.environments(agent)), agent)
        return list(found.values())

    def take_turns(self) -> bool:
        """Let one agent after another measure; whether time ran out with something left."""
        self._plan()
        for agent in self.agents:
            while not self.out_of_time() and self.has_work(agent):
                if reasons := agent.wait_until_free():
                    self.skip(agent, reasons)
                    break
                # Asked after the look, which is when a node finds its limits and drivers changed.
                plan = self.next_launch(agent)
                if plan is not None:
                    self._launch(agent, plan)
            if self._ran_out():
                return True
        return self._too_late

    def take_together(self, fleet: Fleet, wall: Clock) -> bool:
        """Let all agents of a fleet measure at once; whether time ran out with something left."""
        self._plan()
        try:
            Crew(self, fleet, wall, self._order.sweep.rules.max_attempts).work()
        finally:
            self._shelf.clear()
        return self._ran_out() or self._too_late

    def _plan(self) -> None:
        for agent in self._unlike():
            self._record_infeasible(agent)
        remaining = self._controller.remaining(self._unlike())
        self._leave_plan()
        self._progress.planned(remaining)

    def _ran_out(self) -> bool:
        return self.out_of_time() and self._controller.remaining(self._unlike()) > 0

    @property
    def is_held_up(self) -> bool:
        """Whether something is left that only nodes in use by others, or lost ones, could measure."""
        return bool(self._skipped or self._lost) and self._controller.remaining(self._unlike()) > 0

    def out_of_time(self) -> bool:
        return self._budget.is_spent

    def join(self, agent: MeasuringAgent) -> None:
        if self._agents.get(agent.name) is not agent:
            self._agents[agent.name] = agent
            if agent in self._unlike():
                self._record_infeasible(agent)
                self._leave_plan()

    def has_work(self, agent: MeasuringAgent) -> bool:
        return next(self._controller.preview(agent, 1), None) is not None

    def waits_for_more(self, agents: Sequence[MeasuringAgent]) -> bool:
        there = Counter(agent.spec.gpu_kind for agent in agents)
        wider = [group for group in self._space.groups if group.deployment.nodes > max(1, there[group.deployment.gpu])]
        points = {
            item.point.point_id
            for group in wider
            for item in group.candidates
            # Of a kind that is not there at all nothing stands in the way, as far as is known.
            if not any(one.obstacle(item.point) for one in agents if one.spec.gpu_kind == group.deployment.gpu)
        }
        return bool(points - self._controller.settled_points())

    def skip(self, agent: MeasuringAgent, reasons: tuple[str, ...]) -> None:
        """Others use the node: it gets no launch in this round."""
        self._skipped[agent.name] = reasons
        self._progress.skipped(agent, reasons)

    def next_launch(self, agent: MeasuringAgent) -> LaunchPlan | None:
        """The next one that there is time for."""
        while (plan := self._controller.ask(agent)) is not None:
            expected_s, left_s = 0.0, self._budget.left_s
            if self._order.expected_s is not None and left_s < float("inf"):
                expected_s = self._order.expected_s(plan)
            if expected_s <= left_s or expected_s == 0.0:
                self._progress.launching(agent, plan)
                break
            self._controller.finished(plan, agent)
            expected, left = format_duration(expected_s), format_duration(max(left_s, 0.0))
            self._withhold(plan.deployment, f"its first repetition is expected after {expected}, {left} are left")
            self._too_late = True
        return plan

    def _withhold(self, deployment: Deployment, reason: str) -> None:
        self._controller.withhold(deployment)
        self._withheld[deployment.label] = reason

    def _launch(self, agent: MeasuringAgent, plan: LaunchPlan) -> None:
        """Measure one launch, as far as time allows."""
        bundles = agent.measure(plan)
        try:
            for bundle in bundles:
                self.take(bundle)
                if self.out_of_time() and bundle.run.reason != INTERRUPTED:
                    break
        finally:
            # Closing the generator stops the engine, whatever ended the loop.
            try:
                bundles.close()
            finally:
                self._shelf.clear()
                self._controller.finished(plan, agent)
        self._leave_plan()

    def take(self, bundle: RunBundle) -> None:
        """Store a run, and learn from it."""
        self._shelf.put(bundle)
        self._controller.tell([bundle.run])
        self._budget.taken += bundle.run.purpose != "warmup"
        self._launch_ids[bundle.run.node] = bundle.run.launch_id

    def ended(self, agent: MeasuringAgent, plan: LaunchPlan) -> None:
        self._launch_ids.pop(agent.name, None)
        self._controller.finished(plan, agent)
        self._leave_plan()

    def lose(self, agent: MeasuringAgent, plan: LaunchPlan | None, error: AgentLost) -> None:
        """The repetition in hand failed; the others of its launch are free for other agents.

        A deployment that took so many nodes with it as a repetition has tries gets no further launch.
        """
        reason = f"node lost: {error}"
        self._lost.append((agent.name, str(error)))
        self._progress.skipped(agent, (f"lost: {error}",))
        launch_id = self._launch_ids.pop(agent.name, "") or new_launch_id()
        if plan is None:
            return
        if isinstance(error.in_hand, Assignment):
            environment = agent.environment(plan.deployment)
            context = LaunchContext(agent.identity, plan, environment, launch_id)
            self.take(unmeasured_run(context, error.in_hand, "failed", reason))
        self.ended(agent, plan)
        self._lost_in[plan.deployment] += 1
        if (times := self._lost_in[plan.deployment]) >= self._order.sweep.rules.max_attempts:
            self._withhold(plan.deployment, f"a node was lost in {times} of its launches")

    def _leave_plan(self) -> None:
        """Write the plan file where it is not there, or the points to probe have changed: they leave lost ones out."""
        probes = self._controller.probe_standing(self._unlike())
        if self._planned is None or self._planned.points != probes.points:
            _write_plan(self._order, self.points(), probes)
        self._planned = probes

    def _record_infeasible(self, agent: MeasuringAgent) -> None:
        bundles = [
            _infeasible_run(agent, self._order, assignment, obstacle)
            for assignment, obstacle in self._controller.infeasible(agent)
        ]
        if bundles:
            self._shelf.store(bundles)
            self._controller.tell([bundle.run for bundle in bundles])

    def points(self) -> dict[PointKey, tuple[Point, MeasuringAgent]]:
        """Every point of the space in every environment of the agents, each with an agent that measures it there."""
        found = {}
        for agent in self._unlike():
            for group in self._space.groups:
                if agent.hosts(group.deployment):
                    environment_id = agent.environment(group.deployment).environment_id
                    for item in group.candidates:
                        found[item.point.point_id, environment_id] = (item.point, agent)
        return found

    def outcome(self, spent: bool) -> SweepOutcome:
        points = self.points()
        standings = [self._controller.standing(point, agent) for point, agent in points.values()]
        return SweepOutcome(
            runs_taken=self._budget.taken,
            runs_left=self._controller.remaining(self._unlike()),
            points_done=sum(standing.done and not standing.infeasible for standing in standings),
            points_given_up=sum(standing.given_up > 0 and not standing.done for standing in standings),
            points_infeasible=sum(standing.infeasible for standing in standings),
            points_beyond=self._beyond,
            probes=self._controller.probe_standing(self._unlike()),
            budget_spent=spent,
            points=frozenset(points),
            skipped=tuple(self._skipped.items()),
            lost=tuple(self._lost),
            withheld=tuple(self._withheld.items()),
        )


def _infeasible_run(agent: MeasuringAgent, order: SweepOrder, assignment: Assignment, obstacle: str) -> RunBundle:
    deployment = assignment.point.deployment
    plan = LaunchPlan(order.sweep.name, deployment, (assignment,), order.sweep.rules, order.seed)
    context = LaunchContext(agent.identity, plan, agent.environment(deployment), launch_id="")
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
    write_whole(path, (json.dumps(content) + "\n").encode())
