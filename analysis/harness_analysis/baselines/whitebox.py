"""The white box: energy as a sum of physical terms with fitted, non-negative factors, a few for each deployment.

Factors are fitted from the general to the particular: over all examples, then for each kind of GPU, each model on it,
and each way to divide it. Each fit is drawn towards the one above (ridge, `terms.SPREAD`), the first towards
`terms.USUAL`; so a deployment with few examples, or a narrow range of lengths, changes little but its scale, and one
without any has the factors of the nearest that is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from harness.points import FloatArray, IntArray, StrArray
from harness_analysis.baselines.terms import ATTENTION, N_PREFILL, SPREAD, TERMS, USUAL, WORK, Physics, terms
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples
from harness_analysis.predictor import Prediction

ERRORS = (0.03, 0.01, 0.03)
"""How far off the sum of terms is for one example, as a share of it (of the total, if it is decode): examples count
against the prior by it. Of a prefill, of a decode (which has no waves of tiles), of a total."""
CELL_TOKENS = 128
"""Examples whose lengths agree to so many tokens share one error (the width of a tile), and count as one."""
MOST_CELLS = 40
"""A deployment counts as at most so many independent examples: the sum of terms is no better than that."""
_SCALE_PRIOR = 1.0
"""Examples' worth of belief that a deployment has the scale of those around it."""
FREEDOM = (0.5, 0.5, 0.2)
"""Of factors below the first fit, by level: how far they may be from those above, as a share of `terms.SPREAD`. A way
to divide a model is no other machine, and has few examples."""
_ROUNDS = 5
_LEAST_FACTOR = 0.1
"""Of the usual factor: what a factor may still change by where the fit above found it to be zero."""
_SIZES = [N_PREFILL, len(TERMS) - N_PREFILL]
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """Fitted factors of `terms.TERMS`: (terms,) for each group of deployments; the empty key is of all."""

    of: Mapping[Key, FloatArray]

    def nearest(self, c: Configurations) -> FloatArray:
        """(n, terms) for each configuration those of the smallest group that has it."""
        names, position = np.unique(levels(c)[-1], return_inverse=True)
        table = np.empty((len(names), len(self.of[()])))
        for number, name in enumerate(names):
            gpu, model, bits, *divided = str(name).split("\n")
            keys = ((gpu, model, bits, *divided), (gpu, model, bits), (gpu,), ())
            table[number] = next(self.of[key] for key in keys if key in self.of)
        return table[position]


def levels(c: Configurations) -> tuple[StrArray, ...]:
    """From the general to the particular, (n,) the group of each configuration, its key joined by newlines."""
    gpu = c.gpu.astype(np.str_)
    model = _joined(gpu, c.model, c.bits.astype(int).astype(np.str_))
    return gpu, model, _joined(model, c.tp.astype(int).astype(np.str_), c.pp.astype(int).astype(np.str_))


def _joined(*columns: StrArray) -> StrArray:
    out = columns[0]
    for column in columns[1:]:
        out = np.char.add(np.char.add(out, "\n"), column.astype(np.str_))
    return out


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Relative equations, one a row: `left` @ factors = `right`, each with its weight and deployment.

    A known prefill makes two (prefill, and what the rest adds to the total), an unknown one makes one.
    """

    left: FloatArray
    right: FloatArray
    weight: FloatArray
    example: IntArray
    error: FloatArray

    def take(self, index: IntArray) -> "_Rows":
        return _Rows(self.left[index], self.right[index], self.weight[index], self.example[index], self.error[index])


def fit_factors(examples: Examples, values: FloatArray) -> Factors:
    """Factors of all groups in `examples`, whose terms are `values` (n, terms); `total_j` is known of all."""
    c = examples.configurations
    rows = _equations(examples, values)
    grouped = levels(c)
    leaf = np.unique(grouped[-1], return_inverse=True)[1]
    usual = USUAL * _first_scale(rows)
    found: dict[Key, FloatArray] = {}
    everything = np.arange(len(rows.right))
    found[()] = _solved(rows, leaf, usual, usual, 1.0)
    _descend(found, rows, grouped, leaf, usual, (), everything, 0)
    return Factors(found)


def _descend(
    found: dict[Key, FloatArray],
    rows: _Rows,
    grouped: tuple[StrArray, ...],
    leaf: IntArray,
    usual: FloatArray,
    above: Key,
    index: IntArray,
    depth: int,
) -> None:
    """Adds the groups below `above`, whose rows are `index`, to `found`."""
    if depth == len(grouped):
        return
    names, position = np.unique(grouped[depth][rows.example[index]], return_inverse=True)
    for number, name in enumerate(names):
        mine = index[position == number]
        key = tuple(str(name).split("\n"))
        # The same rows again would only weaken the prior.
        found[key] = (
            found[above] if len(names) == 1 else _solved(rows.take(mine), leaf, found[above], usual, FREEDOM[depth])
        )
        _descend(found, rows, grouped, leaf, usual, key, mine, depth + 1)


def _equations(examples: Examples, values: FloatArray) -> _Rows:
    prefill_j, total_j = examples.prefill_j, examples.total_j
    known = np.flatnonzero(~np.isnan(prefill_j))
    unknown = np.flatnonzero(np.isnan(prefill_j))
    of_prefill, of_decode = values.copy(), values.copy()
    of_prefill[:, N_PREFILL:] = 0
    of_decode[:, :N_PREFILL] = 0
    left = np.concatenate(
        (
            of_prefill[known] / prefill_j[known, None],
            of_decode[known] / total_j[known, None],
            values[unknown] / total_j[unknown, None],
        )
    )
    right = np.concatenate((np.ones(len(known)), 1 - prefill_j[known] / total_j[known], np.ones(len(unknown))))
    example = np.concatenate((known, known, unknown))
    kind = np.repeat([0, 1, 2], [len(known), len(known), len(unknown)])
    return _Rows(left, right, _weights(examples, kind, example), example, np.array(ERRORS)[kind])


def _weights(examples: Examples, kind: IntArray, example: IntArray) -> FloatArray:
    """Rows of one cell count as one, and those of one deployment as at most `MOST_CELLS`."""
    c = examples.configurations.take(example)
    deployment = np.unique(levels(c)[-1], return_inverse=True)[1]
    prompt, generated = c.prompt_tokens // CELL_TOKENS, c.generated_tokens // CELL_TOKENS
    cells = np.stack([kind, deployment, c.batch_size, prompt, np.where(kind > 0, generated, 0)], axis=1)
    cell = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    weight = 1 / np.bincount(cell)[cell]
    group = np.unique(np.stack([kind, deployment], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    found: FloatArray = weight * np.minimum(1, MOST_CELLS / np.bincount(group, weights=weight)[group])
    return found


def _halves(factors: FloatArray, scale: FloatArray) -> FloatArray:
    """`factors` with those of prefill and decode multiplied by the two of `scale`."""
    return factors * np.repeat(scale, _SIZES)


def _first_scale(rows: _Rows) -> FloatArray:
    """(terms,) what the usual factors are multiplied by to fit on the whole: prefill and decode apart, if possible."""
    alike = np.zeros(len(rows.right), np.int64)
    return _halves(np.ones(len(TERMS)), np.exp(_log_scales(rows, alike, USUAL, 0.0)[0]))


def _log_scales(rows: _Rows, group: IntArray, factors: FloatArray, prior: float) -> FloatArray:
    """(groups, 2) logarithms of what prefill's and decode's share of the sum are too small by.

    One for both in groups whose rows are all mixed.

    Args:
        group: (rows,) 0 to groups - 1.
        prior: weight of rows that are right, in each group.
    """
    groups = int(group.max()) + 1
    prefill = rows.left[:, :N_PREFILL] @ factors[:N_PREFILL]
    decode = rows.left[:, N_PREFILL:] @ factors[N_PREFILL:]
    any_work = prefill + decode > 0
    kinds = ((decode == 0) & (prefill > 0), (prefill == 0) & (decode > 0) & (rows.right > 0))
    mixed = (np.bincount(group, weights=kinds[0] | kinds[1], minlength=groups) == 0)[group]
    found = np.zeros((groups, 2))
    for half, kind in enumerate(kinds):
        mask = np.where(mixed, any_work, kind)
        ratio = np.log(rows.right[mask] / (prefill + decode)[mask])
        # A decode far shorter than the prefill says little: its equation is relative to the total.
        weight = rows.weight[mask] * rows.right[mask] ** 2
        summed = np.bincount(group[mask], weights=weight, minlength=groups)
        shrunk = np.divide(summed, summed + prior, out=np.zeros(groups), where=summed > 0)
        found[:, half] = _weighted_medians(ratio, weight, group[mask], groups) * shrunk
    return found


def _weighted_medians(values: FloatArray, weight: FloatArray, group: IntArray, groups: int) -> FloatArray:
    """(groups,) of the values of each; 0 for one without any."""
    order = np.lexsort((values, group))
    ends = np.cumsum(np.bincount(group, minlength=groups))
    starts = np.concatenate(([0], ends[:-1]))
    summed = np.concatenate(([0.0], np.cumsum(weight[order])))
    position = np.searchsorted(summed[1:], (summed[starts] + summed[ends]) / 2)
    some = ends > starts
    found = np.zeros(groups)
    found[some] = values[order[np.clip(position[some], starts[some], ends[some] - 1)]]
    return found


def _solved(rows: _Rows, leaf: IntArray, above: FloatArray, usual: FloatArray, freedom: float) -> FloatArray:
    """(terms,) factors of a group: the scale is its own, all else is drawn towards the factors `above`.

    Deployments of the group have scales of their own while what they share is found, so that those differences, which
    no term explains, do not bend the factors; the group's factors have their mean scale.
    """
    scale = np.exp(_log_scales(rows, np.zeros(len(rows.right), np.int64), above, _SCALE_PRIOR)[0])
    prior = _halves(above, scale)
    belief, believed = _beliefs(prior, _halves(usual, scale), freedom)
    deployments, position = np.unique(leaf[rows.example], return_inverse=True)
    factors, weight, left = prior, rows.weight, rows.left
    for _ in range(_ROUNDS):
        if len(deployments) > 1:
            own = _log_scales(rows, position, factors, _SCALE_PRIOR)
            own = np.exp(own - own.mean(axis=0))
            left = rows.left * np.repeat(own[position], _SIZES, axis=1)
        root = np.sqrt(weight) / rows.error
        equations = np.concatenate((left * root[:, None], belief))
        factors = _non_negative(equations, np.concatenate((rows.right * root, believed)), prior)
        # Huber weights: a few examples are far off, and not because of the factors.
        error = np.abs(left @ factors - rows.right)
        before, weight = weight, rows.weight * np.minimum(1, 2 * rows.error / np.maximum(error, 1e-12))
        if len(deployments) == 1 and np.array_equal(before, weight):
            break
    return factors


def _beliefs(prior: FloatArray, usual: FloatArray, freedom: float) -> tuple[FloatArray, FloatArray]:
    """Left and right sides of the equations that draw factors to `prior`, each in units of its standard deviation."""
    spread = freedom * SPREAD * np.maximum(prior, _LEAST_FACTOR * usual)
    belief, believed = np.diag(1 / spread), prior / spread
    # Attention is believed to be in proportion to the prefill's other work, however much of that there is: short
    # prompts tell the two apart by tiles and waves more than by the square of the length.
    ratio = USUAL[ATTENTION] / USUAL[WORK].sum()
    size = SPREAD[ATTENTION] * max(ratio * prior[WORK].sum(), _LEAST_FACTOR * usual[ATTENTION])
    belief[ATTENTION, WORK] = -ratio / size
    belief[ATTENTION, ATTENTION] = 1 / size
    believed[ATTENTION] = 0
    return belief, believed


def _non_negative(left: FloatArray, right: FloatArray, size: FloatArray) -> FloatArray:
    """(terms,) x >= 0 with the least squares of `left` x - `right`; `size` is about what x may be."""
    size = np.maximum(size, 1e-6 * size.max())
    # The same minimum from a small square system: the solver's time grows with the number of rows.
    triangle = np.asarray(np.linalg.qr(np.column_stack((left * size, right)), mode="r"))
    found: FloatArray = nnls(triangle[:, :-1], triangle[:, -1])[0] * size
    return found


class WhiteBox:
    """Physical terms with fitted factors, and nothing else."""

    name = "white box"

    def __init__(self) -> None:
        self._factors: Factors | None = None

    def fit(self, examples: Examples, seed: int) -> None:
        """Nothing in it is random: `seed` is not used."""
        known = examples.take(~np.isnan(examples.total_j))
        self._factors = fit_factors(known, terms(Physics.of(known.configurations)))

    def predict(self, configurations: Configurations) -> Prediction:
        """Raises ValueError before `fit`."""
        if self._factors is None:
            raise ValueError("not fitted")
        parts = estimates(self._factors, Physics.of(configurations))
        return Prediction.without_interval(parts.sum(axis=1), parts[:, 0])


def estimates(factors: Factors, physics: Physics) -> FloatArray:
    """(n, 2) energy of prefill and of decode."""
    each = terms(physics) * factors.nearest(physics.configurations)
    return np.stack([each[:, :N_PREFILL].sum(axis=1), each[:, N_PREFILL:].sum(axis=1)], axis=1)
