"""Sums over kernels in the style of nn-Meter (Zhang et al., MobiSys 2021): each kernel on its own, then added.

nn-Meter fits a model for each kind of kernel to measured kernels. Nobody measured kernels here, so the parts are fitted
to their sum: each kernel's energy is a non-negative combination of its executions, operations, bytes and transfers.
"""

import numpy as np
from scipy.optimize import nnls

from harness.points import FloatArray
from harness_analysis.baselines.terms import Physics
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples
from harness_analysis.features import PhaseFeatures
from harness_analysis.predictor import Prediction

_WORK = ("operations", "weight_bytes", "activation_bytes", "kv_bytes", "network_bytes")


class KernelSums:
    """Non-negative linear energy of each kernel and phase, at data-sheet rates; relative least squares."""

    name = "nn-Meter (sum over kernels)"

    def __init__(self) -> None:
        self._factors: FloatArray | None = None

    def fit(self, examples: Examples, seed: int) -> None:
        """Needs totals only. Nothing in it is random: `seed` is not used."""
        known = examples.take(~np.isnan(examples.total_j))
        shares = np.concatenate(_parts(known.configurations), axis=1) / known.total_j[:, None]
        # Columns of one size: the solver's tolerance is absolute.
        size = np.maximum(shares.max(axis=0), 1e-300)
        self._factors = nnls(shares / size, np.ones(len(known)), maxiter=100 * shares.shape[1])[0] / size

    def predict(self, configurations: Configurations) -> Prediction:
        """Raises ValueError before `fit`."""
        if self._factors is None:
            raise ValueError("not fitted")
        prefill, decode = _parts(configurations)
        prefill_j = prefill @ self._factors[: prefill.shape[1]]
        total_j = prefill_j + decode @ self._factors[prefill.shape[1] :]
        smallest = np.finfo(np.float64).tiny
        return Prediction.without_interval(np.maximum(total_j, smallest), np.maximum(prefill_j, smallest))


def _parts(c: Configurations) -> tuple[FloatArray, FloatArray]:
    """Prefill and decode, each (n, kernels x work): joules at full power, of all GPUs."""
    physics = Physics.of(c)
    cut = physics.configurations
    peak, bandwidth, link, tdp_w = cut.gpu_values(
        "peak_flops", "memory_bandwidth_bytes_per_s", "link_bandwidth_bytes_per_s", "tdp_w"
    )
    rates = (peak, bandwidth, bandwidth, bandwidth, link)

    def of(phase: PhaseFeatures) -> FloatArray:
        executed = phase.of("executions") * (cut.tp * tdp_w)[:, None]
        work = [phase.of(name) * executed / rate[:, None] for name, rate in zip(_WORK, rates, strict=True)]
        return np.concatenate([executed, *work], axis=1)

    return of(physics.features.prefill), of(physics.features.decode)
