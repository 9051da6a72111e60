"""Counters, samplers and states of a simulated node, against its true energies."""

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.meters.base import Series
from harness.simulator.counters import Ticks
from harness.simulator.faults import Faults
from tests.unit.simulated import BATCH, DGX_A100, H100, LLAMA_70B, XEON, deployment, measured, node


def shown_j(series: Series, start_s: float, end_s: float) -> float:
    """Difference of the readings nearest to two times."""
    first, last = (int(np.abs(series.time_s - time_s).argmin()) for time_s in (start_s, end_s))
    counts = int(series.counts[last] - series.counts[first])
    if series.channel.wrap_counts is not None and counts < 0:
        counts += series.channel.wrap_counts
    return counts * series.channel.joules_per_count


def test_every_counter_shows_the_true_energy_within_a_refresh_of_power():
    machine = node()
    recording, _, start_s, end_s = measured(machine, machine.launch(deployment(LLAMA_70B, 8), 0), BATCH, 30)
    assert {(s.channel.domain, s.channel.device) for s in recording.series} == {
        *(("gpu", uuid) for uuid in machine.gpu_uuids),
        *((domain, name) for domain, suffix in (("cpu", ""), ("dram", "/dram"))
          for name in (f"package-0{suffix}", f"package-1{suffix}")),
    }  # fmt: skip
    assert end_s - start_s > 4
    highest_w = {"gpu": H100.tdp_w, "cpu": XEON.tdp_w, "dram": XEON.dram_tdp_w}
    for series in recording.series:
        channel = series.channel
        assert channel.source == "simulated"
        assert (np.diff(series.time_s) > 0).all()
        true_j = machine.truth.energy_j(channel.domain, channel.device, start_s, end_s)
        # Two ends, each late by up to a refresh; readings follow a mark within 1.2 ms.
        slack_j = (channel.refresh_s + 1.5e-3) * highest_w[channel.domain] + 2e-3
        assert shown_j(series, start_s, end_s) == pytest.approx(true_j, abs=slack_j), channel
        assert true_j > 10
    readings = np.concatenate([series.time_s for series in recording.series])
    assert len(np.unique(readings)) == len(readings), "one thread reads one counter at a time"
    total_j = sum(machine.truth.energy_j("gpu", uuid, start_s, end_s) for uuid in machine.gpu_uuids)
    assert machine.truth.energy_j("gpu", None, start_s, end_s) == pytest.approx(total_j)
    sockets_j = sum(machine.truth.energy_j("cpu", f"package-{socket}", start_s, end_s) for socket in (0, 1))
    assert machine.truth.energy_j("cpu", None, start_s, end_s) == pytest.approx(sockets_j)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1e6))
def test_a_refresh_is_never_shown_before_it_happened(seed: int, start_s: float):
    read_s = start_s + np.sort(np.random.default_rng(seed).uniform(0, 2, 500))
    tick_s = Ticks(0.1, 0.4e-3, seed).last_before(read_s)
    assert (tick_s <= read_s).all()
    assert (read_s - tick_s).max() < 0.1 + 6 * 0.4e-3
    assert (np.diff(tick_s) >= 0).all()


def test_a_long_recording_keeps_its_beginning():
    machine = node()
    sampler = machine.sampler()
    sampler.start()
    start_s = sampler.mark()
    for _ in range(6):
        machine.clock.sleep(100)
        machine.truth.energy_j("gpu", None, machine.clock.monotonic_s() - 1, machine.clock.monotonic_s())
    end_s = sampler.mark()
    for series in sampler.stop().series:
        true_j = machine.truth.energy_j(series.channel.domain, series.channel.device, start_s, end_s)
        assert shown_j(series, start_s, end_s) == pytest.approx(true_j, rel=1e-3)


def test_a_gpu_counter_moves_every_100_ms_at_its_own_phase():
    machine = node()
    sampler = machine.sampler()
    sampler.start()
    for _ in range(5):
        sampler.settle()
    edges_s = []
    for series in sampler.stop().series:
        if series.channel.domain == "gpu":
            moved = np.flatnonzero(np.diff(series.counts)) + 1
            assert len(moved) in (22, 23)
            np.testing.assert_allclose(np.diff(series.time_s[moved]), 0.1, atol=5e-3)
            edges_s.append(series.time_s[moved[0]] % 0.1)
    assert np.ptp(edges_s) > 0.02


def test_gain_is_a_constant_of_the_board_and_not_in_the_truth():
    machine = node(gain_sd=0.05)
    engine = machine.launch(deployment(LLAMA_70B, 8), 0)
    gains = []
    for seed in (0, 1):
        recording, _, start_s, end_s = measured(machine, engine, BATCH, 100, seed)
        gains.append([
            shown_j(series, start_s, end_s) / machine.truth.energy_j("gpu", series.channel.device, start_s, end_s)
            for series in recording.series if series.channel.domain == "gpu"
        ])  # fmt: skip
    np.testing.assert_allclose(gains[0], gains[1], atol=0.01)
    assert np.std(gains[0]) > 0.02


def test_rapl_counts_in_quanta_of_its_register_and_wraps_on_it():
    machine = node()
    sampler = machine.sampler()
    sampler.start()
    # The DRAM's 65.7 kJ register wraps within 65,713 J / 8 W = 2.3 h.
    for _ in range(10):
        machine.clock.sleep(900)
    recording = sampler.stop()
    dram = next(series for series in recording.series if series.channel.domain == "dram")
    assert dram.channel.wrap_counts == round(XEON.dram_wrap_j * 1e6)
    assert dram.counts.min() >= 0
    assert dram.counts.max() <= dram.channel.wrap_counts
    falls = np.flatnonzero(np.diff(dram.counts) < 0)
    assert len(falls) == 1
    package = next(series for series in recording.series if series.channel.device == "package-0")
    # 2^32 quanta make the register: 1/2^14 J each on Intel, rounded down to whole microjoules.
    quantum_uj = package.channel.wrap_counts / (2**32 - 1)
    assert quantum_uj == pytest.approx(1e6 / 2**14, rel=1e-5)
    quanta = package.counts / quantum_uj
    assert np.abs(quanta - np.round(quanta)).max() < 2 / quantum_uj


def test_amd_hosts_have_no_dram_channel_but_a_reason():
    machine = node(spec=DGX_A100)
    sampler = machine.sampler()
    sampler.start()
    recording = sampler.stop()
    assert {series.channel.domain for series in recording.series} == {"gpu", "cpu"}
    assert "AMD" in recording.absent["dram"]


def test_memory_stays_flat_over_many_windows_even_with_a_forgotten_sampler():
    machine = node()
    machine.sampler().start()
    gc.collect()
    engine = machine.launch(deployment(), 0)
    kept = []
    for seed in range(120):
        measured(machine, engine, BATCH, 10, seed)
        kept.append(machine.segments_kept)
    assert max(kept[60:]) <= 1.2 * max(kept[:60])
    with pytest.raises(ValueError, match="known from"):
        machine.truth.energy_j("gpu", None, 0.0, 1.0)


def test_a_driver_reload_makes_every_gpu_counter_go_back():
    machine = node(faults=Faults(driver_reload_s=100.0))
    engine = machine.launch(deployment(), 0)
    machine.clock.advance_to(99.0)
    recording, *_ = measured(machine, engine, BATCH, 30)
    for series in recording.series:
        assert (np.diff(series.counts) < 0).any() == (series.channel.domain == "gpu")
    later, *_ = measured(machine, engine, BATCH, 30)
    for series in later.series[-8:]:
        assert (np.diff(series.counts) >= 0).all()
        assert series.counts[0] * 1e-3 == pytest.approx(
            machine.truth.energy_j("gpu", series.channel.device, 100.0, series.time_s[0]), abs=80
        )


def test_a_lost_counter_stops_answering_and_says_so():
    machine = node(faults=Faults(counter_lost_s=100.0, gpu_index=2))
    machine.clock.advance_to(99.8)
    sampler = machine.sampler()
    sampler.start()
    sampler.settle()
    lost = {series.channel.device: series for series in sampler.stop().series if series.lost}
    assert set(lost) == {machine.gpu_uuids[2]}
    assert 99.7 < lost[machine.gpu_uuids[2]].time_s.max() < 100.0


def test_a_foreign_process_and_a_thermal_slowdown_show_in_the_states_of_their_gpu():
    machine = node(faults=Faults(foreign_process_s=(0.0, 5.0), thermal_slowdown_s=(5.0, 10.0), gpu_index=1))
    sampler = machine.sampler()
    sampler.start()
    machine.clock.sleep(12.0)
    for state in sampler.stop().states:
        mine = state.device == machine.gpu_uuids[1]
        assert bool(state.foreign_pids) == (mine and state.time_s < 5)
        assert ("hw_thermal_slowdown" in state.event_reasons) == (mine and 5 <= state.time_s < 10)
