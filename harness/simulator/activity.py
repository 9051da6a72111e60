"""From an engine's steps to the power of the whole node over time."""

from dataclasses import dataclass

import numpy as np

from harness.points import CpuSpec, Deployment, FloatArray
from harness.simulator.batching import Batching
from harness.simulator.constants import HostConstants
from harness.simulator.stepmodel import StepCost

_STEP, _SPIN, _IDLE = 0, 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class Activity:
    """Power of the node over (n,) segments of engine work.

    Attributes:
        time_s: (n + 1,) bounds; the first is now.
        dynamic_w: (held GPUs, n) above each GPU's loaded idle.
        cpu_w, dram_w: (n,) of all packages, of all DRAM.
        relative_clock: (n,) SM clock of the held GPUs over the full one.
    """

    time_s: FloatArray
    dynamic_w: FloatArray
    cpu_w: FloatArray
    dram_w: FloatArray
    relative_clock: FloatArray


@dataclass(frozen=True, slots=True)
class Host:
    """The processors and memory with the engine that is resident now: what they draw, by busy cores.

    Attributes:
        cpu, constants: of the node.
        workers: processes of the engine, one for each GPU, which spin until `spin_s` after the last message.
    """

    cpu: CpuSpec
    constants: HostConstants
    workers: int

    @property
    def spin_s(self) -> float:
        return self.constants.spin_s

    @property
    def spinning_cores(self) -> float:
        return self.constants.resident_cores + self.workers

    def serving_cores(self, messages: FloatArray, duration_s: FloatArray) -> FloatArray:
        """(n,) busy cores in steps that last so long and send so many messages with tokens to clients."""
        streaming = self.constants.token_core_s * messages / duration_s
        cores: FloatArray = self.constants.serving_cores + self.workers + streaming
        return cores

    def cpu_w(self, cores: FloatArray) -> FloatArray:
        """(n,) power of all packages."""
        cpu = self.cpu
        return np.minimum(cpu.tdp_w, cpu.idle_w + cores * self.constants.core_share * (cpu.tdp_w - cpu.idle_w))

    def dram_w(self, cores: FloatArray) -> FloatArray:
        """(n,) power of all DRAM."""
        cpu, share = self.cpu, np.minimum(1.0, cores * self.constants.dram_core_share)
        drawn_w: FloatArray = cpu.dram_idle_w + share * (cpu.dram_tdp_w - cpu.dram_idle_w)
        return drawn_w


def batch_activity(
    deployment: Deployment, cost: StepCost, time_s: FloatArray, power_factor: float, host: Host
) -> Activity:
    """Gated batches back to back; each is a gap, its m steps, and a gap.

    Args:
        cost: of the m steps of one batch.
        time_s: (batches * (m + 2) + 1,) bounds of all segments.
        power_factor: on dynamic power, of this window.
    """
    segments = len(time_s) - 1
    batches = segments // (len(cost.duration_s) + 2)
    dynamic_w = np.zeros((2, len(cost.duration_s) + 2))
    dynamic_w[:, 1:-1] = cost.dynamic_w, cost.last_dynamic_w
    relative_clock = np.pad(cost.relative_clock, 1, constant_values=1.0)
    # Between batches the workers wait for the next one, spinning.
    cores = np.pad(host.serving_cores(cost.streamed_tokens, cost.duration_s), 1, constant_values=host.spinning_cores)
    return Activity(
        time_s,
        _by_gpu(deployment, np.tile(dynamic_w * power_factor, batches)),
        np.tile(host.cpu_w(cores), batches),
        np.tile(host.dram_w(cores), batches),
        np.tile(relative_clock, batches),
    )


def replay_activity(
    deployment: Deployment, batching: Batching, cost: StepCost, start_s: float, length_s: float,
    power_factor: float, host: Host,
) -> Activity:  # fmt: skip
    """A replay's steps; between them up to `spin_s` of spinning processes, then idle until `length_s`."""
    steps = len(batching)
    end_s = batching.start_s + batching.duration_s
    next_s = np.append(batching.start_s, length_s)[1:] if steps else np.zeros(0)
    after_s = np.stack((end_s, np.minimum(end_s + host.spin_s, next_s), next_s), axis=1)
    first_s = batching.start_s[0] if steps else length_s
    time_s = start_s + np.concatenate(([0.0, first_s], after_s.ravel()))
    kind = np.concatenate(([_IDLE], np.tile([_STEP, _SPIN, _IDLE], steps)))
    step = np.concatenate(([0], np.repeat(np.arange(steps), 3)))
    lasts = np.diff(time_s) > 0
    time_s = np.concatenate((time_s[:1], time_s[1:][lasts]))
    kind, step = kind[lasts], step[lasts]
    busy = kind == _STEP
    dynamic_w, relative_clock = np.zeros((2, len(kind))), np.ones(len(kind))
    dynamic_w[:, busy] = power_factor * np.stack((cost.dynamic_w, cost.last_dynamic_w))[:, step[busy]]
    relative_clock[busy] = cost.relative_clock[step[busy]]
    cores = np.where(kind == _SPIN, host.spinning_cores, host.constants.resident_cores)
    messages = cost.streamed_tokens / deployment.limits.stream_interval
    cores[busy] = host.serving_cores(messages, cost.duration_s)[step[busy]]
    return Activity(time_s, _by_gpu(deployment, dynamic_w), host.cpu_w(cores), host.dram_w(cores), relative_clock)


def _by_gpu(deployment: Deployment, dynamic_w: FloatArray) -> FloatArray:
    """(held GPUs, n) from (2, n): of the earlier stages' GPUs, and of the last stage's."""
    last_stage = np.arange(deployment.gpus) >= deployment.gpus - deployment.tensor_parallel
    return dynamic_w[last_stage.astype(np.int64)]
