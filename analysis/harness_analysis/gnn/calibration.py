"""How far a question is from what was learnt, how much the networks are worth there, and how wrong answers may be.

Five kinds of question, each rehearsed on the training examples: a part of them is held back that is to the rest as the
question is to all, and what a member that never saw it answers is compared with the truth. That gives, for each kind,
the share of the networks' correction to believe (`trust`) and the width of the interval (split conformal prediction:
Lei et al., 2018, arXiv 1604.04173; on logarithms, so that intervals are factors).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.points import BoolArray, FloatArray, IntArray, StrArray
from harness_analysis.baselines.whitebox import levels
from harness_analysis.configurations import Configurations
from harness_analysis.gnn.member import Answer
from harness_analysis.predictor import INTERVAL_PCT

KINDS = ("known", "longer", "new deployment", "new model", "new GPU")
"""known: its deployment was seen, its lengths and batch within the range of training. longer: seen, but beyond it.
new deployment: the model and the GPU are known, but not together, or not so divided. new GPU: whatever the model is."""
KNOWN, LONGER, NEW_DEPLOYMENT, NEW_MODEL, NEW_GPU = range(5)
_EDGE = 0.02
"""Beyond the range by less than this (as a logarithm) is still within."""
_NEAR = 0.25
"""An error beyond the range grows with the distance (a logarithm) plus this."""
_SHARES = np.linspace(0, 1, 11)
_SCALE_PRIOR = 10.0
"""Examples' worth of belief that a deployment's errors are as large as all others'."""
_UNREHEARSED = 2.0
"""Where a kind could not be rehearsed, intervals are so many times as wide as those of the kind before."""
_RANGES = ("batch_size", "prompt_tokens", "generated_tokens")


@dataclass(frozen=True, slots=True, eq=False)
class Range:
    """What training covered: deployments, models, GPUs, and from what to what batch and lengths go."""

    deployments: frozenset[str]
    models: frozenset[str]
    gpus: frozenset[str]
    low: FloatArray
    high: FloatArray

    @staticmethod
    def of(c: Configurations) -> "Range":
        columns = [getattr(c, name) for name in _RANGES]
        return Range(
            frozenset(np.unique(levels(c)[-1]).tolist()),
            frozenset(np.unique(c.model).tolist()),
            frozenset(np.unique(c.gpu).tolist()),
            np.array([column.min() for column in columns]),
            np.array([column.max() for column in columns]),
        )

    def distance(self, c: Configurations) -> FloatArray:
        """(n, 2) how far beyond the range prefill and decode are, as a logarithm; 0 within.

        The prefill's is the sum of the batch's and the prompt's; how much is generated counts for the decode only.
        """
        each = []
        for name, low, high in zip(_RANGES, self.low, self.high, strict=True):
            values = getattr(c, name)
            each.append(np.maximum(np.log(values / high), 0) + np.maximum(np.log(low / values), 0))
        return np.stack([each[0] + each[1], sum(each)], axis=1)

    def beyond(self, c: Configurations) -> BoolArray:
        """(n,) whether any of it is."""
        return self.distance(c)[:, 1] > _EDGE

    def kind(self, c: Configurations) -> IntArray:
        """(n,) which of `KINDS`; a new one may lie beyond the range too (`beyond`)."""
        new = (
            ~_among(c.gpu, self.gpus),
            ~_among(c.model, self.models),
            ~_among(levels(c)[-1], self.deployments),
            self.beyond(c),
        )
        return np.select(new, (NEW_GPU, NEW_MODEL, NEW_DEPLOYMENT, LONGER), KNOWN)


def _among(names: StrArray, known: frozenset[str]) -> BoolArray:
    distinct, position = np.unique(names, return_inverse=True)
    return np.array([str(name) in known for name in distinct], bool)[position]


def faded(trust: FloatArray | float, distance: FloatArray) -> FloatArray:
    """(n, 2) share of the correction of each phase to believe, `trust` (n, 1) near the range.

    Beyond it the networks repeat what they say at the border, which is worth less the further one goes.
    """
    shares: FloatArray = trust * np.exp(-distance)
    return shares


@dataclass(frozen=True, slots=True, eq=False)
class Rehearsal:
    """Answers to held back examples (m), with the true totals and what trust and width depend on."""

    answer: Answer
    total_j: FloatArray
    deployment: StrArray
    distance: FloatArray

    def errors(self, trust: float) -> FloatArray:
        """(m,) logarithm of predicted over true total."""
        total_j = self.answer.energies(faded(trust, self.distance)).sum(axis=1)
        off: FloatArray = np.log(total_j / self.total_j)
        return off

    def best_trust(self) -> float:
        """The share of the correction with the smallest mean error."""
        return float(_SHARES[np.argmin([np.abs(self.errors(share)).mean() for share in _SHARES])])


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """By kind: `trust` and `width`. `scale` has by how much errors differ between deployments (1: as all of them)."""

    trust: FloatArray
    width: FloatArray
    scale: Mapping[str, float]

    def trusts(self, kind: IntArray, distance: FloatArray) -> FloatArray:
        """(n, 2) share of the networks' correction of each phase to believe."""
        beyond = distance[:, 1] > _EDGE
        near = np.where(beyond, np.minimum(self.trust[kind], self.trust[LONGER]), self.trust[kind])
        return faded(near[:, None], distance)

    def widths(self, kind: IntArray, deployment: StrArray, distance: FloatArray) -> FloatArray:
        """(n,) half of the interval's width, as a logarithm."""
        distance = distance[:, 1]
        names, position = np.unique(deployment, return_inverse=True)
        scale = np.array([self.scale.get(str(name), 1.0) for name in names])[position]
        within = self.width[kind] * np.where(kind == KNOWN, scale, 1.0)
        further = self.width[LONGER] * (_NEAR + distance) * (distance > _EDGE)
        known = np.maximum(further, self.width[KNOWN] * scale)
        found: FloatArray = np.where(kind == LONGER, known, np.hypot(within, further))
        return found


def calibrated(rehearsals: Mapping[int, Rehearsal]) -> Calibration:
    """From rehearsals by kind, `KNOWN` among them."""
    trust, width = np.ones(len(KINDS)), np.zeros(len(KINDS))
    scale: dict[str, float] = {}
    for kind in range(len(KINDS)):
        if kind not in rehearsals:
            # Kinds are ordered: a later one is no easier.
            trust[kind] = trust[:kind].min(initial=1.0) / _UNREHEARSED
            width[kind] = width[[one for one in range(kind) if one != LONGER]].max(initial=0.0) * _UNREHEARSED
            if kind == LONGER:
                width[kind] /= _NEAR
            continue
        held = rehearsals[kind]
        trust[kind] = held.best_trust()
        errors = np.abs(held.errors(trust[kind]))
        if kind == KNOWN:
            scale = _scales(held.deployment, errors)
            errors = errors / np.array([scale[str(name)] for name in held.deployment])
        if kind == LONGER:
            errors = errors / (_NEAR + held.distance[:, 1])
        width[kind] = conformal_quantile(errors)
    return Calibration(trust, width, scale)


def conformal_quantile(errors: FloatArray, level_pct: float = INTERVAL_PCT) -> float:
    """The error that a further one exceeds in 100 - `level_pct` of 100 cases, if all are drawn alike."""
    n = len(errors)
    rank = min(n, int(np.ceil((n + 1) * level_pct / 100)))
    return float(np.sort(errors)[rank - 1])


def _scales(deployment: StrArray, errors: FloatArray) -> dict[str, float]:
    """Typical error of each deployment over that of all, drawn towards 1 where there are few examples."""
    typical = float(np.mean(errors))
    if typical == 0:
        return {str(name): 1.0 for name in np.unique(deployment)}
    found: dict[str, float] = {}
    for name in np.unique(deployment):
        own = errors[deployment == name]
        found[str(name)] = float((own.sum() / typical + _SCALE_PRIOR) / (len(own) + _SCALE_PRIOR))
    return found
