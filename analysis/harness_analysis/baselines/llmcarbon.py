"""LLMCarbon's equation (Faiz et al., ICLR 2024, arXiv 2309.14393): operations over an achieved rate, times power."""

import numpy as np

from harness.points import FloatArray
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples
from harness_analysis.predictor import Prediction

OPERATIONS_PER_PARAMETER = 2
"""Of an inferred token (its equation for inference; training takes 6)."""
EFFICIENCY = 0.5
"""Share of the peak rate: a round figure. The paper fits it for training at the best parallelism; in inference it
depends on batch and lengths, which the equation does not know."""


class LlmCarbon:
    """Energy = operations / (efficiency x peak) x TDP, in joules as it stands.

    Args:
        fitted: multiply by one factor so that the median of the examples is right. Without it nothing is learnt; labels
            that are no joules need it.
    """

    def __init__(self, fitted: bool = True) -> None:
        self.name = "LLMCarbon (one factor)" if fitted else "LLMCarbon"
        self.fitted = fitted
        self._factor = 1.0

    def fit(self, examples: Examples, seed: int) -> None:
        """Nothing in it is random: `seed` is not used."""
        known = examples.take(~np.isnan(examples.total_j))
        equation_j = equation(known.configurations).sum(axis=1)
        self._factor = float(np.median(known.total_j / equation_j)) if self.fitted else 1.0

    def predict(self, configurations: Configurations) -> Prediction:
        energies = self._factor * equation(configurations)
        return Prediction.without_interval(energies.sum(axis=1), energies[:, 0])


def equation(c: Configurations) -> FloatArray:
    """(n, 2) joules of prompt tokens and of generated tokens."""
    peak, tdp_w = c.gpu_values("peak_flops", "tdp_w")
    names, position = np.unique(c.model, return_inverse=True)
    parameters = np.array([float(c.shapes[str(name)].parameters) for name in names])[position]
    token_j = OPERATIONS_PER_PARAMETER * parameters / (EFFICIENCY * peak) * tdp_w
    tokens = np.stack([c.batch_size * c.prompt_tokens, c.batch_size * (c.generated_tokens - 1)], axis=1)
    energies: FloatArray = tokens * token_j[:, None]
    return energies
