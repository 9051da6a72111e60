"""How far predictions are off. Every function takes (n,) true and predicted values of one unit, the true ones positive.

EBA(x), error-bound accuracy, is the share of predictions with an absolute relative error of at most x percent: Tables 3
to 5 of the LLMCO2 paper (arXiv 2410.02950) have it beside the mean absolute percentage error.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from harness.points import FloatArray, IntArray, StrArray

Metric = Callable[[FloatArray, FloatArray], float]


def relative_error(true: FloatArray, predicted: FloatArray) -> FloatArray:
    """(n,) (predicted - true) / true.

    Raises:
        ValueError: not of one length, empty, or a true value that is not positive.
    """
    if true.shape != predicted.shape or true.ndim != 1 or not len(true):
        raise ValueError(f"true and predicted values are (n,) with n > 0, not {true.shape} and {predicted.shape}")
    if not (true > 0).all():
        raise ValueError("relative errors need positive true values; leave out examples without a label first")
    return (predicted - true) / true


def mape_pct(true: FloatArray, predicted: FloatArray) -> float:
    """Mean absolute percentage error."""
    return float(100 * np.abs(relative_error(true, predicted)).mean())


def median_ape_pct(true: FloatArray, predicted: FloatArray) -> float:
    """Median absolute percentage error."""
    return float(100 * np.median(np.abs(relative_error(true, predicted))))


def eba_pct(true: FloatArray, predicted: FloatArray, threshold_pct: float) -> float:
    """Share of predictions, in percent, whose absolute relative error is at most `threshold_pct`."""
    # A prediction exactly at the bound is within it, whatever the last bit of the division says.
    within = np.abs(relative_error(true, predicted)) <= threshold_pct / 100 * (1 + 1e-12)
    return float(100 * within.mean())


def bias_pct(true: FloatArray, predicted: FloatArray) -> float:
    """Mean signed percentage error: positive where predictions are too high."""
    return float(100 * relative_error(true, predicted).mean())


def rank_correlation(true: FloatArray, predicted: FloatArray) -> float:
    """Spearman's, -1 to 1; NaN where one side is constant."""
    relative_error(true, predicted)
    ranks = stats.rankdata(true), stats.rankdata(predicted)
    if min(np.ptp(ranks[0]), np.ptp(ranks[1])) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def r_squared(true: FloatArray, predicted: FloatArray) -> float:
    """Share of the variance of `true` that is explained: 1 - residual / total sum of squares."""
    total = float(((true - true.mean()) ** 2).sum())
    return 1 - float(((true - predicted) ** 2).sum()) / total if total > 0 else float("nan")


def coverage_pct(true: FloatArray, low: FloatArray, high: FloatArray) -> float:
    """Share of true values, in percent, within [low, high]; an interval that is NaN covers nothing."""
    return float(100 * ((low <= true) & (true <= high)).mean())


def bootstrap_interval(
    metric: Metric,
    true: FloatArray,
    predicted: FloatArray,
    seed: int,
    clusters: IntArray | None = None,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a metric over resampled examples.

    Args:
        clusters: (n,) what is drawn together, such as the examples of one configuration; None: each on its own.

    Returns:
        Lower and upper bound.
    """
    random = np.random.default_rng(seed)
    numbers = np.arange(len(true)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    drawn = int(numbers.max()) + 1
    values = np.empty(resamples)
    for draw in range(resamples):
        times = np.bincount(random.integers(drawn, size=drawn), minlength=drawn)
        index = np.repeat(np.arange(len(true)), times[numbers])
        values[draw] = metric(true[index], predicted[index])
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one predictor on n examples; `mape_low_pct` and `mape_high_pct` are the 95% bootstrap interval of the MAPE."""

    n: int
    mape_pct: float
    mape_low_pct: float
    mape_high_pct: float
    median_ape_pct: float
    eba5_pct: float
    eba10_pct: float
    eba30_pct: float
    bias_pct: float
    rank_correlation: float

    def as_dict(self) -> dict[str, float]:
        """By the names that tables and `harness score --json` use."""
        return asdict(self)


def scores(
    true: FloatArray, predicted: FloatArray, seed: int = 0, clusters: IntArray | None = None, resamples: int = 1000
) -> Scores:
    """All of them at once; arguments as of `bootstrap_interval`.

    Raises:
        ValueError: as `relative_error`.
    """
    low, high = bootstrap_interval(mape_pct, true, predicted, seed, clusters, resamples)
    return Scores(
        n=len(true),
        mape_pct=mape_pct(true, predicted),
        mape_low_pct=low,
        mape_high_pct=high,
        median_ape_pct=median_ape_pct(true, predicted),
        eba5_pct=eba_pct(true, predicted, 5),
        eba10_pct=eba_pct(true, predicted, 10),
        eba30_pct=eba_pct(true, predicted, 30),
        bias_pct=bias_pct(true, predicted),
        rank_correlation=rank_correlation(true, predicted),
    )


def per_model(
    model: StrArray,
    true: FloatArray,
    predicted: FloatArray,
    seed: int = 0,
    clusters: IntArray | None = None,
    resamples: int = 1000,
) -> dict[str, Scores]:
    """`scores` for each model, in the order of their names."""
    found: dict[str, Scores] = {}
    for name in np.unique(model):
        mine = model == name
        own = None if clusters is None else clusters[mine]
        found[str(name)] = scores(true[mine], predicted[mine], seed, own, resamples)
    return found


def mean_of_models(each: dict[str, Scores]) -> dict[str, float]:
    """Every score averaged over models, each model counting once (the paper's last column); `n` is the sum.

    The bounds of the MAPE are averaged too: they are no interval of the average, but bound it from outside.
    """
    averaged = {name: float(np.mean([one.as_dict()[name] for one in each.values()])) for name in _SCORE_NAMES}
    return {"n": float(sum(one.n for one in each.values())), **averaged}


_SCORE_NAMES = tuple(name for name in Scores.__dataclass_fields__ if name != "n")
