"""What a sweep will cost before it is run: launches, node time and GPU-hours, estimated by simulation.

One repetition of every point is taken on a simulated node of the same kind, on its virtual clock; the rest is
multiplication. The figures say so: they are estimates, also for real nodes.
"""

import json
import shlex
from collections import Counter
from dataclasses import asdict, dataclass, replace
from itertools import product

import click
from rich.console import Console

from harness.deployment.sweepfile import Sweep
from harness.experiment import measure_launch
from harness.feasibility import point_obstacle
from harness.plan import Assignment, LaunchPlan
from harness.points import NodeSpec, Point
from harness.simulator.node import SimulatedNode
from harness.space import Group, Space
from harness.units import format_duration


@dataclass(frozen=True, slots=True)
class LaunchEstimate:
    """One launch: its points, its node time, and how it would be started on a real node."""

    deployment: str
    points: int
    node_s: float
    weights_path: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of a sweep from nothing; GPU-hours count every GPU of a node, since a launch has it alone."""

    source: str
    points: int
    runs: int
    launches: int
    node_s: float
    gpu_hours: float
    infeasible: dict[str, int]
    by_launch: tuple[LaunchEstimate, ...]
    listed_points: tuple[str, ...]


def estimate_sweep(sweep: Sweep, space: Space, points: int | None, rounds: int, seed: int) -> Estimate:
    """Estimate the sweep's first `points` x `rounds` feasible points (all when None)."""
    options = dict(zip(sweep.deployments, sweep.options, strict=True))

    def feasible(point: Point) -> bool:
        nodes = (node for node in sweep.nodes if node.gpu.kind == point.deployment.gpu)
        return any(not point_obstacle(point, node.gpu, node.gpus) for node in nodes)

    infeasible: Counter[str] = Counter()
    launches: list[LaunchEstimate] = []
    listed: list[str] = []
    node_s = gpu_s = 0.0
    first = space.first(None if points is None else points * rounds, feasible)
    for node, group in product(sweep.nodes, first.groups):
        if group.deployment.gpu != node.gpu.kind:
            continue
        obstacles = [point_obstacle(item.point, node.gpu, node.gpus) for item in group.candidates]
        infeasible.update(filter(None, obstacles))
        kept = tuple(item for item, obstacle in zip(group.candidates, obstacles, strict=True) if not obstacle)
        if not kept:
            continue
        cost_s = _launch_s(node, sweep, replace(group, candidates=kept), space, seed)
        node_s, gpu_s = node_s + cost_s, gpu_s + cost_s * node.gpus
        option, label = options[group.deployment], group.deployment.label
        launches.append(LaunchEstimate(label, len(kept), cost_s, option.weights_path, option.command))
        listed += [item.point.label for item in kept]
    return Estimate(
        source="estimated by simulation",
        points=len(listed),
        runs=len(listed) * sweep.rules.repetitions,
        launches=len(launches),
        node_s=node_s,
        gpu_hours=gpu_s / 3600,
        infeasible=dict(infeasible),
        by_launch=tuple(launches),
        listed_points=tuple(listed),
    )


def _launch_s(node: NodeSpec, sweep: Sweep, group: Group, space: Space, seed: int) -> float:
    """Node seconds of one launch with all its repetitions."""
    simulated = SimulatedNode(node, f"estimate-{node.kind}", seed)
    assignments = tuple(Assignment(item.point, 1, 1) for item in group.candidates)
    plan = LaunchPlan(sweep.name, group.deployment, assignments, sweep.rules, seed, space.schedules)
    begun_s = simulated.clock.monotonic_s()
    repetition_s = launch_s = 0.0
    for bundle in measure_launch(simulated, plan):
        passed_s = simulated.clock.monotonic_s() - begun_s
        begun_s += passed_s
        if bundle.run.purpose == "warmup":
            launch_s += passed_s
        else:
            repetition_s += passed_s
    return launch_s + repetition_s * sweep.rules.repetitions


def print_estimate(estimate: Estimate, out: Console, as_json: bool) -> None:
    """Print the plan; nothing was measured."""
    if as_json:
        click.echo(json.dumps(asdict(estimate)))
        return
    for label in estimate.listed_points:
        out.print(f"  {label}")
    out.print("\nlaunch                                         points   node time", style="bold")
    for launch in estimate.by_launch:
        out.print(f"  {launch.deployment:<44} {launch.points:>6}  {format_duration(launch.node_s):>9}")
        if launch.weights_path or launch.command:
            out.print(f"    weights {launch.weights_path or '(dummy)'}  {shlex.join(launch.command)}")
    for reason, points in sorted(estimate.infeasible.items(), key=lambda item: -item[1]):
        out.print(f"  infeasible: {points} points: {reason}")
    out.print(
        f"\n{estimate.points} points, {estimate.runs} runs, {estimate.launches} launches:"
        f" {format_duration(estimate.node_s)} of node time, {estimate.gpu_hours:.1f} GPU-hours"
        f" ({estimate.source}; every GPU of a node counts, since a launch has the node to itself;"
        " from nothing: stored runs are not subtracted)",
        style="bold",
    )
