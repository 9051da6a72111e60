"""Means with intervals, outliers, differences: what a handful of values says, whatever they are values of.

Half-widths are of 95% intervals by Student's t (2.776 standard errors for five repetitions). Nothing is ever
dropped for its value.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

OUTLIER_SCORE = 3.5
"""Of the modified z-score, 0.6745 |x - median| / MAD (Iglewicz and Hoaglin, How to Detect and Handle
Outliers, ASQC 1993)."""
FEWEST_FOR_OUTLIERS = 4
"""Of three values, two that happen to lie close make the third an outlier."""
_PROBABILITY = 0.975


def t_factor(df: float) -> float:
    """Student's t for a 95% interval; infinite without degrees of freedom."""
    return float(special.stdtrit(df, _PROBABILITY)) if df > 0 else math.inf


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, the variance of that value (not of the repetitions), and the variance's degrees of freedom."""

    value: float
    variance: float
    df: float

    @property
    def half_width(self) -> float:
        return t_factor(self.df) * math.sqrt(self.variance) if self.variance > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """Repetitions of one point; `sd`, `half_width` and `cv` are NaN below two values.

    `cv` is the standard deviation over the mean, NaN for a mean of zero; `outliers` counts marked values.
    """

    n: int
    mean: float
    sd: float
    half_width: float
    cv: float
    outliers: int


def describe(values: ArrayLike) -> Summary:
    """Mean, standard deviation, t-interval and coefficient of variation of (n,) finite values, n >= 1."""
    x = np.asarray(values, np.float64)
    n, mean = len(x), float(x.mean())
    if n < 2:
        return Summary(n, mean, math.nan, math.nan, math.nan, 0)
    sd = float(x.std(ddof=1))
    cv = sd / abs(mean) if mean else math.nan
    return Summary(n, mean, sd, t_factor(n - 1) * sd / math.sqrt(n), cv, int(outliers(x).sum()))


def mean_of(values: ArrayLike) -> Estimate:
    """The mean of (n,) independent values, n >= 2, as an estimate."""
    x = np.asarray(values, np.float64)
    return Estimate(float(x.mean()), float(x.var(ddof=1)) / len(x), len(x) - 1)


def outliers(values: ArrayLike) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """(n,) whether each value's modified z-score is over 3.5; they are to be marked, not dropped.

    None are marked among fewer than four values. Where over half of the values are equal (MAD = 0), the mean
    absolute deviation takes the MAD's place, with its own factor 1.2533 (Iglewicz and Hoaglin).
    """
    x = np.asarray(values, np.float64)
    if len(x) < FEWEST_FOR_OUTLIERS:
        return np.zeros(len(x), bool)
    distance = np.abs(x - np.median(x))
    scale = float(np.median(distance)) / 0.6745 or float(distance.mean()) * 1.2533
    return np.asarray(distance > OUTLIER_SCORE * scale) if scale else np.zeros(len(x), bool)


def repetitions_needed(values: Sequence[float], relative_half_width: float, most: int) -> int:
    """How many more repetitions are expected to bring the half-width to a share of the mean.

    The standard deviation so far is taken to stay; ask again after each one. At least three are wanted in all,
    since two say little of a standard deviation (t = 12.7). They are repetitions of what `values` repeat:
    repetitions within a launch do not narrow the spread between launches.

    Args:
        values: repetitions so far.
        relative_half_width: target for half-width / |mean|, above 0.
        most: repetitions in all are never more than this.
    """
    n = len(values)
    if n < 3:
        return max(0, min(3, most) - n)
    spread = describe(values)
    wanted = n
    while wanted < most and t_factor(wanted - 1) * spread.sd / math.sqrt(wanted) > relative_half_width * abs(
        spread.mean
    ):
        wanted += 1
    return wanted - n


def difference(total: Estimate, part: Estimate) -> Estimate:
    """total - part of independent estimates; degrees of freedom by Welch and Satterthwaite."""
    variance = total.variance + part.variance
    shares = sum(estimate.variance**2 / estimate.df for estimate in (total, part) if estimate.variance > 0)
    return Estimate(total.value - part.value, variance, variance**2 / shares if shares else min(total.df, part.df))


def decode_energy(full_j: ArrayLike, prefill_j: ArrayLike) -> Estimate:
    """Decode energy, J, as the difference of the means of full and prefill-only repetitions (>= 2 of each)."""
    return difference(mean_of(full_j), mean_of(prefill_j))


def z_score(one: Estimate, other: Estimate) -> float:
    """How many standard errors two independent estimates of one thing are apart; beyond 2 they disagree."""
    apart, variance = one.value - other.value, one.variance + other.variance
    return apart / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, apart) if apart else 0.0
