"""The harness's predictor: an ensemble of 2-GNNs on physical estimates, with calibrated intervals.

Each member learns from all folds but one, so that the fold left out says how wrong it is. Further rehearsals leave out
long requests, deployments, models and kinds of GPU, as far as there are enough of them (`calibration`).
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from harness.errors import BadInput
from harness.points import FloatArray, IntArray, StrArray
from harness_analysis.baselines.terms import Physics, terms
from harness_analysis.baselines.whitebox import levels
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples
from harness_analysis.gnn.calibration import (
    KNOWN,
    LONGER,
    NEW_DEPLOYMENT,
    NEW_GPU,
    NEW_MODEL,
    Calibration,
    Range,
    Rehearsal,
    calibrated,
)
from harness_analysis.gnn.inputs import graph_inputs
from harness_analysis.gnn.member import Answer, Member, Prepared, Settings, fit_member
from harness_analysis.predictor import Prediction

MEMBERS = 4
_REHEARSAL_FOLDS = 3
_LEAST_GROUPS = 3
"""Fewer models, deployments or GPUs than this cannot be left out in turn."""
_LEAST_EXAMPLES = 20
"""Of a rehearsal, on either side."""
_SHORT = 0.5
"""Rehearsed extrapolation: lengths up to this share of the longest teach, the others test."""
_CHUNK = 8192
"""Configurations whose features are in memory at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """All that prediction needs."""

    members: tuple[Member, ...]
    covered: Range
    calibration: Calibration


class Ours:
    """The 2-GNN of this project.

    Attributes:
        fitted: None before `fit`.
        held_out: of the examples of the last `fit`, in their order, what the member says that has not seen their
            configuration, believed and with intervals as for known deployments; NaN where the total is not known. What
            the predictor's errors are, without another fit. It is not kept in files.
        watch: told after each network that was trained: how many, and of how many.
    """

    def __init__(self, settings: Settings | None = None, name: str = "ours") -> None:
        self.settings = settings or Settings()
        self.name = name
        self.fitted: Fitted | None = None
        self.held_out: Prediction | None = None
        self.watch: Callable[[int, int], None] = lambda done, total: None

    def fit(self, examples: Examples, seed: int) -> None:
        """Raises BadInput with fewer than two configurations whose total is known."""
        has_total = ~np.isnan(examples.total_j)
        known = examples.take(has_total)
        prepared = prepare(known.configurations, self.settings)
        folds = folds_of(known.groups, MEMBERS, seed)
        if folds.max(initial=0) < 1:
            raise BadInput("examples", len(known), "at least two configurations with a known total energy")
        harder = list(_harder(known, seed))
        total = int(folds.max()) + 1 + sum(len(splits) for _, splits in harder)
        trained = itertools.count(1)
        members: list[Member] = []
        answers: list[Answer] = []
        order: list[IntArray] = []
        for teach, held in _left_out(folds):
            member = fit_member(known.take(teach), prepared.take(teach), self.settings, _seed(seed, len(members)))
            members.append(member)
            answers.append(member.answer(prepared.take(held)))
            order.append(held)
            self.watch(next(trained), total)
        asked = np.concatenate(order)
        rehearsals = {KNOWN: _rehearsal(known, asked, answers, np.zeros((len(known), 2)))}
        for kind, splits in harder:
            rehearsals[kind] = self._rehearse(
                known, prepared, kind, splits, seed, lambda: self.watch(next(trained), total)
            )
        calibration = calibrated(rehearsals)
        self.fitted = Fitted(tuple(members), Range.of(known.configurations), calibration)
        self.held_out = _held_out(rehearsals[KNOWN], calibration, np.flatnonzero(has_total)[asked], len(examples))

    def predict(self, configurations: Configurations) -> Prediction:
        """Raises ValueError before `fit`."""
        if self.fitted is None:
            raise ValueError("not fitted")
        starts = range(0, len(configurations), _CHUNK)
        parts = [
            _predicted(self.fitted, configurations.take(slice(start, start + _CHUNK)), self.settings)
            for start in starts
        ]
        columns = [np.concatenate([part[column] for part in parts] or [np.empty(0)]) for column in range(4)]
        return Prediction(*columns)

    def _rehearse(
        self,
        known: Examples,
        prepared: Prepared,
        kind: int,
        splits: list[tuple[IntArray, IntArray]],
        seed: int,
        say: Callable[[], None],
    ) -> Rehearsal:
        schedule = self.settings.schedule
        quick = replace(
            self.settings, schedule=replace(schedule, epochs=-(-schedule.epochs // 2), steps=schedule.steps // 2)
        )
        answers: list[Answer] = []
        distances: list[FloatArray] = []
        for number, (teach, held) in enumerate(splits):
            member = fit_member(known.take(teach), prepared.take(teach), quick, _seed(seed, 10 * (kind + 1) + number))
            answers.append(member.answer(prepared.take(held)))
            covered = Range.of(known.configurations.take(teach))
            distances.append(covered.distance(known.configurations.take(held)))
            say()
        return _rehearsal(known, np.concatenate([held for _, held in splits]), answers, np.concatenate(distances))


def prepare(c: Configurations, settings: Settings) -> Prepared:
    """Terms and network inputs of `c`."""
    physics = Physics.of(c)
    return Prepared(c, terms(physics), graph_inputs(physics, settings.apart, settings.roofline))


def folds_of(groups: IntArray | StrArray, folds: int, seed: int) -> IntArray:
    """(n,) a fold for each example, the same for a whole group; as many as there are groups, if those are fewer."""
    distinct, position = np.unique(groups, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(distinct))
    found: IntArray = shuffled[position] % min(folds, max(len(distinct), 1))
    return found


def _seed(seed: int, number: int) -> int:
    return 1000 * seed + number


def _harder(known: Examples, seed: int) -> Iterator[tuple[int, list[tuple[IntArray, IntArray]]]]:
    """Kinds of question beyond the known, as far as they can be rehearsed, with what teaches and what tests."""
    c = known.configurations
    short = np.ones(len(c), bool)
    for column in (c.prompt_tokens, c.generated_tokens):
        if np.ptp(column) > 0:
            short &= column <= _SHORT * column.max()
    if min(short.sum(), (~short).sum()) >= _LEAST_EXAMPLES:
        yield LONGER, [(np.flatnonzero(short), np.flatnonzero(~short))]
    deployments, models = levels(c)[-1], c.model
    if len(np.unique(deployments)) >= 2 * _LEAST_GROUPS:
        yield NEW_DEPLOYMENT, _left_out(folds_of(deployments, _REHEARSAL_FOLDS, seed))
    if len(np.unique(models)) >= _LEAST_GROUPS:
        yield NEW_MODEL, _left_out(folds_of(models, _REHEARSAL_FOLDS, seed))
    if len(np.unique(c.gpu)) >= _LEAST_GROUPS:
        yield NEW_GPU, _left_out(folds_of(c.gpu, _REHEARSAL_FOLDS, seed))


def _left_out(folds: IntArray) -> list[tuple[IntArray, IntArray]]:
    return [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(folds.max() + 1)]


def _rehearsal(known: Examples, held: IntArray, answers: list[Answer], distance: FloatArray) -> Rehearsal:
    asked = known.take(held)
    answer = Answer(
        np.concatenate([one.estimate_j for one in answers]), np.concatenate([one.correction for one in answers])
    )
    return Rehearsal(answer, asked.total_j, levels(asked.configurations)[-1], distance)


def _held_out(rehearsal: Rehearsal, calibration: Calibration, position: IntArray, n: int) -> Prediction:
    """What was rehearsed as known, at its `position` among n examples."""
    kind = np.full(len(position), KNOWN)
    energies = rehearsal.answer.energies(calibration.trusts(kind, rehearsal.distance))
    total_j = energies.sum(axis=1)
    factor = np.exp(calibration.widths(kind, rehearsal.deployment, rehearsal.distance))
    columns = np.full((4, n), np.nan)
    columns[:, position] = energies[:, 0], total_j, total_j / factor, total_j * factor
    return Prediction(*columns)


def _predicted(fitted: Fitted, c: Configurations, settings: Settings) -> tuple[FloatArray, ...]:
    """Prefill, total, low and high of `c`."""
    kind, distance = fitted.covered.kind(c), fitted.covered.distance(c)
    trust = fitted.calibration.trusts(kind, distance)
    asked = prepare(c, settings)
    energies = np.stack([member.answer(asked).energies(trust) for member in fitted.members])
    prefill_j = np.exp(np.log(energies[:, :, 0]).mean(axis=0))
    total_j = np.exp(np.log(energies.sum(axis=2)).mean(axis=0))
    factor = np.exp(fitted.calibration.widths(kind, levels(c)[-1], distance))
    return prefill_j, total_j, total_j / factor, total_j * factor
