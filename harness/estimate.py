"""What a sweep will cost before it is run: launches, node time and GPU-hours, estimated by simulation.

One repetition of every point, and one launch of the probes, is taken on a simulated node of the same kind, on its
virtual clock; the rest is multiplication. Of a large sweep some launches stand for all. The figures say so: they are
estimates, also for real nodes.
"""

import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import click
from rich.console import Console

from harness.deployment.sweepfile import Sweep
from harness.engines.base import LaunchOptions
from harness.experiment import measure_launch
from harness.feasibility import node_obstacle
from harness.plan import Assignment, LaunchPlan
from harness.points import NodeSpec, Point
from harness.probes import PROBE_REPETITIONS, choose_probes
from harness.records import Purpose
from harness.simulator.node import SimulatedNode
from harness.space import Group, Space
from harness.units import format_duration

_MOST_SIMULATED = 64
"""Launches, without probes: of more, so many spread over the order are simulated, and the others are like them."""
_MOST_LISTED = 250
"""Points: more are summed up by kind of GPU and model."""


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
    simulated_launches: int
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
    simulated, gpu_s = 0, 0.0
    options = dict(zip(sweep.deployments, sweep.options, strict=True))
    first = space.first(None if points is None else points * rounds, feasible)
    for node in sweep.nodes:
        groups: list[Group] = []
        environments: dict[tuple[str, int], list[Group]] = {}
        for group in first.groups:
            if group.deployment.gpu != node.gpu_kind:
                continue
            obstacles = [node_obstacle(item.point, node) for item in group.candidates]
            infeasible.update(filter(None, obstacles))
            kept = tuple(item for item, obstacle in zip(group.candidates, obstacles, strict=True) if not obstacle)
            if not kept:
                continue
            groups.append(replace(group, candidates=kept))
            # On one kind of node with one set of drivers, engines make the environments.
            alike = (group.deployment.limits.engine, group.deployment.nodes)
            environments.setdefault(alike, []).append(groups[-1])
            listed += [item.point.label for item in kept]
        taken = [_unknown(sweep, group, options[group.deployment], "sweep") for group in groups]
        every = -(-len(groups) // max(_MOST_SIMULATED // len(sweep.nodes), 1)) or 1
        if node.gpu is not None:
            for index in range(0, len(groups), every):
                node_s = _launch_s(node, sweep, groups[index], space, seed, sweep.rules.repetitions)
                taken[index] = replace(taken[index], node_s=node_s)
                simulated += 1
            taken = _like_the_simulated(taken)
        for candidates in environments.values():
            probed = choose_probes(candidates, sweep.rules.probes.points, lambda _: True)
            if probed is None:
                continue
            probes = _unknown(sweep, probed, options[probed.deployment], "probe")
            if node.gpu is not None:
                node_s = probes.launches * _launch_s(node, sweep, probed, space, seed, PROBE_REPETITIONS)
                probes = replace(probes, node_s=node_s)
                simulated += 1
            taken.append(probes)
        gpu_s += sum(launch.node_s or 0.0 for launch in taken) * node.gpus
        launches += taken
    return Estimate(
        source="estimated by simulation",
        simulated_launches=simulated,
        points=len(listed),
        runs=sum(launch.runs for launch in launches),
        launches=sum(launch.launches for launch in launches),
        node_s=sum(launch.node_s or 0.0 for launch in launches),
        gpu_hours=gpu_s / 3600,
        infeasible=dict(infeasible),
        by_launch=tuple(launches),
        listed_points=tuple(listed),
    )


def _unknown(sweep: Sweep, group: Group, option: LaunchOptions, purpose: Purpose) -> LaunchEstimate:
    """The launch that takes all repetitions of a group's points, or the launches that probe them; their time open."""
    count, repetitions = 1, sweep.rules.repetitions
    if purpose == "probe":
        count, repetitions = sweep.rules.probes.launches, PROBE_REPETITIONS
    return LaunchEstimate(
        deployment=group.deployment.label,
        purpose=purpose,
        points=len(group.candidates),
        launches=count,
        runs=count * len(group.candidates) * repetitions,
        node_s=None,
        weights_path=option.weights_path,
        command=option.command,
    )


def _like_the_simulated(launches: list[LaunchEstimate]) -> list[LaunchEstimate]:
    """The launches of one kind of node, those without a time at the mean time per run of those with one."""
    known = [launch for launch in launches if launch.node_s is not None]
    runs = sum(launch.runs for launch in known)
    run_s = sum(launch.node_s or 0.0 for launch in known) / runs if runs else 0.0
    return [replace(item, node_s=item.runs * run_s) if item.node_s is None else item for item in launches]


def _launch_s(node: NodeSpec, sweep: Sweep, group: Group, space: Space, seed: int, repetitions: int) -> float:
    """Node seconds of one launch with so many repetitions of each point, of all its nodes."""
    name, nodes = f"estimate-{node.kind}", group.deployment.nodes
    others = tuple(f"{name}-{number}" for number in range(2, nodes + 1))
    simulated = SimulatedNode(node, name, seed, beside=others)
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
    return (launch_s + repetition_s * repetitions) * nodes


def print_estimate(estimate: Estimate, out: Console, as_json: bool) -> None:
    """Print the plan; nothing was measured."""
    if as_json:
        click.echo(json.dumps(asdict(estimate)))
        return
    if estimate.points > _MOST_LISTED:
        _print_sums(estimate, out)
    else:
        _print_launches(estimate, out)
    for points, kinds, example in _kinds_of_obstacle(estimate.infeasible):
        out.print(f"  infeasible: {points} points: {'such as: ' if kinds > 1 else ''}{example}")
    planned = f"\n{estimate.points} points, {estimate.runs} runs, {estimate.launches} launches"
    unknown = [launch.node_s is None for launch in estimate.by_launch]
    if unknown and all(unknown):
        out.print(f"{planned}; the time of a node without GPUs is not known beforehand", style="bold")
        return
    if any(unknown):
        out.print("\nThe time of a node without GPUs is not known beforehand, and not in the sum.")
    some = estimate.simulated_launches < len(estimate.by_launch)
    of_all = f" of {estimate.simulated_launches} launches, the others taken to be like them" if some else ""
    out.print(
        f"{planned}:"
        f" {format_duration(estimate.node_s)} of node time, {estimate.gpu_hours:.1f} GPU-hours"
        f" ({estimate.source}{of_all}; every GPU of a node counts, since a launch has the node to itself;"
        " from nothing: stored runs are not subtracted)",
        style="bold",
    )


def _print_launches(estimate: Estimate, out: Console) -> None:
    for label in estimate.listed_points:
        out.print(f"  {label}")
    out.print("\nlaunch                                         points   node time", style="bold")
    for launch in estimate.by_launch:
        probes = f"  probes: {launch.launches} launches" if launch.purpose == "probe" else ""
        time = "not known" if launch.node_s is None else format_duration(launch.node_s)
        out.print(f"  {launch.deployment:<44} {launch.points:>6}  {time:>9}{probes}")
        if launch.weights_path or launch.command:
            out.print(f"    weights {launch.weights_path or '(dummy)'}  {shlex.join(launch.command)}")


def _print_sums(estimate: Estimate, out: Console) -> None:
    """One line for each kind of GPU and each model; `--json` lists every point and launch."""
    for column, title in enumerate(("GPU", "model")):
        sums: dict[str, list[LaunchEstimate]] = defaultdict(list)
        for launch in estimate.by_launch:
            sums[launch.deployment.split()[column]].append(launch)
        out.print(f"{title:<24} points  launches   node time", style="bold")
        for name, launches in sums.items():
            points = sum(item.points for item in launches if item.purpose == "sweep")
            times = [item.node_s for item in launches if item.node_s is not None]
            time = format_duration(sum(times)) if len(times) == len(launches) else "not known"
            out.print(f"  {name:<22} {points:>6} {sum(item.launches for item in launches):>9}   {time:>9}")
    out.print(f"{len(estimate.listed_points)} points are too many to list; --json lists every point and launch\n")


def _kinds_of_obstacle(infeasible: Mapping[str, int]) -> list[tuple[int, int, str]]:
    """Points, different reasons and one of them, for reasons that differ in their figures only; most points first."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for reason, points in infeasible.items():
        kinds[re.sub(r"\d+(\.\d+)?", "#", reason)][reason] += points
    found = [(reasons.total(), len(reasons), reasons.most_common(1)[0][0]) for reasons in kinds.values()]
    return sorted(found, key=lambda item: -item[0])
