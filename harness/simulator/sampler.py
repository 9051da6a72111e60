"""What a polling thread would have read, computed at once when the recording stops."""

from dataclasses import dataclass

import numpy as np

from harness.meters.base import Domain, GpuState, PowerTrace, Recording, Series
from harness.points import FloatArray
from harness.simulator.constants import architecture_of
from harness.simulator.counters import Counter, NvmlCounter
from harness.simulator.faults import FOREIGN_PID
from harness.simulator.hardware import Hardware, Span
from harness.simulator.seeds import generator
from harness.simulator.timeline import View

POLL_S = 0.1
DENSE_POLL_S = 2e-3
SETTLE_S = 0.45
STATE_S = 1.0
"""Temperatures, clocks and processes are looked at this often within a window, and at every mark."""
RAPL_LATENCY_S = 20e-6
NVML_LATENCY_S = 80e-6
_LATENCY_SPREAD = (0.7, 1.5)
_FULL_CLOCK_MHZ = {"ampere": 1410.0, "hopper": 1980.0}
_IDLE_CLOCK_MHZ = 210.0
NO_NODE_METER = "a simulated node has no meter of its rest (fans, switches, power supplies)"
NO_DRAM_COUNTER = "no DRAM energy counter on this processor (AMD has no RAPL DRAM domain)"


@dataclass(slots=True)
class _Phase:
    """A stretch of polling at one period; a period of zero is the single reading of a mark."""

    start_s: float
    end_s: float
    period_s: float


class SimulatedSampler:
    """Sampler over all counters of a simulated node; `settle` and `mark` let virtual time pass."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware
        self._clock = hardware.clock
        # RAPL first: its reads are the shortest, so a mark reads everything within a millisecond or so.
        self._counters: tuple[Counter, ...] = (*hardware.rapl_counters, *hardware.gpu_counters)
        latency_s = [
            NVML_LATENCY_S if isinstance(counter, NvmlCounter) else RAPL_LATENCY_S for counter in self._counters
        ]
        self._latency_s = np.array(latency_s)
        self._sweep_s = float(self._latency_s.sum()) * _LATENCY_SPREAD[1]
        self._phases: list[_Phase] = []
        self._span: Span | None = None

    def start(self) -> None:
        self._span = self._hardware.open_span()
        self._phases = []
        self._enter(POLL_S)

    def settle(self) -> None:
        self._enter(DENSE_POLL_S)
        self._clock.sleep(SETTLE_S)
        self._enter(POLL_S)

    def mark(self) -> float:
        start_s = self._enter(0.0)
        self._clock.sleep(self._sweep_s)
        self._enter(POLL_S)
        return start_s

    def stop(self) -> Recording:
        """End reading; raises RuntimeError when the sampler was not started or has been stopped."""
        end_s = self.mark()
        span = self._running()
        view = self._hardware.view(span.start_s - 1.0)
        poll_s = self._poll_times()
        random = generator("reads", self._hardware.seed, self._hardware.gpu_uuids[0], span.start_s)
        latency_s = self._latency_s[:, None] * random.uniform(*_LATENCY_SPREAD, (len(self._counters), len(poll_s)))
        read_s = poll_s + np.cumsum(latency_s, axis=0) - latency_s / 2
        series = tuple(self._series(index, view, read_s[index], latency_s[index]) for index in range(len(read_s)))
        cpu = self._hardware.cpu
        absent: dict[Domain, str] = {} if cpu.has_dram_counter else {"dram": NO_DRAM_COUNTER}
        recording = Recording(
            series, self._power(view, span.start_s, end_s), self._states(view), absent, node_power_lost=NO_NODE_METER
        )
        self._hardware.close_span(span)
        self._span = None
        return recording

    def _running(self) -> Span:
        if self._span is None:
            raise RuntimeError("the sampler is not running")
        return self._span

    def _enter(self, period_s: float) -> float:
        """Begin a phase now; returns the time."""
        self._running()
        now_s = self._clock.monotonic_s()
        if self._phases:
            self._phases[-1].end_s = now_s
        self._phases.append(_Phase(now_s, now_s, period_s))
        return now_s

    def _poll_times(self) -> FloatArray:
        """When each round of readings begins, so that it ends before the next phase."""
        times_s = []
        for phase in self._phases:
            if phase.period_s == 0.0:
                times_s.append(np.array([phase.start_s]))
            elif phase.end_s - self._sweep_s > phase.start_s:
                times_s.append(np.arange(phase.start_s, phase.end_s - self._sweep_s, phase.period_s))
        return np.concatenate(times_s)

    def _series(self, index: int, view: View, read_s: FloatArray, latency_s: FloatArray) -> Series:
        counter, faults, lost = self._counters[index], self._hardware.faults, ""
        if isinstance(counter, NvmlCounter) and faults.counter_lost_s is not None and faults.concerns(counter.row):
            answered = read_s < faults.counter_lost_s
            if not answered.all():
                read_s, latency_s, lost = read_s[answered], latency_s[answered], "GPU is lost"
        return Series(counter.channel, read_s, latency_s, counter.counts(view, read_s), lost)

    def _power(self, view: View, start_s: float, end_s: float) -> tuple[PowerTrace, ...]:
        time_s = np.arange(start_s, end_s, POLL_S)
        return tuple(
            PowerTrace(counter.channel.device, time_s, counter.power_w(view, time_s))
            for counter in self._hardware.gpu_counters
        )

    def _states(self, view: View) -> tuple[GpuState, ...]:
        """State of every GPU at the recording's ends, at its marks, and every second between them."""
        instants = [self._phases[0].start_s]
        for phase in self._phases:
            if phase.period_s == POLL_S:
                instants += np.arange(phase.start_s + STATE_S, phase.end_s, STATE_S).tolist()
            elif phase.period_s == 0.0:
                instants.append(phase.start_s)
        time_s = np.array(instants)
        hardware, gpu = self._hardware, self._hardware.gpu
        # Clock and cap are of the time since the state before.
        since_s = np.maximum(np.concatenate(([0.0], time_s[:-1])), time_s - STATE_S)
        passed_s = np.maximum(time_s - since_s, 1e-9)
        relative = (view.at(hardware.clock_row, time_s) - view.at(hardware.clock_row, since_s)) / passed_s
        capped = view.at(hardware.capped_row, time_s) > view.at(hardware.capped_row, since_s)
        full_mhz = _FULL_CLOCK_MHZ[architecture_of(gpu.kind)]
        held_mhz = np.maximum(full_mhz * relative, _IDLE_CLOCK_MHZ).tolist()
        temperature_c = hardware.thermal.at(time_s).tolist()
        states = []
        for moment, (instant_s, clock_mhz, is_capped) in enumerate(
            zip(instants, held_mhz, capped.tolist(), strict=True)
        ):
            for index, uuid in enumerate(hardware.gpu_uuids):
                held = index in hardware.held
                states.append(
                    GpuState(
                        device=uuid,
                        time_s=instant_s,
                        temperature_c=temperature_c[index][moment],
                        sm_clock_mhz=clock_mhz if held else _IDLE_CLOCK_MHZ,
                        power_limit_w=gpu.tdp_w,
                        event_reasons=self._reasons(index, instant_s, held and is_capped),
                        foreign_pids=self._foreign(index, instant_s),
                    )
                )
        return tuple(states)

    def _reasons(self, index: int, time_s: float, capped: bool) -> frozenset[str]:
        reasons = {"sw_power_cap"} if capped else set()
        faults = self._hardware.faults
        if _within(faults.thermal_slowdown_s, time_s) and faults.concerns(index):
            reasons.add("hw_thermal_slowdown")
        return frozenset(reasons)

    def _foreign(self, index: int, time_s: float) -> tuple[int, ...]:
        faults = self._hardware.faults
        return (FOREIGN_PID,) if _within(faults.foreign_process_s, time_s) and faults.concerns(index) else ()


def _within(interval_s: tuple[float, float] | None, time_s: float) -> bool:
    return interval_s is not None and interval_s[0] <= time_s < interval_s[1]
