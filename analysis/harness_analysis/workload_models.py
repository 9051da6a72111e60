"""Energy and runtime of one request from its lengths: the workload models of "Offline Energy-Optimal LLM Serving".

Wilkins, Keshav and Mortier, arXiv 2407.04014: for each model, a0 x prompt + a1 x generated + a2 x prompt x generated
joules, and the same form for the runtime; no intercept; least squares. They state R^2 > 0.96 for each of seven models.

Their servers had no KV cache: the k-th token costs as much as all of the text before it, prompt + k tokens. Summed over
g tokens that is prompt x g + g^2 / 2: the published form has no term for the second part. Where both lengths are varied
together, as in the runs that the paper fits, it still has that R^2; where outputs alone grow to 4,096, as in the
released rows, it has not.
`squared` has that one term more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.errors import BadInput
from harness.points import FloatArray, IntArray
from harness_analysis.metrics import r_squared

PAPER_GPU = "a100-40gb"
"""The paper's system: a node of SXM4 A100s of 40 GB ("Swing AMD+A100" in the table)."""
PAPER_R_SQUARED = 0.96
"""What the paper says that each model's R^2 exceeds. Its script fits without a constant, and for such fits statsmodels
prints the R^2 about zero."""
FORMS: Mapping[str, tuple[str, ...]] = {
    "published": ("prompt", "generated", "prompt x generated"),
    "squared": ("prompt", "generated", "prompt x generated", "generated^2"),
}
DEFAULT_FORM = "squared"
"""Better in sample and held out, for energy and runtime of each model and GPU of the released rows."""
TARGETS: Mapping[str, str] = {"energy": "energy_j", "runtime": "latency_s"}
"""What is modelled -> the column of the public frame: joules of all GPUs, seconds; both of one request."""
_FOLDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class WorkloadModel:
    """A fitted model: `factors` in the order of `FORMS[form]`, in J or s per token, or per product of two tokens."""

    form: str
    factors: FloatArray

    def predict(self, prompt_tokens: FloatArray, generated_tokens: FloatArray) -> FloatArray:
        """(n,) energy in joules or runtime in seconds of each request."""
        found: FloatArray = _columns(self.form, prompt_tokens, generated_tokens) @ self.factors
        return found


def fit(
    prompt_tokens: FloatArray, generated_tokens: FloatArray, target: FloatArray, form: str = DEFAULT_FORM
) -> WorkloadModel:
    """Ordinary least squares, without an intercept.

    Where the lengths do not tell two terms apart (one prompt length throughout), the smallest factors that fit.

    Raises:
        BadInput: no such form, or fewer different pairs of lengths than factors.
    """
    if form not in FORMS:
        raise BadInput("form", form, ", ".join(FORMS))
    columns = _columns(form, prompt_tokens, generated_tokens)
    # Columns differ by ten orders of magnitude: solved in units of their own length.
    size = np.linalg.norm(columns, axis=0)
    different = len(np.unique(columns, axis=0))
    if different < len(FORMS[form]):
        raise BadInput("lengths", f"{different} different pairs", f"at least {len(FORMS[form])}, one for each term")
    return WorkloadModel(form, np.linalg.lstsq(columns / size, target, rcond=None)[0] / size)


@dataclass(frozen=True, slots=True)
class Fit:
    """How well one model's energy or runtime is described.

    Attributes:
        group: what the rows have in common: model, and where asked also GPU or test.
        r2: share of the variance about the mean that is explained, in sample.
        r2_uncentered: about zero, what regression programs print for a form without intercept; never less than `r2`.
        r2_held_out: of predictions for configurations (pairs of lengths) that were not fitted on, in five folds.
        median_ape_pct: median absolute percentage error, in sample; high where short requests are badly met.
    """

    group: tuple[str, ...]
    form: str
    target: str
    n: int
    r2: float
    r2_uncentered: float
    r2_held_out: float
    median_ape_pct: float

    @property
    def met(self) -> bool:
        """Whether it is as good as the paper says."""
        return self.r2 > PAPER_R_SQUARED


def fits(rows: pd.DataFrame, by: Sequence[str] = ("model",), forms: Sequence[str] = tuple(FORMS)) -> list[Fit]:
    """Every group of `rows` (of `public.wilkins.read`), each form, energy and runtime.

    Args:
        by: columns of the frame; each combination of values that occurs is fitted apart.

    Raises:
        BadInput: no rows, or too few in a group; no such form.
    """
    if rows.empty:
        raise BadInput("rows", "none", "measured requests")
    found = []
    for key, group in rows.groupby(list(by)):
        names = tuple(str(part) for part in (key if isinstance(key, tuple) else (key,)))
        for form in forms:
            found += [_fit_of(names, group, form, target) for target in TARGETS]
    return found


def _fit_of(names: tuple[str, ...], group: pd.DataFrame, form: str, target: str) -> Fit:
    group = group[group[TARGETS[target]].notna()]
    prompt, generated, true = (
        group[column].to_numpy(np.float64) for column in ("prompt_tokens", "generated_tokens", TARGETS[target])
    )
    predicted = fit(prompt, generated, true, form).predict(prompt, generated)
    return Fit(
        names,
        form,
        target,
        len(true),
        r_squared(true, predicted),
        1 - float(((true - predicted) ** 2).sum() / (true**2).sum()),
        r_squared(true, _held_out(prompt, generated, true, form)),
        float(100 * np.median(np.abs(predicted / true - 1))),
    )


def _held_out(prompt: FloatArray, generated: FloatArray, true: FloatArray, form: str) -> FloatArray:
    """(n,) predictions by models that saw no request of the same lengths."""
    pairs: IntArray = np.unique(np.stack([prompt, generated], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    order = np.random.default_rng(0).permutation(pairs.max() + 1)
    fold = order[pairs] % _FOLDS
    predicted = np.empty_like(true)
    for number in range(_FOLDS):
        out = fold == number
        model = fit(prompt[~out], generated[~out], true[~out], form)
        predicted[out] = model.predict(prompt[out], generated[out])
    return predicted


def _columns(form: str, prompt: FloatArray, generated: FloatArray) -> FloatArray:
    terms = {
        "prompt": prompt,
        "generated": generated,
        "prompt x generated": prompt * generated,
        "generated^2": generated**2,
    }
    return np.stack([terms[name] for name in FORMS[form]], axis=1)
