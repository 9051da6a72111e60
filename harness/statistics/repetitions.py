"""The statistics of a frame of `runs`, as `pandas.read_parquet(FOLDER + "/runs")` reads it."""

import math

import numpy as np
import pandas as pd

from harness.points import FloatArray
from harness.records import SETTLED
from harness.statistics.components import Component, variance_components
from harness.statistics.estimates import Summary, describe, outliers
from harness.statistics.lengths import fit_lengths

AGREEMENT = 2.0
"""Standard errors within which two ways to one energy agree."""
OUTLIERS_BY_CHANCE = 0.053
"""Share of five normal values over the modified z-score's 3.5, by simulation (of four: 0.042)."""
_KEY = ["point_id", "environment_id"]
_ALIKE = ["environment_id", "launch_id", "batch_size", "prompt_tokens"]
"""Within a launch all is of one deployment."""
_FEWEST_LENGTHS = 3
"""Of a quadratic."""
_LEAST_SCATTER = 1e-6
"""Relative; repetitions that agree to the last count still have the counter's resolution."""


def settled_runs(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Runs that count as repetitions and have a value in `column`: no warm-ups, invalid or failed ones."""
    return runs[(runs["purpose"] != "warmup") & runs["status"].isin(SETTLED) & runs[column].notna()]


def repeated_runs(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Settled runs of the points that were measured in more than one launch, such as probes."""
    good = settled_runs(runs, column)
    return good[good.groupby(_KEY)["launch_id"].transform("nunique") > 1]


def by_point(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row per point and environment: n, mean, sd, half_width, cv, outliers, launches, boards.

    `outliers` are those of `mark_outliers`; where `launches` is over 1, the spread holds that of the launches.
    """
    good = settled_runs(runs, column)
    marks = mark_outliers(good, column)
    rows = []
    for key, group in good.groupby(_KEY, sort=True):
        summary = describe(group[column].to_numpy(np.float64))
        rows.append(
            {
                **dict(zip(_KEY, key, strict=True)),
                **{name: getattr(summary, name) for name in Summary.__dataclass_fields__},
                "outliers": int(marks[group.index].sum()),
                "launches": group["launch_id"].nunique(),
                "boards": len(set(_boards(group))),
            }
        )
    columns = [*_KEY, *Summary.__dataclass_fields__, "launches", "boards"]
    return pd.DataFrame(rows, columns=columns)


def mark_outliers(runs: pd.DataFrame, column: str) -> "pd.Series[bool]":
    """For each run, whether its value is an outlier among the repetitions of its point in its launch.

    In the order of `runs`. Another launch is no outlier: it may have another board. Of normal values taken five
    at a time `OUTLIERS_BY_CHANCE` are marked: a mark asks for a look, it condemns nothing.
    """
    good = settled_runs(runs, column)
    values, marked = good[column].to_numpy(np.float64), np.zeros(len(good), bool)
    for members in good.groupby([*_KEY, "launch_id"]).indices.values():
        marked[members] = outliers(values[members])
    return pd.Series(marked, index=good.index).reindex(runs.index, fill_value=False).astype(bool)


def relative_components(runs: pd.DataFrame, column: str) -> tuple[Component, Component, Component]:
    """`variance_components` of a column over each point's mean: variances are squares of fractions.

    A board is the set of GPUs that a launch held.
    """
    good = settled_runs(runs, column)
    values = good[column].to_numpy(np.float64) / good.groupby(_KEY)[column].transform("mean").to_numpy(np.float64)
    points = list(zip(good["point_id"], good["environment_id"], strict=True))
    return variance_components(values, points, _boards(good), list(good["launch_id"]))


def decode_cross_check(runs: pd.DataFrame, domain: str = "gpu") -> pd.DataFrame:
    """Decode energy by difference beside the decode energy of a fit over generated lengths.

    By difference: a batch less its prefill-only batch. By the fit: what `fit_lengths` says that generating from
    the first to the last token takes, from the full batches alone (quadratic, since the context that attention
    reads grows). A prefill-only batch that is not what the first token of a full batch costs shows as energies
    that are apart. Both ways share the full batch, so that the standard error of their distance is not that of
    independent values: residuals of weighted least squares are independent of the parameters, hence
    variance = (residual's) + (fit's at one token) + (prefill's). Scatter is pooled over the lengths as a fraction
    of their means, since that of two to five repetitions says little by itself.

    Args:
        runs: any runs; used are settled batches that generate over one token, alike but for that length, of one
            launch (so with one board and one start of the engine), with three lengths or more.
        domain: gpu, cpu or dram.

    Returns:
        One row per launch and length: environment_id, launch_id, batch_size, prompt_tokens, generated_tokens,
        n (repetitions), by_difference_j, by_fit_j, apart_j (difference less fit), standard_error_j, z, agrees
        (|z| at most 2). Empty where nothing can be compared, as without two repetitions of any length.
    """
    total, prefill = f"{domain}_energy_j", f"{domain}_prefill_energy_j"
    batches = runs[(runs["workload"] == "batch") & (runs["generated_tokens"] > 1) & runs[prefill].notna()]
    batches = settled_runs(batches, total)
    several = batches.groupby(_ALIKE)["generated_tokens"].transform("nunique") >= _FEWEST_LENGTHS
    rows: list[pd.DataFrame] = []
    for key, group in batches[several].groupby(_ALIKE, sort=True):
        lengths = group.groupby("generated_tokens")
        repetitions = lengths.size()
        if repetitions.sum() == len(repetitions):
            continue
        compared = _compare(lengths[total].mean(), lengths[prefill].mean(), repetitions, group, total, prefill)
        rows.append(pd.DataFrame(dict(zip(_ALIKE, key, strict=True)), index=compared.index).join(compared))
    if rows:
        return pd.concat(rows, ignore_index=True)
    columns = [*_ALIKE, "generated_tokens", "n", "by_difference_j", "by_fit_j", "apart_j", "standard_error_j", "z"]
    return pd.DataFrame(columns=[*columns, "agrees"])


def _compare(
    full_j: "pd.Series[float]",
    prefill_j: "pd.Series[float]",
    repetitions: "pd.Series[int]",
    group: pd.DataFrame,
    total: str,
    prefill: str,
) -> pd.DataFrame:
    """The rows of one launch; the first three are indexed by generated tokens."""
    n = repetitions.to_numpy(np.float64)
    tokens = full_j.index.to_numpy(np.float64)
    full, part = full_j.to_numpy(np.float64), prefill_j.to_numpy(np.float64)
    full_error_j = _pooled(group, total) * full / np.sqrt(n)
    part_error_j = _pooled(group, prefill) * part / np.sqrt(n)
    fit = fit_lengths(tokens, full, full_error_j, growing_context=True)
    powers = np.vander(tokens, 3, increasing=True)
    by_fit_j = np.array([fit.between(1.0, length).value for length in tokens])
    # The fit's covariance is wider where the fit is poor; residuals are then as much wider.
    widened = max(1.0, fit.chi2 / fit.df) if fit.df else 1.0
    residual = widened * full_error_j**2 - np.einsum("ij,jk,ik->i", powers, fit.covariance, powers)
    variance = np.maximum(residual, 0.0) + float(fit.covariance.sum()) + part_error_j**2
    apart_j = full - part - by_fit_j
    z = apart_j / np.sqrt(variance)
    return pd.DataFrame(
        {
            "generated_tokens": tokens,
            "n": n.astype(np.int64),
            "by_difference_j": full - part,
            "by_fit_j": by_fit_j,
            "apart_j": apart_j,
            "standard_error_j": np.sqrt(variance),
            "z": z,
            "agrees": np.abs(z) <= AGREEMENT,
        }
    )


def _pooled(group: pd.DataFrame, column: str) -> float:
    """Relative standard deviation within the lengths, pooled over them."""
    values = group.groupby("generated_tokens")[column]
    relative: FloatArray = group[column].to_numpy(np.float64) / values.transform("mean").to_numpy(np.float64) - 1.0
    return max(math.sqrt(float((relative**2).sum()) / (len(group) - values.ngroups)), _LEAST_SCATTER)


def _boards(runs: pd.DataFrame) -> list[str]:
    return [" ".join(sorted(uuids)) for uuids in runs["gpu_uuids"]]
