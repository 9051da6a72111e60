"""What this machine is: its GPUs and the bundled kind of node that they make, its processors, its processes."""

import platform
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from harness.meters.nvml import NvmlMeter, open_nvml
from harness.meters.reader import AbsentMeter
from harness.points import NodeSpec

_GIB_OF_LARGE_A100 = 60 << 30
_DGX_GPUS = 8
_CPUINFO = Path("/proc/cpuinfo")
_DAEMONS = ("containerd-shim", "conmon", "slurmstepd")
"""Beginnings of the names, as /proc shows them (15 letters), of what starts the programs of containers and jobs."""


@dataclass(frozen=True, slots=True)
class GpusFound:
    """The GPUs of this machine.

    Attributes:
        kind: `a100`, `a100-40gb`, `h100`, ..., or "" for none, several kinds, or an unknown one.
        node_kind: the kind of node in `deployments/nodes` that they make (`dgx-a100`, `h100-1`), or "".
        name: for people.
        boards: the name of each, as NVML gives it.
        absent: why there are none, or "".
    """

    kind: str
    node_kind: str
    name: str
    boards: tuple[str, ...] = ()
    absent: str = ""

    def makes(self, spec: NodeSpec) -> bool:
        """Whether this machine is a node of that kind: all its GPUs, no more and no fewer. One without takes any."""
        if spec.gpu is None:
            return True
        same_kind = spec.gpu.kind == self.kind or set(self.boards) == {spec.gpu.name}
        return same_kind and spec.gpus == len(self.boards)


def find_gpus() -> GpusFound:
    """Ask NVML which GPUs are here.

    Raises:
        BadInput: MIG is enabled on one of them.
    """
    meter = open_nvml()
    try:
        return gpus_of(meter)
    finally:
        meter.close()


def gpus_of(meter: NvmlMeter | AbsentMeter) -> GpusFound:
    """The GPUs of an open meter."""
    if not isinstance(meter, NvmlMeter):
        return GpusFound("", "", "no NVIDIA GPU", absent=meter.absent["gpu"])
    names = sorted({gpu.name for gpu in meter.gpus})
    kinds = {gpu_kind(gpu.name, gpu.memory_bytes) for gpu in meter.gpus}
    kind = kinds.pop() if len(kinds) == 1 else ""
    whole = {_DGX_GPUS: f"dgx-{kind}", 1: f"{kind}-1"}
    node_kind = whole.get(len(meter.gpus), "") if kind else ""
    boards = tuple(gpu.name for gpu in meter.gpus)
    return GpusFound(kind, node_kind, f"{len(meter.gpus)} x {' and '.join(names)}", boards)


def gpu_kind(name: str, memory_bytes: int) -> str:
    """The short kind of a board by its NVML name: `NVIDIA A100-SXM4-80GB` -> `a100`."""
    lowered = name.lower()
    for kind in ("gh200", "h200", "h100", "a100"):
        if kind in lowered:
            return "a100-40gb" if kind == "a100" and memory_bytes < _GIB_OF_LARGE_A100 else kind
    return ""


def processor_name(cpuinfo: Path = _CPUINFO) -> str:
    """The processors as the kernel names them: `2 x AMD EPYC 7742 64-Core Processor`."""
    lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    sockets = len({line for line in lines if line.startswith("physical id")}) or 1
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{sockets} x {name}"


def tree_root(pid: int) -> int:
    """The first process of the container (or job step) that a process belongs to; itself where none shows."""
    try:
        line = [psutil.Process(pid), *psutil.Process(pid).parents()]
        for process, parent in pairwise(line):
            if parent.name().startswith(_DAEMONS):
                return process.pid
    except psutil.Error:
        return pid
    return pid
