"""What repetitions say together: means with intervals, outliers, variance components, decode energy two ways.

Pure functions over arrays (`estimates`, `components`, `lengths`), and the same over a frame of `runs`
(`repetitions`). Nothing is ever dropped for its value.
"""

from harness.statistics.components import Component, variance_components
from harness.statistics.estimates import (
    FEWEST_FOR_OUTLIERS,
    OUTLIER_SCORE,
    Estimate,
    Summary,
    decode_energy,
    describe,
    difference,
    mean_of,
    outliers,
    repetitions_needed,
    t_factor,
    z_score,
)
from harness.statistics.lengths import LengthFit, fit_lengths
from harness.statistics.repetitions import (
    AGREEMENT,
    OUTLIERS_BY_CHANCE,
    by_point,
    decode_cross_check,
    mark_outliers,
    relative_components,
    repeated_runs,
    settled_runs,
)

__all__ = [
    "AGREEMENT",
    "FEWEST_FOR_OUTLIERS",
    "OUTLIERS_BY_CHANCE",
    "OUTLIER_SCORE",
    "Component",
    "Estimate",
    "LengthFit",
    "Summary",
    "by_point",
    "decode_cross_check",
    "decode_energy",
    "describe",
    "difference",
    "fit_lengths",
    "mark_outliers",
    "mean_of",
    "outliers",
    "relative_components",
    "repeated_runs",
    "repetitions_needed",
    "settled_runs",
    "t_factor",
    "variance_components",
    "z_score",
]
