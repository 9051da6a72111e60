"""Which CPUs the client runs on and which the engine: apart, on different NUMA nodes where there are such.

The client runs on the node whose CPU energy is measured and must not take time from the engine's threads. On machines
with few CPUs the split would cost the engine more than it saves, so nothing is pinned.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FEWEST_CPUS = 8
"""With fewer, nothing is pinned."""
CLIENT_CORES = 2
"""Whole cores that are set apart for the client (one for its loop, one for the meters)."""
SYSTEM = Path("/sys/devices/system")
DRIVER = Path("/proc/driver/nvidia/gpus")
PCI_DEVICES = Path("/sys/bus/pci/devices")


@dataclass(frozen=True, slots=True)
class Placement:
    """CPUs for each; None: wherever the system puts it. `reason` is for people."""

    client: frozenset[int] | None
    engine: frozenset[int] | None
    reason: str

    def described(self) -> dict[str, object]:
        """As JSON holds it."""
        return {
            "client": None if self.client is None else sorted(self.client),
            "engine": None if self.engine is None else sorted(self.engine),
            "reason": self.reason,
        }


def place(gpu_uuids: tuple[str, ...]) -> Placement:
    """Where client and engine go on this machine."""
    usable = frozenset(os.sched_getaffinity(0))
    return plan(usable, cores(usable), numa_nodes(), gpu_nodes(gpu_uuids))


def plan(
    usable: frozenset[int],
    siblings: Mapping[int, frozenset[int]],
    nodes: Mapping[int, frozenset[int]],
    engine_nodes: frozenset[int],
) -> Placement:
    """Two cores for the client, the rest for the engine.

    Args:
        siblings: of each usable CPU, the hyperthreads of its core.
        nodes: CPUs of each NUMA node.
        engine_nodes: nodes beside the engine's GPUs; the client goes to another one if it can.
    """
    if len(usable) < FEWEST_CPUS:
        return Placement(None, None, f"{len(usable)} CPUs: too few to set some apart for the client")
    present = {node: cpus & usable for node, cpus in nodes.items() if cpus & usable} or {0: usable}
    apart = sorted(set(present) - engine_nodes) if engine_nodes else []
    node = apart[-1] if apart else max(present)
    client: set[int] = set()
    for cpu in sorted(present[node]):
        if len({min(siblings[taken]) for taken in client} | {min(siblings[cpu])}) <= CLIENT_CORES:
            client |= siblings[cpu] & usable
    where = "beside none of the GPUs" if apart else "which the engine uses as well"
    reason = f"{CLIENT_CORES} cores for the client on NUMA node {node}, {where}"
    return Placement(frozenset(client), usable - client, reason)


def cores(usable: frozenset[int]) -> dict[int, frozenset[int]]:
    """Of each CPU, the hyperthreads of its core, itself included."""
    found = {}
    for cpu in usable:
        path = SYSTEM / "cpu" / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        found[cpu] = (parse_cpus(path.read_text()) if path.exists() else frozenset()) | {cpu}
    return found


def numa_nodes() -> dict[int, frozenset[int]]:
    """CPUs of each NUMA node; empty where the system does not say."""
    return {
        int(path.parent.name.removeprefix("node")): parse_cpus(path.read_text())
        for path in (SYSTEM / "node").glob("node[0-9]*/cpulist")
    }


def gpu_nodes(gpu_uuids: tuple[str, ...]) -> frozenset[int]:
    """NUMA nodes of these GPUs, as far as driver and kernel tell."""
    found = set()
    for information in DRIVER.glob("*/information"):
        if any(uuid in information.read_text() for uuid in gpu_uuids):
            node = PCI_DEVICES / information.parent.name.lower() / "numa_node"
            if node.exists() and int(node.read_text()) >= 0:
                found.add(int(node.read_text()))
    return frozenset(found)


def parse_cpus(text: str) -> frozenset[int]:
    """ "0-3,8" is {0, 1, 2, 3, 8}; nothing is none (Documentation/admin-guide/cputopology.rst)."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)
