"""Agents in this process: the simulated nodes of a sweep, or the machine itself."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from harness.agent import Agent
from harness.deployment.sweepfile import Sweep
from harness.errors import BadInput
from harness.machine import find_gpus
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
    with ExitStack() as opened:
        yield [opened.enter_context(open_agent(sweep, seed, results, kind, f"sim-{kind}")) for kind in kinds]


@contextmanager
def open_agent(sweep: Sweep, seed: int, results: Path, kind: str, name: str) -> Iterator[Agent]:
    """The agent of one node: a simulated one of this kind and name, or, where nothing is simulated, this machine.

    Raises:
        BadInput: no such kind in the sweep, or as `local_agents`.
        EngineUnavailable: as `local_agents`.
    """
    if sweep.simulate:
        found = [spec for spec in sweep.nodes if spec.kind == kind]
        if not found:
            raise BadInput("kind of node", kind, f"one of {sweep.path}: {', '.join(spec.kind for spec in sweep.nodes)}")
        yield Agent(SimulatedNode(found[0], name, seed, start_utc=datetime.now(UTC)))
        return
    from harness.machine_node import MachineNode  # with its engines and clients, which no simulated sweep needs

    options = dict(zip(sweep.deployments, sweep.options, strict=True))
    with MachineNode(_this_machine(sweep), options, results / LOGS, sweep.rules) as node:
        node.check_engines()
        yield Agent(node)


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
