"""Error regions: found where errors were put, left where repetitions scatter, the same for other halves of the data."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.deployment.catalog import model_shape
from harness.errors import BadInput
from harness.points import BoolArray, FloatArray
from harness.trainer import Condition, ErrorRegion
from harness_analysis.configurations import Configurations
from harness_analysis.gpus import known_gpus
from harness_analysis.regions import LEAST_POINTS, Traffic, error_regions, matches

MODELS = ("llama-3.2-1b", "llama-2-7b", "llama-2-13b", "llama-2-70b")
SHAPES = {name: model_shape(name) for name in MODELS}


def space(n: int, seed: int = 0) -> Configurations:
    """Configurations at random."""
    random = np.random.default_rng(seed)
    engine = random.choice(["vllm", "sarathi"], n)
    frame = pd.DataFrame(
        {
            "gpu": random.choice(["a100", "h100"], n),
            "model": random.choice(MODELS, n),
            "bits": random.choice([8, 16], n),
            "tp": random.choice([1, 2, 4, 8], n),
            "pp": random.choice([1, 2], n),
            "batch_size": 2 ** random.integers(0, 7, n),
            "prompt_tokens": np.exp(random.uniform(np.log(16), np.log(8000), n)).astype(int),
            "generated_tokens": np.exp(random.uniform(np.log(2), np.log(1000), n)).astype(int),
            "engine": engine,
            "token_budget": np.where(engine == "vllm", 8192, 512),
        }
    )
    return Configurations.from_frame(frame, SHAPES, known_gpus())


def errors(wrong: BoolArray, seed: int = 1, size: float = 0.2) -> FloatArray:
    """2% everywhere, `size` more where `wrong`; of either sign."""
    random = np.random.default_rng(seed)
    return random.choice([-1, 1], len(wrong)) * (random.exponential(0.02, len(wrong)) + size * wrong)


def wrong_at_70b(c: Configurations) -> BoolArray:
    return (c.model == "llama-2-70b") & (c.tp == 8) & (c.prompt_tokens <= 256)


def covered(regions: tuple[ErrorRegion, ...], c: Configurations) -> BoolArray:
    return np.any([matches(one.conditions, c) for one in regions] or [np.zeros(len(c), bool)], axis=0)


NO_NOISE = np.full(4000, np.nan)


def test_a_planted_region_is_found_and_named() -> None:
    c = space(4000)
    wrong = wrong_at_70b(c)
    [found] = error_regions(c, errors(wrong), NO_NOISE)
    assert set(found.label.split(", ")) == {"llama-2-70b", "tp 8", "prompt <= 256"} or found.label.startswith("param")
    np.testing.assert_array_equal(matches(found.conditions, c), wrong)
    assert found.n == wrong.sum()
    assert found.mape_pct == pytest.approx(22, abs=1)
    assert found.traffic_pct == pytest.approx(100 * wrong.mean())


def test_equal_errors_have_no_regions() -> None:
    """Of many possible regions some are worse than the usual by chance; none surely."""
    c = space(4000)
    for seed in range(5):
        assert error_regions(c, errors(np.zeros(4000, bool), seed), NO_NOISE) == ()


def test_no_region_has_fewer_points_than_the_minimum() -> None:
    c = space(4000)
    few = np.zeros(4000, bool)
    few[np.flatnonzero(wrong_at_70b(c))[: LEAST_POINTS - 1]] = True
    for region in error_regions(c, errors(few, size=5.0), NO_NOISE):
        assert region.n >= LEAST_POINTS
    assert all(one.n >= 200 for one in error_regions(c, errors(wrong_at_70b(c)), NO_NOISE, least_points=200))
    with pytest.raises(BadInput, match="least_points"):
        error_regions(c, errors(few), NO_NOISE, least_points=1)


def test_what_repetitions_scatter_by_is_left_out() -> None:
    """Errors of 20% whose points are known to 25% only: measuring more there teaches the predictor nothing."""
    c = space(4000)
    noisy, wrong = wrong_at_70b(c), (c.engine == "sarathi") & (c.batch_size > 16)
    found = error_regions(c, errors(noisy | wrong), np.where(noisy, 0.25, 0.002))
    assert found
    assert not (covered(found, c) & noisy & ~wrong).any()
    assert all(region.noise_pct < region.mape_pct for region in found)


def test_another_half_of_the_data_gives_the_same_regions() -> None:
    c = space(4000)
    error = errors(wrong_at_70b(c) | ((c.engine == "sarathi") & (c.pp == 2)), size=0.06)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(4000)
        one, other = (
            covered(error_regions(c.take(half), error[half], NO_NOISE[half]), c)
            for half in (order[:2000], order[2000:])
        )
        assert (one & other).sum() / (one | other).sum() > 0.8


def test_regions_with_more_traffic_come_first() -> None:
    """Of two equally wrong regions that with the most requests matters most; one without any does not."""
    c, asked = space(4000), space(3000, seed=5)
    small, large = (c.model == "llama-3.2-1b") & (c.gpu == "h100"), (c.model == "llama-2-70b") & (c.gpu == "a100")
    error = errors(small | large)
    for model, gpu, other in (("llama-3.2-1b", "h100", large), ("llama-2-70b", "a100", small)):
        favoured = (asked.model == model) & (asked.gpu == gpu)
        traffic = Traffic(asked, np.where(favoured, 20.0, 1.0))
        first = error_regions(c, error, NO_NOISE, traffic)[0]
        np.testing.assert_array_equal(matches(first.conditions, c), (c.model == model) & (c.gpu == gpu))
        assert first.traffic_pct > 50
        none = Traffic(asked, np.where(favoured, 1.0, 0.0))
        assert not (covered(error_regions(c, error, NO_NOISE, none), c) & other).any()


def test_bounds_are_round_and_few() -> None:
    c = space(4000)
    wrong = (c.prompt_tokens > 100) & (c.prompt_tokens <= 600) & (c.batch_size >= 5) & (c.gpu == "h100") & (c.tp == 2)
    found = error_regions(c, errors(wrong), NO_NOISE)
    assert found
    for condition in (one for region in found for one in region.conditions):
        for bound in (condition.low, condition.high):
            assert bound is None or np.log2(bound) == int(np.log2(bound))
    assert all(1 <= len(region.conditions) <= 4 for region in found)
    assert any("prompt" in region.label and "h100" in region.label for region in found)


def test_budgets_that_are_not_said_are_above_all_others() -> None:
    frame = space(4000).to_frame()
    frame.loc[frame["engine"] == "vllm", "token_budget"] = np.inf
    c = Configurations.from_frame(frame.assign(engine=""), SHAPES, known_gpus())
    [found] = error_regions(c, errors(np.isinf(c.token_budget)), NO_NOISE)
    np.testing.assert_array_equal(matches(found.conditions, c), np.isinf(c.token_budget))
    assert found.label == "no token budget"


@pytest.mark.parametrize("condition", [Condition("colour", values=("red",)), Condition("colour", low=1.0)])
def test_an_unknown_column_is_refused(condition: Condition) -> None:
    with pytest.raises(BadInput, match="colour"):
        matches([condition], space(3))


def test_arrays_must_fit() -> None:
    c: Any = space(10)
    with pytest.raises(ValueError, match="one error"):
        error_regions(c, np.zeros(9), np.zeros(10))
    with pytest.raises(ValueError, match="finite"):
        error_regions(c, np.full(10, np.nan), np.zeros(10))
    with pytest.raises(ValueError, match="not all 0"):
        Traffic(c, np.zeros(10))
    with pytest.raises(ValueError, match="one share"):
        Traffic(c, np.ones(9))
    assert error_regions(c.take(slice(0)), np.zeros(0), np.zeros(0)) == ()
