"""Energy against generated length: a second way to the energy of decoding."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from harness.points import FloatArray
from harness.statistics.estimates import Estimate


@dataclass(frozen=True, slots=True, eq=False)
class LengthFit:
    """E = a + b g (+ c g^2): energy of a batch against generated tokens g.

    Attributes:
        parameters: (2,) or (3,) a, b (and c), J per batch and token.
        covariance: of the parameters.
        df: points less parameters.
        chi2: weighted sum of squared residuals; over df where the model or the errors do not fit.
    """

    parameters: FloatArray
    covariance: FloatArray
    df: int
    chi2: float

    def between(self, first: float, last: float) -> Estimate:
        """Energy of generating from `first` to `last` tokens by the fit: what decoding takes, first = 1."""
        powers = np.arange(len(self.parameters))
        step = float(last) ** powers - float(first) ** powers
        return Estimate(float(step @ self.parameters), float(step @ self.covariance @ step), self.df)


def fit_lengths(generated: ArrayLike, energy_j: ArrayLike, sd_j: ArrayLike, growing_context: bool = False) -> LengthFit:
    """Weighted least squares over batches of several generated lengths, alike otherwise.

    To check the difference method leave out its own points (one generated token), else both share errors.
    Where the scatter is over the stated errors, the covariance is widened by chi2 / df, never narrowed.

    Args:
        generated, energy_j, sd_j: (n,) generated tokens, mean energies, standard errors of those means (> 0).
        growing_context: fit the quadratic term, of attention over a context that grows.

    Raises:
        ValueError: fewer different lengths than parameters.
    """
    g, y, sd = (np.asarray(item, np.float64) for item in (generated, energy_j, sd_j))
    terms = 3 if growing_context else 2
    if len(np.unique(g)) < terms:
        raise ValueError(f"{terms} parameters need as many different generated lengths, not {len(np.unique(g))}")
    scale = float(g.max())  # keeps the columns alike in size
    design = np.vander(g / scale, terms, increasing=True) / sd[:, None]
    inverse = np.linalg.inv(design.T @ design)
    parameters = inverse @ design.T @ (y / sd)
    chi2, df = float(((y / sd - design @ parameters) ** 2).sum()), len(g) - terms
    unscaled = scale ** -np.arange(terms, dtype=np.float64)
    covariance = inverse * np.outer(unscaled, unscaled) * max(1.0, chi2 / df if df else 1.0)
    return LengthFit(parameters * unscaled, covariance, df, chi2)
