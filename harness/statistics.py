"""What repetitions say together: means with intervals, outliers, variance components, decode energy two ways.

Pure functions over arrays, or over a frame of `runs`. Half-widths are of 95% intervals by Student's t
(2.776 standard errors for five repetitions). Nothing is ever dropped for its value.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from harness.points import FloatArray
from harness.records import SETTLED

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


@dataclass(frozen=True, slots=True)
class Component:
    """One source of variance.

    Attributes:
        name: repetition, launch or board.
        df: degrees of freedom of its mean square; 0: nothing was repeated at this level.
        variance: estimate, which may be negative (then it is small against what lies below it); None without
            degrees of freedom, when the next level up holds it as well.
    """

    name: str
    df: int
    variance: float | None


def variance_components(
    values: ArrayLike, points: Sequence[object], boards: Sequence[object], launches: Sequence[object]
) -> tuple[Component, Component, Component]:
    """Variances between repetitions of a launch, launches on a board, and boards, pooled over points.

    Random effects nested board / launch / repetition within each point (a fixed effect), unbalanced, by equating
    mean squares to their expectations (Searle, Linear Models, 1971, ch. 11). A launch counts once per point;
    points that share launches are not independent, so pooled degrees of freedom are upper bounds.

    Args:
        values: (n,) values of the runs; divide by each point's mean first for relative variances.
        points, boards, launches: (n,) what each run belongs to.
    """
    frame = pd.DataFrame({"y": np.asarray(values, np.float64), "p": points, "a": boards, "b": launches})
    frame["p"], frame["a"], frame["b"] = (pd.factorize(frame[name])[0] for name in "pab")
    keys = [["p"], ["p", "a"], ["p", "a", "b"]]
    levels = [frame.groupby(key)["y"].agg(["size", "mean"]) for key in keys]
    # n and mean of the group of each run, from points down to launches: (3, n).
    sizes = np.array([frame.groupby(key)["y"].transform("size") for key in keys], np.float64)
    means = np.array([frame.groupby(key)["y"].transform("mean") for key in keys])
    within = float(((frame["y"] - means[2]) ** 2).sum())
    squares = [within, *(float(((means[i] - means[i - 1]) ** 2).sum()) for i in (2, 1))]
    points_n, boards_n, launches_n = (len(level) for level in levels)
    dfs = [len(frame) - launches_n, launches_n - boards_n, boards_n - points_n]

    def spread(inner: int, outer: int) -> float:
        """Sum over inner groups of n_inner^2 / n_outer, as a sum over runs."""
        return float((sizes[inner] / sizes[outer]).sum())

    total = float(len(frame))
    # E[MS launch] = s_e + k1 s_b;  E[MS board] = s_e + k2 s_b + k3 s_a
    k1 = (total - spread(2, 1)) / dfs[1] if dfs[1] else 0.0
    k2 = (spread(2, 1) - spread(2, 0)) / dfs[2] if dfs[2] else 0.0
    k3 = (total - spread(1, 0)) / dfs[2] if dfs[2] else 0.0
    error = squares[0] / dfs[0] if dfs[0] else None
    below = error or 0.0
    launch = (squares[1] / dfs[1] - below) / k1 if dfs[1] else None
    board = (squares[2] / dfs[2] - below - k2 * (launch or 0.0)) / k3 if dfs[2] else None
    named = zip(("repetition", "launch", "board"), dfs, (error, launch, board), strict=True)
    repetition, between_launches, between_boards = (Component(*item) for item in named)
    return repetition, between_launches, between_boards


@dataclass(frozen=True, slots=True, eq=False)
class LengthFit:
    """E = a + b g (+ c g^2): energy of a batch against generated tokens g.

    Attributes:
        parameters: (2,) or (3,) a, b (and c), J per batch and token.
        covariance: of the parameters.
        df: points less parameters.
        chi2: weighted sum of squared residuals; over df where the model or the errors do not fit.
    """

    parameters: FloatArray
    covariance: FloatArray
    df: int
    chi2: float

    def between(self, first: float, last: float) -> Estimate:
        """Energy of generating from `first` to `last` tokens by the fit: what decoding takes, first = 1."""
        powers = np.arange(len(self.parameters))
        step = float(last) ** powers - float(first) ** powers
        return Estimate(float(step @ self.parameters), float(step @ self.covariance @ step), self.df)


def fit_lengths(generated: ArrayLike, energy_j: ArrayLike, sd_j: ArrayLike, growing_context: bool = False) -> LengthFit:
    """Weighted least squares over batches of several generated lengths, alike otherwise.

    To check the difference method leave out its own points (one generated token), else both share errors.
    Where the scatter is over the stated errors, the covariance is widened by chi2 / df, never narrowed.

    Args:
        generated, energy_j, sd_j: (n,) generated tokens, mean energies, standard errors of those means (> 0).
        growing_context: fit the quadratic term, of attention over a context that grows.

    Raises:
        ValueError: fewer different lengths than parameters.
    """
    g, y, sd = (np.asarray(item, np.float64) for item in (generated, energy_j, sd_j))
    terms = 3 if growing_context else 2
    if len(np.unique(g)) < terms:
        raise ValueError(f"{terms} parameters need as many different generated lengths, not {len(np.unique(g))}")
    scale = float(g.max())  # keeps the columns alike in size
    design = np.vander(g / scale, terms, increasing=True) / sd[:, None]
    inverse = np.linalg.inv(design.T @ design)
    parameters = inverse @ design.T @ (y / sd)
    chi2, df = float(((y / sd - design @ parameters) ** 2).sum()), len(g) - terms
    unscaled = scale ** -np.arange(terms, dtype=np.float64)
    covariance = inverse * np.outer(unscaled, unscaled) * max(1.0, chi2 / df if df else 1.0)
    return LengthFit(parameters * unscaled, covariance, df, chi2)


def z_score(one: Estimate, other: Estimate) -> float:
    """How many standard errors two independent estimates of one thing are apart; beyond 2 they disagree."""
    apart, variance = one.value - other.value, one.variance + other.variance
    return apart / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, apart) if apart else 0.0


_KEY = ["point_id", "environment_id"]


def settled_runs(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Runs that count as repetitions and have a value in `column`: no warm-ups, invalid or failed ones."""
    return runs[(runs["purpose"] != "warmup") & runs["status"].isin(SETTLED) & runs[column].notna()]


def by_point(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row per point and environment: n, mean, sd, half_width, cv, outliers, launches, boards."""
    good = settled_runs(runs, column)
    rows = []
    for key, group in good.groupby(_KEY, sort=True):
        summary = describe(group[column].to_numpy(np.float64))
        rows.append(
            {
                **dict(zip(_KEY, key, strict=True)),
                **{name: getattr(summary, name) for name in Summary.__dataclass_fields__},
                "launches": group["launch_id"].nunique(),
                "boards": len(set(_boards(group))),
            }
        )
    columns = [*_KEY, *Summary.__dataclass_fields__, "launches", "boards"]
    return pd.DataFrame(rows, columns=columns)


def mark_outliers(runs: pd.DataFrame, column: str) -> "pd.Series[bool]":
    """For each run, whether its value is an outlier among the repetitions of its point; in the runs' order."""
    good = settled_runs(runs, column)
    marks: Callable[[Any], Any] = lambda values: outliers(values.to_numpy(np.float64))  # noqa: E731
    marked = good.groupby(_KEY)[column].transform(marks).astype(bool)
    return marked.reindex(runs.index, fill_value=False)


def relative_components(runs: pd.DataFrame, column: str) -> tuple[Component, Component, Component]:
    """`variance_components` of a column over each point's mean: variances are squares of fractions.

    A board is the set of GPUs that a launch held.
    """
    good = settled_runs(runs, column)
    values = good[column].to_numpy(np.float64) / good.groupby(_KEY)[column].transform("mean").to_numpy(np.float64)
    points = list(zip(good["point_id"], good["environment_id"], strict=True))
    return variance_components(values, points, _boards(good), list(good["launch_id"]))


def _boards(runs: pd.DataFrame) -> list[str]:
    return [" ".join(sorted(uuids)) for uuids in runs["gpu_uuids"]]
