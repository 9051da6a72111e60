"""Agents in this process: the simulated nodes of a sweep, or the machine itself."""

from datetime import UTC, datetime

from harness.agent import Agent
from harness.deployment.sweepfile import Sweep
from harness.errors import BadInput, EngineUnavailable
from harness.simulator.node import SimulatedNode


def local_agents(sweep: Sweep, seed: int) -> list[Agent]:
    """One agent for each node of the sweep.

    Raises:
        EngineUnavailable: the sweep wants real engines, which this version does not launch.
    """
    if not sweep.simulate:
        engines = ", ".join(sorted({deployment.limits.engine for deployment in sweep.deployments}))
        raise EngineUnavailable(
            f"{sweep.path}: simulate: false needs {engines} launched on this node, which harness "
            "cannot do yet: only --dry-run works for real nodes; set simulate: true for the simulated node"
        )
    now = datetime.now(UTC)
    return [Agent(SimulatedNode(spec, f"sim-{spec.kind}", seed, start_utc=now)) for spec in sweep.nodes]


def check_cluster(name: str) -> None:
    """Refuse clusters that this version cannot use."""
    if name != "local":
        raise BadInput("--cluster", name, "local", "leave the option out")
