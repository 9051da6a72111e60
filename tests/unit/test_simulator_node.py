"""A simulated node from outside: its counters against the truth, its windows, engines and faults."""

import gc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.base import Served
from harness.errors import EngineCrashed, EngineError, LaunchFailed
from harness.meters.base import Recording, Series
from harness.points import (
    BatchWorkload,
    CpuSpec,
    Deployment,
    EngineLimits,
    GpuSpec,
    ModelShape,
    NodeSpec,
    Schedule,
)
from harness.simulator.counters import Ticks
from harness.simulator.engine import SimulatedEngine
from harness.simulator.faults import NO_FAULTS, Faults
from harness.simulator.node import SimulatedNode

A100 = GpuSpec("a100", "NVIDIA A100-SXM4-80GB", 85_900_000_000, 312e12, 2.039e12, 300e9, 60.0, 400.0)
H100 = GpuSpec("h100", "NVIDIA H100 80GB HBM3", 85_900_000_000, 989.5e12, 3.35e12, 450e9, 70.0, 700.0)
EPYC = CpuSpec("AMD EPYC 7742", 2, 120.0, 450.0, 16.0, 60.0, False, 65532.6, 65712.999613)
XEON = CpuSpec("Intel Xeon 8480C", 2, 120.0, 700.0, 16.0, 60.0, True, 262143.3, 65712.999613)
DGX_A100 = NodeSpec("dgx-a100", A100, 8, EPYC)
DGX_H100 = NodeSpec("dgx-h100", H100, 8, XEON)
LLAMA_7B = ModelShape("llama-2-7b", 4096, 11008, 32, 32, 32, 128, 32000, 4096)
LLAMA_70B = ModelShape("llama-2-70b", 8192, 28672, 80, 64, 8, 128, 32000, 4096)
BATCH = BatchWorkload(8, 128, 16)


def deployment(
    model: ModelShape = LLAMA_7B, tp: int = 1, pp: int = 1, token_budget: int = 8192, max_sequences: int = 128
) -> Deployment:
    limits = EngineLimits("vllm", token_budget, max_sequences, 4096)
    return Deployment("h100", model, 16, limits, tp, pp, "dummy")


def node(seed: int = 1, gain_sd: float = 0.0, faults: Faults = NO_FAULTS, spec: NodeSpec = DGX_H100) -> SimulatedNode:
    return SimulatedNode(spec, "node-a", seed, gain_sd=gain_sd, faults=faults)


def measured(
    machine: SimulatedNode, engine: SimulatedEngine, workload: BatchWorkload, batches: int, seed: int = 0
) -> tuple[Recording, Served, float, float]:
    """A window as the experiment takes it: the recording, what was served, and the two marks."""
    go = engine.prepare_batches(workload, batches, seed)
    sampler = machine.sampler()
    sampler.start()
    sampler.settle()
    start_s = sampler.mark()
    served = go()
    end_s = sampler.mark()
    sampler.settle()
    return sampler.stop(), served, start_s, end_s


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


def test_energy_of_a_window_is_the_sum_over_its_parts():
    machine = node()
    engine = machine.launch(deployment(), 0)
    _, served, start_s, end_s = measured(machine, engine, BATCH, 5)
    bounds_s = np.concatenate(([start_s], served.steps.start_s, [served.end_s, end_s, machine.clock.monotonic_s()]))
    for domain in ("gpu", "cpu", "dram"):
        parts_j = sum(machine.truth.energy_j(domain, None, *pair) for pair in pairwise(bounds_s))
        whole_j = machine.truth.energy_j(domain, None, start_s, machine.clock.monotonic_s())
        assert parts_j == pytest.approx(whole_j)


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


def test_no_board_draws_more_than_its_limit_however_it_was_made():
    for seed in range(5):
        machine = node(seed)
        engine = machine.launch(deployment(), 0)
        recording, served, _, _ = measured(machine, engine, BatchWorkload(8, 1024, 1), 10)
        step = served.steps
        step_j = machine.truth.energy_j(
            "gpu", engine.gpu_uuids[0], step.start_s[3], step.start_s[3] + step.duration_s[3]
        )
        assert step_j / step.duration_s[3] <= H100.tdp_w + 1e-6
        assert max(trace.power_w.max() for trace in recording.power) <= H100.tdp_w + 1e-6


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
    machine = SimulatedNode(DGX_A100, "node-b", 0)
    sampler = machine.sampler()
    sampler.start()
    recording = sampler.stop()
    assert {series.channel.domain for series in recording.series} == {"gpu", "cpu"}
    assert "AMD" in recording.absent["dram"]


def test_the_same_seed_and_calls_give_the_same_numbers_and_another_seed_does_not():
    def window(seed: int) -> tuple[Recording, Served]:
        machine = node(seed, gain_sd=0.02)
        return measured(machine, machine.launch(deployment(), 3), BATCH, 4, 5)[:2]

    (first, first_served), (second, second_served), (other, other_served) = window(1), window(1), window(2)
    np.testing.assert_array_equal(first_served.steps.duration_s, second_served.steps.duration_s)
    for one, two in zip(first.series, second.series, strict=True):
        np.testing.assert_array_equal(one.counts, two.counts)
        np.testing.assert_array_equal(one.time_s, two.time_s)
    assert first.states == second.states
    assert (first_served.steps.duration_s != other_served.steps.duration_s).all()
    assert first.series[-1].channel.device == other.series[-1].channel.device


def test_repetitions_and_launches_vary_a_little():
    machine = node()
    totals_s = []
    for launch in range(3):
        engine = machine.launch(deployment(), launch)
        for seed in range(3):
            _, served, _, _ = measured(machine, engine, BATCH, 20, seed)
            totals_s.append(served.steps.duration_s.sum())
        engine.stop()
    assert 0.001 < np.std(totals_s) / np.mean(totals_s) < 0.02


def test_a_window_holds_its_batches_in_order_with_exact_counts_and_a_gap_before_each():
    machine = node()
    engine = machine.launch(deployment(), 0)
    before_s = machine.clock.monotonic_s()
    served = engine.prepare_batches(BATCH, 6, 0)()
    steps, requests = served.steps, served.requests
    assert (served.start_s, served.end_s, served.batches) == (before_s, machine.clock.monotonic_s(), 6)
    assert len(steps) == 6 * 16
    assert len(requests) == 6 * 8
    assert requests.generated_tokens.tolist() == [16] * 48
    assert int(steps.prefill_tokens.sum()) == int(requests.prompt_tokens.sum())
    ends_s = steps.start_s + steps.duration_s
    assert (steps.start_s[1:] >= ends_s[:-1] - 1e-9).all()
    between_s = (steps.start_s[1:] - ends_s[:-1])[np.diff(steps.batch_index) > 0]
    assert between_s == pytest.approx(15e-3, rel=0.35)
    for batch in range(6):
        mine, own = steps.batch_index == batch, requests.batch_index == batch
        assert set(requests.admitted_s[own]) == {steps.start_s[mine][0]}
        assert requests.first_token_s[own] == pytest.approx(ends_s[mine][0], abs=1e-3)
        assert requests.finished_s[own] == pytest.approx(ends_s[mine][-1], abs=1e-3)
        assert (requests.sent_s[own] >= requests.scheduled_s[own]).all()
    assert served.end_s >= requests.finished_s.max()


def test_power_stays_between_idle_and_the_limit_and_prefill_of_long_prompts_is_capped():
    machine = node()
    cold_j = _idle_j(machine)
    engine = machine.launch(deployment(), 0)
    machine.clock.sleep(2)
    loaded_j = _idle_j(machine)
    recording, _, start_s, end_s = measured(machine, engine, BatchWorkload(8, 1024, 1), 20)
    held = [machine.gpu_uuids.index(uuid) for uuid in engine.gpu_uuids]
    for index, uuid in enumerate(machine.gpu_uuids):
        extra_w = (loaded_j[index] - cold_j[index]) / 5
        assert (10 < extra_w < 25) if index in held else abs(extra_w) < 2
        trace = next(trace for trace in recording.power if trace.device == uuid)
        assert trace.power_w.max() <= H100.tdp_w + 1e-6
        assert trace.power_w.min() >= 0.97 * cold_j[index] / 5
        mean_w = machine.truth.energy_j("gpu", uuid, start_s, end_s) / (end_s - start_s)
        assert (mean_w > 0.7 * H100.tdp_w) == (index in held)
    capped = {state.device for state in recording.states if "sw_power_cap" in state.event_reasons}
    assert capped == set(engine.gpu_uuids)
    clocks = [state.sm_clock_mhz for state in recording.states if state.device in capped]
    assert min(clocks) < max(clocks) == 1980


def _idle_j(machine: SimulatedNode) -> list[float]:
    start_s = machine.clock.monotonic_s()
    machine.clock.sleep(5)
    return [machine.truth.energy_j("gpu", uuid, start_s, start_s + 5) for uuid in machine.gpu_uuids]


def test_processes_spin_for_a_second_after_the_last_message():
    machine = node()
    engine = machine.launch(deployment(LLAMA_70B, 4), 0)
    machine.clock.sleep(10)
    served = engine.prepare_batches(BATCH, 3, 0)()
    machine.clock.sleep(10)
    power_w = [machine.truth.energy_j("cpu", None, served.end_s + at, served.end_s + at + 1) for at in (0.0, 1.0, 5.0)]
    assert power_w[0] > power_w[1] + 20
    assert power_w[1] == pytest.approx(power_w[2])


def test_boards_warm_up_under_load_and_cool_down_after():
    machine = node()
    engine = machine.launch(deployment(), 0)
    first, *_ = measured(machine, engine, BatchWorkload(8, 1024, 1), 200)
    machine.clock.sleep(300)
    later, *_ = measured(machine, engine, BATCH, 1)
    held = [state.temperature_c for state in first.states if state.device in engine.gpu_uuids]
    cooled = next(state.temperature_c for state in later.states if state.device in engine.gpu_uuids)
    assert 28 < held[0] < 40
    assert held[0] + 10 < max(held) < 70
    assert cooled == pytest.approx(held[0], abs=1)


def requests_at(rate_per_s: float, count: int, seed: int = 0) -> Schedule:
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1 / rate_per_s, count))
    prompt, generated = rng.integers(1, 3000, count), rng.integers(1, 500, count)
    return Schedule(arrival_s, prompt, generated, float(arrival_s[-1]))


def test_a_replay_serves_everyone_in_order_at_their_own_times():
    machine = node()
    engine = machine.launch(deployment(token_budget=512), 0)
    schedule = requests_at(2.0, 300)
    served = engine.replay(schedule, 60.0, 0)
    requests = served.requests
    np.testing.assert_allclose(requests.scheduled_s - served.start_s, schedule.arrival_s)
    assert (requests.sent_s >= requests.scheduled_s).all()
    assert (requests.sent_s - requests.scheduled_s).max() < 0.01
    assert (requests.admitted_s >= requests.sent_s).all()
    assert (np.diff(requests.admitted_s) >= 0).all()
    assert (requests.first_token_s > requests.admitted_s).all()
    assert (requests.finished_s >= requests.first_token_s).all()
    assert (requests.generated_tokens == requests.asked_tokens).all()
    assert int(served.steps.prefill_tokens.sum()) == int(schedule.prompt_tokens.sum())
    assert int(served.steps.decode_requests.sum()) == int((schedule.generated_tokens - 1).sum())
    assert (served.steps.prefill_tokens + served.steps.decode_requests).max() <= 512
    ends_s = served.steps.start_s + served.steps.duration_s
    assert (served.steps.start_s[1:] >= ends_s[:-1] - 1e-9).all()
    assert served.end_s == machine.clock.monotonic_s() == pytest.approx(requests.finished_s.max())


def test_a_hopeless_rate_leaves_requests_unfinished_at_the_drain_limit():
    machine = node()
    engine = machine.launch(deployment(), 0)
    schedule = requests_at(200.0, 2000)
    served = engine.replay(schedule, 5.0, 0)
    unfinished = np.isnan(served.requests.finished_s)
    deadline_s = served.start_s + schedule.arrival_s[-1] + 5.0
    assert 0 < unfinished.sum() < 2000
    assert served.end_s == pytest.approx(deadline_s)
    assert served.requests.finished_s[~unfinished].max() <= deadline_s
    assert (served.requests.generated_tokens < served.requests.asked_tokens)[unfinished].all()
    assert np.isnan(served.requests.admitted_s).any()


def test_a_replay_of_the_published_traces_size_is_cheap_in_steps_and_exact_in_tokens():
    machine = node()
    engine = machine.launch(deployment(token_budget=512), 0)
    served = engine.replay(requests_at(5.6, 19_366), 60.0, 0)
    assert not np.isnan(served.requests.finished_s).any()
    assert 3300 < served.end_s - served.start_s < 3700
    gpu = engine.gpu_uuids[0]
    mean_w = machine.truth.energy_j("gpu", gpu, served.start_s, served.end_s) / (served.end_s - served.start_s)
    assert 200 < mean_w < H100.tdp_w


def test_an_idle_stretch_of_a_replay_draws_loaded_idle():
    machine = node()
    engine = machine.launch(deployment(), 0)
    schedule = Schedule(np.array([0.0, 30.0]), np.array([100, 100]), np.array([10, 10]), 31.0)
    served = engine.replay(schedule, 10.0, 0)
    quiet_w = machine.truth.energy_j("gpu", engine.gpu_uuids[0], served.start_s + 5, served.start_s + 25) / 20
    assert 85 < quiet_w < 100
    spinning_j = machine.truth.energy_j("cpu", None, served.requests.finished_s[0], served.requests.finished_s[0] + 0.9)
    idle_j = machine.truth.energy_j("cpu", None, served.start_s + 5, served.start_s + 5.9)
    assert spinning_j > idle_j + 5


def test_an_empty_schedule_is_served_at_once():
    machine = node()
    engine = machine.launch(deployment(), 0)
    empty = Schedule(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), 10.0)
    served = engine.replay(empty, 5.0, 0)
    assert len(served.requests) == len(served.steps) == 0
    assert served.start_s == served.end_s


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


def test_the_clock_never_goes_back_and_launch_and_stop_take_virtual_time():
    machine = node()
    engine = machine.launch(deployment(LLAMA_70B, 8), 0)
    assert machine.clock.monotonic_s() == engine.load_s
    assert engine.load_s == pytest.approx(LLAMA_70B.weight_bytes(16) / 2e9 + 40, rel=0.2)
    before_s = machine.clock.monotonic_s()
    engine.stop()
    engine.stop()
    assert machine.clock.monotonic_s() > before_s
    with pytest.raises(EngineError, match="stopped"):
        engine.prepare_batches(BATCH, 1, 0)


def test_launches_go_round_the_boards_and_only_one_engine_runs():
    machine = node()
    seen = set()
    for seed in range(20):
        engine = machine.launch(deployment(LLAMA_70B, 4), seed)
        seen.add(engine.gpu_uuids)
        with pytest.raises(LaunchFailed, match="another engine"):
            machine.launch(deployment(), seed)
        engine.stop()
    assert seen == {machine.gpu_uuids[:4], machine.gpu_uuids[4:]}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (deployment(LLAMA_70B), "weights need"),
        (replace(deployment(), gpu="a100"), "the node has h100"),
        (deployment(token_budget=64), "at least its 128 sequences"),
    ],
)
def test_what_an_engine_would_refuse_fails_to_launch(bad, why):
    with pytest.raises(LaunchFailed, match=why):
        node().launch(bad, 0)


def test_a_request_over_the_context_is_refused():
    engine = node().launch(deployment(), 0)
    with pytest.raises(EngineError, match="exceeds the context"):
        engine.prepare_batches(BatchWorkload(1, 4000, 97), 1, 0)


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


def test_a_crash_comes_once_at_its_batch_and_the_gpus_are_free_after():
    machine = node(faults=Faults(crash_at=frozenset({5})))
    engine = machine.launch(deployment(), 0)
    engine.prepare_batches(BATCH, 3, 0)()
    go = engine.prepare_batches(BATCH, 3, 1)
    before_s = machine.clock.monotonic_s()
    with pytest.raises(EngineCrashed) as caught:
        go()
    assert caught.value.log_tail
    assert machine.clock.monotonic_s() > before_s
    with pytest.raises(EngineCrashed):
        engine.replay(requests_at(1.0, 3), 1.0, 0)
    again = machine.launch(deployment(), 1)
    assert again.prepare_batches(BATCH, 3, 1)().batches == 3


def test_a_crash_may_come_in_a_replay():
    engine = node(faults=Faults(crash_at=frozenset({1}))).launch(deployment(), 0)
    with pytest.raises(EngineCrashed):
        engine.replay(requests_at(1.0, 3), 1.0, 0)


def test_a_deployment_may_fail_to_launch_while_others_work():
    machine = node(faults=Faults(failing_deployments=frozenset({deployment().deployment_id})))
    with pytest.raises(LaunchFailed) as caught:
        machine.launch(deployment(), 0)
    assert "NCCL" in caught.value.log_tail
    assert machine.clock.monotonic_s() > 0
    machine.launch(deployment(LLAMA_70B, 4), 0)


def test_a_foreign_process_and_a_thermal_slowdown_show_in_the_states_of_their_gpu():
    machine = node(faults=Faults(foreign_process_s=(0.0, 5.0), thermal_slowdown_s=(5.0, 10.0), gpu_index=1))
    sampler = machine.sampler()
    sampler.start()
    machine.clock.sleep(12.0)
    for state in sampler.stop().states:
        mine = state.device == machine.gpu_uuids[1]
        assert bool(state.foreign_pids) == (mine and state.time_s < 5)
        assert ("hw_thermal_slowdown" in state.event_reasons) == (mine and 5 <= state.time_s < 10)


def test_everything_says_simulated():
    machine = node()
    environment = machine.environment(deployment())
    assert machine.source == environment.source == "simulated"
    assert environment.driver_version.startswith("simulated-")
    assert environment.engine_version == "simulated-1"
    assert all(uuid.startswith("GPU-sim-") for uuid in machine.gpu_uuids)
    assert machine.gpu_uuids == node(seed=9).gpu_uuids != SimulatedNode(DGX_H100, "node-b", 1).gpu_uuids
