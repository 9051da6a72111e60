"""What this machine is: its GPUs, and the bundled kind of node that they make."""

from dataclasses import dataclass

from harness.meters.nvml import NvmlMeter, open_nvml

_GIB_OF_LARGE_A100 = 60 << 30
_DGX_GPUS = 8


@dataclass(frozen=True, slots=True)
class GpusFound:
    """The GPUs of this machine.

    Attributes:
        kind: `a100`, `a100-40gb`, `h100`, ..., or "" for none, several kinds, or an unknown one.
        node_kind: the kind of node in `deployments/nodes` that they make, or "".
        name: for people.
    """

    kind: str
    node_kind: str
    name: str


def find_gpus() -> GpusFound:
    """Ask NVML which GPUs are here.

    Raises:
        BadInput: MIG is enabled on one of them.
    """
    meter = open_nvml()
    try:
        if not isinstance(meter, NvmlMeter):
            return GpusFound("", "", "no NVIDIA GPU")
        names = sorted({gpu.name for gpu in meter.gpus})
        kinds = {gpu_kind(gpu.name, gpu.memory_bytes) for gpu in meter.gpus}
        kind = kinds.pop() if len(kinds) == 1 else ""
        node_kind = f"dgx-{kind}" if kind and len(meter.gpus) == _DGX_GPUS else ""
        return GpusFound(kind, node_kind, f"{len(meter.gpus)} x {' and '.join(names)}")
    finally:
        meter.close()


def gpu_kind(name: str, memory_bytes: int) -> str:
    """The short kind of a board by its NVML name: `NVIDIA A100-SXM4-80GB` -> `a100`."""
    lowered = name.lower()
    for kind in ("h200", "h100", "a100"):
        if kind in lowered:
            return "a100-40gb" if kind == "a100" and memory_bytes < _GIB_OF_LARGE_A100 else kind
    return ""
