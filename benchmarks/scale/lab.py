"""A lab of 64 nodes: its sweep, as large as the stored runs ask for, and agents that wait instead of measuring.

The sweep is deployments/simulated-space.yaml, with fewer deployments for few runs and more lengths for many, so that
four fifths of its points are done whatever the size.
"""

import time
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from harness.agent import Agent, MeasuringAgent
from harness.assemble import LaunchContext, identity
from harness.controller import Controller
from harness.deployment.sweepfile import Sweep, load_sweep
from harness.experiment import unheard
from harness.feasibility import node_obstacle
from harness.plan import Assignment, LaunchPlan
from harness.points import Deployment, Environment, NodeSpec, Point
from harness.records import RunBundle
from harness.simulator.node import SimulatedNode
from harness.space import Space, build_space, spread_out
from harness.workload.azure import Trace
from harness.workload.library import find_trace

SWEEP_FILE = Path(__file__).parents[2] / "deployments" / "simulated-space.yaml"
AGENTS = 64
SEED = 0
RUNS_PER_POINT = 6
"""Five repetitions and a warm-up, which is stored as well."""
_DONE = 0.8
_FEASIBLE = 0.72
"""Of the points of the sweep file, a little fewer than there are."""
_FEWEST_PER_DEPLOYMENT = 5
"""Points, as the sweep file has."""
STARTED = datetime(2026, 1, 1, tzinfo=UTC)


def lab_sweep(runs: int) -> Sweep:
    """A sweep of which `runs` stored runs are some four fifths."""
    sweep = load_sweep(SWEEP_FILE)
    wanted = runs / RUNS_PER_POINT / _DONE / _FEASIBLE
    per_deployment = max(_FEWEST_PER_DEPLOYMENT, -(-int(wanted) // len(sweep.deployments)))
    deployments = spread_out(sweep.deployments)[: -(-int(wanted) // per_deployment)]
    chat, code = sweep.batches
    few = per_deployment * 2 // 5
    batches = (replace(chat, per_deployment=per_deployment - few), replace(code, per_deployment=few))
    rules = replace(sweep.rules, probes=replace(sweep.rules.probes, points=0))
    return replace(sweep, deployments=tuple(deployments), options=(), batches=batches, rules=rules)


@cache
def _trace(name: str) -> Trace:
    return find_trace(name, SEED)


def lab_space(sweep: Sweep) -> Space:
    return build_space(sweep, _trace, SEED)


def specs_of(sweep: Sweep) -> dict[str, NodeSpec]:
    """Kind of node by kind of GPU."""
    return {spec.gpu_kind: spec for spec in sweep.nodes}


def feasible_points(sweep: Sweep, space: Space) -> list[tuple[Point, str]]:
    """Points that can run, in the order of the space, and the trace that their lengths are from."""
    specs = specs_of(sweep)
    found = []
    for group in space.groups:
        for item in group.candidates:
            if not node_obstacle(item.point, specs[item.point.deployment.gpu]):
                found.append((item.point, item.lengths_from))
    return found


def measured_bundles(launches: int) -> list[RunBundle]:
    """Runs of simulated nodes with all their details: as many launches on each kind of node."""
    sweep = lab_sweep(20_000)
    space = lab_space(sweep)
    controller = Controller(sweep.name, space, sweep.rules, SEED)
    found: list[RunBundle] = []
    for spec in sweep.nodes:
        agent = Agent(SimulatedNode(spec, f"sim-{spec.kind}", SEED, start_utc=STARTED))
        for _ in range(launches):
            plan = controller.ask(agent)
            assert plan is not None
            found += agent.measure(plan)
    return found


class WaitingAgent(Agent):
    """Waits as long as a launch and its repetitions take, and brings runs as a simulated node brought them.

    Args:
        templates: runs with their details, of any points: each run that is brought is one of them, made to be of the
            point that was asked for.
    """

    def __init__(
        self, spec: NodeSpec, name: str, templates: Sequence[RunBundle], launch_s: float, repetition_s: float
    ) -> None:
        super().__init__(SimulatedNode(spec, name, SEED, start_utc=STARTED))
        self._templates, self._launch_s, self._repetition_s = templates, launch_s, repetition_s
        self._environments: dict[Deployment, Environment] = {}
        self.first_s: float | None = None
        self.busy: list[tuple[float, float]] = []
        """Of each wait, when it began and how long it was to take, s."""

    def environment(self, deployment: Deployment) -> Environment:
        if deployment not in self._environments:
            self._environments[deployment] = self._node.environment(deployment)
        return self._environments[deployment]

    def wait_until_free(self) -> tuple[str, ...]:
        return ()

    def measure(self, plan: LaunchPlan, begins: Callable[[Assignment], None] = unheard) -> Generator[RunBundle]:
        launch_id = uuid.uuid4().hex[:12]
        template = self._templates[0]
        uuids, load_s = template.run.gpu_uuids, template.run.load_s
        context = LaunchContext(self._node, plan, self.environment(plan.deployment), launch_id, uuids, load_s)
        self._wait(self._launch_s)
        warmed: set[str] = set()
        for number, assignment in enumerate(plan.assignments):
            if assignment.point.point_id not in warmed:
                warmed.add(assignment.point.point_id)
                yield self._measured(context, Assignment(assignment.point, 0, 1, "warmup"), number)
            yield self._measured(context, assignment, number)

    def _measured(self, context: LaunchContext, assignment: Assignment, number: int) -> RunBundle:
        if assignment.purpose != "warmup":
            self._wait(self._repetition_s)
        template = self._templates[number % len(self._templates)]
        columns = identity(context, assignment) | {"started_at": datetime.now(UTC)}
        return replace(template, run=replace(template.run, **columns))

    def _wait(self, seconds: float) -> None:
        began_s = time.monotonic()
        self.busy.append((began_s, seconds))
        if seconds:
            time.sleep(seconds)


class Machines:
    """A fleet whose agents are all there."""

    patience_s = 0.0

    def __init__(self, agents: Sequence[MeasuringAgent]) -> None:
        self._agents = agents

    def teams(self, agents: Sequence[MeasuringAgent]) -> Sequence[MeasuringAgent]:
        return ()

    def present(self) -> Sequence[MeasuringAgent]:
        return self._agents

    def lost(self, agent: MeasuringAgent) -> None:
        raise AssertionError(f"{agent.name} cannot be lost")


def crew(
    sweep: Sweep, templates: Sequence[RunBundle], launch_s: float, repetition_s: float, count: int = AGENTS
) -> list[WaitingAgent]:
    """Agents of all kinds of node in turn."""
    return [
        WaitingAgent(sweep.nodes[number % len(sweep.nodes)], f"node-{number:02d}", templates, launch_s, repetition_s)
        for number in range(count)
    ]
