"""Means, half-widths and quantiles of many groups at once (a loop over 20,000 points would take minutes)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.points import FloatArray
from harness.statistics import t_factor


def spread(values: "pd.Series[float]", groups: Sequence["pd.Series[str]"]) -> pd.DataFrame:
    """n, mean, half_width (95%, by Student's t) and cv_pct of each group's values; nulls are left out.

    Half-width and CV are NaN below two values.
    """
    found = values.groupby(list(groups), sort=True).agg(["count", "mean", "std"])
    n = found["count"].to_numpy(np.int64)
    factors = {int(count): t_factor(count - 1) for count in np.unique(n) if count > 1}
    factor = np.array([factors.get(int(count), np.nan) for count in n])
    half_width = factor * found["std"].to_numpy(np.float64) / np.sqrt(np.maximum(n, 1))
    cv_pct = 100.0 * found["std"] / found["mean"].abs().where(found["mean"] != 0)
    return pd.DataFrame({"n": n, "mean": found["mean"], "half_width": half_width, "cv_pct": cv_pct}, found.index)


def ratio(energy_j: "pd.Series[float]", count: "pd.Series[float]") -> "pd.Series[float]":
    """Energy per item; null where there are none."""
    items = count.astype(float)
    return energy_j.astype(float) / items.where(items > 0)


def quantiles(values: FloatArray, levels: dict[str, float]) -> dict[str, float]:
    """Named quantiles of (n,) values; NaN for none."""
    found = np.quantile(values, list(levels.values())) if len(values) else np.full(len(levels), np.nan)
    return dict(zip(levels, found.tolist(), strict=True))


def weighted_quantiles(values: FloatArray, weights: FloatArray, levels: dict[str, float]) -> dict[str, float]:
    """The smallest value that has at least each share of the weight at or below it."""
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    # A share that should be exactly reached may miss it by rounding.
    places = np.minimum(np.searchsorted(share, np.array(list(levels.values())) - 1e-9), len(order) - 1)
    return dict(zip(levels, values[order][places].tolist(), strict=True))
