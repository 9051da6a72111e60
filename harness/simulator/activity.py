"""From an engine's steps to the power of the whole node over time."""

from dataclasses import dataclass

import numpy as np

from harness.points import Deployment, FloatArray
from harness.simulator.batching import Batching
from harness.simulator.power import StepCost

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
class HostPower:
    """Power of all packages and of all DRAM while an engine serves, spins after its last message, and idles."""

    serving_cpu_w: float
    spinning_cpu_w: float
    idle_cpu_w: float
    serving_dram_w: float
    idle_dram_w: float
    spin_s: float


def batch_activity(
    deployment: Deployment, cost: StepCost, time_s: FloatArray, power_factor: float, host: HostPower
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
    return Activity(
        time_s,
        _by_gpu(deployment, np.tile(dynamic_w * power_factor, batches)),
        np.full(segments, host.serving_cpu_w),
        np.full(segments, host.serving_dram_w),
        np.tile(relative_clock, batches),
    )


def replay_activity(
    deployment: Deployment, batching: Batching, cost: StepCost, start_s: float, length_s: float,
    power_factor: float, host: HostPower,
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
    cpu_w = np.array([host.serving_cpu_w, host.spinning_cpu_w, host.idle_cpu_w])
    dram_w = np.array([host.serving_dram_w, host.idle_dram_w, host.idle_dram_w])
    return Activity(time_s, _by_gpu(deployment, dynamic_w), cpu_w[kind], dram_w[kind], relative_clock)


def _by_gpu(deployment: Deployment, dynamic_w: FloatArray) -> FloatArray:
    """(held GPUs, n) from (2, n): of the earlier stages' GPUs, and of the last stage's."""
    last_stage = np.arange(deployment.gpus) >= deployment.gpus - deployment.tensor_parallel
    return dynamic_w[last_stage.astype(np.int64)]
