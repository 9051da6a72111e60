"""Time and power of simulated engine steps lie near published figures, and move the right way."""

from dataclasses import replace

import numpy as np
import pytest

from harness.points import FloatArray, ModelShape
from harness.simulator.constants import GpuConstants, architecture_of, constants_of
from harness.simulator.stepshape import StepShape
from tests.unit.simulated import (
    A100,
    H100,
    INTERNLM_20B,
    LLAMA_7B,
    LLAMA_70B,
    SMALL,
    busy_s,
    changed,
    decode,
    decode_w,
    hot,
    layers_s,
    model,
    prefill,
    together,
)


def random_steps(count: int, seed: int = 1) -> StepShape[FloatArray]:
    """Prefill alone, decoding alone and both together, within a budget of 8192 tokens and 128 sequences."""
    rng = np.random.default_rng(seed)
    kind = np.arange(count) % 3
    chunks = np.where(kind == 1, 0, rng.integers(1, 9, count))
    tokens = chunks * rng.integers(1, 1000, count)
    before = chunks * rng.integers(0, 2000, count)
    decoding = np.where(kind == 0, 0, rng.integers(1, 119, count))
    columns = chunks, tokens, before + tokens, tokens * (before + tokens / 2), decoding, decoding * 1500
    return StepShape(*(column.astype(np.float64) for column in columns))


# ---- against published figures


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
def test_latency_at_batch_1_is_0_8_to_2_0_of_kernel_tables(shape, tp, pp, gpu, ttft_ms, tpot_ms):
    """Sums of measured kernels (aiconfigurator 0.12.0, prompt 1024, 16 bits): optimistic, without an engine's host."""
    steps = model(gpu, shape, tp, pp)
    assert 0.8 < steps.duration_s(prefill()) * 1e3 / ttft_ms < 2.0
    assert 0.8 < steps.duration_s(decode()) * 1e3 / tpot_ms < 2.0


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
def test_decoding_power_is_within_1_35x_of_published(gpu, shape, tp, batch, published_w):
    """Llama-2-70B: batch 1, as published for A100s; Llama-2-7b: LLM-Inference-Bench with vLLM, lengths 1024 + 1024."""
    assert published_w / 1.35 < decode_w(gpu, model(gpu, shape, tp), batch) < published_w * 1.35


# ---- loops and arrays


@pytest.mark.parametrize("constants", [constants_of, hot])
@pytest.mark.parametrize(
    ("tp", "pp", "options"),
    [
        (1, 1, {}),
        (8, 1, {}),
        (2, 2, {}),
        (1, 4, {"bits": 8}),
        (2, 4, {"engine": "sarathi"}),
        (4, 2, {"engine": "transformers"}),
        (2, 1, {"enforce_eager": True}),
    ],
    ids=str,
)
def test_the_loop_and_the_arrays_agree(tp, pp, options, constants):
    """A replay's scheduler asks step by step for the times that its power is later worked out with."""
    steps = model(A100, LLAMA_70B, tp, pp, constants(A100), **options)
    shapes = random_steps(60)
    micro = steps.micro_batches(shapes.prefill_requests + shapes.decode_requests)
    cost = steps.cost(shapes, micro)
    one_by_one = [
        steps.duration_s(StepShape(*row)) for row in zip(*(column.tolist() for column in shapes), strict=True)
    ]
    np.testing.assert_allclose(cost.duration_s, one_by_one, rtol=1e-12)
    if constants is hot and pp == 1 and "engine" not in options:
        assert (cost.relative_clock < 1).any(), "some steps are capped"


# ---- the power limit


@pytest.mark.parametrize("gpu", [A100, H100], ids=lambda gpu: gpu.kind)
def test_a_step_above_the_power_limit_is_slowed_until_it_meets_it(gpu):
    steps = model(gpu, LLAMA_7B, constants=hot(gpu))
    shape = together(prefill(8), decode(4))
    cost, parts = steps.cost(shape, np.ones(2)), steps.parts(shape, np.ones(2))
    drawn_w = hot(gpu).gpu.loaded_idle_w(gpu) + cost.last_dynamic_w
    assert drawn_w[0] == pytest.approx(gpu.tdp_w, rel=1e-3)
    assert cost.relative_clock[0] < 1
    assert cost.duration_s[0] > 1.02 * parts.step_s[0]
    assert drawn_w[1] < gpu.tdp_w
    assert cost.relative_clock[1] == 1
    assert cost.duration_s[1] == parts.step_s[1]


def test_a_slower_clock_saves_energy_on_every_stage():
    """The voltage falls with it, and that by more than what waiting longer adds."""
    steps = model(A100, LLAMA_70B, 2, 2, hot(A100))
    shape, micro = together(prefill(4)), np.array([2.0])
    cost, parts = steps.cost(shape, micro), steps.parts(shape, micro)
    energies_j = np.array([cost.dynamic_w, cost.last_dynamic_w])[:, 0] * cost.duration_s
    full_j = parts.clocked_j + parts.other_j
    assert cost.relative_clock[0] < 0.9
    assert energies_j[0] < 0.97 * full_j[0]
    assert energies_j[1] < 0.97 * (full_j + parts.head_clocked_j + parts.head_other_j)[0]
    assert energies_j[0] < energies_j[1], "only the stage with the output head is at the limit"


def test_energy_without_a_cap_is_that_of_the_parts():
    """Power is energy over time: nothing is lost between the parts of a step and its cost."""
    steps = model(A100, LLAMA_70B, 2, 2, changed(A100, compute_share=0.3, attention_share=0.3))
    shapes = random_steps(60)
    micro = steps.micro_batches(shapes.prefill_requests + shapes.decode_requests)
    cost, parts = steps.cost(shapes, micro), steps.parts(shapes, micro)
    assert (cost.relative_clock == 1).all()
    np.testing.assert_allclose(cost.dynamic_w * cost.duration_s, parts.clocked_j + parts.other_j)
    np.testing.assert_allclose(
        (cost.last_dynamic_w - cost.dynamic_w) * cost.duration_s, parts.head_clocked_j + parts.head_other_j
    )


# ---- attention


def key_s(shape: ModelShape, tp: int = 1, **values: float) -> float:
    """What one more token of context costs a decoding step."""
    steps = model(H100, shape, tp, constants=changed(H100, **values) if values else None)
    return (busy_s(steps, decode(1, 4000)) - busy_s(steps, decode(1, 1000))) / 3000


def test_query_heads_that_share_keys_read_them_again_in_part():
    """Eight query heads to a key: cheaper than a key for each of them, dearer than one query head to a key."""
    grouped = replace(LLAMA_7B, kv_heads=4)
    single = replace(LLAMA_7B, heads=4, kv_heads=4)
    one_s, group_s, each_s = (key_s(shape, group_reread=0.1) for shape in (single, grouped, LLAMA_7B))
    assert 1.1 * one_s < group_s < 0.5 * each_s
    assert key_s(single, group_reread=0.0) == pytest.approx(key_s(grouped, group_reread=0.0))


def test_keys_are_split_over_gpus_only_as_far_as_there_are_heads_of_them():
    shape = replace(LLAMA_7B, kv_heads=4)
    one, four, eight = (key_s(shape, tp, group_reread=0.0) for tp in (1, 4, 8))
    assert four == pytest.approx(one / 4)
    assert eight == pytest.approx(four)


def test_keys_and_values_stay_in_16_bits():
    wide, narrow = (model(H100, LLAMA_7B, bits=bits) for bits in (16, 8))
    more_s = [busy_s(one, decode(8, 2000)) - busy_s(one, decode(8, 1000)) for one in (wide, narrow)]
    assert more_s[0] == pytest.approx(more_s[1])


def test_prompts_cut_into_short_chunks_pay_more_for_the_same_pairs():
    """Attention over 2048 tokens of one prompt, at once or as the sum of 32 chunks."""
    steps = model(H100, LLAMA_7B, constants=changed(H100, attention_half_tokens=128.0))
    bare = model(H100, LLAMA_7B, constants=changed(H100, attention_half_tokens=0.0))
    chunk, whole = 64, prefill(1, 2048)
    cut = [
        StepShape(1.0, 64.0, float(end), chunk * (end - chunk) + chunk * (chunk + 1) / 2, 0.0, 0.0)
        for end in range(chunk, 2049, chunk)
    ]
    assert sum(shape.prefill_pairs for shape in cut) == whole.prefill_pairs
    extra_s = [busy_s(steps, shape) - busy_s(bare, shape) for shape in (whole, *cut)]
    assert sum(extra_s[1:]) > 10 * extra_s[0] > 0


# ---- widths, graphs, engines


def test_8_bit_weights_nearly_halve_a_decoding_step_and_not_a_prefill():
    wide, narrow = (model(A100, LLAMA_70B, 4, bits=bits) for bits in (16, 8))
    assert busy_s(narrow, decode(1)) < 0.65 * busy_s(wide, decode(1))
    assert busy_s(narrow, prefill(4)) > 0.9 * busy_s(wide, prefill(4))


def test_steps_within_one_cuda_graph_take_the_same_time_in_kernels():
    """Without keys to read, what is left depends on the captured size alone."""
    steps = model(H100, LLAMA_7B)
    times_s = {batch: busy_s(steps, decode(batch, 0)) for batch in (32, 33, 36, 40, 41)}
    assert times_s[32] < times_s[33] == times_s[36] == times_s[40] < times_s[41]
    eager = model(H100, LLAMA_70B, 8, engine="sarathi")
    assert busy_s(eager, decode(100, 0)) < busy_s(eager, decode(104, 0))


def test_an_eager_engine_is_bound_by_launches_and_not_by_the_gpu():
    """A small model's kernels are over before the next has been launched, on either GPU, whatever the batch."""
    launched_s = []
    for gpu in (A100, H100):
        quick = changed(gpu, kernel_s=1e-6)
        graphs, eager = (model(gpu, SMALL, constants=quick, enforce_eager=off) for off in (False, True))
        assert layers_s(eager, decode(1, 0)) > 1.2 * layers_s(graphs, decode(1, 0))
        assert layers_s(eager, decode(8, 0)) == pytest.approx(layers_s(eager, decode(1, 0)))
        assert layers_s(graphs, decode(8, 0)) > layers_s(graphs, decode(1, 0))
        launched_s.append(layers_s(eager, decode(1, 0)))
    assert launched_s[0] == pytest.approx(launched_s[1])


def test_graphs_save_launches_of_small_steps_only():
    graphs, eager = (model(A100, LLAMA_7B, enforce_eager=off) for off in (False, True))
    assert layers_s(graphs, prefill(4)) == pytest.approx(layers_s(eager, prefill(4)))
    small = model(A100, SMALL)
    assert layers_s(small, prefill(1, 600)) > 1.5 * layers_s(small, prefill(1, 64)), "above the largest captured size"


def test_an_engine_without_cuda_graphs_takes_longer():
    assert model(A100, LLAMA_7B, engine="sarathi").duration_s(decode()) > model(A100, LLAMA_7B).duration_s(decode())


def test_every_sequence_costs_the_host_some_time():
    parts = model(H100, LLAMA_7B).parts(together(decode(1), decode(2), decode(101)), np.ones(3))
    one_s, two_s, many_s = parts.host_s
    assert two_s > one_s
    assert many_s - one_s == pytest.approx(100 * (two_s - one_s))


# ---- constants


def test_kinds_of_gpu_are_told_by_their_names_and_others_get_hoppers():
    of_a100, of_h100 = constants_of(A100), constants_of(H100)
    assert constants_of(replace(A100, kind="a100-40gb")) == of_a100
    assert constants_of(replace(H100, kind="h200")) == of_h100
    assert constants_of(replace(A100, kind="b999-1tb")) == of_h100
    assert of_a100 != of_h100
    assert architecture_of("b999-1tb") == "hopper"


def test_an_unknown_kind_of_gpu_draws_and_computes_by_its_own_data_sheet():
    unknown = replace(H100, kind="b999", peak_flops=2 * H100.peak_flops, tdp_w=1000.0)
    faster, known = model(unknown, LLAMA_7B), model(H100, LLAMA_7B)
    assert busy_s(faster, prefill(4)) < 0.75 * busy_s(known, prefill(4))
    assert decode_w(unknown, faster, 8) > 1.2 * decode_w(H100, known, 8)


def test_engines_get_their_constants_and_unknown_ones_those_of_vllm_without_graphs():
    constants = constants_of(H100)
    vllm = constants.engine("vllm", enforce_eager=False)
    assert vllm.graphs
    assert constants.engine("vllm", enforce_eager=True) == replace(vllm, graphs=False)
    assert constants.engine("another", enforce_eager=False) == replace(vllm, graphs=False)
    assert not constants.engine("sarathi", enforce_eager=False).graphs


def test_a_loaded_gpu_draws_a_share_of_its_range_above_idle():
    assert GpuConstants(loaded_share=0.1).loaded_idle_w(H100) == pytest.approx(70 + 63)
