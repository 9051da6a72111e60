"""Agents in this process: the simulated nodes of a sweep, or the machine itself."""

from collections.abc import Iterator
from contextlib import contextmanager
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
    if sweep.simulate:
        now = datetime.now(UTC)
        yield [Agent(SimulatedNode(spec, f"sim-{spec.kind}", seed, start_utc=now)) for spec in sweep.nodes]
        return
    from harness.machine_node import MachineNode  # with its engines and clients, which no simulated sweep needs

    options = dict(zip(sweep.deployments, sweep.options, strict=True))
    with MachineNode(_this_machine(sweep), options, results / LOGS, sweep.rules) as node:
        node.check_engines()
        yield [Agent(node)]


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


def check_cluster(name: str) -> None:
    """Refuse clusters that this version cannot use."""
    if name != "local":
        raise BadInput("--cluster", name, "local", "leave the option out")
