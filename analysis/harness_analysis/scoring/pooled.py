"""Answers of one predictor to one task, all its splits together, and what they are worth."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from harness.points import FloatArray, StrArray
from harness_analysis.examples import Examples
from harness_analysis.metrics import Scores, coverage_pct, mean_of_models, per_model, scores
from harness_analysis.predictor import Prediction, Predictor
from harness_analysis.splits import Split

Make = Callable[[], Predictor]
MEAN = "mean"
"""In the place of a model's name: the average over models, each counting once."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is scored together: predictions of all splits are pooled, and compared with what is known of their tests."""

    name: str
    examples: Examples
    splits: tuple[Split, ...]
    per_token: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """What one predictor said with one seed, split after split.

    Attributes:
        asked: (n,) examples of all test sides.
        split: (n,) name of the split that each is of.
        prediction: of `asked`.
        fit_s, predict_s: processor time of all splits, which does not depend on what else the machine does.
        per_token: scores are of joules per token: the errors are the same, the ranks are not.
    """

    task: str
    predictor: str
    seed: int
    asked: Examples
    split: StrArray
    prediction: Prediction
    fit_s: float
    predict_s: float
    per_token: bool

    @property
    def true(self) -> FloatArray:
        """(n,) what is scored: joules, or joules per generated token."""
        return self.asked.token_j if self.per_token else self.asked.total_j

    @property
    def predicted(self) -> FloatArray:
        """(n,) of the same."""
        return self.prediction.total_j * (self.true / self.asked.total_j)

    @property
    def coverage_pct(self) -> float:
        """Share of true totals within the interval; NaN without intervals."""
        if not np.isfinite(self.prediction.low_j).all():
            return float("nan")
        return coverage_pct(self.asked.total_j, self.prediction.low_j, self.prediction.high_j)

    def scores(self, resamples: int = 1000) -> Scores:
        """Of all together; configurations that were measured more than once are drawn together."""
        return scores(self.true, self.predicted, self.seed, self.asked.groups, resamples)

    def per_model(self, resamples: int = 1000) -> Mapping[str, Scores]:
        """Of each model apart."""
        model, groups = self.asked.configurations.model, self.asked.groups
        return per_model(model, self.true, self.predicted, self.seed, groups, resamples)


def pooled(task: Task, make: Make, seed: int) -> Pooled:
    """Fits on the train side of each split, and asks about its test side."""
    return _together(task, seed, [_answered(task, split, make, seed) for split in task.splits])


def pooled_each(task: Task, makes: Iterable[Make], seeds: int, jobs: int = 1) -> Iterator[list[Pooled]]:
    """For each predictor in turn its answers with seeds 0, 1, ...; `jobs` fits at a time, each in its own process."""
    makes = list(makes)
    fits = ((split, make, seed) for make in makes for seed in range(seeds) for split in task.splits)
    parallel = Parallel(n_jobs=jobs, return_as="generator")
    answers = iter(parallel(delayed(_answered)(task, split, make, seed) for split, make, seed in fits))
    for _ in makes:
        yield [_together(task, seed, [next(answers) for _ in task.splits]) for seed in range(seeds)]


@dataclass(frozen=True, slots=True, eq=False)
class _Answered:
    """One fit: what it said of its test side, and its processor time."""

    predictor: str
    prediction: Prediction
    fit_s: float
    predict_s: float


def _answered(task: Task, split: Split, make: Make, seed: int) -> _Answered:
    predictor = make()
    start_s = time.process_time()
    predictor.fit(task.examples.take(split.train), seed)
    fitted_s = time.process_time()
    prediction = predictor.predict(task.examples.configurations.take(split.test))
    return _Answered(predictor.name, prediction, fitted_s - start_s, time.process_time() - fitted_s)


def _together(task: Task, seed: int, answers: Sequence[_Answered]) -> Pooled:
    columns = ("prefill_j", "total_j", "low_j", "high_j")
    return Pooled(
        task=task.name,
        predictor=answers[0].predictor,
        seed=seed,
        asked=task.examples.take(np.concatenate([split.test for split in task.splits])),
        split=np.repeat([split.name for split in task.splits], [len(split.test) for split in task.splits]),
        prediction=Prediction(
            *(np.concatenate([getattr(one.prediction, name) for one in answers]) for name in columns)
        ),
        fit_s=sum(one.fit_s for one in answers),
        predict_s=sum(one.predict_s for one in answers),
        per_token=task.per_token,
    )


@dataclass(frozen=True, slots=True)
class Line:
    """One predictor on one task: means over seeds, and the spread (standard deviation) of the MAPE over them.

    `mape_low_pct` and `mape_high_pct` bound the MAPE were other examples asked: the 95% bootstrap interval of one seed,
    averaged over seeds. `fit_s` and `predict_s` are of one seed, all splits together.
    """

    task: str
    predictor: str
    seeds: int
    n: int
    mape_pct: float
    mape_spread_pct: float
    mape_low_pct: float
    mape_high_pct: float
    median_ape_pct: float
    eba5_pct: float
    eba10_pct: float
    eba30_pct: float
    bias_pct: float
    rank_correlation: float
    coverage_pct: float
    fit_s: float
    predict_s: float


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One predictor on one model's examples of one task (or `MEAN`): as of `Line`."""

    task: str
    predictor: str
    model: str
    seeds: int
    n: int
    mape_pct: float
    mape_spread_pct: float
    mape_low_pct: float
    mape_high_pct: float
    eba10_pct: float
    eba30_pct: float


def line_of(answers: Sequence[Pooled], resamples: int = 1000) -> Line:
    """Of answers of one predictor to one task, with one seed each."""
    rows = [
        one.scores(resamples).as_dict()
        | {"coverage_pct": one.coverage_pct, "fit_s": one.fit_s, "predict_s": one.predict_s}
        for one in answers
    ]
    return Line(answers[0].task, answers[0].predictor, len(rows), **_averaged(rows, Line))


def model_lines(answers: Sequence[Pooled], resamples: int = 1000) -> dict[str, ModelLine]:
    """By model, then `MEAN`: of answers of one predictor to one task, with one seed each."""
    each = [dict(one.per_model(resamples)) for one in answers]
    found: dict[str, list[dict[str, float]]] = {
        name: [scored_models[name].as_dict() for scored_models in each] for name in each[0]
    }
    found[MEAN] = [mean_of_models(scored_models) for scored_models in each]
    return {
        name: ModelLine(answers[0].task, answers[0].predictor, name, len(rows), **_averaged(rows, ModelLine))
        for name, rows in found.items()
    }


def scored(task: Task, make: Make, seeds: Sequence[int], resamples: int = 1000) -> Line:
    """`line_of` answers with every seed."""
    return line_of([pooled(task, make, seed) for seed in seeds], resamples)


def _averaged(rows: Sequence[Mapping[str, float]], line: type[Line] | type[ModelLine]) -> dict[str, Any]:
    """Means over `rows` of what `line` has, with the spread of the MAPE."""
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if name in line.__dataclass_fields__}
    return mean | {"n": int(mean["n"]), "mape_spread_pct": float(np.std([row["mape_pct"] for row in rows]))}
