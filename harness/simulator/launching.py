"""What a launch of the simulated engine consists of: imports, weights, compilation, capture of CUDA graphs."""

from dataclasses import dataclass

from harness.points import Deployment
from harness.simulator.constants import EngineConstants
from harness.simulator.kernels import captured_sizes

READ_BYTES_PER_S = 2e9
"""From disk or page cache into GPU memory, all ranks together."""
IMPORT_S = 14.0
RANK_S = 1.5
"""More of it for each further rank: processes started, NCCL rings built."""
COMPILE_S = 8.0
COMPILE_LAYER_S = 0.25
CAPTURE_LAYER_S = 2e-3
"""Of one captured size: its warm-up and its recording."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of a launch.

    Attributes:
        duration_s: how long.
        cores: busy cores of the host.
        dram_share: of the DRAM's range.
        gpu_share: power of the engine's GPUs above loaded idle, of their range.
    """

    duration_s: float
    cores: float
    dram_share: float
    gpu_share: float


def launch_phases(deployment: Deployment, engine: EngineConstants) -> tuple[Phase, ...]:
    """Phases of a launch without its random part; all figures chosen, docs/simulator.md."""
    ranks = deployment.gpus
    layers = deployment.model.layers / deployment.pipeline_parallel
    weights_s = deployment.model.weight_bytes(deployment.bits) / READ_BYTES_PER_S
    phases = [
        Phase(IMPORT_S + RANK_S * (ranks - 1), 1.0 + ranks, 0.05, 0.0),
        Phase(weights_s, 1.0 + ranks, 0.5, 0.02),
    ]
    if engine.graphs:
        phases.append(Phase(COMPILE_S + COMPILE_LAYER_S * layers, 4.0 * ranks, 0.1, 0.0))
        captures = len(captured_sizes(deployment.limits))
        phases.append(Phase(CAPTURE_LAYER_S * layers * captures, 1.0 + ranks, 0.05, 0.15))
    return tuple(phases)
