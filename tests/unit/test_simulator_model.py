"""Time and power of simulated engine steps lie near published figures, and move the right way."""

import numpy as np
import pytest

from harness.points import Deployment, EngineLimits, GpuSpec, ModelShape
from harness.simulator.activity import HostPower, batch_activity
from harness.simulator.latency import LatencyConstants
from harness.simulator.power import PowerConstants, StepModel, loaded_idle_w

A100 = GpuSpec("a100", "NVIDIA A100-SXM4-80GB", 85_900_000_000, 312e12, 2.039e12, 300e9, 60.0, 400.0)
H100 = GpuSpec("h100", "NVIDIA H100 80GB HBM3", 85_900_000_000, 989.5e12, 3.35e12, 450e9, 70.0, 700.0)
LLAMA_7B = ModelShape("llama-2-7b", 4096, 11008, 32, 32, 32, 128, 32000, 4096)
INTERNLM_20B = ModelShape("internlm-20b", 5120, 13824, 60, 40, 40, 128, 103168, 4096)
LLAMA_70B = ModelShape("llama-2-70b", 8192, 28672, 80, 64, 8, 128, 32000, 4096)
PROMPT = 1024


def model(gpu: GpuSpec, shape: ModelShape, tp: int, pp: int = 1, engine: str = "vllm") -> StepModel:
    limits = EngineLimits(engine, 8192, 128, 4096)
    return StepModel(
        Deployment(gpu.kind, shape, 16, limits, tp, pp, "dummy"), gpu, LatencyConstants(), PowerConstants()
    )


def prefill_s(steps: StepModel, batch: int = 1) -> float:
    return steps.duration_s(batch * PROMPT, batch, batch * PROMPT, batch * PROMPT * (PROMPT + 1) / 2, 1)


def decode_s(steps: StepModel, batch: int = 1) -> float:
    return steps.duration_s(batch, batch, batch * PROMPT, batch * PROMPT, 1)


def decode_w(gpu: GpuSpec, steps: StepModel, batch: int, context: int = PROMPT) -> float:
    """Power of a GPU of the last stage in a decoding step."""
    size = np.array([float(batch)])
    cost = steps.cost(size, size, size * context, size * context, np.ones(1))
    return loaded_idle_w(gpu, PowerConstants()) + float(cost.last_dynamic_w[0])


@pytest.mark.parametrize(
    ("shape", "tp", "pp", "gpu", "ttft_ms", "tpot_ms"),
    [
        (LLAMA_7B, 1, 1, A100, 62.2, 10.2),
        (LLAMA_7B, 1, 1, H100, 21.7, 6.0),
        (INTERNLM_20B, 4, 1, A100, 75.6, 9.9),
        (INTERNLM_20B, 4, 1, H100, 28.0, 6.3),
        (LLAMA_70B, 4, 1, A100, 186, 26.1),
        (LLAMA_70B, 4, 1, H100, 71.9, 15.7),
        (LLAMA_70B, 8, 1, A100, 128, 16.5),
        (LLAMA_70B, 8, 1, H100, 53.0, 9.9),
        (LLAMA_70B, 2, 2, A100, 317, 47.6),
        (LLAMA_70B, 2, 2, H100, 121, 27.8),
        (LLAMA_70B, 1, 4, A100, 567, 86.6),
        (LLAMA_70B, 1, 4, H100, 213, 51.5),
    ],
    ids=lambda value: getattr(value, "name", None) or str(value),
)
def test_latency_at_batch_1_is_within_1_5x_of_kernel_tables(shape, tp, pp, gpu, ttft_ms, tpot_ms):
    steps = model(gpu, shape, tp, pp)
    assert prefill_s(steps) * 1e3 == pytest.approx(ttft_ms, rel=0.5)
    assert decode_s(steps) * 1e3 == pytest.approx(tpot_ms, rel=0.5)


@pytest.mark.parametrize(
    ("gpu", "shape", "tp", "batch", "published_w"),
    [
        (A100, LLAMA_70B, 2, 1, 294),
        (A100, LLAMA_70B, 4, 1, 239),
        (A100, LLAMA_70B, 8, 1, 174),
        (A100, LLAMA_7B, 1, 1, 222),
        (A100, LLAMA_7B, 1, 64, 344),
        (H100, LLAMA_7B, 1, 1, 367),
        (H100, LLAMA_7B, 1, 64, 595),
    ],
    ids=lambda value: getattr(value, "name", None) or str(value),
)
def test_decoding_power_is_within_1_5x_of_published(gpu, shape, tp, batch, published_w):
    assert published_w / 1.5 < decode_w(gpu, model(gpu, shape, tp), batch) < published_w * 1.5


def test_more_gpus_in_a_stage_are_faster_and_each_draws_less():
    steps = [model(A100, LLAMA_70B, tp) for tp in (2, 4, 8)]
    for times in ([prefill_s(one) for one in steps], [decode_s(one) for one in steps]):
        assert times == sorted(times, reverse=True)
    powers = [decode_w(A100, one, 1) for one in steps]
    assert powers == sorted(powers, reverse=True)


def test_a_pipeline_leaves_bubbles_in_one_batch_and_fewer_with_micro_batches():
    steps = model(H100, LLAMA_70B, 1, 4)
    flat = model(H100, LLAMA_70B, 4, 1)
    assert decode_w(H100, steps, 1) < 0.7 * decode_w(H100, flat, 1)
    work = (4 * PROMPT, 4, 4 * PROMPT, 4 * PROMPT * (PROMPT + 1) / 2)
    assert steps.duration_s(*work, 4) < 0.35 * steps.duration_s(*work, 1)


def test_a_full_pipeline_has_no_bubble_and_one_micro_batch_leaves_three_stages_of_four_waiting():
    steps = model(H100, LLAMA_70B, 1, 4)
    for micro, busy_share in ((4, 1.0), (1, 0.25)):
        times = steps.latency.times(4 * PROMPT, 4, 4 * PROMPT, 4 * PROMPT * PROMPT / 2, micro)
        busy_s = times.kernels_s + times.collectives_s + times.head_s + times.host_s
        assert busy_s <= times.step_s
        assert busy_s == pytest.approx(busy_share * times.step_s, rel=0.06)


def test_only_the_last_stage_draws_for_the_output_head():
    deployment = Deployment("a100", LLAMA_7B, 16, EngineLimits("vllm", 8192, 128, 4096), 2, 2, "dummy")
    size = np.ones(3)
    cost = StepModel(deployment, A100, LatencyConstants(), PowerConstants()).cost(*(size,) * 5)
    host = HostPower(*np.zeros(6))
    made = batch_activity(deployment, cost, np.arange(6.0), 1.0, host)
    np.testing.assert_array_equal(made.dynamic_w[:2, 1:-1], np.tile(cost.dynamic_w, (2, 1)))
    np.testing.assert_array_equal(made.dynamic_w[2:, 1:-1], np.tile(cost.last_dynamic_w, (2, 1)))
    assert (cost.last_dynamic_w > cost.dynamic_w).all()
    assert (made.dynamic_w[:, [0, -1]] == 0).all()


def test_a_step_that_would_exceed_the_power_limit_is_stretched_to_it():
    size = np.array([8.0])
    tokens = size * PROMPT
    cost = model(H100, LLAMA_7B, 1).cost(tokens, size, tokens, tokens * (PROMPT + 1) / 2, np.ones(1))
    drawn_w = loaded_idle_w(H100, PowerConstants()) + cost.last_dynamic_w[0]
    assert drawn_w == pytest.approx(H100.tdp_w)
    assert cost.relative_clock[0] < 1


def test_the_loop_and_the_arrays_agree():
    steps = model(A100, LLAMA_70B, 2, 2)
    rng = np.random.default_rng(1)
    tokens, sequences = rng.integers(1, 8192, 50), rng.integers(1, 128, 50)
    context, pairs = rng.integers(1, 100_000, 50), rng.integers(1, 10_000_000, 50)
    micro = steps.micro_batches(sequences)
    columns = [column.astype(float) for column in (tokens, sequences, context, pairs)]
    cost = steps.cost(*columns, micro)
    one_by_one = [steps.duration_s(*row) for row in zip(*columns, micro, strict=True)]
    np.testing.assert_allclose(cost.duration_s, one_by_one, rtol=1e-12)


def test_an_engine_without_cuda_graphs_takes_longer_outside_kernels():
    assert decode_s(model(A100, LLAMA_7B, 1, engine="sarathi")) > decode_s(model(A100, LLAMA_7B, 1)) + 1e-3
