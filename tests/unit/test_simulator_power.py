"""What a simulated node draws over time: idle, launching, serving, spinning, warm."""

from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest

from harness.points import BatchWorkload, Schedule
from harness.simulator.activity import Activity, Host, replay_activity
from harness.simulator.batching import Scheduler
from harness.simulator.constants import HostConstants, constants_of
from harness.simulator.faults import NO_FAULTS
from harness.simulator.hardware import Hardware
from harness.simulator.launching import Phase, launch_phases
from harness.simulator.node import SimulatedNode, Truth
from harness.simulator.stepmodel import StepModel
from harness.simulator.thermal import Thermal, idle_temperature_c, settled_leakage_w
from tests.unit.simulated import (
    BATCH,
    DGX_H100,
    H100,
    LLAMA_7B,
    LLAMA_70B,
    XEON,
    changed,
    deployment,
    hot,
    mean_w,
    measured,
    node,
    requests_at,
)

LONG_PREFILL = BatchWorkload(8, 1024, 1)
HOST = Host(XEON, HostConstants(), 1)


def phases_of(**kwargs: object) -> tuple[Phase, ...]:
    item = deployment(**kwargs)
    return launch_phases(item, constants_of(H100).engine(item.limits.engine, item.limits.enforce_eager))


def launch_s(**kwargs: object) -> float:
    return sum(phase.duration_s for phase in phases_of(**kwargs))


def idle_w(machine: SimulatedNode, length_s: float = 5.0) -> list[float]:
    """Power of every GPU while nothing happens."""
    start_s = machine.clock.monotonic_s()
    machine.clock.sleep(length_s)
    return [mean_w(machine, "gpu", uuid, start_s, length_s) for uuid in machine.gpu_uuids]


# ---- energy


def test_true_energy_is_power_times_time():
    start, constants = datetime(2026, 1, 1, tzinfo=UTC), changed(H100, leakage_share_per_c=0.0)
    hardware = Hardware(DGX_H100, ("node-a",), 1, 0.0, start, constants, NO_FAULTS)
    hardware.hold((0, 1))
    time_s, dynamic_w = np.array([0.0, 1.0, 3.0, 6.0]), np.array([0.0, 100.0, 200.0])
    cpu_w, dram_w = np.array([300.0, 200.0, 250.0]), np.array([20.0, 40.0, 30.0])
    hardware.work(Activity(time_s, np.stack((dynamic_w, 2 * dynamic_w)), cpu_w, dram_w, np.ones(3)))
    truth = Truth(hardware)
    assert truth.energy_j("cpu", None, 0.0, 6.0) == pytest.approx(300 + 2 * 200 + 3 * 250)
    assert truth.energy_j("cpu", None, 2.0, 4.0) == pytest.approx(200 + 250)
    assert truth.energy_j("dram", None, 0.5, 3.5) == pytest.approx(0.5 * 20 + 2 * 40 + 0.5 * 30)
    for gpu, factor in ((0, 1), (1, 2)):
        device = hardware.gpu_uuids[gpu]
        powers_w = [truth.energy_j("gpu", device, *ends) / np.diff(ends)[0] for ends in pairwise(time_s)]
        assert powers_w[0] == pytest.approx(constants_of(H100).gpu.loaded_idle_w(H100), rel=0.1)
        assert powers_w[1] - powers_w[0] == pytest.approx(factor * 100, rel=0.07), "boards differ by some per cent"
        assert powers_w[2] - powers_w[0] == pytest.approx(2 * (powers_w[1] - powers_w[0]))
    free_w = [truth.energy_j("gpu", hardware.gpu_uuids[7], *ends) / np.diff(ends)[0] for ends in pairwise(time_s)]
    assert free_w == pytest.approx([free_w[0]] * 3), "no engine holds it"


def test_energy_of_a_window_is_the_sum_over_its_parts():
    machine = node()
    engine = machine.launch(deployment(), 0)
    _, served, start_s, end_s = measured(machine, engine, BATCH, 5)
    bounds_s = np.concatenate(([start_s], served.steps.start_s, [served.end_s, end_s, machine.clock.monotonic_s()]))
    for domain in ("gpu", "cpu", "dram"):
        parts_j = sum(machine.truth.energy_j(domain, None, *pair) for pair in pairwise(bounds_s))
        whole_j = machine.truth.energy_j(domain, None, start_s, machine.clock.monotonic_s())
        assert parts_j == pytest.approx(whole_j)


def test_no_board_draws_more_than_its_limit_however_it_was_made():
    for seed in range(5):
        machine = node(seed, constants=hot(H100))
        engine = machine.launch(deployment(), 0)
        recording, served, _, _ = measured(machine, engine, LONG_PREFILL, 10)
        start_s, length_s = served.steps.start_s[3], served.steps.duration_s[3]
        assert 0.9 * H100.tdp_w < mean_w(machine, "gpu", engine.gpu_uuids[0], start_s, length_s) <= H100.tdp_w + 1e-6
        assert max(trace.power_w.max() for trace in recording.power) <= H100.tdp_w + 1e-6


def test_power_stays_between_idle_and_the_limit_and_a_capped_board_says_so():
    machine = node(constants=hot(H100))
    cold_w = idle_w(machine)
    engine = machine.launch(deployment(), 0)
    machine.clock.sleep(2)
    loaded_w = idle_w(machine)
    more_w = constants_of(H100).gpu.loaded_idle_w(H100) - H100.idle_w
    recording, _, start_s, end_s = measured(machine, engine, LONG_PREFILL, 20)
    held = [machine.gpu_uuids.index(uuid) for uuid in engine.gpu_uuids]
    for index, uuid in enumerate(machine.gpu_uuids):
        assert loaded_w[index] - cold_w[index] == pytest.approx(more_w if index in held else 0.0, abs=3)
        trace = next(trace for trace in recording.power if trace.device == uuid)
        assert trace.power_w.max() <= H100.tdp_w + 1e-6
        assert trace.power_w.min() >= 0.97 * cold_w[index]
        assert (mean_w(machine, "gpu", uuid, start_s, end_s - start_s) > 0.7 * H100.tdp_w) == (index in held)
    capped = {state.device for state in recording.states if "sw_power_cap" in state.event_reasons}
    assert capped == set(engine.gpu_uuids)
    clocks = [state.sm_clock_mhz for state in recording.states if state.device in capped]
    assert min(clocks) < max(clocks) == 1980


# ---- warm boards


def test_boards_warm_up_under_load_and_cool_down_after():
    machine = node()
    engine = machine.launch(deployment(), 0)
    first, *_ = measured(machine, engine, LONG_PREFILL, 200)
    machine.clock.sleep(300)
    later, *_ = measured(machine, engine, BATCH, 1)
    held = [state.temperature_c for state in first.states if state.device in engine.gpu_uuids]
    cooled = next(state.temperature_c for state in later.states if state.device in engine.gpu_uuids)
    assert 28 < held[0] < 40
    assert held[0] + 10 < max(held) < 70
    assert cooled == pytest.approx(held[0], abs=1)


@pytest.mark.parametrize("leaks", [True, False])
def test_a_board_that_has_run_hot_draws_more_when_idle_until_it_has_cooled(leaks: bool):
    machine = node(constants=changed(H100, leakage_share_per_c=1e-3 if leaks else 0.0))
    engine = machine.launch(deployment(), 0)
    board, free = (machine.gpu_uuids.index(uuid) for uuid in (engine.gpu_uuids[0], machine.gpu_uuids[-1]))
    assert board != free
    machine.clock.sleep(120)
    before_w = idle_w(machine)
    engine.prepare_batches(LONG_PREFILL, 500, 0)()
    after_w = []
    for wait_s in (0.0, 15.0, 30.0, 300.0):
        machine.clock.sleep(wait_s)
        after_w.append(idle_w(machine))
    warm_w = [power_w[board] - before_w[board] for power_w in after_w]
    if leaks:
        assert warm_w[0] > 5
        assert warm_w == sorted(warm_w, reverse=True)
        assert warm_w[1] < 0.75 * warm_w[0]
    assert max(map(abs, warm_w[3:] if leaks else warm_w)) < 2.5, "idle wanders by some tenths of a per cent"
    assert all(power_w[free] == pytest.approx(before_w[free], rel=0.025) for power_w in after_w)


def test_what_a_cooling_board_leaks_does_not_depend_on_how_often_it_is_looked_at():
    energies_j = []
    for pauses in (1, 300):
        machine = node()
        engine = machine.launch(deployment(), 0)
        engine.prepare_batches(LONG_PREFILL, 200, 0)()
        sampler, start_s = machine.sampler(), machine.clock.monotonic_s()
        sampler.start()
        for _ in range(pauses):
            machine.clock.sleep(300.0 / pauses)
            end_s = machine.clock.monotonic_s()
            machine.truth.energy_j("gpu", None, start_s, end_s)
        energies_j.append(machine.truth.energy_j("gpu", engine.gpu_uuids[0], start_s, start_s + 299.0))
    assert energies_j[0] == pytest.approx(energies_j[1], rel=2e-3)


def test_the_same_work_draws_more_as_the_board_warms():
    machine = node()
    engine = machine.launch(deployment(), 0)
    machine.clock.sleep(120)
    served = engine.prepare_batches(BatchWorkload(16, 128, 64), 40, 0)()
    batch_s = (served.end_s - served.start_s) / 40
    uuid = engine.gpu_uuids[0]
    early_w, late_w = (mean_w(machine, "gpu", uuid, served.start_s + batch * batch_s, 5 * batch_s) for batch in (0, 35))
    assert late_w > early_w + 3


def test_a_board_settles_where_its_power_takes_it():
    """From idle, two thirds of the way within a time constant; at the limit 40 C above the inlet."""
    thermal = Thermal(H100.tdp_w, np.array([H100.idle_w]))
    thermal.advance(np.array([0.0, 25.0, 400.0]), np.full((1, 2), H100.tdp_w))
    ((begun_c, part_c, settled_c),) = thermal.at(np.array([0.0, 25.0, 400.0]))
    assert begun_c == pytest.approx(idle_temperature_c(H100))
    assert (part_c - begun_c) / (settled_c - begun_c) == pytest.approx(1 - np.exp(-1), abs=0.01)
    assert settled_c == pytest.approx(28 + 40, abs=0.01)
    assert settled_leakage_w(H100, H100.tdp_w, 1e-3) == pytest.approx((settled_c - begun_c) * 1e-3 * 630, rel=1e-3)


def test_heating_does_not_depend_on_how_finely_power_is_known():
    rng = np.random.default_rng(0)
    time_s = np.concatenate(([0.0], np.cumsum(rng.uniform(0.01, 0.3, 400))))
    power_w = rng.uniform(100, 700, (2, 400))
    whole, pieces = (Thermal(H100.tdp_w, np.full(2, H100.idle_w)) for _ in range(2))
    whole.advance(time_s, power_w)
    for first in range(0, 400, 40):
        pieces.advance(time_s[first : first + 41], power_w[:, first : first + 40])
    end_s = time_s[-1:]
    np.testing.assert_allclose(whole.at(end_s), pieces.at(end_s), atol=0.3)
    pieces.forget_before(end_s[0] - 10.0)
    np.testing.assert_array_equal(pieces.at(end_s - 9.0) > 40, True)


# ---- launches


def test_larger_models_and_more_ranks_take_longer_to_launch():
    assert launch_s(model=LLAMA_7B, tp=8) < launch_s(model=LLAMA_70B, tp=8)
    assert launch_s(model=LLAMA_7B, tp=1) < launch_s(model=LLAMA_7B, tp=8)
    assert launch_s(model=LLAMA_70B, tp=8, bits=8) < launch_s(model=LLAMA_70B, tp=8)
    assert launch_s(model=LLAMA_70B, tp=1, pp=8) < launch_s(model=LLAMA_70B, tp=8), "fewer layers to compile per rank"


def test_weights_are_read_in_proportion_to_their_bytes():
    (wide,), (narrow,) = (
        [phase.duration_s for phase in phases_of(model=LLAMA_70B, tp=8, bits=bits) if phase.dram_share > 0.3]
        for bits in (16, 8)
    )
    assert wide == pytest.approx(2 * narrow)


def test_engines_without_graphs_neither_compile_nor_capture():
    assert len(phases_of(enforce_eager=True)) == len(phases_of(engine="sarathi")) < len(phases_of())
    assert launch_s(enforce_eager=True) < launch_s(max_sequences=8) < launch_s(max_sequences=256), "fewer sizes"


def test_the_node_draws_what_the_phases_of_a_launch_do():
    machine = node()
    recording = machine.sampler()
    recording.start()
    machine.clock.sleep(5)
    cold_w = {domain: mean_w(machine, domain, None, 0.0, 5.0) for domain in ("cpu", "dram")}
    engine = machine.launch(deployment(LLAMA_70B, 4), 0)
    phases = phases_of(model=LLAMA_70B, tp=4)
    asked_s = np.array([phase.duration_s for phase in phases])
    assert engine.load_s == pytest.approx(asked_s.sum(), rel=0.16)
    spans = list(pairwise(5 + np.concatenate(([0.0], np.cumsum(asked_s))) * engine.load_s / asked_s.sum()))

    def powers_w(domain: str, device: str | None = None) -> list[float]:
        return [mean_w(machine, domain, device, start_s, end_s - start_s) for start_s, end_s in spans]

    cpu_w, dram_w, gpu_w = powers_w("cpu"), powers_w("dram"), powers_w("gpu", engine.gpu_uuids[0])
    assert min(cpu_w) > cold_w["cpu"]
    assert np.argmax(cpu_w) == np.argmax([phase.cores for phase in phases])
    assert min(dram_w) > cold_w["dram"]
    assert np.argmax(dram_w) == np.argmax([phase.dram_share for phase in phases])
    assert np.argmax(gpu_w) == np.argmax([phase.gpu_share for phase in phases])
    assert max(gpu_w) > min(gpu_w) + 50


# ---- the host


def test_busy_cores_draw_up_to_the_limit_of_the_processors():
    powers_w = HOST.cpu_w(np.array([0.0, 1.0, 4.0, 1000.0]))
    assert powers_w[0] == XEON.idle_w
    assert powers_w[2] - powers_w[0] == pytest.approx(4 * (powers_w[1] - powers_w[0]))
    assert powers_w[3] == XEON.tdp_w
    memory_w = HOST.dram_w(np.array([0.0, 1.0, 1000.0]))
    assert memory_w[0] == XEON.dram_idle_w < memory_w[1] < memory_w[2] == XEON.dram_tdp_w


def test_more_tokens_streamed_in_a_second_keep_more_cores_busy():
    none, some, twice, faster = HOST.serving_cores(np.array([0.0, 8, 16, 8]), np.array([0.02, 0.02, 0.02, 0.01]))
    assert none < some < twice == faster
    assert Host(XEON, HostConstants(), 8).serving_cores(np.ones(1), np.ones(1)) > none + 6


def test_a_larger_batch_streams_more_and_draws_more_on_the_host():
    machine = node()
    engine = machine.launch(deployment(), 0)
    powers_w = {"cpu": [], "dram": []}
    for size in (1, 16, 64):
        served = engine.prepare_batches(BatchWorkload(size, 16, 64), 5, 0)()
        for domain, drawn_w in powers_w.items():
            drawn_w.append(mean_w(machine, domain, None, served.start_s, served.end_s - served.start_s))
    for drawn_w in powers_w.values():
        assert drawn_w == sorted(drawn_w)
        assert drawn_w[2] > drawn_w[0] + 0.2


def test_answers_streamed_in_larger_chunks_cost_the_host_less_and_the_gpus_the_same():
    item = deployment()
    steps = StepModel(item, H100, constants_of(H100))
    schedule = requests_at(5.0, 50)
    batching = Scheduler(
        schedule.arrival_s, schedule.prompt_tokens, schedule.generated_tokens, item.limits, 10**6, steps.duration_s
    ).run()
    cost = steps.cost(batching.shape, np.ones(len(batching)))
    every, seldom = (
        replay_activity(deployment(stream_interval=interval), batching, cost, 0.0, 60.0, 1.0, HOST)
        for interval in (1, 10)
    )
    np.testing.assert_array_equal(every.dynamic_w, seldom.dynamic_w)
    busy = every.dynamic_w[0] > 0
    assert (every.cpu_w[busy] > seldom.cpu_w[busy]).all()
    np.testing.assert_array_equal(every.cpu_w[~busy], seldom.cpu_w[~busy])


def test_processes_spin_for_a_second_after_the_last_message():
    machine = node()
    engine = machine.launch(deployment(LLAMA_70B, 4), 0)
    machine.clock.sleep(10)
    served = engine.prepare_batches(BATCH, 3, 0)()
    machine.clock.sleep(10)
    power_w = [mean_w(machine, "cpu", None, served.end_s + at_s, 1.0) for at_s in (0.0, 1.0, 5.0)]
    assert power_w[0] > power_w[1] + 20
    assert power_w[1] == pytest.approx(power_w[2])


def test_an_idle_stretch_of_a_replay_draws_loaded_idle():
    machine = node()
    engine = machine.launch(deployment(), 0)
    schedule = Schedule(np.array([0.0, 30.0]), np.array([100, 100]), np.array([10, 10]), 31.0)
    served = engine.replay(schedule, 10.0, 0)
    quiet_w = mean_w(machine, "gpu", engine.gpu_uuids[0], served.start_s + 5, 20.0)
    assert quiet_w == pytest.approx(constants_of(H100).gpu.loaded_idle_w(H100), rel=0.08)
    spinning_w = mean_w(machine, "cpu", None, served.requests.finished_s[0], 0.9)
    assert spinning_w > mean_w(machine, "cpu", None, served.start_s + 5, 0.9) + 5
