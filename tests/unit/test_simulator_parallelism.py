"""Steps of models that are split over GPUs: shards, all-reduces, pipeline stages and their bubbles."""

from itertools import pairwise

import numpy as np
import pytest

from harness.simulator.activity import Host, batch_activity
from harness.simulator.constants import HostConstants, constants_of
from harness.simulator.stepmodel import StepModel
from tests.unit.simulated import (
    A100,
    H100,
    LLAMA_7B,
    LLAMA_70B,
    XEON,
    busy_s,
    changed,
    decode,
    decode_w,
    deployment,
    model,
    prefill,
    together,
)

# ---- tensor parallelism


def test_more_gpus_in_a_stage_are_faster_and_each_draws_less():
    steps = [model(A100, LLAMA_70B, tp) for tp in (2, 4, 8)]
    for shape in (prefill(), decode()):
        times_s = [one.duration_s(shape) for one in steps]
        assert times_s == sorted(times_s, reverse=True)
    powers_w = [decode_w(A100, one, 1) for one in steps]
    assert powers_w == sorted(powers_w, reverse=True)


@pytest.mark.parametrize("gpu", [A100, H100], ids=lambda gpu: gpu.kind)
@pytest.mark.parametrize("shape", [prefill(4), decode(1), decode(64)], ids=["prefill", "decode 1", "decode 64"])
def test_shards_of_a_model_waste_more_the_smaller_they_are(gpu, shape):
    """Kernels alone, summed over the GPUs; all-reduces come on top."""
    spent_s = [tp * busy_s(model(gpu, LLAMA_7B, tp), shape) for tp in (1, 2, 4, 8)]
    assert spent_s == sorted(spent_s)
    assert spent_s[-1] > 1.03 * spent_s[0]


@pytest.mark.parametrize(
    "only", [{"link_efficiency": 1e9}, {"all_reduce_s": 0.0, "all_reduce_gpu_s": 0.0}], ids=["latency", "bytes"]
)
def test_all_reduces_grow_with_the_gpus_that_take_part(only):
    """In latency, and in the ring's 2 (l - 1) / l of the activation."""
    constants = changed(H100, **only)
    times_s = [
        float(model(H100, LLAMA_70B, tp, constants=constants).parts(together(decode(64)), np.ones(1)).collectives_s[0])
        for tp in (1, 2, 4, 8)
    ]
    assert times_s[0] == 0
    assert all(1.001 * fewer < more for fewer, more in pairwise(times_s))


def test_a_short_all_reduce_costs_its_latency_and_a_long_one_its_bytes():
    """A token costs nearly what 16 do; 4096 tokens cost many times as much."""
    parts = model(H100, LLAMA_70B, 8).parts(together(decode(1), decode(16), prefill(4)), np.ones(3))
    one_s, sixteen_s, many_s = parts.collectives_s
    assert sixteen_s < 1.5 * one_s
    assert many_s > 5 * one_s


# ---- pipelines


def test_a_full_pipeline_has_no_bubble_and_one_micro_batch_leaves_three_stages_of_four_waiting():
    steps = model(H100, LLAMA_70B, 1, 4)
    for micro, busy_share in ((4.0, 1.0), (1.0, 0.25)):
        parts = steps.parts(together(prefill(8)), np.array([micro]))
        working_s = parts.busy_s + parts.collectives_s + parts.head_s + parts.host_s
        assert working_s <= parts.step_s
        assert working_s == pytest.approx(busy_share * parts.step_s, rel=0.06)


def test_a_pipeline_leaves_bubbles_in_one_batch_and_fewer_with_micro_batches():
    deep, flat = model(H100, LLAMA_70B, 1, 4), model(H100, LLAMA_70B, 4, 1)
    assert decode_w(H100, deep, 1) < 0.7 * decode_w(H100, flat, 1)
    cost = deep.cost(together(prefill(4), prefill(4)), np.array([1.0, 4.0]))
    assert cost.duration_s[1] < 0.35 * cost.duration_s[0]
    assert cost.dynamic_w[1] > 1.5 * cost.dynamic_w[0]


def test_each_micro_batch_reads_the_weights_again():
    """Decoding gains no time by it, as all stages work on something, but draws more."""
    steps = model(H100, LLAMA_70B, 1, 4)
    assert busy_s(steps, decode(8), 4.0) > 3 * busy_s(steps, decode(8), 1.0)
    cost = steps.cost(together(decode(8), decode(8)), np.array([1.0, 4.0]))
    assert cost.duration_s[1] == pytest.approx(cost.duration_s[0], rel=0.1)
    assert cost.dynamic_w[1] > 1.5 * cost.dynamic_w[0]


def test_a_step_of_a_replay_has_a_micro_batch_for_each_stage_and_no_more_than_sequences():
    assert model(H100, LLAMA_70B, 1, 4).micro_batches(np.array([0.0, 1, 3, 4, 100])).tolist() == [1, 1, 3, 4, 4]


def test_a_chunk_that_the_next_may_follow_takes_one_stage_of_the_pipeline():
    """So n chunks through p stages last about n + p - 1 stages, not n p."""
    steps = model(H100, LLAMA_70B, 1, 4)
    shape = together(*[prefill(2)] * 8)
    alone, following = np.zeros(8, bool), np.arange(8) < 7
    one_by_one, overlapped = (steps.cost(shape, np.ones(8), which) for which in (alone, following))
    np.testing.assert_array_equal(one_by_one.duration_s, steps.cost(shape, np.ones(8)).duration_s)
    assert overlapped.duration_s[-1] == one_by_one.duration_s[-1], "the last passes all stages"
    shorter = overlapped.duration_s.sum() / one_by_one.duration_s.sum()
    assert shorter == pytest.approx((8 + 3) / (8 * 4), rel=0.15)
    assert (overlapped.dynamic_w[:-1] > 2 * one_by_one.dynamic_w[:-1]).all(), "no stage waits meanwhile"


def test_without_a_pipeline_nothing_overlaps():
    steps = model(H100, LLAMA_7B)
    shape = together(prefill(2), prefill(2))
    overlapped, alone = (steps.cost(shape, np.ones(2), np.full(2, which)) for which in (True, False))
    np.testing.assert_array_equal(overlapped.duration_s, alone.duration_s)


def test_only_the_last_stage_draws_for_the_output_head():
    item = deployment(LLAMA_7B, 2, 2, gpu="a100")
    cost = StepModel(item, A100, constants_of(A100)).cost(together(*[decode()] * 3), np.ones(3))
    made = batch_activity(item, cost, np.arange(6.0), 1.0, Host(XEON, HostConstants(), 4))
    np.testing.assert_array_equal(made.dynamic_w[:2, 1:-1], np.tile(cost.dynamic_w, (2, 1)))
    np.testing.assert_array_equal(made.dynamic_w[2:, 1:-1], np.tile(cost.last_dynamic_w, (2, 1)))
    assert (cost.last_dynamic_w > cost.dynamic_w).all()
    assert (made.dynamic_w[:, [0, -1]] == 0).all()
