"""Scores: against numbers worked out by hand, and against what is known of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.points import FloatArray
from harness_analysis.metrics import (
    bias_pct,
    bootstrap_interval,
    coverage_pct,
    eba_pct,
    mape_pct,
    mean_of_models,
    median_ape_pct,
    per_model,
    r_squared,
    rank_correlation,
    relative_error,
    scores,
)

TRUE = np.array([100.0, 200.0, 50.0, 10.0])
PREDICTED = np.array([110.0, 190.0, 50.0, 14.0])
"""Off by +10%, -5%, 0 and +40%."""


def test_errors_by_hand() -> None:
    assert mape_pct(TRUE, PREDICTED) == pytest.approx((10 + 5 + 0 + 40) / 4)
    assert median_ape_pct(TRUE, PREDICTED) == pytest.approx(7.5)
    assert bias_pct(TRUE, PREDICTED) == pytest.approx((10 - 5 + 40) / 4)


def test_error_bound_accuracy_includes_the_bound() -> None:
    """A prediction off by exactly 10% is within 10%, whatever rounding makes of 110 / 100 - 1."""
    shares = {bound: eba_pct(TRUE, PREDICTED, bound) for bound in (0, 4.9, 5, 10, 30, 40)}
    assert shares == {0: 25, 4.9: 25, 5: 50, 10: 75, 30: 75, 40: 100}
    assert eba_pct(np.array([1.0]), np.array([1.1]), 10) == 100


@pytest.mark.parametrize(
    ("true", "predicted"),
    [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([np.nan], [1.0]), ([-1.0], [1.0])],
)
def test_what_has_no_relative_error_is_refused(true: list[float], predicted: list[float]) -> None:
    """A missing or zero label must not turn into a score."""
    with pytest.raises(ValueError, match="true"):
        mape_pct(np.array(true), np.array(predicted))


def test_rank_correlation_knows_order_only() -> None:
    assert rank_correlation(TRUE, np.exp(TRUE / 50)) == pytest.approx(1)
    assert rank_correlation(TRUE, -TRUE) == pytest.approx(-1)
    assert np.isnan(rank_correlation(TRUE, np.ones(4)))
    tied = np.array([1.0, 1.0, 2.0, 3.0])
    assert rank_correlation(TRUE, tied) == pytest.approx(stats.spearmanr(TRUE, tied).statistic)


def test_r_squared_against_the_mean() -> None:
    """1 for what is exact, 0 for the mean, negative for worse."""
    assert r_squared(TRUE, TRUE) == 1
    assert r_squared(TRUE, np.full(4, TRUE.mean())) == pytest.approx(0)
    assert r_squared(TRUE, TRUE[::-1]) < 0


def test_coverage_counts_both_ends_and_no_nan() -> None:
    low, high = np.array([100.0, 201.0, 40.0, np.nan]), np.array([100.0, 300.0, 60.0, np.nan])
    assert coverage_pct(TRUE, low, high) == 50


def test_bootstrap_interval_is_as_wide_as_theory_says() -> None:
    """The mean of 400 absolute errors has a standard error of sd / 20: the 95% interval is 3.92 of them wide."""
    rng = np.random.default_rng(3)
    true = np.full(400, 100.0)
    predicted = true + rng.normal(0, 10, 400)
    low, high = bootstrap_interval(mape_pct, true, predicted, seed=1)
    errors = np.abs(relative_error(true, predicted)) * 100
    assert low < errors.mean() < high
    assert high - low == pytest.approx(3.92 * errors.std() / 20, rel=0.15)
    assert (low, high) == bootstrap_interval(mape_pct, true, predicted, seed=1)


def test_bootstrap_of_clusters_is_wider_where_clusters_agree() -> None:
    """Forty repetitions of ten configurations are ten pieces of news, not four hundred."""
    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(10), 40)
    true = np.full(400, 100.0)
    predicted = true + rng.normal(0, 10, 10)[clusters]
    alone, together = (
        np.ptp(bootstrap_interval(mape_pct, true, predicted, 1, clusters=which)) for which in (None, clusters)
    )
    assert together > 3 * alone


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)), min_size=2, max_size=30), st.floats(0.01, 100))
def test_scores_do_not_depend_on_the_unit(pairs: list[tuple[float, float]], unit: float) -> None:
    """The released labels have none."""
    true, predicted = (np.array(side) for side in zip(*pairs, strict=True))
    plain, scaled = (scores(true * one, predicted * one, resamples=5) for one in (1.0, unit))
    assert plain.mape_pct == pytest.approx(scaled.mape_pct)
    assert plain.bias_pct == pytest.approx(scaled.bias_pct, abs=1e-6)
    assert plain.eba5_pct <= plain.eba10_pct <= plain.eba30_pct


def test_models_count_once_each_in_the_mean() -> None:
    """A model with many rows must not decide alone: 10% for one row and 0% for three are 5%, not 2.5%."""
    model = np.array(["b", "a", "a", "a"])
    predicted: FloatArray = TRUE * np.array([1.1, 1, 1, 1])
    each = per_model(model, TRUE, predicted, resamples=10)
    assert list(each) == ["a", "b"]
    assert (each["a"].n, each["a"].mape_pct) == (3, 0)
    mean = mean_of_models(each)
    assert mean["mape_pct"] == pytest.approx(5)
    assert mean["n"] == 4
    assert set(mean) == set(each["a"].as_dict())
