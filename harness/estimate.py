"""What a sweep will cost before it is run: launches, node time and GPU-hours, estimated by simulation.

One repetition of every point, and one launch of the probes, is taken on a simulated node of the same kind, on its
virtual clock; the rest is multiplication. The figures say so: they are estimates, also for real nodes.
"""

import json
import shlex
from collections import Counter
from dataclasses import asdict, dataclass, replace

import click
from rich.console import Console

from harness.deployment.sweepfile import Sweep
from harness.experiment import measure_launch
from harness.feasibility import node_obstacle
from harness.plan import Assignment, LaunchPlan
from harness.points import NodeSpec, Point
from harness.probes import PROBE_REPETITIONS, choose_probes
from harness.records import Purpose
from harness.simulator.node import SimulatedNode
from harness.space import Group, Space
from harness.units import format_duration


@dataclass(frozen=True, slots=True)
class LaunchEstimate:
    """Launches of a deployment for its points, or for their probes: their node time, and how it would be started.

    `node_s` is None on a node without GPUs, which cannot be simulated.
    """

    deployment: str
    purpose: Purpose
    points: int
    launches: int
    runs: int
    node_s: float | None
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
    """Estimate the sweep's first `points` x `rounds` feasible points (all when None), and their probes."""

    def feasible(point: Point) -> bool:
        nodes = (node for node in sweep.nodes if node.gpu_kind == point.deployment.gpu)
        return any(not node_obstacle(point, node) for node in nodes)

    infeasible: Counter[str] = Counter()
    launches: list[LaunchEstimate] = []
    listed: list[str] = []
    runs, gpu_s = 0, 0.0
    first = space.first(None if points is None else points * rounds, feasible)
    for node in sweep.nodes:
        taken: list[LaunchEstimate] = []
        environments: dict[str, list[Group]] = {}
        for group in first.groups:
            if group.deployment.gpu != node.gpu_kind:
                continue
            obstacles = [node_obstacle(item.point, node) for item in group.candidates]
            infeasible.update(filter(None, obstacles))
            kept = tuple(item for item, obstacle in zip(group.candidates, obstacles, strict=True) if not obstacle)
            if not kept:
                continue
            group = replace(group, candidates=kept)
            taken.append(_launches(node, sweep, group, space, seed, "sweep"))
            # On one kind of node with one set of drivers, engines make the environments.
            environments.setdefault(group.deployment.limits.engine, []).append(group)
            listed += [item.point.label for item in kept]
        for groups in environments.values():
            probed = choose_probes(groups, sweep.rules.probes.points, lambda _: True)
            if probed is not None:
                taken.append(_launches(node, sweep, probed, space, seed, "probe"))
        gpu_s += sum(launch.node_s or 0.0 for launch in taken) * node.gpus
        runs += sum(launch.runs for launch in taken)
        launches += taken
    return Estimate(
        source="estimated by simulation",
        points=len(listed),
        runs=runs,
        launches=sum(launch.launches for launch in launches),
        node_s=sum(launch.node_s or 0.0 for launch in launches),
        gpu_hours=gpu_s / 3600,
        infeasible=dict(infeasible),
        by_launch=tuple(launches),
        listed_points=tuple(listed),
    )


def _launches(node: NodeSpec, sweep: Sweep, group: Group, space: Space, seed: int, purpose: Purpose) -> LaunchEstimate:
    """The launch that takes all repetitions of a group's points, or the launches that probe them."""
    count, repetitions = 1, sweep.rules.repetitions
    if purpose == "probe":
        count, repetitions = sweep.rules.probes.launches, PROBE_REPETITIONS
    (option,) = (item for one, item in zip(sweep.deployments, sweep.options, strict=True) if one == group.deployment)
    return LaunchEstimate(
        deployment=group.deployment.label,
        purpose=purpose,
        points=len(group.candidates),
        launches=count,
        runs=count * len(group.candidates) * repetitions,
        node_s=None if node.gpu is None else count * _launch_s(node, sweep, group, space, seed, repetitions),
        weights_path=option.weights_path,
        command=option.command,
    )


def _launch_s(node: NodeSpec, sweep: Sweep, group: Group, space: Space, seed: int, repetitions: int) -> float:
    """Node seconds of one launch with so many repetitions of each point."""
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
    return launch_s + repetition_s * repetitions


def print_estimate(estimate: Estimate, out: Console, as_json: bool) -> None:
    """Print the plan; nothing was measured."""
    if as_json:
        click.echo(json.dumps(asdict(estimate)))
        return
    for label in estimate.listed_points:
        out.print(f"  {label}")
    out.print("\nlaunch                                         points   node time", style="bold")
    for launch in estimate.by_launch:
        probes = f"  probes: {launch.launches} launches" if launch.purpose == "probe" else ""
        time = "not known" if launch.node_s is None else format_duration(launch.node_s)
        out.print(f"  {launch.deployment:<44} {launch.points:>6}  {time:>9}{probes}")
        if launch.weights_path or launch.command:
            out.print(f"    weights {launch.weights_path or '(dummy)'}  {shlex.join(launch.command)}")
    for reason, points in sorted(estimate.infeasible.items(), key=lambda item: -item[1]):
        out.print(f"  infeasible: {points} points: {reason}")
    planned = f"\n{estimate.points} points, {estimate.runs} runs, {estimate.launches} launches"
    unknown = [launch.node_s is None for launch in estimate.by_launch]
    if unknown and all(unknown):
        out.print(f"{planned}; the time of a node without GPUs is not known beforehand", style="bold")
        return
    if any(unknown):
        out.print("\nThe time of a node without GPUs is not known beforehand, and not in the sum.")
    out.print(
        f"{planned}:"
        f" {format_duration(estimate.node_s)} of node time, {estimate.gpu_hours:.1f} GPU-hours"
        f" ({estimate.source}; every GPU of a node counts, since a launch has the node to itself;"
        " from nothing: stored runs are not subtracted)",
        style="bold",
    )
