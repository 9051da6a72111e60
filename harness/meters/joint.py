"""Counters of several machines in one recording, on the clock of the first.

Each machine stamps its readings with its own monotonic time. By how much that differs from ours is found by asking for
it between two looks at our clock: the answer was given between them, so the shortest of many exchanges bounds the
difference best (F. Cristian, "Probabilistic clock synchronization", Distributed Computing 3, 1989). Clocks drift, so it
is asked before and after a recording, and taken to change evenly between.

A domain that one machine has no counter for is absent as a whole: a sum over some machines is no energy of the engine.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from harness.clock import Clock
from harness.errors import ClocksApart
from harness.meters.base import Domain, Recording, Sampler, Series
from harness.points import FloatArray

MOST_UNCERTAIN_S = 5e-3
"""A difference that is less sure than this is not used: 5 ms are a quarter of a percent of a window of 2 s."""
_MOST_DRIFT = 1e-3
"""Of two clocks against one another; quartz keeps within 1e-4."""
_EXCHANGES, _MOST_EXCHANGES, _SURE_S = 20, 200, 1e-3
"""More than 20 while the best is less sure than a millisecond: whoever answers may be busy for a while."""
_NO_NODE_POWER = "the power of several nodes is not read together"


@dataclass(frozen=True, slots=True)
class Difference:
    """At `theirs_s` of another clock, ours shows `ours_s`, give or take `uncertainty_s`."""

    theirs_s: float
    ours_s: float
    uncertainty_s: float


class PeerSampler(Protocol):
    """A sampler on another machine, and the time there."""

    @property
    def name(self) -> str: ...

    def clock_s(self) -> float:
        """Its monotonic time, now."""
        ...

    def start(self) -> None: ...

    def settle(self) -> None: ...

    def mark(self) -> None: ...

    def stop(self) -> Recording: ...


def clock_difference(clock: Clock, ask: Callable[[], float]) -> Difference:
    """Of a clock that `ask` reads, by the shortest of 20 exchanges or more."""
    best = Difference(0.0, 0.0, math.inf)
    for exchange in range(_MOST_EXCHANGES):
        if exchange >= _EXCHANGES and best.uncertainty_s <= _SURE_S:
            break
        before_s = clock.monotonic_s()
        theirs_s = ask()
        after_s = clock.monotonic_s()
        if (after_s - before_s) / 2 < best.uncertainty_s:
            best = Difference(theirs_s, (before_s + after_s) / 2, (after_s - before_s) / 2)
    return best


class JointSampler:
    """A `Sampler` over this machine's and others'.

    Marks of the others lie just outside a window: before ours at its start, after ours at its end.

    Raises:
        AgentLost: another machine does not answer (by any call).
        ClocksApart: from `stop`.
    """

    def __init__(self, name: str, own: Sampler, clock: Clock, peers: Sequence[PeerSampler]) -> None:
        self._name, self._own, self._clock, self._peers = name, own, clock, tuple(peers)
        self._before: list[Difference] = []
        self._marks = 0

    def start(self) -> None:
        self._before = [clock_difference(self._clock, peer.clock_s) for peer in self._peers]
        for peer in self._peers:
            peer.start()
        self._own.start()

    def settle(self) -> None:
        with ThreadPoolExecutor(len(self._peers)) as pool:
            others = [pool.submit(peer.settle) for peer in self._peers]
            self._own.settle()
            for other in others:
                other.result()

    def mark(self) -> float:
        self._marks += 1
        if self._marks % 2:
            self._mark_peers()
            return self._own.mark()
        marked_s = self._own.mark()
        self._mark_peers()
        return marked_s

    def stop(self) -> Recording:
        own = self._own.stop()
        # All of them are stopped before any clock is found unfit.
        stopped = [(peer.name, peer.stop(), clock_difference(self._clock, peer.clock_s)) for peer in self._peers]
        others = [
            on_our_clock(name, recording, before, after)
            for (name, recording, after), before in zip(stopped, self._before, strict=True)
        ]
        known_s = [after.uncertainty_s for _, _, after in stopped] + [before.uncertainty_s for before in self._before]
        return joined((self._name, *(name for name, _, _ in stopped)), [own, *others], max(known_s))

    def _mark_peers(self) -> None:
        for peer in self._peers:
            peer.mark()


def on_our_clock(name: str, recording: Recording, before: Difference, after: Difference) -> Recording:
    """Another machine's recording with our times, and what is not known of them.

    Args:
        before, after: the differences of the clocks around the recording.

    Raises:
        ClocksApart: they are not known well enough, or the clocks do not keep pace.
    """
    uncertainty_s = max(before.uncertainty_s, after.uncertainty_s)
    if uncertainty_s > MOST_UNCERTAIN_S:
        known, accepted = uncertainty_s * 1e3, MOST_UNCERTAIN_S * 1e3
        raise ClocksApart(f"the clock of {name} is known to {known:.1f} ms, {accepted:g} ms are accepted")
    span_s = after.theirs_s - before.theirs_s
    drift = (after.ours_s - before.ours_s - span_s) / span_s if span_s > 0 else 0.0
    if abs(drift) > _MOST_DRIFT + 2 * uncertainty_s / max(span_s, 1e-9):
        raise ClocksApart(f"the clock of {name} runs {drift:+.1%} beside ours, up to {_MOST_DRIFT:.1%} is accepted")

    def ours_s(theirs_s: float) -> float:
        return before.ours_s + (theirs_s - before.theirs_s) * (1.0 + drift)

    def all_ours_s(theirs_s: FloatArray) -> FloatArray:
        shifted: FloatArray = before.ours_s + (theirs_s - before.theirs_s) * (1.0 + drift)
        return shifted

    return replace(
        recording,
        series=tuple(
            replace(one, time_s=all_ours_s(one.time_s), clock_uncertainty_s=uncertainty_s) for one in recording.series
        ),
        power=tuple(replace(one, time_s=all_ours_s(one.time_s)) for one in recording.power),
        states=tuple(replace(state, time_s=ours_s(state.time_s)) for state in recording.states),
        hosts=tuple(replace(state, time_s=ours_s(state.time_s)) for state in recording.hosts),
    )


def joined(names: Sequence[str], recordings: Sequence[Recording], uncertainty_s: float) -> Recording:
    """One recording of all machines, the first one's own among them; all on one clock.

    Zones of processors get their machine's name, since every machine has a `package-0`.
    """
    absent: dict[Domain, str] = {}
    doubts: dict[Domain, str] = {}
    for name, recording in zip(names, recordings, strict=True):
        absent |= {domain: f"{name}: {reason}" for domain, reason in recording.absent.items() if domain not in absent}
        doubts |= {domain: f"{name}: {reason}" for domain, reason in recording.doubts.items() if domain not in doubts}
    memory_gib = [recording.memory_gib for recording in recordings if recording.memory_gib is not None]
    return Recording(
        series=tuple(
            _named(one, name)
            for name, recording in zip(names, recordings, strict=True)
            for one in recording.series
            if one.channel.domain not in absent
        ),
        power=tuple(trace for recording in recordings for trace in recording.power),
        states=tuple(state for recording in recordings for state in recording.states),
        absent=absent,
        hosts=recordings[0].hosts,
        other_hosts=tuple(recording.hosts for recording in recordings[1:]),
        doubts=doubts,
        node_power_lost=_NO_NODE_POWER,
        memory_gib=sum(memory_gib) if len(memory_gib) == len(recordings) else None,
        clock_uncertainty_s=uncertainty_s,
    )


def _named(series: Series, name: str) -> Series:
    channel = series.channel
    if channel.domain == "gpu":
        return series
    return replace(series, channel=replace(channel, device=f"{name}/{channel.device}"))
