"""Readings of several machines on one clock: differences are bounded, energies are those of the truth."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from harness.clock import VirtualClock
from harness.errors import ClocksApart
from harness.meters.base import Channel, HostState, Recording, Series
from harness.meters.joint import Difference, JointSampler, clock_difference, joined, on_our_clock
from harness.meters.window import window_energies, window_energy
from harness.simulator.node import SimulatedNode
from tests.unit.simulated import BATCH, DGX_A100, DGX_H100, deployment

AHEAD_S, DRIFT = 5000.0, 4e-5
"""Theirs is this far ahead of ours, and slower by this share."""


def theirs(ours_s: float) -> float:
    return AHEAD_S + ours_s / (1 + DRIFT)


class Delays:
    """Asks for another clock's time; each way takes a while, and not the same one."""

    def __init__(self, ways_s: list[tuple[float, float]]) -> None:
        self.clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC), 100.0)
        self._ways_s, self.asked = ways_s, 0

    def __call__(self) -> float:
        there_s, back_s = self._ways_s[min(self.asked, len(self._ways_s) - 1)]
        self.asked += 1
        self.clock.sleep(there_s)
        answer_s = theirs(self.clock.monotonic_s())
        self.clock.sleep(back_s)
        return answer_s


@pytest.mark.parametrize("seed", range(20))
def test_the_difference_of_two_clocks_is_within_what_it_says(seed: int) -> None:
    ways_s = np.random.default_rng(seed).exponential(2e-4, (200, 2)) + 5e-5
    ask = Delays([(there, back) for there, back in ways_s.tolist()])
    found = clock_difference(ask.clock, ask)
    assert ask.asked == 20
    assert abs(theirs(found.ours_s) - found.theirs_s) <= found.uncertainty_s + 1e-9
    assert found.uncertainty_s == pytest.approx(ways_s[:20].sum(axis=1).min() / 2)


def test_one_that_answers_late_is_asked_more_often_and_not_for_ever() -> None:
    late = Delays([(0.02, 0.01)] * 60 + [(2e-4, 3e-4)])
    assert clock_difference(late.clock, late).uncertainty_s == pytest.approx(2.5e-4)
    assert late.asked == 61
    never = Delays([(0.02, 0.01)])
    assert clock_difference(never.clock, never).uncertainty_s == pytest.approx(0.015)
    assert never.asked == 200


def window(node: SimulatedNode, quiet_s: float) -> tuple[Recording, float, float]:
    """A recording with work in it, and where that is."""
    engine = node.launch(deployment(tp=2), 3)
    node.clock.sleep(5.0)
    sampler = node.sampler()
    sampler.start()
    node.clock.sleep(quiet_s)
    sampler.settle()
    start_s = sampler.mark()
    engine.prepare_batches(BATCH, 12, 5)()
    end_s = sampler.mark()
    sampler.settle()
    node.clock.sleep(quiet_s)
    return sampler.stop(), start_s, end_s


def shifted(recording: Recording, to_s: Callable[[float], float]) -> Recording:
    return replace(
        recording,
        series=tuple(replace(one, time_s=np.vectorize(to_s)(one.time_s)) for one in recording.series),
        power=tuple(replace(one, time_s=np.vectorize(to_s)(one.time_s)) for one in recording.power),
        states=tuple(replace(one, time_s=to_s(one.time_s)) for one in recording.states),
    )


@pytest.mark.parametrize("wrong_s", [0.0, 4e-4, -4e-4])
def test_energies_of_two_machines_add_up_to_the_truth_whatever_their_clocks_say(wrong_s: float) -> None:
    first, second = SimulatedNode(DGX_H100, "a", 1, gain_sd=0.0), SimulatedNode(DGX_H100, "b", 1, gain_sd=0.0)
    mine, start_s, end_s = window(first, 0.5)
    other, other_start_s, _ = window(second, 2.0)
    # Its work began at the same moment as ours.
    moved_s = start_s - other_start_s
    seen = shifted(other, lambda time_s: theirs(time_s + moved_s))
    before, after = (Difference(theirs(at_s) + wrong_s, at_s, 5e-4) for at_s in (start_s - 3.0, end_s + 3.0))
    both = joined(("a", "b"), [mine, on_our_clock("b", seen, before, after)], 5e-4)
    uuids = (*first.gpu_uuids[:2], *second.gpu_uuids[:2])
    found = window_energies(both, start_s, end_s, uuids, gated=True)
    truths = [(node, offset_s, node.truth) for node, offset_s in ((first, 0.0), (second, moved_s))]
    for domain, energy in (("gpu", found.gpu), ("cpu", found.cpu), ("dram", found.dram)):
        devices = {"gpu": uuids}.get(domain)
        true_j = sum(
            truth.energy_j(domain, device, start_s - offset_s, end_s - offset_s)  # type: ignore[arg-type]
            for node, offset_s, truth in truths
            for device in ([uuid for uuid in devices if uuid in node.gpu_uuids] if devices else [None])
        )
        assert energy.energy_j is not None
        assert energy.uncertainty_j is not None
        assert abs(energy.energy_j - true_j) <= energy.uncertainty_j
        assert energy.uncertainty_j < 0.03 * true_j
    idle_j = sum(
        truth.energy_j("gpu", uuid, start_s - offset_s, end_s - offset_s)
        for node, offset_s, truth in truths
        for uuid in node.gpu_uuids[2:]
    )
    assert found.idle_gpus.energy_j == pytest.approx(idle_j, rel=0.02)
    assert both.clock_uncertainty_s == 5e-4


def test_what_one_machine_has_no_counter_for_is_absent_and_says_whose() -> None:
    mine, *_ = window(SimulatedNode(DGX_H100, "a", 1), 0.5)
    other, *_ = window(_without_dram(), 0.5)
    both = joined(("a", "b"), [mine, other], 0.0)
    assert both.absent["dram"].startswith("b: ")
    assert not [one for one in both.series if one.channel.domain == "dram"]
    assert {one.channel.device for one in both.series if one.channel.domain == "cpu"} == {
        "a/package-0", "a/package-1", "b/package-0", "b/package-1",
    }  # fmt: skip
    assert both.node_power_lost


def _without_dram() -> SimulatedNode:
    return SimulatedNode(replace(DGX_H100, cpu=DGX_A100.cpu), "b", 1)


def test_what_processors_did_stays_apart() -> None:
    mine = Recording((), hosts=(HostState(1.0, 5.0, 1.0), HostState(2.0, 6.0, 1.0)))
    other = Recording((), hosts=(HostState(1.0, 90.0, 0.0), HostState(2.0, 90.5, 0.0)))
    both = joined(("a", "b"), [mine, other], 0.0)
    assert (both.hosts, both.other_hosts) == (mine.hosts, (other.hosts,))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (Difference(0.0, 100.0, 6e-3), Difference(10.0, 110.0, 1e-4), "the clock of b is known to 6.0 ms, 5 ms are"),
        (Difference(0.0, 100.0, 1e-4), Difference(10.0, 110.5, 1e-4), "the clock of b runs +5.0% beside ours"),
        (Difference(0.0, 100.0, 1e-4), Difference(10.0, 109.5, 1e-4), "the clock of b runs -5.0% beside ours"),
    ],
)
def test_clocks_that_cannot_be_told_from_one_another_give_no_energy(
    before: Difference, after: Difference, said: str
) -> None:
    with pytest.raises(ClocksApart) as told:
        on_our_clock("b", Recording(()), before, after)
    assert said in str(told.value)


class Peer:
    """A sampler on another machine that notes what it is asked, and when."""

    name = "b"

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.asked: list[tuple[str, float]] = []

    def _note(self, what: str) -> None:
        self._clock.sleep(1e-3)
        self.asked.append((what, self._clock.monotonic_s()))

    def clock_s(self) -> float:
        return self._clock.monotonic_s() + AHEAD_S

    def start(self) -> None:
        self._note("start")

    def settle(self) -> None:
        self.asked.append(("settle", self._clock.monotonic_s()))

    def mark(self) -> None:
        self._note("mark")

    def stop(self) -> Recording:
        self._note("stop")
        return Recording((), absent={"gpu": "it has none"})


def test_marks_of_others_lie_just_outside_the_window() -> None:
    node = SimulatedNode(DGX_H100, "a", 1)
    peer = Peer(node.clock)
    sampler = JointSampler("a", node.sampler(), node.clock, [peer])
    sampler.start()
    sampler.settle()
    start_s = sampler.mark()
    node.clock.sleep(2.0)
    end_s = sampler.mark()
    sampler.settle()
    recording = sampler.stop()
    assert [what for what, _ in peer.asked] == ["start", "settle", "mark", "mark", "settle", "stop"]
    first_s, second_s = (at_s for what, at_s in peer.asked if what == "mark")
    assert start_s - 0.01 < first_s <= start_s
    assert end_s <= second_s < end_s + 0.01
    assert recording.absent["gpu"] == "b: it has none"
    assert recording.clock_uncertainty_s == 0.0


def test_a_clock_that_is_off_is_part_of_the_uncertainty_where_powers_differ_at_the_ends() -> None:
    """A window that begins in the load and ends after it, on a clock that is as far off as it may be."""
    channel = Channel("cpu", "package-0", 1e-6, None, 1e-3, "simulated")
    time_s = np.arange(0.0, 30.0, 0.1)
    used_j = 100.0 * time_s + 900.0 * np.clip(time_s - 10.0, 0.0, 10.0)
    counts = np.round(used_j / 1e-6).astype(np.int64)
    for off_s in (4e-3, -4e-3):
        series = Series(channel, time_s + off_s, np.full(len(time_s), 1e-4), counts)
        sure = window_energy(series, 12.0, 22.0)
        unsure = window_energy(replace(series, clock_uncertainty_s=4e-3), 12.0, 22.0)
        assert sure.energy_j == unsure.energy_j is not None
        assert sure.uncertainty_j is not None
        assert unsure.uncertainty_j is not None
        assert abs(sure.energy_j - 8200.0) == pytest.approx(3.6, rel=0.01)
        assert sure.uncertainty_j < 3.0 < 3.6 < unsure.uncertainty_j < 6.0
