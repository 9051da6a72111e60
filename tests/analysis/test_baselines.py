"""Baselines: equations against hand-worked numbers, fits against the truth that made their labels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.deployment.catalog import model_shape
from harness.points import FloatArray
from harness_analysis.baselines import trees
from harness_analysis.baselines.kernelsums import KernelSums
from harness_analysis.baselines.llmcarbon import EFFICIENCY, LlmCarbon, equation
from harness_analysis.baselines.terms import N_PREFILL, TERMS, Physics, terms
from harness_analysis.baselines.tiles import tile_fill
from harness_analysis.baselines.whitebox import WhiteBox
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples, from_mlenergy, from_released
from harness_analysis.gpus import known_gpus
from harness_analysis.metrics import mape_pct, median_ape_pct, rank_correlation
from harness_analysis.predictor import Predictor
from harness_analysis.splits import leave_one_model_out, length_extrapolation

MODELS = ("llama-2-7b", "llama-2-13b", "llama-3-8b")
BASELINES: dict[str, Callable[[], Predictor]] = {
    "white box": WhiteBox,
    "kernel sums": KernelSums,
    "llmcarbon": LlmCarbon,
    "raw forest": trees.raw_forest,
    "residual forest": trees.residual_forest,
    "deepen": trees.deepen,
    "raw boosting": trees.raw_boosting,
    "physical boosting": trees.physical_boosting,
    "residual boosting": trees.residual_boosting,
    "boosting on white box": trees.corrected_white_box,
}


def drawn(n: int, seed: int = 0, longest_prompt: float = 2000, models: tuple[str, ...] = MODELS) -> Configurations:
    """Random batches on one or two A100s or H100s."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "gpu": random.choice(["a100", "h100"], n),
            "model": random.choice(models, n),
            "bits": 16,
            "tp": random.choice([1, 2], n),
            "pp": 1,
            "batch_size": random.choice([1, 2, 4, 8, 16, 32], n),
            "prompt_tokens": np.exp(random.uniform(np.log(16), np.log(longest_prompt), n)).round(),
            "generated_tokens": random.integers(2, 400, n),
        }
    )
    return asked(frame, models)


def asked(frame: pd.DataFrame, models: tuple[str, ...] = MODELS) -> Configurations:
    return Configurations.from_frame(frame, {name: model_shape(name) for name in models}, known_gpus())


def single(**changed: object) -> Configurations:
    """Llama-2-7b on an A100: batch 1, prompt 512, 65 generated tokens, but for what is given."""
    row = {
        "gpu": "a100", "model": "llama-2-7b", "bits": 16, "tp": 1, "pp": 1, "batch_size": 1, "prompt_tokens": 512,
        "generated_tokens": 65, **changed,
    }  # fmt: skip
    return asked(pd.DataFrame([row]))


FACTORS = np.array([0.6, 0.3, 0.4, 0.4, 0.2, 3.0, 2.0, 0.5, 2.0, 0.7, 0.2, 0.3, 0.6, 0.5, 0.9, 1.5, 0.8, 0.5])


def labelled(c: Configurations, noise: float = 0.0, seed: int = 1, factors: FloatArray = FACTORS) -> Examples:
    """Energies that are exactly a sum of terms, but for the noise."""
    parts = terms(Physics.of(c)) * factors
    prefill_j = parts[:, :N_PREFILL].sum(axis=1)
    total_j = parts.sum(axis=1) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(c)))
    return Examples(c, prefill_j, total_j, np.full(len(c), "made"))


def without_prefill(examples: Examples) -> Examples:
    return Examples(examples.configurations, np.full(len(examples), np.nan), examples.total_j, examples.source)


# Tiles


def test_a_product_fills_whole_waves_of_tiles() -> None:
    """An A100 runs 108 tiles at a time. 384 rows of 4,096 columns are 3 x 32 tiles of 128 x 128, one wave of them; one
    row more takes another row of tiles, 128 in all, and so a second wave that is nearly empty."""
    rows = np.array([384.0, 385.0, 0.0])
    found = tile_fill(rows, np.full(3, 4096.0), np.full(3, 108.0), (128, 128))
    slot = 108 * 128 * 128
    np.testing.assert_allclose(found, [384 * 4096 / slot, 385 * 4096 / (2 * slot), 1.0])


def test_a_gpu_without_known_multiprocessors_has_no_waves() -> None:
    """A guess would make steps where there are others."""
    assert tile_fill(np.array([5.0]), np.array([7.0]), np.zeros(1), (128, 128)) == 1.0


# Terms


def term(c: Configurations, name: str) -> float:
    return float(terms(Physics.of(c))[0, TERMS.index(name)])


def test_reading_the_weights_in_decode_is_its_bytes_over_the_bandwidth_at_full_power() -> None:
    """64 steps read all layers and the head once each; the embedding is looked up, not read."""
    shape, gpu = model_shape("llama-2-7b"), known_gpus()["a100"]
    read = 2 * (shape.parameters - shape.vocab_size * shape.hidden_size - shape.hidden_size)
    expected = 64 * read / gpu.memory_bandwidth_bytes_per_s * gpu.tdp_w
    assert term(single(), "decode_weights") == pytest.approx(expected, rel=1e-9)


def test_overheads_hold_every_gpu_and_work_is_shared() -> None:
    """Two GPUs do the same products in half the time each, but both wait for the host."""
    one, two = single(), single(tp=2)
    assert term(two, "decode_host") == pytest.approx(2 * term(one, "decode_host"))
    assert term(two, "decode_products") == pytest.approx(term(one, "decode_products"))
    assert term(one, "decode_network") == term(one, "decode_reduces") == term(one, "prefill_network") == 0
    assert term(two, "decode_network") > 0


def test_attention_grows_with_the_square_of_the_prompt() -> None:
    """Causal pairs are p (p + 1) / 2."""
    ratio = term(single(prompt_tokens=2000), "prefill_attention") / term(
        single(prompt_tokens=1000), "prefill_attention"
    )
    assert ratio == pytest.approx(2000 * 2001 / (1000 * 1001), rel=1e-3)


def test_a_prompt_counts_up_to_the_model_s_context() -> None:
    """Llama-2 takes 4,096 tokens: nothing of a longer prompt reaches the GPU."""
    at, beyond = (terms(Physics.of(single(prompt_tokens=tokens))) for tokens in (4096, 7000))
    np.testing.assert_array_equal(at, beyond)


def test_parts_of_a_prefill_overlap_in_a_pipeline() -> None:
    """Four parts through two stages take five turns of half a path each, 5/8 of what they take one after the other; one
    part cannot overlap with itself. What is saved is a stall once the first prompts decode."""
    c = single(pp=2, batch_size=4, prompt_tokens=512, token_budget=512)
    assert Physics.of(c).prefill_held.tolist() == [5 / 8]
    assert Physics.of(single(pp=2)).prefill_held.tolist() == [1.0]
    assert term(c, "decode_stalls") / term(c, "prefill_path") == pytest.approx((3 / 8) / (5 / 8))
    assert term(single(pp=2), "decode_stalls") == term(single(), "decode_stalls") == 0


def test_micro_batches_read_the_weights_each_on_its_own() -> None:
    """Prompts of different parts decode apart, as many at once as there are stages."""
    together, apart = single(pp=2, batch_size=4), single(pp=2, batch_size=4, token_budget=512)
    assert Physics.of(apart).micro_batches.tolist() == [2.0]
    assert term(apart, "decode_weights") == pytest.approx(2 * term(together, "decode_weights"))
    assert term(apart, "decode_products") == pytest.approx(term(together, "decode_products"))
    assert term(apart, "decode_sequences") == pytest.approx(term(together, "decode_sequences"))


def test_without_decode_steps_the_decode_is_nothing() -> None:
    """The only generated token comes from the prefill."""
    assert not terms(Physics.of(single(generated_tokens=1)))[:, N_PREFILL:].any()


# White box


def test_the_white_box_finds_what_made_the_labels() -> None:
    """Its terms are the truth here, so it is right also for prompts twice as long as any it has seen."""
    box = WhiteBox()
    box.fit(labelled(drawn(400)), 0)
    far = labelled(drawn(200, seed=5, longest_prompt=4000))
    predicted = box.predict(far.configurations)
    assert mape_pct(far.total_j, predicted.total_j) < 1.5
    assert mape_pct(far.prefill_j, predicted.prefill_j) < 4


def test_labels_need_no_unit() -> None:
    """The released data have none."""
    examples, ask = labelled(drawn(150), noise=0.02), drawn(40, seed=3)
    scaled = Examples(examples.configurations, 1e-3 * examples.prefill_j, 1e-3 * examples.total_j, examples.source)
    box, other = WhiteBox(), WhiteBox()
    box.fit(examples, 0)
    other.fit(scaled, 0)
    np.testing.assert_allclose(1e3 * other.predict(ask).total_j, box.predict(ask).total_j, rtol=1e-5)


def test_an_unknown_prefill_is_fitted_through_the_total() -> None:
    """Published measurements are of whole requests."""
    box = WhiteBox()
    box.fit(without_prefill(labelled(drawn(400))), 0)
    far = labelled(drawn(100, seed=7))
    assert mape_pct(far.total_j, box.predict(far.configurations).total_j) < 2


def test_a_few_wild_labels_do_not_move_the_fit() -> None:
    """Some of the released prefills are almost four times what their neighbours are."""
    examples = labelled(drawn(400))
    wild = examples.total_j.copy()
    wild[::50] *= 4
    box = WhiteBox()
    box.fit(Examples(examples.configurations, np.full(400, np.nan), wild, examples.source), 0)
    assert mape_pct(examples.total_j, box.predict(examples.configurations).total_j) < 3


def test_each_deployment_has_its_own_scale() -> None:
    """Sources measure models with settings that nobody wrote down."""
    examples = labelled(drawn(400))
    factor = np.where(examples.configurations.model == "llama-2-13b", 3.0, 1.0)
    prefill_j, total_j = factor * examples.prefill_j, factor * examples.total_j
    box = WhiteBox()
    box.fit(Examples(examples.configurations, prefill_j, total_j, examples.source), 0)
    predicted = box.predict(examples.configurations).total_j
    assert mape_pct(total_j, predicted) < 3


def test_a_deployment_that_was_not_seen_takes_the_nearest_that_was() -> None:
    """A new way to divide a known model is that model's business; a new model takes what its GPU's models share."""
    examples = labelled(drawn(600))
    c = examples.configurations
    odd = (c.model == "llama-2-7b") & (c.gpu == "a100")
    factor = np.where(odd, 2.0, 1.0)
    seen = ~(odd & (c.tp == 2))
    both = Examples(c, factor * examples.prefill_j, factor * examples.total_j, examples.source)
    box = WhiteBox()
    box.fit(both.take(seen), 0)
    assert mape_pct(both.total_j[~seen], box.predict(c.take(~seen)).total_j) < 10


def test_predicting_before_fitting_is_refused() -> None:
    """An answer without data would be a guess that looks like one from data."""
    for make in (WhiteBox, KernelSums, trees.raw_boosting):
        with pytest.raises(ValueError, match="not fitted"):
            make().predict(single())


# All of them


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_learns_and_repeats_itself(name: str) -> None:
    """Equal examples and seeds give equal answers; examples without a total teach nothing; what was learnt is far
    better than a constant (LLMCarbon's equation with its one factor is not: decoding is not about operations)."""
    examples = labelled(drawn(300), noise=0.01)
    unknown = Examples(
        examples.configurations.take(slice(0, 30)),
        np.full(30, np.nan),
        np.full(30, np.nan),
        examples.source[:30],
    )
    first, second = BASELINES[name](), BASELINES[name]()
    assert isinstance(first, Predictor)
    first.fit(examples, 1)
    second.fit(_joined(examples, unknown), 1)
    test = labelled(drawn(100, seed=9))
    found = first.predict(test.configurations)
    np.testing.assert_allclose(found.total_j, second.predict(test.configurations).total_j, rtol=1e-9)
    assert len(found) == 100
    assert (found.total_j > 0).all()
    constant = np.full(100, np.exp(np.log(examples.total_j).mean()))
    if name != "llmcarbon":
        assert mape_pct(test.total_j, found.total_j) < 0.5 * mape_pct(test.total_j, constant)


def _joined(left: Examples, right: Examples) -> Examples:
    frame = pd.concat([left.configurations.to_frame(), right.configurations.to_frame()], ignore_index=True)
    return Examples(
        asked(frame),
        np.concatenate([left.prefill_j, right.prefill_j]),
        np.concatenate([left.total_j, right.total_j]),
        np.concatenate([left.source, right.source]),
    )


def test_llmcarbon_is_operations_over_rate_times_power() -> None:
    """Two operations for each parameter and token, at half the peak rate and full power."""
    shape, gpu = model_shape("llama-2-7b"), known_gpus()["a100"]
    token_j = 2 * shape.parameters / (EFFICIENCY * gpu.peak_flops) * gpu.tdp_w
    c = single(batch_size=4)
    np.testing.assert_allclose(equation(c), [[4 * 512 * token_j, 4 * 64 * token_j]])
    np.testing.assert_allclose(LlmCarbon(fitted=False).predict(c).total_j, [4 * 576 * token_j])


def test_a_sum_over_kernels_never_falls_with_more_work() -> None:
    """No kernel gives energy back."""
    sums = KernelSums()
    sums.fit(labelled(drawn(300), noise=0.05), 0)
    more = [single(generated_tokens=tokens) for tokens in (2, 20, 200, 2000)]
    assert (np.diff([sums.predict(c).total_j[0] for c in more]) >= 0).all()


def test_boosting_on_raw_columns_does_not_extrapolate_and_on_a_residual_does() -> None:
    """Trees answer a longer prompt as the longest they know; on the ratio to an estimate that is nearly right, and the
    more so the better the estimate."""
    near, far = labelled(drawn(800)), labelled(drawn(200, seed=4, longest_prompt=4000))
    far = far.take(far.configurations.prompt_tokens > 2500)
    errors = {}
    for make in (trees.raw_boosting, trees.residual_boosting, trees.corrected_white_box):
        boosting = make()
        boosting.fit(near, 0)
        errors[boosting.name] = mape_pct(far.total_j, boosting.predict(far.configurations).total_j)
    assert errors["boosting on white box"] < errors["boosting, residual"] < errors["boosting, raw"]


# Published measurements


def test_the_white_box_extrapolates_the_released_data(data_dir: Path) -> None:
    """Prompts up to 1,200 and 250 generated tokens teach; the longer ones are off by less than 2%."""
    examples = from_released(data_dir / "public")
    split = length_extrapolation(examples)
    box = WhiteBox()
    box.fit(examples.take(split.train), 0)
    test = examples.take(split.test)
    assert mape_pct(test.total_j, box.predict(test.configurations).total_j) < 2


def test_the_white_box_predicts_models_that_nobody_measured(data_dir: Path) -> None:
    """Joules per token of ML.ENERGY's models, each from all the others."""
    examples = from_mlenergy(data_dir / "public")
    predicted = np.empty(len(examples))
    for split in leave_one_model_out(examples):
        box = WhiteBox()
        box.fit(examples.take(split.train), 0)
        predicted[split.test] = box.predict(examples.configurations.take(split.test)).total_j
    token_j = predicted * examples.token_j / examples.total_j
    assert median_ape_pct(examples.token_j, token_j) < 10
    assert mape_pct(examples.token_j, token_j) < 15
    assert rank_correlation(examples.token_j, token_j) > 0.97
