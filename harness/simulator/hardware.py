"""The simulated machine under engines and meters: its boards, and their true power over virtual time."""

import math
import weakref
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from harness.clock import VirtualClock
from harness.points import FloatArray, NodeSpec, content_id
from harness.simulator.activity import Activity, Host
from harness.simulator.constants import Constants, constants_of
from harness.simulator.counters import nvml_counter, rapl_counters
from harness.simulator.faults import Faults
from harness.simulator.seeds import factor, generator, noise
from harness.simulator.thermal import Thermal, idle_temperature_c
from harness.simulator.timeline import Timeline, View

LEAKAGE_SD = 0.02
PROCESS_SD = 0.02
IDLE_SD = 0.004
KEEP_S = 60.0
"""The true power is kept this far back, and further where a recording needs it."""
_MARGIN_S = 1.0


@dataclass(slots=True, eq=False, weakref_slot=True)
class Span:
    """An open recording: the power since `start_s` is kept for as long as someone holds this."""

    start_s: float


class Hardware:
    """GPUs, processors and memory of one node, or of several alike, and what they drew.

    Rows of the timeline: each GPU, then CPU, DRAM, the relative SM clock of the held GPUs, and whether the
    power cap binds (the last two as if they were powers, so their means come the same way).
    """

    def __init__(
        self,
        spec: NodeSpec,
        names: tuple[str, ...],
        seed: int,
        gain_sd: float,
        start_utc: datetime,
        constants: Constants | None,
        faults: Faults,
    ) -> None:
        if spec.gpu is None or spec.cpu is None:
            raise ValueError(f"{spec.kind}: a node without GPUs cannot be simulated")
        self.machines = len(names)
        name = "+".join(names)
        self.spec, self.gpu, self.cpu = spec, spec.gpu, spec.cpu.times(self.machines)
        self.seed, self.faults = seed, faults
        own = constants or constants_of(self.gpu)
        self.constants = replace(own, host=own.host.over(self.machines))
        self.clock = VirtualClock(start_utc)
        self.gpu_uuids = tuple(_uuid(one, index) for one in names for index in range(spec.gpus))
        rows = len(self.gpu_uuids)
        self.cpu_row, self.dram_row = rows, rows + 1
        self.clock_row, self.capped_row = rows + 2, rows + 3
        boards = [generator("board", uuid, seed) for uuid in self.gpu_uuids]
        gains = [factor(board, gain_sd) for board in boards]
        self._leakage = np.array([factor(board, LEAKAGE_SD) for board in boards])
        self._process = np.array([factor(board, PROCESS_SD) for board in boards])
        self._wander = generator("idle", name, seed)
        self.gpu_counters = tuple(
            nvml_counter(uuid, row, gains[row], faults.driver_reload_s, seed) for row, uuid in enumerate(self.gpu_uuids)
        )
        self.rapl_counters = rapl_counters(self.cpu, self.cpu_row, self.dram_row, name, seed)
        watch_s = () if faults.driver_reload_s is None else (faults.driver_reload_s,)
        self._timeline = Timeline(rows + 4, watch_s)
        self._spans: weakref.WeakSet[Span] = weakref.WeakSet()
        self._last_span_s = math.inf
        self._spin_until_s = 0.0
        self.held: tuple[int, ...] = ()
        self.batches_begun = 0
        self._idle_w = self._drawn_idle()
        self.thermal = Thermal(self.gpu.tdp_w, self._idle_w[:rows])

    def hold(self, gpus: tuple[int, ...]) -> None:
        """From now on an engine's model is resident on these GPUs (none: no engine)."""
        self.catch_up()
        self.held = gpus
        self._spin_until_s = self.clock.monotonic_s()
        self._idle_w = self._drawn_idle()

    def catch_up(self) -> None:
        """Whatever time has passed without an explanation was idle."""
        now_s, end_s = self.clock.monotonic_s(), self._timeline.end_s
        if now_s <= end_s:
            return
        # Short at first: boards that cool leak less and less.
        after_s = np.array([0.0, 2.0, 4.0, 7.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 120.0])
        inner_s = np.append(end_s + after_s, self._spin_until_s)
        inner_s = np.unique(inner_s[(inner_s > end_s) & (inner_s < now_s)])
        bounds_s = np.concatenate(([end_s], inner_s, [now_s]))
        power_w = np.repeat(self._idle_w[:, None], len(bounds_s) - 1, axis=1)
        spinning, cores = bounds_s[:-1] < self._spin_until_s, np.array(self.host.spinning_cores)
        power_w[self.cpu_row, spinning] = self.host.cpu_w(cores)
        power_w[self.dram_row, spinning] = self.host.dram_w(cores)
        self._append(bounds_s, power_w)

    def work(self, activity: Activity) -> None:
        """Let the clock run through `activity`, whose last message is at its end; then idle begins."""
        self.catch_up()
        segments = len(activity.time_s) - 1
        if segments == 0:
            return
        power_w = np.repeat(self._idle_w[:, None], segments, axis=1)
        held = list(self.held)
        dynamic_w = activity.dynamic_w * self._process[held, None]
        power_w[held] = np.minimum(power_w[held] + dynamic_w, self.gpu.tdp_w)
        power_w[self.cpu_row] = np.minimum(activity.cpu_w, self.cpu.tdp_w)
        power_w[self.dram_row] = np.minimum(activity.dram_w, self.cpu.dram_tdp_w)
        power_w[self.clock_row] = activity.relative_clock
        power_w[self.capped_row] = activity.relative_clock < 1.0
        self._append(activity.time_s, power_w)
        self.clock.advance_to(float(activity.time_s[-1]))
        self._spin_until_s = self.clock.monotonic_s() + self.host.spin_s
        self._idle_w = self._drawn_idle()

    @property
    def host(self) -> Host:
        """The processors and memory with the engine that is resident now."""
        return Host(self.cpu, self.constants.host, len(self.held))

    def view(self, since_s: float) -> View:
        """The true energies from `since_s` until now."""
        self.catch_up()
        return self._timeline.view(since_s)

    @property
    def segments_kept(self) -> int:
        """For the test that memory stays flat."""
        return self._timeline.segments

    def open_span(self) -> Span:
        """Keep the power from now on, until the span is closed or dropped."""
        self.catch_up()
        span = Span(self.clock.monotonic_s())
        self._spans.add(span)
        return span

    def close_span(self, span: Span) -> None:
        """The span's power may be forgotten once another has closed and a while has passed."""
        self._spans.discard(span)
        self._last_span_s = span.start_s

    def _append(self, time_s: FloatArray, power_w: FloatArray) -> None:
        """Add stretches of power, and to their GPUs' what leaks because the boards are warm."""
        boards, gpu = len(self.gpu_uuids), self.gpu
        self.thermal.advance(time_s, power_w[:boards])
        middle_s = (time_s[:-1] + time_s[1:]) / 2
        warm_c = self.thermal.at(middle_s) - idle_temperature_c(gpu)
        leak_w = self.constants.gpu.leakage_share_per_c * (gpu.tdp_w - gpu.idle_w) * self._leakage[:, None] * warm_c
        power_w[:boards] = np.minimum(power_w[:boards] + leak_w, gpu.tdp_w)
        self._timeline.append(time_s, power_w)
        end_s = float(time_s[-1])
        needed_s = min([end_s - KEEP_S, self._last_span_s, *(span.start_s for span in self._spans)]) - _MARGIN_S
        self._timeline.forget_before(needed_s)
        self.thermal.forget_before(needed_s)

    def _drawn_idle(self) -> FloatArray:
        """(rows,) power without work; idle wanders a little from one stretch to the next."""
        gpu_w = np.full(len(self.gpu_uuids), self.gpu.idle_w)
        gpu_w[list(self.held)] = self.constants.gpu.loaded_idle_w(self.gpu)
        cores = np.array([self.constants.host.resident_cores if self.held else 0.0])
        host_w = np.concatenate((self.host.cpu_w(cores), self.host.dram_w(cores)))
        idle_w = np.concatenate((gpu_w * self._leakage, host_w))
        wander = noise(self._wander, IDLE_SD, idle_w.shape)
        # An idle engine keeps its GPUs at full clocks; nothing is capped.
        return np.concatenate((idle_w * wander, [1.0 if self.held else 0.0, 0.0]))


def _uuid(node: str, index: int) -> str:
    digits = content_id(["gpu", node, index], 20)
    return f"GPU-sim-{digits[:8]}-{digits[8:]}"
