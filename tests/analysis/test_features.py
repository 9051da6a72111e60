"""Physical features: against a layer worked out by hand, against a published analyser, and against conservation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.deployment.catalog import bundled_names, model_shape
from harness.points import FloatArray, GpuSpec, ModelShape
from harness_analysis.configurations import Configurations
from harness_analysis.features import (
    FEATURES,
    KERNELS,
    PHASES,
    Phase,
    kernel_features,
    roofline_j,
    roofline_s,
    totals,
)
from harness_analysis.gpus import known_gpus
from harness_analysis.kernels import ALL_REDUCES

TOY = ModelShape(
    name="toy", hidden_size=8, intermediate_size=16, layers=4, heads=4, kv_heads=2, head_dim=2, vocab_size=10,
    max_context_tokens=64,
)  # fmt: skip
SLOW = GpuSpec("slow", "toy", 1 << 30, 100.0, 10.0, 4.0, idle_w=50.0, tdp_w=150.0)
"""100 operations, 10 bytes and 4 bytes over the link per second."""
H100 = GpuSpec("h100", "H100", 80 << 30, 989.5e12, 3.35e12, 450e9, 70.0, 700.0)


def one(shape: ModelShape = TOY, gpu: GpuSpec = SLOW, **numbers: npt.ArrayLike) -> Configurations:
    """Batch 3, prompt 5, 4 generated tokens on one GPU, but for what is given; lists make several."""
    asked = {"bits": 16, "tp": 1, "pp": 1, "batch_size": 3, "prompt_tokens": 5, "generated_tokens": 4, **numbers}
    columns = np.broadcast_arrays(*(np.atleast_1d(value) for value in asked.values()))
    frame = pd.DataFrame(dict(zip(asked, columns, strict=True)))
    return Configurations.from_frame(frame.assign(model=shape.name, gpu=gpu.kind), {shape.name: shape}, {gpu.kind: gpu})


def features_of(c: Configurations, phase: Phase, kernel: str, eager: bool = False) -> dict[str, float]:
    found = kernel_features(c, eager).phase(phase)
    return {name: float(found.kernel(kernel, name)[0]) for name in FEATURES}


# By hand

BY_HAND = {
    # 15 tokens; q is 4 wide on each of two GPUs, k and v are one head of 2.
    ("prefill", "q_proj"): {"operations": 2 * 15 * 8 * 4, "weight_bytes": 64, "activation_bytes": 360, "kv_bytes": 0},
    ("prefill", "k_proj"): {"operations": 2 * 15 * 8 * 2, "weight_bytes": 32, "activation_bytes": 240, "kv_bytes": 60},
    ("prefill", "out_proj"): {"rows": 15, "inner": 4, "columns": 8, "operations": 960, "activation_bytes": 360},
    ("prefill", "gate_proj"): {"operations": 2 * 15 * 8 * 8, "weight_bytes": 128, "activation_bytes": 480},
    ("prefill", "down_proj"): {"operations": 2 * 15 * 8 * 8, "weight_bytes": 128, "executions": 4},
    # 3 sequences x 15 causal pairs x 2 heads of 2; K is 3 x 5 x 2 elements.
    ("prefill", "qk_matmul"): {"operations": 360, "activation_bytes": 120, "kv_bytes": 60, "columns": 3},
    ("prefill", "softmax"): {"operations": 5 * 90, "activation_bytes": 0, "kv_bytes": 0},
    ("prefill", "sv_matmul"): {"operations": 360, "activation_bytes": 120, "kv_bytes": 60},
    # Norms and residuals are whole on every GPU, activations are not.
    ("prefill", "attn_norm"): {"operations": 7 * 15 * 8, "weight_bytes": 16, "activation_bytes": 2 * 15 * 8 * 2},
    ("prefill", "mlp_add"): {"operations": 15 * 8, "activation_bytes": 3 * 15 * 8 * 2},
    ("prefill", "mlp_act"): {"operations": 2 * 15 * 8, "activation_bytes": 3 * 15 * 8 * 2, "columns": 8},
    # 2 (l - 1) / l of 15 x 8 x 2 bytes; the paper's 8 x 8 / 2 x 1 x 2.
    ("prefill", "attn_all_reduce"): {"network_bytes": 240, "paper_network_bytes": 64, "executions": 4},
    ("prefill", "send_recv"): {"network_bytes": 240, "paper_network_bytes": 240, "executions": 1},
    ("prefill", "embedding"): {"activation_bytes": 480, "weight_bytes": 0, "executions": 1},
    # The last position of each sequence only.
    ("prefill", "lm_head"): {"operations": 2 * 3 * 8 * 5, "weight_bytes": 80, "rows": 3, "executions": 1},
    # 3 steps over 6, 7 and 8 keys: 7 on average; 3 tokens each.
    ("decode", "q_proj"): {"operations": 2 * 3 * 8 * 4, "weight_bytes": 64, "executions": 12},
    ("decode", "v_proj"): {"kv_bytes": 12, "activation_bytes": 48},
    ("decode", "qk_matmul"): {"operations": 2 * 3 * 7 * 4, "kv_bytes": 84, "activation_bytes": 24, "columns": 7},
    ("decode", "softmax"): {"operations": 5 * 3 * 7 * 2, "executions": 12},
    ("decode", "mlp_all_reduce"): {"network_bytes": 48, "paper_network_bytes": 64, "executions": 12},
    ("decode", "send_recv"): {"network_bytes": 48, "executions": 3},
    ("decode", "lm_head"): {"operations": 240, "executions": 3},
}


@pytest.mark.parametrize(("phase", "kernel"), BY_HAND)
def test_a_layer_worked_out_by_hand(phase: Phase, kernel: str) -> None:
    """Two GPUs to a stage, two stages, grouped heads, a batch of three."""
    found = features_of(one(tp=2, pp=2), phase, kernel)
    expected = BY_HAND[phase, kernel]
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_time_and_performance_are_those_of_the_binding_resource() -> None:
    """down_proj: 1920 operations at 100/s take 19.2 s, 128 + 480 bytes at 10/s take 60.8 s; all-reduce: 240 at 4/s."""
    c = one(tp=2)
    product = features_of(c, "prefill", "down_proj")
    assert product["time_s"] == pytest.approx(60.8)
    assert product["performance_flops"] == pytest.approx(1920 / 60.8)
    assert product["busy_s"] == pytest.approx(19.2 + 0.5 * 60.8)
    reduce = features_of(c, "prefill", "attn_all_reduce")
    assert reduce["time_s"] == pytest.approx(60)
    assert (reduce["performance_flops"], reduce["busy_s"]) == (0, pytest.approx(12))


def test_eager_attention_computes_and_stores_all_pairs() -> None:
    """5 x 5 pairs instead of 15; scores of 3 sequences and 4 heads written by one product and read by the next."""
    scores = 3 * 4 * 25 * 2
    product, softmax = (features_of(one(), "prefill", kernel, eager=True) for kernel in ("qk_matmul", "softmax"))
    assert product["operations"] == 2 * 3 * 25 * 8
    assert product["activation_bytes"] == 15 * 8 * 2 + scores
    assert softmax["activation_bytes"] == 2 * scores


def test_kv_heads_are_replicated_where_there_are_fewer_than_gpus() -> None:
    """Two heads on four GPUs: each keeps a whole one, so that together they read twice the cache."""
    assert features_of(one(tp=4), "prefill", "k_proj")["columns"] == 2
    assert features_of(one(tp=2), "prefill", "k_proj")["columns"] == 2
    read = [totals(one(tp=tp)).of("kv_bytes", "decode")[0] for tp in (1, 2, 4)]
    assert read[1:] == [read[0], 2 * read[0]]


def test_quantisation_shrinks_the_weights_of_layers_only() -> None:
    """Activations, the cache and the output head stay in 16 bits; so do norms."""
    wide, narrow = (kernel_features(one(bits=bits)).prefill for bits in (16, 4))
    ratio = narrow.of("weight_bytes")[0] / np.where(wide.of("weight_bytes")[0], wide.of("weight_bytes")[0], np.nan)
    quantised = {name for name, value in zip(KERNELS, ratio, strict=True) if value == 0.25}
    assert quantised == {"q_proj", "k_proj", "v_proj", "out_proj", "gate_proj", "up_proj", "down_proj"}
    assert {ratio[KERNELS.index(name)] for name in ("lm_head", "attn_norm")} == {1.0}
    for name in ("activation_bytes", "kv_bytes", "operations"):
        assert (narrow.of(name) == wide.of(name)).all()


def test_a_bias_is_one_addition_and_one_weight_of_16_bits_each() -> None:
    plain, biased = (
        features_of(one(replace(TOY, attention_bias=on), bits=8), "prefill", "q_proj") for on in (False, True)
    )
    assert biased["operations"] - plain["operations"] == 15 * 8
    assert biased["weight_bytes"] - plain["weight_bytes"] == 8 * 2


def test_network_nodes_are_empty_on_one_gpu() -> None:
    """A fixed graph says by zeros that there is nothing to be sent."""
    found = kernel_features(one())
    for phase in PHASES:
        for kernel in (*ALL_REDUCES, "send_recv"):
            assert not found.phase(phase).values[0, KERNELS.index(kernel)].any()


def test_one_token_has_no_decode() -> None:
    """The first token comes from the prefill: a prefill-only batch decodes nothing and takes no time for it."""
    c = one(generated_tokens=1, tp=2, pp=2)
    assert not kernel_features(c).decode.values.any()
    assert roofline_s(c)[0, 1] == roofline_j(c)[0, 1] == 0


# Against what must be conserved


@pytest.mark.parametrize("name", bundled_names("models", ".json"))
def test_every_weight_is_read_once_in_a_prefill(name: str) -> None:
    """But the embedding table, of which single rows are looked up, and the last norm, which is left out."""
    shape = model_shape(name)
    table = shape.vocab_size * shape.hidden_size
    expected = shape.parameters - shape.hidden_size - (0 if shape.tied_embeddings else table)
    assert totals(one(shape)).of("weight_bytes", "prefill")[0] == pytest.approx(2 * expected)


def test_shards_add_up_to_the_whole() -> None:
    """Products, cache and output head are divided, not repeated; norms and residuals are not."""
    whole, shards = (kernel_features(one(tp=tp)).prefill for tp in (1, 2))
    divided = [name for name in KERNELS if name.endswith(("proj", "matmul", "head")) or name in ("softmax", "mlp_act")]
    for kernel in divided:
        for feature in ("operations", "weight_bytes", "kv_bytes"):
            assert 2 * shards.kernel(kernel, feature)[0] == pytest.approx(whole.kernel(kernel, feature)[0])


@settings(deadline=None)
@given(
    prompt=st.integers(1, 3000), generated=st.integers(2, 60), batch=st.integers(1, 64), tp=st.sampled_from([1, 2, 4])
)
def test_decoding_is_the_sum_of_its_steps(prompt: int, generated: int, batch: int, tp: int) -> None:
    """The average step times their number: exact for operations and bytes, which grow linearly with the context."""
    whole = totals(one(prompt_tokens=prompt, generated_tokens=generated, batch_size=batch, tp=tp))
    prompts = np.arange(prompt, prompt + generated - 1)
    steps = totals(one(prompt_tokens=prompts, generated_tokens=2, batch_size=batch, tp=tp))
    for name in ("operations", "weight_bytes", "activation_bytes", "kv_bytes", "network_bytes", "passes", "kernels"):
        assert whole.of(name, "decode")[0] == pytest.approx(steps.of(name, "decode").sum(), rel=1e-9)


def test_operations_are_two_per_weight_and_token() -> None:
    """The rule of thumb of the scaling-law papers, for a prompt so short that attention does not count."""
    shape = model_shape("llama-2-7b")
    found = totals(one(shape, H100, batch_size=1, prompt_tokens=32, generated_tokens=1)).of("operations")[0]
    assert found == pytest.approx(2 * shape.layers * shape.layer_parameters * 32, rel=0.01)


def test_totals_are_of_all_gpus_and_times_of_the_path() -> None:
    """One layer is on the two GPUs of one stage; the other stage waits."""
    c = one(tp=2, pp=2)
    found, prefill = totals(c), kernel_features(c).prefill
    for name in ("operations", "network_bytes"):
        assert found.of(name, "prefill")[0] == pytest.approx(2 * (prefill.of(name) * prefill.of("executions")).sum())
    assert found.of("time_s", "prefill")[0] == pytest.approx((prefill.of("time_s") * prefill.of("executions")).sum())
    assert found.of("time_s")[0] == pytest.approx(roofline_s(c)[0].sum())
    counts = {name: found.of(name, "decode")[0] for name in ("passes", "kernels", "all_reduces", "transfers", "tokens")}
    assert counts == {"passes": 3, "kernels": 3 * (4 * 15 + 2), "all_reduces": 24, "transfers": 3, "tokens": 9}


MEASURED_MS = {
    ("llama-2-7b", 1, 1, "a100"): (62.2, 10.2),
    ("llama-2-7b", 1, 1, "h100"): (21.7, 6.0),
    ("internlm-20b", 4, 1, "a100"): (75.6, 9.9),
    ("internlm-20b", 4, 1, "h100"): (28.0, 6.3),
    ("llama-2-70b", 8, 1, "a100"): (128, 16.5),
    ("llama-2-70b", 8, 1, "h100"): (53.0, 9.9),
    ("llama-2-70b", 2, 2, "a100"): (317, 47.6),
    ("llama-2-70b", 1, 4, "h100"): (213, 51.5),
}
"""Model, TP, PP, GPU -> time to the first token and per further token at batch 1, prompt 1024: kernel tables of
aiconfigurator 0.12.0 for 16 bits, which were measured."""


@pytest.mark.parametrize("case", MEASURED_MS)
def test_the_roofline_bounds_measured_kernels_closely(case: tuple[str, int, int, str]) -> None:
    """No kernel is faster than its roofline, and none of these tables is twice and a half as slow."""
    model, tp, pp, gpu = case
    c = one(model_shape(model), known_gpus()[gpu], tp=tp, pp=pp, batch_size=1, prompt_tokens=1024, generated_tokens=101)
    prefill_s, decode_s = roofline_s(c)[0]
    for measured_ms, bound_ms in zip(MEASURED_MS[case], (prefill_s * 1e3, decode_s * 1e3 / 100), strict=True):
        assert 1 < measured_ms / bound_ms < 2.5


# The estimate of energy


@settings(deadline=None)
@given(
    numbers=st.fixed_dictionaries(
        {
            "bits": st.sampled_from([4, 8, 16]),
            "tp": st.sampled_from([1, 2, 4, 8]),
            "pp": st.sampled_from([1, 2, 4]),
            "batch_size": st.integers(1, 256),
            "prompt_tokens": st.integers(1, 8000),
            "generated_tokens": st.integers(1, 2000),
        }
    ),
    more=st.sampled_from(["bits", "batch_size", "prompt_tokens", "generated_tokens"]),
)
def test_more_work_is_never_estimated_to_cost_less(numbers: dict[str, float], more: str) -> None:
    c = one(model_shape("llama-2-70b"), H100, **numbers)
    larger = replace(c, **{more: getattr(c, more) * 2})
    for estimate in (roofline_s, roofline_j):
        assert (estimate(larger) >= estimate(c) * (1 - 1e-12)).all()


def test_estimated_power_lies_between_idle_and_tdp() -> None:
    """Per GPU, for anything from a lone token to a full batch: a large prefill near the TDP, a lone token far below."""
    c = one(model_shape("llama-2-7b"), H100, batch_size=[1, 1, 64], prompt_tokens=[1, 4000, 4000], pp=[8, 1, 1])
    power_w = roofline_j(c) / roofline_s(c) / c.n_gpus[:, None]
    assert (power_w > H100.idle_w).all()
    assert (power_w <= H100.tdp_w).all()
    assert power_w[2, 0] > 0.9 * H100.tdp_w
    assert power_w[0, 1] < 0.5 * H100.tdp_w


# Against LLM-Viewer


@pytest.fixture(scope="module")
def viewer(data_dir: Path) -> pd.DataFrame:
    path = data_dir / "public" / "llm_viewer_kernels.parquet"
    if not path.is_file():
        pytest.skip("no published kernel tables: set HARNESS_TEST_DATA to a folder with public/")
    return pd.read_parquet(path)


FLASH_BLOCK = 128
"""Queries that LLM-Viewer's fused attention handles at once: it reads the keys and values again for each such block."""
QUANTITIES = ("operations", "weight_bytes", "activation_bytes", "kv_bytes")


def as_viewer_counts(row: pd.Series, shape: ModelShape, features: dict[str, dict[str, float]]) -> dict[str, float]:
    """Our features of a row's kernel, with every quirk of LLM-Viewer put in."""
    queries = row["context_tokens"] if row["phase"] == "prefill" else 1
    scores = row["batch_size"] * shape.heads * queries * row["context_tokens"]
    kernel = row["kernel"]
    if kernel == "fused_attention":
        parts = [features[name] for name in ("qk_matmul", "softmax", "sv_matmul")]
        found = {name: sum(part[name] for part in parts) for name in QUANTITIES}
        # It computes all pairs, takes the scores for the output and writes them twice; it reads the cache once per
        # block of queries, and as if there were as many key heads as query heads.
        found["operations"] *= 2 * queries / (queries + 1)
        found["activation_bytes"] += 2 * scores * 2 - features["sv_matmul"]["activation_bytes"]
        found["kv_bytes"] *= -(-queries // FLASH_BLOCK) * shape.heads / shape.kv_heads
    else:
        found = {name: features[kernel][name] for name in QUANTITIES}
    if kernel == "lm_head":
        # One operation for a multiplication and an addition, one sequence's activations, quantised weights.
        found["operations"] /= 2
        found["activation_bytes"] /= row["batch_size"]
        found["weight_bytes"] *= row["bits"] / 16
    if kernel == "mlp_act":
        # As wide as the hidden state.
        found = {name: value * shape.hidden_size / shape.intermediate_size for name, value in found.items()}
    if kernel.endswith("_add"):
        # One of the two operands.
        found["activation_bytes"] *= 2 / 3
    if kernel.endswith("_norm"):
        # No weights.
        found["weight_bytes"] = 0
    if kernel == "qk_matmul" and row["phase"] == "prefill":
        # Queries of as many heads as there are keys.
        q_bytes = row["batch_size"] * queries * shape.heads * shape.head_dim * 2
        found["activation_bytes"] -= q_bytes * (1 - shape.kv_heads / shape.heads)
    # All values in 8 bits where the weights are.
    for name in ("activation_bytes", "kv_bytes"):
        found[name] *= row["bits"] / 16
    return found


def test_kernels_of_the_published_analyser(viewer: pd.DataFrame) -> None:
    """Every row of LLM-Viewer's tables: operations, weights, activations and cache, prefill and decode.

    Its decode is one step at the given context: two generated tokens behind a prompt that is one shorter.
    """
    shapes = {name: model_shape(name.lower()) for name in viewer["model"].unique()}
    compared = 0
    case = ["model", "batch_size", "context_tokens", "flash_attention", "bits", "phase"]
    for (model, batch, context, flash, bits, phase), rows in viewer.groupby(case):
        prompt = context if phase == "prefill" else context - 1
        c = one(shapes[model], H100, batch_size=batch, prompt_tokens=prompt, generated_tokens=2, bits=bits)
        found = kernel_features(c, eager=not flash).phase(phase)
        ours = {name: {key: float(found.kernel(name, key)[0]) for key in QUANTITIES} for name in KERNELS}
        for _, row in rows.iterrows():
            theirs = {
                "operations": row["ops"],
                "weight_bytes": row["load_weight_bytes"],
                "activation_bytes": row["load_act_bytes"] + row["store_act_bytes"],
                "kv_bytes": row["load_kv_bytes"] + row["store_kv_bytes"],
            }
            expected = as_viewer_counts(row, shapes[model], ours)
            assert expected == pytest.approx(theirs, rel=1e-9), f"{model} {phase} {row['kernel']}"
            compared += 1
    assert compared == len(viewer) == 648


def test_what_the_analyser_has_as_we_do_needs_no_quirk(viewer: pd.DataFrame) -> None:
    """The map above must not explain everything: projections in 16 bits agree as they are, 252 rows."""
    plain: FloatArray = np.zeros(0)
    rows = viewer[viewer["kernel"].str.endswith("_proj") & (viewer["bits"] == 16)]
    for row in rows.to_dict("records"):
        shape, decode = model_shape(row["model"].lower()), row["phase"] == "decode"
        c = one(
            shape,
            H100,
            batch_size=row["batch_size"],
            prompt_tokens=row["context_tokens"] - decode,
            generated_tokens=2,
        )
        found = features_of(c, row["phase"], row["kernel"])
        total = found["weight_bytes"] + found["activation_bytes"] + found["kv_bytes"]
        plain = np.append(plain, [found["operations"] / row["ops"], total / row["bytes"]])
    assert len(rows) == 252
    assert plain == pytest.approx(1, rel=1e-12)
