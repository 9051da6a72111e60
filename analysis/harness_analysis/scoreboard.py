"""Scores by split and predictor, for each model, as `harness train` and `harness score` print them."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from harness.errors import BadInput
from harness.trainer import SPLITS, Score, Scores, Watch
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples
from harness_analysis.parts import TEST, TRAIN, part_of
from harness_analysis.predictor import Prediction, Predictor
from harness_analysis.scoring.pooled import MEAN, Make, Pooled, Task, model_lines, pooled
from harness_analysis.scoring.predictors import BASELINES, OURS, PAPER
from harness_analysis.splits import (
    Split,
    leave_one_gpu_out,
    leave_one_model_out,
    leave_one_parallelism_out,
    length_extrapolation,
)

MAKES: Mapping[str, Make] = {**OURS, **PAPER, **BASELINES}


def splits_named(names: Sequence[str], examples: Examples) -> dict[str, tuple[Split, ...]]:
    """What each name stands for: `test` is the part that no training of `harness train` sees.

    Raises:
        BadInput: a name that is not of `SPLITS`, or a split with nothing to learn from or to be asked about.
    """
    found: dict[str, tuple[Split, ...]] = {}
    for name in names:
        if name not in SPLITS:
            raise BadInput("--splits", name, ", ".join(SPLITS))
        usable = tuple(one for one in _splits(name, examples) if len(one.train) and len(one.test))
        if not usable:
            raise BadInput(
                "--splits", name, f"one that these {len(examples)} points can be divided by", "measure more of them"
            )
        found[name] = usable
    return found


def _splits(name: str, examples: Examples) -> tuple[Split, ...]:
    if name == "test":
        part = part_of(examples.configurations)
        return (Split(name, np.flatnonzero(part == TRAIN), np.flatnonzero(part == TEST)),)
    if name == "lengths":
        return (length_extrapolation(examples),)
    if name == "model":
        return leave_one_model_out(examples, twins_too=True)
    return leave_one_parallelism_out(examples) if name == "parallelism" else leave_one_gpu_out(examples)


def makes_named(names: Sequence[str]) -> dict[str, Make]:
    """Raises BadInput for a predictor that is not known."""
    for name in names:
        if name not in MAKES:
            raise BadInput("--predictors", name, ", ".join(MAKES))
    return {name: MAKES[name] for name in names}


class AsItIs:
    """A predictor that has learnt already: what is fitted again elsewhere is only asked here."""

    def __init__(self, predictor: Predictor) -> None:
        self.name = predictor.name
        self._predictor = predictor

    def fit(self, examples: Examples, seed: int) -> None:
        """Nothing is learnt."""

    def predict(self, configurations: Configurations) -> Prediction:
        return self._predictor.predict(configurations)


def scores_of(name: str, answers: Pooled) -> Scores:
    """By model, and their mean."""
    lines = model_lines([answers], resamples=1)
    each = {model: Score(one.n, one.mape_pct, one.eba10_pct, one.eba30_pct) for model, one in lines.items()}
    return Scores(name, {model: score for model, score in each.items() if model != MEAN}, each[MEAN])


def scoreboard(
    examples: Examples,
    splits: Mapping[str, tuple[Split, ...]],
    makes: Mapping[str, Make],
    saved: Mapping[tuple[str, str], Predictor],
    seed: int,
    watch: Watch,
) -> dict[str, tuple[Scores, ...]]:
    """Scores of all predictors on all splits.

    Args:
        saved: by split and predictor, fitted ones that are asked as they are.
        watch: told before each training.
    """
    total = sum(len(found) for split, found in splits.items() for name in makes if (split, name) not in saved)
    done = 0

    def counted(split: str, name: str) -> Predictor:
        nonlocal done
        if (split, name) in saved:
            return AsItIs(saved[split, name])
        watch(done, total, f"trainings; {name} on {split}")
        done += 1
        return makes[name]()

    return {
        split: tuple(
            scores_of(name, pooled(Task(split, examples, found), partial(counted, split, name), seed)) for name in makes
        )
        for split, found in splits.items()
    }
