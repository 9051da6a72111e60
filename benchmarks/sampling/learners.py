"""What learns from the points, and what it knows of those that are not measured yet."""

from typing import Protocol

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor
from threadpoolctl import threadpool_limits

from harness.points import FloatArray
from harness_analysis.baselines.columns import raw_columns
from harness_analysis.baselines.whitebox import WhiteBox
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples
from harness_analysis.gnn.ours import Ours, folds_of
from harness_analysis.outlook import expected_error
from sampling.pools import Pool, whole_of

_TREES = 60
_FOLDS = 4
_LEAST_ERROR = 0.003
"""Added to errors before their logarithm: what repetitions scatter by."""


class Learner(Protocol):
    name: str

    def fit(self, examples: Examples, seed: int) -> None: ...

    def predict(self, configurations: Configurations) -> FloatArray: ...

    def expected_error(self, at: FloatArray, pool: Pool, seed: int) -> FloatArray:
        """(pool,) relative errors that it expects there after `fit` to examples at (n, d) `at`."""
        ...


class PhysicsForest:
    """The white box, and a forest on what it leaves: it trains in seconds, a 2-GNN in minutes."""

    name = "white box + forest"

    def __init__(self) -> None:
        self._unseen: FloatArray = np.zeros(0)

    def fit(self, examples: Examples, seed: int) -> None:
        c = examples.configurations
        folds = folds_of(examples.groups, _FOLDS, seed)
        left = np.zeros(len(examples))
        for fold in range(_FOLDS):
            box, out = WhiteBox(), folds == fold
            box.fit(examples.take(~out), seed)
            left[out] = np.log(examples.total_j[out] / box.predict(c.take(out)).total_j)
        self._box = WhiteBox()
        self._box.fit(examples, seed)
        self._forest = ExtraTreesRegressor(
            _TREES, min_samples_leaf=2, max_features=0.5, bootstrap=True, oob_score=True, random_state=seed
        )
        with threadpool_limits(limits=1):
            self._forest.fit(whole_of(c), left)
        self._unseen = np.abs(np.expm1(np.nan_to_num(self._forest.oob_prediction_) - left))

    def predict(self, configurations: Configurations) -> FloatArray:
        left = self._forest.predict(whole_of(configurations))
        return np.asarray(self._box.predict(configurations).total_j * np.exp(left), np.float64)

    def expected_error(self, at: FloatArray, pool: Pool, seed: int) -> FloatArray:
        return _elsewhere(at, self._unseen, pool.whole, seed)


class Forest:
    """A plain random forest on what was asked for."""

    name = "random forest"

    def __init__(self) -> None:
        self._unseen: FloatArray = np.zeros(0)

    def fit(self, examples: Examples, seed: int) -> None:
        target = np.log(examples.total_j)
        self._forest = RandomForestRegressor(100, oob_score=True, random_state=seed)
        with threadpool_limits(limits=1):
            self._forest.fit(raw_columns(examples.configurations), target)
        self._unseen = np.abs(np.expm1(np.nan_to_num(self._forest.oob_prediction_, nan=target.mean()) - target))

    def predict(self, configurations: Configurations) -> FloatArray:
        return np.exp(self._forest.predict(raw_columns(configurations)))

    def expected_error(self, at: FloatArray, pool: Pool, seed: int) -> FloatArray:
        return _elsewhere(at, self._unseen, pool.whole, seed)


class Gnn:
    """The project's 2-GNN, and what a sweep in rounds expects of it."""

    name = "2-GNN"

    def fit(self, examples: Examples, seed: int) -> None:
        self._gnn = Ours()
        self._gnn.fit(examples, seed)

    def predict(self, configurations: Configurations) -> FloatArray:
        return self._gnn.predict(configurations).total_j

    def expected_error(self, at: FloatArray, pool: Pool, seed: int) -> FloatArray:
        return expected_error(self._gnn.predict(pool.examples.configurations))


def _elsewhere(at: FloatArray, unseen: FloatArray, everywhere: FloatArray, seed: int) -> FloatArray:
    """(n,) relative errors that are expected `everywhere`, from those at the measured points."""
    forest = RandomForestRegressor(_TREES, min_samples_leaf=5, max_features=0.5, random_state=seed)
    with threadpool_limits(limits=1):
        forest.fit(at, np.log(unseen + _LEAST_ERROR))
        return np.exp(forest.predict(everywhere))
