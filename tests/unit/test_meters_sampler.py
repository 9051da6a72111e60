"""What the polling sampler does when counters fail, hang or are many."""

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from harness.clock import WallClock
from harness.errors import CounterLost
from harness.meters import sampler as sampler_module
from harness.meters.base import Channel, Domain, GpuState
from harness.meters.edges import refresh_of
from harness.meters.instant import QUIET_EDGES
from harness.meters.reader import AbsentMeter
from harness.meters.sampler import PollingSampler
from harness.meters.window import window_energies

pytestmark = pytest.mark.flaky(reruns=3, reruns_delay=1)
"""Real clocks and processes: a machine that stalls for half a second turns any of them."""


class Clockwork:
    """A counter of constant power that is refreshed every `refresh_s`; `fault` may raise or wait."""

    def __init__(
        self,
        domain: Domain,
        power_w: float,
        refresh_s: float,
        fault: Callable[[], None] = lambda: None,
        nominal_s: float | None = None,
    ) -> None:
        self.channels = (Channel(domain, f"{domain}-0", 1e-6, None, nominal_s or refresh_s, "simulated"),)
        self._power_w, self._refresh_s, self._fault = power_w, refresh_s, fault
        self.reads = 0

    def read(self) -> tuple[int]:
        self.reads += 1
        self._fault()
        refreshed_s = time.monotonic() // self._refresh_s * self._refresh_s
        return (int(refreshed_s * self._power_w * 1e6),)


class Dial:
    uuid = "gpu-0"

    def __init__(self, power_source: str = "instant") -> None:
        self.power_source = power_source

    def power_w(self) -> float:
        return 250.0

    def state(self, time_s: float) -> GpuState:
        return GpuState(self.uuid, time_s, 40.0, 1980.0, 700.0)


class Bench:
    """A meter of given counters."""

    def __init__(self, *counters: Clockwork, gauge: bool = False, power_source: str = "instant") -> None:
        self.counters = counters
        self.gauges = (Dial(power_source),) if gauge else ()
        self.absent: dict[Domain, str] = {}
        self.doubts: dict[Domain, str] = {}

    def close(self) -> None: ...


def after(calls: int, what: Callable[[], None]) -> Callable[[], None]:
    left = iter(range(calls))
    return lambda: what() if next(left, None) is None else None


def lose() -> None:
    raise CounterLost("the counter fell off")


def test_a_window_of_slow_and_fast_counters_and_their_state() -> None:
    gpu, cpu = Clockwork("gpu", 250.0, 0.1), Clockwork("cpu", 90.0, 0.001)
    sampler = PollingSampler([Bench(gpu, cpu, gauge=True), AbsentMeter({"dram": "none here"})], WallClock())
    sampler.start()
    began_s = time.monotonic()
    sampler.settle()
    assert 0.25 < time.monotonic() - began_s < 0.9
    start_s = sampler.mark()
    time.sleep(0.3)
    end_s = sampler.mark()
    sampler.settle()
    recording = sampler.stop()
    found = window_energies(recording, start_s, end_s, ["gpu-0"])
    # On a machine that is busy with other things readings come late, and the uncertainty says so.
    for energy, power_w in ((found.gpu, 250.0), (found.cpu, 90.0)):
        truth_j = power_w * (end_s - start_s)
        assert energy.energy_j is not None
        assert energy.uncertainty_j is not None
        assert abs(energy.energy_j - truth_j) <= max(0.02 * truth_j, energy.uncertainty_j)
        assert energy.uncertainty_j < 0.3 * truth_j
    assert found.gpu_power_integral_j == pytest.approx(250.0 * (end_s - start_s))
    assert found.dram.reason == "none here"
    assert any(start_s <= state.time_s <= end_s for state in recording.states)
    # Only the slow counter is read densely, and only beside the window.
    assert cpu.reads < 30 < gpu.reads
    gpu_series = next(series for series in recording.series if series.channel.domain == "gpu")
    assert ((gpu_series.time_s > start_s + 0.01) & (gpu_series.time_s < end_s)).sum() <= 4
    assert not any(thread.name == "sampler" for thread in threading.enumerate())


def test_a_counter_that_fails_is_lost_with_its_reason_and_the_others_go_on() -> None:
    gpu, cpu = Clockwork("gpu", 250.0, 0.1, after(2, lose)), Clockwork("cpu", 90.0, 0.001)
    sampler = PollingSampler([Bench(gpu, cpu)], WallClock(), period_s=0.02)
    sampler.start()
    sampler.settle()
    time.sleep(0.1)
    by_domain = {series.channel.domain: series for series in sampler.stop().series}
    assert by_domain["gpu"].lost == "the counter fell off"
    assert len(by_domain["gpu"].time_s) == 2
    assert by_domain["cpu"].lost == ""
    assert len(by_domain["cpu"].time_s) > 3


def test_a_programming_error_in_the_thread_is_loud_and_loses_all(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))

    def divide() -> None:
        _ = 1 / 0

    sampler = PollingSampler(
        [Bench(Clockwork("gpu", 250.0, 0.1, after(2, divide)), Clockwork("cpu", 1.0, 0.001))], WallClock(), 0.02
    )
    sampler.start()
    time.sleep(0.15)
    recording = sampler.stop()
    assert seen == [ZeroDivisionError]
    assert all("thread ended with an error" in series.lost for series in recording.series)


@pytest.fixture
def hang() -> Iterator[Callable[[], None]]:
    released = threading.Event()
    yield lambda: (released.wait(20), None)[1]
    released.set()


def test_a_read_that_hangs_stops_neither_mark_nor_stop(
    hang: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "HUNG_S", 0.2)
    sampler = PollingSampler([Bench(Clockwork("gpu", 250.0, 0.1, after(1, hang)))], WallClock(), 0.02)
    sampler.start()
    time.sleep(0.05)
    with pytest.raises(CounterLost, match="has not answered"):
        sampler.mark()
    recording = sampler.stop()
    assert "hangs in a read" in recording.series[0].lost


def test_settle_gives_up_on_a_counter_that_does_not_move() -> None:
    sampler = PollingSampler([Bench(Clockwork("gpu", 0.0, 0.1))], WallClock(), settle_limit_s=0.2)
    began_s = time.monotonic()
    sampler.settle()
    assert 0.19 < time.monotonic() - began_s < 0.5


def test_settle_reads_the_power_of_a_gpu_at_each_of_its_edges() -> None:
    sampler = PollingSampler([Bench(Clockwork("gpu", 250.0, 0.1), gauge=True)], WallClock(), period_s=30.0)
    sampler.start()
    time.sleep(0.05)  # the thread has read once more
    sampler.settle()
    recording = sampler.stop()
    series, trace = recording.series[0], recording.power[0]
    seen_s = series.time_s[1:][np.diff(series.counts) > 0]
    gaps_s = [float(np.abs(trace.time_s - edge_s).min()) for edge_s in seen_s[-QUIET_EDGES:]]
    assert max(gaps_s) < 0.02
    assert trace.instant
    assert len(trace.time_s) <= len(seen_s) + 3


def test_a_power_that_is_a_long_average_is_marked() -> None:
    sampler = PollingSampler(
        [Bench(Clockwork("gpu", 250.0, 0.1), gauge=True, power_source="power_usage")], WallClock(), period_s=0.02
    )
    sampler.start()
    assert not sampler.stop().power[0].instant


def test_a_counter_refreshed_every_few_milliseconds_is_read_long_enough_to_see_how_often() -> None:
    sampler = PollingSampler([Bench(Clockwork("gpu", 250.0, 0.02, nominal_s=0.1))], WallClock())
    sampler.start()
    sampler.settle()
    series = sampler.stop().series[0]
    assert series.time_s[-1] - series.time_s[0] >= 0.1
    assert refresh_of(series) == pytest.approx(0.02, rel=0.3)


def test_a_state_that_is_once_not_told_costs_no_power_reading() -> None:
    class Moody(Dial):
        asked = 0

        def state(self, time_s: float) -> GpuState:
            self.asked += 1
            if self.asked == 2:
                raise CounterLost("NVML_ERROR_UNKNOWN")
            return super().state(time_s)

    bench = Bench(Clockwork("gpu", 250.0, 0.1), gauge=True)
    bench.gauges = (Moody(),)
    sampler = PollingSampler([bench], WallClock(), period_s=0.02, state_period_s=0.05)
    sampler.start()
    sampler.settle()
    start_s = sampler.mark()
    time.sleep(0.5)
    end_s = sampler.mark()
    sampler.settle()
    recording = sampler.stop()
    assert len(recording.states) >= 3, "states go on"
    assert window_energies(recording, start_s, end_s, ["gpu-0"]).gpu_power_integral_j == pytest.approx(
        250.0 * (end_s - start_s)
    )
