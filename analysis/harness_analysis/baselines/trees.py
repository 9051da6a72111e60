"""Forests and gradient boosting (scikit-learn): on what was asked for, on physics, on what an estimate is off by."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from threadpoolctl import threadpool_limits

from harness.points import FloatArray
from harness_analysis.baselines.columns import kernel_columns, physical_columns, raw_columns
from harness_analysis.baselines.terms import Physics
from harness_analysis.baselines.whitebox import WhiteBox
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples
from harness_analysis.features import roofline_j
from harness_analysis.predictor import Prediction, Predictor

Columns = Callable[[Configurations], FloatArray]
_FOREST_TREES = 100
_BOOSTING = {"max_iter": 500, "learning_rate": 0.05, "max_leaf_nodes": 31, "min_samples_leaf": 10}


class Regressor(Protocol):
    """What is needed of a scikit-learn estimator."""

    def fit(self, X: FloatArray, y: FloatArray) -> object: ...  # noqa: N803

    def predict(self, X: FloatArray) -> FloatArray: ...  # noqa: N803


class Roofline:
    """The crude roofline estimate: nothing of it is fitted."""

    name = "roofline"

    def fit(self, examples: Examples, seed: int) -> None:
        """Learns nothing."""

    def predict(self, configurations: Configurations) -> Prediction:
        physics = Physics.of(configurations)
        return Prediction.without_interval(roofline_j(physics.configurations, physics.totals).sum(axis=1))


class Trees:
    """Trees on columns of a configuration, for the total.

    Args:
        name: for tables.
        columns: what they see.
        make: an unfitted regressor for a seed.
        estimate: learn the logarithm of the total over what this says, once fitted to the same examples; None: the
            logarithm of the total.
    """

    def __init__(
        self, name: str, columns: Columns, make: Callable[[int], Regressor], estimate: Predictor | None = None
    ) -> None:
        self.name = name
        self._columns, self._make, self._estimate = columns, make, estimate
        self._model: Regressor | None = None

    def fit(self, examples: Examples, seed: int) -> None:
        """Needs totals only."""
        known = examples.take(~np.isnan(examples.total_j))
        if self._estimate is not None:
            self._estimate.fit(known, seed)
        target = np.log(known.total_j) - self._offset(known.configurations)
        self._model = self._make(seed)
        # Threads that wait for each other cost more than they save on so few examples.
        with threadpool_limits(limits=1):
            self._model.fit(self._columns(known.configurations), target)

    def predict(self, configurations: Configurations) -> Prediction:
        """Raises ValueError before `fit`."""
        if self._model is None:
            raise ValueError("not fitted")
        found = self._model.predict(self._columns(configurations)) + self._offset(configurations)
        return Prediction.without_interval(np.exp(found))

    def _offset(self, c: Configurations) -> FloatArray:
        if self._estimate is None:
            return np.zeros(len(c))
        logarithm: FloatArray = np.log(self._estimate.predict(c).total_j)
        return logarithm


def _forest(seed: int) -> Regressor:
    made: Regressor = RandomForestRegressor(_FOREST_TREES, random_state=seed, n_jobs=1)
    return made


def _boosting(seed: int) -> Regressor:
    made: Regressor = HistGradientBoostingRegressor(**_BOOSTING, random_state=seed)
    return made


def raw_forest() -> Trees:
    """A plain random forest."""
    return Trees("random forest, raw", raw_columns, _forest)


def deepen() -> Trees:
    """DeepEn (Tu et al., SEC 2023, arXiv 2310.18329): random forests on kernels.

    It fits a forest for each kind of kernel to that kernel's energy. Nobody measured kernels here: one forest sees all
    of them, and is fitted to their sum.
    """
    return Trees("DeepEn (forest on kernels)", kernel_columns, _forest)


def residual_forest() -> Trees:
    """A random forest on the logarithm of energy over the crude roofline estimate."""
    return Trees("random forest, residual", physical_columns, _forest, Roofline())


def raw_boosting() -> Trees:
    """Gradient boosting on what was asked for."""
    return Trees("boosting, raw", raw_columns, _boosting)


def physical_boosting() -> Trees:
    """Gradient boosting on physical columns."""
    return Trees("boosting, physical", physical_columns, _boosting)


def residual_boosting() -> Trees:
    """Gradient boosting on the logarithm of energy over the crude roofline estimate."""
    return Trees("boosting, residual", physical_columns, _boosting, Roofline())


def corrected_white_box() -> Trees:
    """Gradient boosting on the logarithm of energy over the white box: ours with trees in place of the networks."""
    return Trees("boosting on white box", physical_columns, _boosting, WhiteBox())
