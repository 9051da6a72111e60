"""What draws power: GPUs by their work, processors by their busy cores, DRAM by activity.

Energies per FLOP and per byte follow from the data sheet's power and rates, so that any kind of GPU works.
"""

from dataclasses import dataclass

import numpy as np

from harness.points import CpuSpec, Deployment, FloatArray, GpuSpec, IntArray
from harness.simulator.latency import LatencyConstants, LatencyModel, Number, StepTimes, StepWork


@dataclass(frozen=True, slots=True)
class PowerConstants:
    """Constants of the power model; docs/simulator.md gives the reason for each.

    Shares of a GPU are of its range `tdp_w - idle_w`; shares of the host of its `tdp_w - idle_w`.

    Attributes:
        loaded_share: above idle, with a model resident and no work.
        compute_share: above loaded idle, in large matrix products at the achieved rate.
        memory_share: above loaded idle, streaming memory at the achieved rate.
        collective_share: above loaded idle, during an all-reduce.
        bubble_share: above loaded idle, waiting for another pipeline stage.
        core_share: one busy core, of the processors' range.
        serving_cores: busy cores beside one worker per GPU: engine, API server, client.
        resident_cores: what a loaded engine keeps busy without work.
        dram_work_share, dram_load_share: of the DRAM's range, while serving and while loading weights.
        spin_s: how long workers spin after the last message.
    """

    loaded_share: float = 0.035
    compute_share: float = 0.95
    memory_share: float = 0.62
    collective_share: float = 0.25
    bubble_share: float = 0.08
    core_share: float = 0.015
    serving_cores: float = 3.0
    resident_cores: float = 1.0
    dram_work_share: float = 0.10
    dram_load_share: float = 0.50
    spin_s: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class StepCost:
    """Steps of one deployment, every array (n,).

    Attributes:
        duration_s: time of a step, stretched where the power cap binds.
        relative_clock: SM clock over the full one; below 1 where the cap binds.
        dynamic_w: of a GPU of any stage but the last, above loaded idle.
        last_dynamic_w: of a GPU of the last stage, which has the output head.
    """

    duration_s: FloatArray
    relative_clock: FloatArray
    dynamic_w: FloatArray
    last_dynamic_w: FloatArray


class StepModel:
    """Time and power of the steps of one deployment on one kind of GPU."""

    def __init__(self, deployment: Deployment, gpu: GpuSpec, latency: LatencyConstants, power: PowerConstants) -> None:
        self.latency = LatencyModel(deployment, gpu, latency)
        range_w = gpu.tdp_w - gpu.idle_w
        self._headroom_w = gpu.tdp_w - loaded_idle_w(gpu, power)
        self._flop_j = power.compute_share * range_w / (gpu.peak_flops * latency.compute_efficiency)
        self._byte_j = power.memory_share * range_w / (gpu.memory_bandwidth_bytes_per_s * latency.memory_efficiency)
        self._collective_w = power.collective_share * range_w
        self._bubble_w = power.bubble_share * range_w

    def micro_batches(self, sequences: IntArray) -> FloatArray:
        """Micro-batches that each step of a replay is split into: as many as there are stages and sequences for."""
        return np.minimum(sequences, self.latency.pipeline_parallel).astype(np.float64)

    def duration_s(self, tokens: float, sequences: float, context_tokens: float, pairs: float, micro: float) -> float:
        """Time of one step, for loops that take them one by one; the same as `cost` gives."""
        times = self.latency.times(tokens, sequences, context_tokens, pairs, micro)
        work = self.latency.work(tokens, sequences, context_tokens, pairs, micro)
        _, last_j = self._dynamic_j(times, work)
        return max(times.step_s, last_j / self._headroom_w)

    def cost(
        self,
        tokens: FloatArray,
        sequences: FloatArray,
        context_tokens: FloatArray,
        pairs: FloatArray,
        micro: FloatArray,
    ) -> StepCost:
        """Time and power of (n,) steps.

        Where a step would draw more than the power limit, its clock falls until it does not: the same
        energy over a longer time.
        """
        times = self.latency.times(tokens, sequences, context_tokens, pairs, micro)
        work = self.latency.work(tokens, sequences, context_tokens, pairs, micro)
        dynamic_j, last_j = self._dynamic_j(times, work)
        duration_s = np.maximum(times.step_s, last_j / self._headroom_w)
        return StepCost(duration_s, times.step_s / duration_s, dynamic_j / duration_s, last_j / duration_s)

    def _dynamic_j(self, times: StepTimes[Number], work: StepWork[Number]) -> tuple[Number, Number]:
        """Energy above loaded idle of one GPU, of an earlier stage and of the last one (the larger)."""
        head_j = work.head_flops * self._flop_j + work.head_bytes * self._byte_j
        # Without a pipeline there is no bubble: what is not kernels or all-reduces is the host's.
        bubble_s = times.step_s - times.kernels_s - times.collectives_s - times.head_s - times.host_s
        stage_j = (
            work.flops * self._flop_j
            + work.bytes * self._byte_j
            + times.collectives_s * self._collective_w
            + bubble_s * self._bubble_w
        )
        return stage_j, stage_j + head_j


def loaded_idle_w(gpu: GpuSpec, constants: PowerConstants) -> float:
    """Power of a GPU with a model resident and no work, W."""
    return gpu.idle_w + constants.loaded_share * (gpu.tdp_w - gpu.idle_w)


def cpu_w(cpu: CpuSpec, constants: PowerConstants, busy_cores: float) -> float:
    """Power of all packages with so many cores busy, W."""
    return min(cpu.tdp_w, cpu.idle_w + busy_cores * constants.core_share * (cpu.tdp_w - cpu.idle_w))


def dram_w(cpu: CpuSpec, share: float) -> float:
    """Power of all DRAM at a share of its range, W."""
    return cpu.dram_idle_w + share * (cpu.dram_tdp_w - cpu.dram_idle_w)
