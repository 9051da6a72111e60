"""What a trained predictor knows of points that nobody measured, for those that choose what to measure next.

The error that is expected is the interval's: its half-width is calibrated on what the networks said of points that they
had not seen, by deployment and by kind of question (`gnn.calibration`).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harness.points import FloatArray, StrArray
from harness.sampling.base import Knowledge
from harness.trainer import Question
from harness_analysis.baselines.whitebox import levels
from harness_analysis.cards import Card
from harness_analysis.configurations import Configurations
from harness_analysis.gnn.ours import Ours
from harness_analysis.predictor import INTERVAL_PCT, Prediction
from harness_analysis.questions import as_learnt, configurations_of

_HALF_WIDTHS = 1.645
"""Standard deviations in half of an interval that holds 90 of 100 values, if they are normal."""
assert INTERVAL_PCT == 90.0
_LEAST_NOISY = 3
"""Measured points of a deployment whose noise is taken for its own; with fewer it is that of all."""
_OCTAVES = 2.0
"""A factor of four in batch size, prompt or generated tokens is a distance of 1."""


def knowledge(
    ours: Ours, card: Card, questions: Sequence[Question], measured: Configurations, noise: FloatArray
) -> Knowledge:
    """Of n questions.

    Args:
        measured: what taught.
        noise: (measured,) relative standard error of each; NaN where it is not known.
    """
    c = configurations_of(learnt(questions, card))
    found = ours.predict(c)
    lengths = np.stack([c.batch_size, c.prompt_tokens, c.generated_tokens], axis=1)
    return Knowledge(
        error=expected_error(found),
        noise=_noise_of(levels(c)[-1], levels(measured)[-1], noise),
        coordinates=np.log2(lengths) / _OCTAVES,
    )


def expected_error(found: Prediction) -> FloatArray:
    """(n,) relative error of a standard deviation, by the intervals of n predictions."""
    return np.asarray(np.expm1(np.log(found.high_j / found.total_j) / _HALF_WIDTHS), np.float64)


def learnt(questions: Sequence[Question], card: Card) -> list[Question]:
    """`as_learnt` of thousands of questions, which are on few deployments."""
    alike: dict[tuple[object, ...], Question] = {}
    found = []
    for question in questions:
        key = (question.gpu, question.model, question.engine, question.token_budget)
        if key not in alike:
            alike[key] = as_learnt(question, card)
        same = alike[key]
        found.append(
            replace(question, gpu=same.gpu, model=same.model, engine=same.engine, token_budget=same.token_budget)
        )
    return found


def _noise_of(asked: StrArray, measured: StrArray, noise: FloatArray) -> FloatArray:
    """(n,) mean noise in the deployment of each, where it is known of some points there; elsewhere that of all."""
    known = np.isfinite(noise)
    if not known.any():
        return np.zeros(len(asked))
    names, position = np.unique(measured[known], return_inverse=True)
    count = np.bincount(position)
    mean = np.where(count >= _LEAST_NOISY, np.bincount(position, noise[known]) / count, noise[known].mean())
    by_name = dict(zip(names.tolist(), mean.tolist(), strict=True))
    distinct, place = np.unique(asked, return_inverse=True)
    usual = float(noise[known].mean())
    found: FloatArray = np.array([by_name.get(name, usual) for name in distinct.tolist()], np.float64)[place]
    return found
