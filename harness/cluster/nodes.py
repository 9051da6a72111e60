"""`--cluster`: where the agents of a sweep are."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.agent import Fleet, MeasuringAgent
from harness.cluster.local import local_agents
from harness.cluster.ray import START_LIMIT_S, RayFleet, ray_fleet
from harness.cluster.slurm import SlurmOrder, slurm_fleet
from harness.deployment.sweepfile import Sweep
from harness.errors import BadInput

_CLUSTER = re.compile(r"local|slurm|ray(:[^\s:]+:\d+)?")


def check_cluster(cluster: str) -> None:
    """Refuse what names no cluster, also where none is to be used.

    Raises:
        BadInput: no such cluster.
    """
    if not _CLUSTER.fullmatch(cluster):
        raise BadInput("--cluster", cluster, "local, ray, ray:HOST:PORT or slurm")


@contextmanager
def open_nodes(
    cluster: str,
    sweep: Sweep,
    seed: int,
    results: Path,
    say: Callable[[str], None],
    slurm: SlurmOrder | None = None,
    refused: Callable[[str], None] | None = None,
) -> Iterator[tuple[Sequence[MeasuringAgent], Fleet | None]]:
    """The agents that are there, and the fleet that they belong to; None where they are of this process.

    Args:
        cluster: what was given with `--cluster`.
        say: told of waiting.
        slurm: what to ask Slurm for, where that is to be asked.
        refused: told of nodes that cannot be used, and of what none measured; without it, `say` is.

    Raises:
        BadInput: no such cluster; what it needs is missing here; or as `local_agents`, `ray_fleet`, `slurm_fleet`.
        ClusterError: no node can be reached.
        EngineUnavailable: none of the sweep's engines is installed where it would measure.
    """
    check_cluster(cluster)
    kind, _, address = cluster.partition(":")
    if cluster == "local":
        with local_agents(sweep, seed, results) as agents:
            yield agents, None
    elif kind == "ray":
        with ray_fleet(sweep, seed, results, address, f"--cluster {cluster}") as fleet:
            found = fleet.wait(START_LIMIT_S)
            with _told(sweep, fleet, found, refused or say):
                yield (*found, *fleet.teams(found)), fleet
    elif slurm is not None:
        with slurm_fleet(sweep, seed, results, slurm, say) as fleet:
            found = fleet.present()
            with _told(sweep, fleet, found, refused or say):
                yield (*found, *fleet.teams(found)), fleet
    else:
        raise BadInput("--cluster", cluster, "local, ray or ray:HOST:PORT")


@contextmanager
def _told(sweep: Sweep, fleet: RayFleet, found: Sequence[MeasuringAgent], say: Callable[[str], None]) -> Iterator[None]:
    """Tell of nodes that do not measure, before and after; and of what none measured."""
    said = _say_refused(fleet, frozenset(), say)
    yield
    # Those that joined meanwhile.
    _say_refused(fleet, said, say)
    _say_unhosted(sweep, (*found, *fleet.present()), fleet, say)


def _say_unhosted(sweep: Sweep, agents: Sequence[MeasuringAgent], fleet: RayFleet, say: Callable[[str], None]) -> None:
    """Tell of what no node there was could measure, alone or with others."""
    present = list({id(agent): agent for agent in agents}.values())
    hosted = {(agent.spec.gpu_kind, agent.nodes) for agent in (*present, *fleet.teams(present))}
    for gpu, nodes in sorted({(item.gpu, item.nodes) for item in sweep.deployments} - hosted):
        who = f"No node with {gpu}" if nodes == 1 else f"No {nodes} nodes with {gpu} together"
        say(f"{who} measured: what the sweep asks of that kind is left.")


def _say_refused(fleet: RayFleet, said: frozenset[str], say: Callable[[str], None]) -> frozenset[str]:
    """Tell of the nodes that were refused, each once; all that were told of by now."""
    for node_id, error in fleet.refused.items():
        if node_id not in said:
            say(f"A node does not measure: {error}")
    return frozenset(fleet.refused)
