"""Agents in this process: the simulated nodes of a sweep, or the machine itself."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

from harness.agent import Agent
from harness.cluster.follower import FollowerLine
from harness.deployment.sweepfile import Sweep
from harness.errors import BadInput
from harness.machine import find_gpus
from harness.node import Node
from harness.points import NodeSpec
from harness.simulator.node import SimulatedNode

LOGS = "logs"
"""Folder of a results folder in which each launch of a real engine leaves its log, one folder each."""


@contextmanager
def local_agents(sweep: Sweep, seed: int, results: Path) -> Iterator[list[Agent]]:
    """One agent for each simulated node of the sweep, or one for this machine; real meters are closed at the end.

    Raises:
        BadInput: this machine is none of the sweep's kinds of node, or MIG is enabled on a GPU.
        EngineUnavailable: none of the sweep's engines is installed here.
    """
    kinds = [spec.kind for spec in sweep.nodes] if sweep.simulate else [""]
    several = sorted({deployment.nodes for deployment in sweep.deployments} - {1})
    if several and not sweep.simulate:
        raise BadInput(
            f"{sweep.path}: parallelism: nodes", several[-1], "1 on this machine alone",
            "--cluster ray or slurm, with as many measuring nodes",
        )  # fmt: skip
    with ExitStack() as opened:
        agents = [opened.enter_context(open_agent(sweep, seed, results, kind, f"sim-{kind}")) for kind in kinds]
        for number, kind in product(several, kinds):
            others = [f"sim-{kind}-{machine}" for machine in range(2, number + 1)]
            agents.append(_simulated(sweep, seed, kind, f"sim-{kind}", others))
        yield agents


@contextmanager
def open_agent(sweep: Sweep, seed: int, results: Path, kind: str, name: str) -> Iterator[Agent]:
    """The agent of one node: a simulated one of this kind and name, or, where nothing is simulated, this machine.

    Raises:
        BadInput: no such kind in the sweep, or as `local_agents`.
        EngineUnavailable: as `local_agents`.
    """
    if sweep.simulate:
        yield _simulated(sweep, seed, kind, name)
        return
    from harness.machine_node import MachineNode  # with its engines and clients, which no simulated sweep needs

    options = dict(zip(sweep.deployments, sweep.options, strict=True))
    with MachineNode(_this_machine(sweep), options, results / LOGS, sweep.rules) as node:
        node.check_engines()
        yield Agent(node)


def joint_agent(node: Node, address: str, followers: Sequence[FollowerLine]) -> Agent:
    """The agent of several nodes, of which `node` is ours and leads.

    Simulated ones are simulated here, all on one clock; those that follow have nothing to do.
    """
    if isinstance(node, SimulatedNode):
        return Agent(node.beside(tuple(follower.name for follower in followers)))
    from harness.joint_node import JointNode
    from harness.machine_node import MachineNode

    assert isinstance(node, MachineNode)
    return Agent(JointNode(node, address, followers))


def _simulated(sweep: Sweep, seed: int, kind: str, name: str, others: Sequence[str] = ()) -> Agent:
    found = [spec for spec in sweep.nodes if spec.kind == kind]
    if not found:
        raise BadInput("kind of node", kind, f"one of {sweep.path}: {', '.join(spec.kind for spec in sweep.nodes)}")
    return Agent(SimulatedNode(found[0], name, seed, start_utc=datetime.now(UTC), beside=tuple(others)))


def _this_machine(sweep: Sweep) -> NodeSpec:
    """The kind of node of the sweep that this machine is; one with GPUs before one without."""
    found = find_gpus()
    matching = [spec for spec in sweep.nodes if found.makes(spec)]
    if not matching:
        raise BadInput(
            f"{sweep.path}: nodes", ", ".join(spec.kind for spec in sweep.nodes),
            f"a kind of node that this machine is: {found.name}{f' ({found.absent})' if found.absent else ''}",
            "another sweep file, or a YAML with this node's figures; harness doctor says what works here",
        )  # fmt: skip
    return max(matching, key=lambda spec: spec.gpus)
