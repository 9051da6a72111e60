"""A simulated node from outside: its windows, replays, engines, launches and faults."""

from dataclasses import replace

import numpy as np
import pytest

from harness.engines.base import Served
from harness.errors import EngineCrashed, EngineError, LaunchFailed
from harness.meters.base import Recording
from harness.points import BatchWorkload, Schedule
from harness.simulator.constants import constants_of
from harness.simulator.faults import Faults
from harness.simulator.node import SimulatedNode
from harness.simulator.stepmodel import StepModel
from tests.unit.simulated import (
    BATCH,
    DGX_H100,
    H100,
    LLAMA_70B,
    decode,
    deployment,
    mean_w,
    measured,
    node,
    requests_at,
)


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


def test_prompt_chunks_follow_one_another_through_a_pipeline():
    """Four chunks of two prompts overlap in four stages; one of eight prompts leaves three of them waiting."""
    times_s, powers_w = [], []
    for budget in (2048, 8192):
        machine = node()
        engine = machine.launch(deployment(LLAMA_70B, 1, 4, token_budget=budget), 0)
        served = engine.prepare_batches(BatchWorkload(8, 1024, 1), 3, 0)()
        times_s.append((served.end_s - served.start_s) / 3)
        powers_w.append(mean_w(machine, "gpu", engine.gpu_uuids[0], served.start_s, served.end_s - served.start_s))
    assert times_s[0] < 0.6 * times_s[1]
    assert powers_w[0] > 1.3 * powers_w[1]


def test_requests_of_different_chunks_decode_apart_in_a_pipeline():
    """Each group's pass through a stage reads the weights: the same time for a token, more power.

    Sequences and keys are the same, so only records of the groups, under way together, tell the two apart.
    """
    powers_w, token_s, sequences, keys = [], [], [], []
    for budget in (256, 8192):
        machine = node()
        engine = machine.launch(deployment(LLAMA_70B, 1, 4, token_budget=budget), 0)
        steps = engine.prepare_batches(BatchWorkload(4, 256, 40), 2, 0)().steps
        begins_s, first = np.unique(steps.start_s, return_index=True)
        all_decode = (np.add.reduceat(steps.decode_requests, first) == 4) & (steps.batch_index[first] == 1)
        start_s = begins_s[all_decode]
        powers_w.append(mean_w(machine, "gpu", engine.gpu_uuids[0], start_s[0], start_s[-1] - start_s[0]))
        token_s.append(np.diff(start_s).mean())
        held = [steps.start_s == moment_s for moment_s in start_s]
        sequences.append({tuple(steps.decode_requests[mine].tolist()) for mine in held})
        keys.append(np.mean([steps.context_tokens[mine].sum() for mine in held]))
    assert powers_w[0] > 1.3 * powers_w[1]
    assert token_s[0] == pytest.approx(token_s[1], rel=0.15)
    assert keys[0] == pytest.approx(keys[1], rel=0.02)
    assert sequences == [{(1, 1, 1, 1)}, {(4,)}]


def test_each_micro_batch_of_a_replay_is_a_step_and_holds_whole_sequences():
    """As in the log of a pipelined engine, whose scheduler forms them one by one: no more than stages at a time."""
    machine = node()
    engine = machine.launch(deployment(LLAMA_70B, 1, 4), 0)
    schedule = requests_at(2.0, 60)
    steps = engine.replay(schedule, 1e4, 0).steps
    assert steps.prefill_requests.sum() == 60, "none is cut in two"
    assert int(steps.prefill_tokens.sum()) == int(schedule.prompt_tokens.sum())
    assert int(steps.decode_requests.sum()) == int((schedule.generated_tokens - 1).sum())
    assert (steps.prefill_requests + steps.decode_requests > 0).all()
    assert ((steps.prefill_tokens > 0) == (steps.prefill_requests > 0)).all()
    assert (steps.context_tokens >= steps.prefill_tokens + steps.decode_requests).all()
    assert (np.diff(steps.start_s) >= 0).all()
    _, first, together = np.unique(steps.start_s, return_index=True, return_counts=True)
    held = np.add.reduceat(steps.prefill_requests + steps.decode_requests, first)
    assert together.tolist() == np.minimum(held, 4).tolist()
    assert np.maximum.reduceat(steps.decode_requests, first).max() > 1


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
    drawn_w = mean_w(machine, "gpu", engine.gpu_uuids[0], served.start_s, served.end_s - served.start_s)
    assert 200 < drawn_w < H100.tdp_w


def test_an_empty_schedule_is_served_at_once():
    machine = node()
    engine = machine.launch(deployment(), 0)
    empty = Schedule(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), 10.0)
    served = engine.replay(empty, 5.0, 0)
    assert len(served.requests) == len(served.steps) == 0
    assert served.start_s == served.end_s


def test_the_clock_never_goes_back_and_launch_and_stop_take_virtual_time():
    machine = node()
    engine = machine.launch(deployment(LLAMA_70B, 8), 0)
    assert machine.clock.monotonic_s() == engine.load_s
    assert engine.load_s > LLAMA_70B.weight_bytes(16) / 2e9
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


def test_everything_says_simulated():
    machine = node()
    environment = machine.environment(deployment())
    assert machine.source == environment.source == "simulated"
    assert environment.driver_version.startswith("simulated-")
    assert environment.engine_version == machine.launch(deployment(), 0).version
    assert all(uuid.startswith("GPU-sim-") for uuid in machine.gpu_uuids)
    assert environment.engine_version.startswith("simulated-")
    assert machine.gpu_uuids == node(seed=9).gpu_uuids != SimulatedNode(DGX_H100, "node-b", 1).gpu_uuids


def test_several_machines_are_one_node_of_all_their_boards_on_one_clock():
    over_two = replace(deployment(LLAMA_70B, 4, 2), nodes=2)
    one, other = SimulatedNode(DGX_H100, "a", 1), SimulatedNode(DGX_H100, "b", 1)
    both = one.beside(("b",))
    assert (both.name, both.machines, both.gpu_uuids) == ("a+b", 2, one.gpu_uuids + other.gpu_uuids)
    assert both.environment(over_two) == one.environment(deployment(LLAMA_70B, 4, 2))
    for seed in (0, 2):
        engine = both.launch(over_two, seed)
        held = [[one, other][uuid in other.gpu_uuids].gpu_uuids.index(uuid) for uuid in engine.gpu_uuids]
        assert held[:4] == held[4:] == (list(range(4)) if seed == 0 else list(range(4, 8)))
        engine.stop()
    with pytest.raises(LaunchFailed, match="2 node"):
        one.launch(over_two, 0)
    with pytest.raises(LaunchFailed, match="1 node"):
        both.launch(deployment(), 0)


def test_a_pipeline_over_two_nodes_is_a_little_slower_and_keeps_two_nodes_processors_awake():
    alone, over_two = deployment(LLAMA_70B, 4, 2), replace(deployment(LLAMA_70B, 4, 2), nodes=2)
    spent = {}
    for nodes, wanted in ((1, alone), (2, over_two)):
        machine = SimulatedNode(DGX_H100, "a", 1, gain_sd=0.0)
        machine = machine.beside(("b",)) if nodes == 2 else machine
        engine = machine.launch(wanted, 0)
        go = engine.prepare_batches(BATCH, 4, 0)
        start_s = machine.clock.monotonic_s()
        served = go()
        lasted_s = served.end_s - served.start_s
        spent[nodes] = (
            lasted_s,
            *(machine.truth.energy_j(domain, None, start_s, start_s + lasted_s) for domain in ("gpu", "cpu")),
        )
    (time_1_s, gpu_1_j, cpu_1_j), (time_2_s, gpu_2_j, cpu_2_j) = spent[1], spent[2]
    assert 0.95 < time_2_s / time_1_s < 1.1
    steps = [StepModel(one, H100, constants_of(H100)) for one in (alone, over_two)]
    shape = decode(8)
    within_s, over_s = (step.duration_s(shape) for step in steps)
    assert 1.0 < over_s / within_s < 1.1, "one send goes over the fabric"
    assert 1.05 < gpu_2_j / gpu_1_j < 2.0, "eight boards more, idle"
    assert 1.3 < cpu_2_j / cpu_1_j < 2.1
