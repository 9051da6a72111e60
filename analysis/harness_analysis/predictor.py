"""What every model and every baseline is: fitted on examples, asked about configurations."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from harness.points import FloatArray, IntArray
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples

INTERVAL_PCT = 90.0
"""How many of 100 true totals are to lie between `low_j` and `high_j`."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Energies of n configurations, per batch and of all its GPUs together, in the unit of the labels.

    Attributes:
        prefill_j: (n,) of the prefill; NaN from a predictor that has no such part.
        total_j: (n,) of prefill and decode.
        low_j, high_j: (n,) the interval of `total_j` (`INTERVAL_PCT`); NaN from a predictor that knows none.

    Raises:
        ValueError: arrays of different lengths.
    """

    prefill_j: FloatArray
    total_j: FloatArray
    low_j: FloatArray
    high_j: FloatArray

    def __post_init__(self) -> None:
        if len({self.prefill_j.shape, self.total_j.shape, self.low_j.shape, self.high_j.shape}) > 1:
            raise ValueError("a prediction's arrays have one value for each configuration")
        if self.total_j.ndim != 1:
            raise ValueError(f"predictions are (n,), not {self.total_j.shape}")

    def __len__(self) -> int:
        return len(self.total_j)

    @staticmethod
    def without_interval(total_j: FloatArray, prefill_j: FloatArray | None = None) -> "Prediction":
        """Of a predictor that does not say how sure it is."""
        unknown = np.full_like(total_j, np.nan)
        return Prediction(unknown if prefill_j is None else prefill_j, total_j, unknown, unknown)

    def take(self, index: IntArray) -> "Prediction":
        """Those at `index`."""
        return Prediction(self.prefill_j[index], self.total_j[index], self.low_j[index], self.high_j[index])


@runtime_checkable
class Predictor(Protocol):
    """One way to predict energy.

    `name` is what tables call it. `fit` may be called again: it then forgets what it had learnt.
    """

    @property
    def name(self) -> str: ...

    def fit(self, examples: Examples, seed: int) -> None:
        """Learn from examples. Equal examples and seeds give equal predictions.

        Examples whose `total_j` is NaN teach nothing; where `prefill_j` is, only the total is learnt.
        """
        ...

    def predict(self, configurations: Configurations) -> Prediction:
        """One prediction for each configuration, in their order; `fit` was called before."""
        ...
