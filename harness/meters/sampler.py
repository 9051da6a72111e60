"""Polls real counters from one background thread.

It runs on the node whose energy is measured, so it reads seldom (every 100 ms) and through handles that stay
open; slow counters are read densely only while nothing else runs (`settle`).
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np

from harness.clock import Clock
from harness.errors import CounterLost, MeasurementError
from harness.meters.base import Domain, GpuState, HostState, PowerTrace, Recording, Series
from harness.meters.host import HostWatch
from harness.meters.instant import FAST_REFRESH_S, QUIET_EDGES
from harness.meters.nodepower import NodePowerLog
from harness.meters.reader import Counter, Gauge, Meter, NodeGauge

HUNG_S = 5.0
"""A read that takes longer is taken for a hung driver."""
SETTLE_AT_LEAST_S = 0.1
"""So long even where counters are refreshed every few milliseconds, to find out how often."""


@dataclass(slots=True)
class _Track:
    """Readings of one counter so far."""

    counter: Counter
    time_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    counts: list[tuple[int, ...]] = field(default_factory=list)
    lost: str = ""

    def read(self, clock: Clock) -> None:
        if self.lost:
            return
        before_s = clock.monotonic_s()
        try:
            counts = self.counter.read()
        except MeasurementError as error:
            self.lost = str(error)
            return
        after_s = clock.monotonic_s()
        self.time_s.append((before_s + after_s) / 2)
        self.latency_s.append(after_s - before_s)
        self.counts.append(counts)

    @property
    def slow(self) -> bool:
        return self.counter.channels[0].refresh_s > FAST_REFRESH_S

    def series(self) -> tuple[Series, ...]:
        n = len(self.counts)
        time_s, latency_s = np.array(self.time_s[:n]), np.array(self.latency_s[:n])
        return tuple(
            Series(channel, time_s, latency_s, np.array([counts[i] for counts in self.counts[:n]], np.int64), self.lost)
            for i, channel in enumerate(self.counter.channels)
        )


@dataclass(slots=True)
class _Power:
    """Power readings of one GPU so far."""

    gauge: Gauge
    time_s: list[float] = field(default_factory=list)
    power_w: list[float] = field(default_factory=list)
    lost: bool = False

    def read(self, clock: Clock) -> None:
        if self.lost:
            return
        before_s = clock.monotonic_s()
        try:
            power_w = self.gauge.power_w()
        except MeasurementError:
            self.lost = True  # the counter of the same GPU says why
            return
        self.time_s.append((before_s + clock.monotonic_s()) / 2)
        self.power_w.append(power_w)

    def trace(self) -> PowerTrace:
        n = len(self.power_w)
        return PowerTrace(
            self.gauge.uuid,
            np.array(self.time_s[:n]),
            np.array(self.power_w[:n]),
            self.gauge.power_source == "instant",
        )


class PollingSampler:
    """A `harness.meters.base.Sampler` over open meters; it does not close them.

    Args:
        meters: what to read.
        clock: a real one.
        period_s: between readings of everything, while a window runs.
        dense_period_s: between readings of the slow counters within `settle`.
        state_period_s: between readings of temperature, clocks, event reasons and processes.
        settle_limit_s: `settle` gives up after this long.
        host: read as often as the GPUs' states.
        node_gauge: read about once a second, from a thread of its own; None: the node's power is not read.
        node_reason: why there is no `node_gauge` although one was asked for.
        memory_gib: of the machine, for the recording.
    """

    def __init__(
        self,
        meters: Sequence[Meter],
        clock: Clock,
        period_s: float = 0.1,
        dense_period_s: float = 0.002,
        state_period_s: float = 1.0,
        settle_limit_s: float = 1.0,
        host: HostWatch | None = None,
        node_gauge: NodeGauge | None = None,
        node_reason: str = "",
        memory_gib: float | None = None,
    ) -> None:
        self._clock = clock
        self._period_s, self._dense_period_s = period_s, dense_period_s
        self._state_period_s, self._settle_limit_s = state_period_s, settle_limit_s
        # Fast counters first: in `mark` they are the ones to which a millisecond matters.
        counters = sorted((c for meter in meters for c in meter.counters), key=lambda c: c.channels[0].refresh_s)
        self._tracks = [_Track(counter) for counter in counters]
        self._powers = [_Power(gauge) for meter in meters for gauge in meter.gauges]
        self._states: list[GpuState] = []
        self._host, self._hosts = host, list[HostState]()
        self._node = None if node_gauge is None else NodePowerLog(node_gauge, clock)
        self._node_reason, self._memory_gib = node_reason, memory_gib
        self._state_due_s = clock.monotonic_s()
        self._absent: dict[Domain, str] = {
            domain: reason for meter in meters for domain, reason in meter.absent.items()
        }
        self._doubts: dict[Domain, str] = {
            domain: reason for meter in meters for domain, reason in meter.doubts.items()
        }
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        """Read everything once, then go on in the background."""
        self._read_all()
        if self._node is not None:
            self._node.start()
        self._thread.start()

    def settle(self) -> None:
        """Read the slow counters densely until each has shown four update edges, 1 s at most.

        At each edge the power of the same GPU is read too: the two together tell an integral from a sum of samples.
        """
        slow = [track for track in self._tracks if track.slow]
        edges = [0] * len(slow)
        # From a reading of its own: the last one before may lie a whole period back.
        last: list[tuple[int, ...] | None] = [None] * len(slow)
        powers = {power.gauge.uuid: power for power in self._powers}
        began_s = self._clock.monotonic_s()
        while (now_s := self._clock.monotonic_s()) < began_s + self._settle_limit_s:
            for i, track in enumerate(slow):
                with self._held():
                    track.read(self._clock)
                    now = track.counts[-1] if track.counts else None
                    moved = last[i] is not None and now != last[i]
                    power = powers.get(track.counter.channels[0].device)
                    if moved and power is not None:
                        power.read(self._clock)
                edges[i] += moved
                last[i] = now
            seen = all(edges[i] >= QUIET_EDGES or track.lost for i, track in enumerate(slow))
            if seen and now_s > began_s + SETTLE_AT_LEAST_S:
                return
            self._clock.sleep(self._dense_period_s)

    def mark(self) -> float:
        """Read everything once; returns the time just before, s. States follow within a period."""
        with self._held():
            time_s = self._clock.monotonic_s()
            self._read_locked()
        self._state_due_s = time_s
        return time_s

    def stop(self) -> Recording:
        """End the thread and return all readings; a thread that hangs in the driver is left behind."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(HUNG_S)
            if self._thread.is_alive():
                self._lose_all(f"the sampler hangs in a read for more than {HUNG_S:g} s")
        node_power, lost = (None, self._node_reason) if self._node is None else self._node.stop()
        return Recording(
            series=tuple(series for track in self._tracks for series in track.series()),
            power=tuple(p.trace() for p in self._powers),
            states=tuple(self._states),
            absent=self._absent,
            hosts=tuple(self._hosts),
            doubts=self._doubts,
            node_power=node_power,
            node_power_lost=lost,
            memory_gib=self._memory_gib,
        )

    def _run(self) -> None:
        finished = False
        try:
            next_s = self._clock.monotonic_s()
            while not self._ending.is_set():
                now_s = self._clock.monotonic_s()
                if now_s >= self._state_due_s:
                    self._state_due_s = now_s + self._state_period_s
                    self._read_states()
                self._read_all()
                next_s = max(next_s + self._period_s, self._clock.monotonic_s())
                self._ending.wait(next_s - self._clock.monotonic_s())
            finished = True
        finally:
            if not finished:
                self._lose_all("the sampler's thread ended with an error; its traceback is on stderr")

    def _read_all(self) -> None:
        with self._held():
            self._read_locked()

    def _read_locked(self) -> None:
        for track in self._tracks:
            track.read(self._clock)
        for power in self._powers:
            power.read(self._clock)

    def _read_states(self) -> None:
        """Outside the lock: asking for processes is slow, and only this thread does it."""
        for power in self._powers:
            if not power.lost:
                # One answer that does not come is no loss: a GPU that is gone is missed by its counter.
                with suppress(MeasurementError):
                    self._states.append(power.gauge.state(self._clock.monotonic_s()))
        if self._host is not None:
            self._hosts.append(self._host.state(self._clock.monotonic_s()))

    def _lose_all(self, reason: str) -> None:
        for track in self._tracks:
            track.lost = track.lost or reason

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The lock, waited for no longer than `HUNG_S`."""
        if not self._lock.acquire(timeout=HUNG_S):
            raise CounterLost(f"a counter has not answered for {HUNG_S:g} s")
        try:
            yield
        finally:
            self._lock.release()
