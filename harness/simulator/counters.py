"""Cumulative counters over the true energies, with the habits of NVML's and RAPL's."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from harness.meters.base import Channel, Domain
from harness.points import CpuSpec, FloatArray, IntArray
from harness.simulator.seeds import generator
from harness.simulator.timeline import View

NVML_REFRESH_S = 0.1
NVML_JITTER_S = 0.4e-3
RAPL_REFRESH_S = 1e-3
RAPL_JITTER_S = 20e-6
MILLIJOULES_PER_J = 1000
MICROJOULES_PER_J = 1_000_000
RAPL_REGISTER_COUNTS = 1 << 32
"""RAPL's energy register has 32 bits; one count is 1/2^14 J (61 uJ) on Intel packages, 15.3 uJ in Intel
DRAM, 1/2^16 J on AMD. The wrap that powercap gives as `max_energy_range_uj` is the register's largest value."""
_JITTERS = 1021
_SENSOR_WINDOW_S = 0.025
_SOCKET_SD = 0.02


class Ticks:
    """Update times of a counter: a period, a phase, and a small jitter that repeats after 1021 updates."""

    def __init__(self, period_s: float, jitter_s: float, *seed: object) -> None:
        random = generator("ticks", *seed)
        self._period_s = period_s
        self._phase_s = float(random.uniform(-period_s, 0.0))
        self._bound_s = 3 * jitter_s
        self._jitter_s = np.clip(random.normal(0.0, jitter_s, _JITTERS), -self._bound_s, self._bound_s)

    def last_before(self, time_s: FloatArray) -> FloatArray:
        """For each time, the latest update at or before it."""
        index = np.floor((time_s - self._phase_s + self._bound_s) / self._period_s).astype(np.int64)
        tick_s = self._at(index)
        late = tick_s > time_s
        tick_s[late] = self._at(index[late] - 1)
        return tick_s

    def _at(self, index: IntArray) -> FloatArray:
        tick_s: FloatArray = self._phase_s + index * self._period_s + self._jitter_s[index % _JITTERS]
        return tick_s


class Counter(Protocol):
    """One channel, and what reading it would have given."""

    @property
    def channel(self) -> Channel: ...

    def counts(self, view: View, time_s: FloatArray) -> IntArray:
        """The value shown at each time; the view must reach back to the refresh before the first."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class NvmlCounter:
    """Millijoules of one GPU since its driver was loaded, as the board's own gain sees them.

    Attributes:
        row: of the timeline.
        gain: of the board's sensor.
        start_counts: value when the node began.
        reload_s: when the driver is reloaded and the counter starts at zero, if ever.
    """

    channel: Channel
    ticks: Ticks
    row: int
    gain: float
    start_counts: int
    reload_s: float | None

    def counts(self, view: View, time_s: FloatArray) -> IntArray:
        tick_s = self.ticks.last_before(time_s)
        energy_j = view.at(self.row, tick_s)
        counts = _floor(energy_j * (self.gain * MILLIJOULES_PER_J)) + self.start_counts
        if self.reload_s is None or self.reload_s not in view.watched_j:
            return counts
        since_reload_j = np.maximum(energy_j - view.watched_j[self.reload_s][self.row], 0.0)
        return np.where(time_s < self.reload_s, counts, _floor(since_reload_j * (self.gain * MILLIJOULES_PER_J)))

    def power_w(self, view: View, time_s: FloatArray) -> FloatArray:
        """The instantaneous power shown: mean of the last 25 ms before the sensor's refresh (rule 4)."""
        tick_s = self.ticks.last_before(time_s)
        energy_j = view.at(self.row, tick_s) - view.at(self.row, tick_s - _SENSOR_WINDOW_S)
        shown_w: FloatArray = self.gain * energy_j / _SENSOR_WINDOW_S
        return shown_w


@dataclass(frozen=True, slots=True, eq=False)
class RaplCounter:
    """Microjoules of one powercap zone, which wrap.

    Attributes:
        row, share: of the timeline, and the part of it that is this zone's.
        count_j: energy of one count of the register behind the zone.
        start_counts: of that register, when the node began.
    """

    channel: Channel
    ticks: Ticks
    row: int
    share: float
    count_j: float
    start_counts: int

    def counts(self, view: View, time_s: FloatArray) -> IntArray:
        energy_j = view.at(self.row, self.ticks.last_before(time_s)) * self.share
        register = (_floor(energy_j / self.count_j) + self.start_counts) % RAPL_REGISTER_COUNTS
        shown_uj: IntArray = np.floor(register * (self.count_j * MICROJOULES_PER_J)).astype(np.int64)
        return shown_uj


def nvml_counter(uuid: str, row: int, gain: float, reload_s: float | None, seed: int) -> NvmlCounter:
    """The energy counter of a GPU, at an arbitrary large value."""
    channel = Channel("gpu", uuid, 1 / MILLIJOULES_PER_J, None, NVML_REFRESH_S, "simulated", seen_share=1.0)
    start = int(generator("nvml", uuid, seed).integers(10**11, 10**12))
    ticks = Ticks(NVML_REFRESH_S, NVML_JITTER_S, uuid, seed)
    return NvmlCounter(channel, ticks, row, gain, start, reload_s)


def rapl_counters(cpu: CpuSpec, cpu_row: int, dram_row: int, node: str, seed: int) -> tuple[RaplCounter, ...]:
    """A counter for each package, and one for its DRAM where the processor has it, sharing out the node's power."""
    random = generator("rapl", node, seed)
    zones: list[tuple[Domain, str, int, float]] = [("cpu", "package-{}", cpu_row, cpu.package_wrap_j)]
    if cpu.has_dram_counter:
        zones.append(("dram", "package-{}/dram", dram_row, cpu.dram_wrap_j))
    counters = []
    for domain, device, row, wrap_j in zones:
        # The sockets' shares differ by a few per cent, and add up to one.
        weights = 1 + _SOCKET_SD * random.standard_normal(cpu.sockets)
        for socket, share in enumerate((weights / weights.sum()).tolist()):
            zone = device.format(socket)
            wrap_counts = round(wrap_j * MICROJOULES_PER_J)
            channel = Channel(domain, zone, 1 / MICROJOULES_PER_J, wrap_counts, RAPL_REFRESH_S, "simulated")
            ticks = Ticks(RAPL_REFRESH_S, RAPL_JITTER_S, node, zone, seed)
            start = int(random.integers(RAPL_REGISTER_COUNTS))
            counters.append(RaplCounter(channel, ticks, row, share, wrap_j / (RAPL_REGISTER_COUNTS - 1), start))
    return tuple(counters)


def _floor(values: FloatArray) -> IntArray:
    return np.floor(values).astype(np.int64)
