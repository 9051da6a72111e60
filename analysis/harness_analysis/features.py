"""Physical features of configurations: per kernel, summed, and as a crude estimate of time and energy.

What a kernel's features are, and the sources of the formulas: `kernels`. What depends on the phase is here.

The first generated token comes from the prefill, a single pass over all prompts, whatever the engine's token budget:
it computes the output head for the last position of each sequence only. Decoding takes g - 1 steps, the k-th over
prompt + k keys: prompt + g / 2 on average, and its features are those of that average step. Left out: the last norm,
sampling, rotary positions, the all-reduce behind the embedding, bubbles of pipelines that overlap.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.points import FloatArray
from harness_analysis.configurations import Configurations
from harness_analysis.kernels import ALL_REDUCES, FEATURES, KERNELS, Pass, PhaseFeatures, phase_features

__all__ = [
    "ALL_REDUCES", "FEATURES", "KERNELS", "PHASES", "TOTALS", "KernelFeatures", "Phase", "PhaseFeatures", "Totals",
    "kernel_features", "roofline_j", "roofline_s", "totals",
]  # fmt: skip
Phase = Literal["prefill", "decode"]
PHASES: tuple[Phase, Phase] = ("prefill", "decode")
_ACTIVE_POWER = 0.2
"""Share of the range between idle and TDP that a GPU draws whenever there is work."""


@dataclass(frozen=True, slots=True, eq=False)
class KernelFeatures:
    """Features of n configurations, prefill and decode apart; without decode steps all of decode's are zero."""

    prefill: PhaseFeatures
    decode: PhaseFeatures

    def phase(self, name: Phase) -> PhaseFeatures:
        return self.prefill if name == "prefill" else self.decode


def kernel_features(c: Configurations, eager: bool = False) -> KernelFeatures:
    """Features of every kernel.

    Args:
        eager: attention as separate products over all pairs, instead of fused and causal.
    """
    prompt, generated = c.prompt_tokens, c.generated_tokens
    ones = np.ones(len(c))
    causal = prompt * (prompt + 1) / 2
    prefill = Pass(c.batch_size * prompt, c.batch_size, prompt * prompt if eager else causal, prompt, ones)
    context = prompt + generated / 2
    decode = Pass(c.batch_size, c.batch_size, context, context, generated - 1)
    return KernelFeatures(phase_features(c, prefill, eager), phase_features(c, decode, eager))


TOTALS = (
    "operations", "weight_bytes", "activation_bytes", "kv_bytes", "network_bytes", "paper_network_bytes",
    "time_s", "busy_s", "passes", "kernels", "all_reduces", "transfers", "tokens",
)  # fmt: skip
"""Per batch and phase:

operations ... paper_network_bytes: on all GPUs together.
time_s, busy_s: on the path of the batch, by the roofline.
passes: through the model. kernels, all_reduces, transfers: executions on the path, which cost time of their own.
tokens: that enter the passes, over all sequences.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """`values` is (n, phases, totals), in the order of `PHASES` and `TOTALS`."""

    values: FloatArray

    def of(self, total: str, phase: Phase | None = None) -> FloatArray:
        """(n,) one total of one phase, or of both together."""
        column = self.values[:, :, TOTALS.index(total)]
        summed: FloatArray = column.sum(axis=1) if phase is None else column[:, PHASES.index(phase)]
        return summed


def totals(c: Configurations, features: KernelFeatures | None = None) -> Totals:
    """Physical features summed over kernels; `features` are those of `c`, if they are at hand."""
    features = features or kernel_features(c)
    values = np.empty((len(c), len(PHASES), len(TOTALS)))
    for number, name in enumerate(PHASES):
        phase = features.phase(name)
        for column, total in enumerate(TOTALS[:6]):
            values[:, number, column] = phase.summed(total) * c.tp
        executions = phase.of("executions")
        passes = phase.kernel("lm_head", "executions")
        reduces = executions[:, [KERNELS.index(kernel) for kernel in ALL_REDUCES]].sum(axis=1)
        transfers = phase.kernel("send_recv", "executions")
        tokens = phase.kernel("embedding", "rows") * passes
        paths = (phase.summed("time_s"), phase.summed("busy_s"))
        computed = executions.sum(axis=1) - reduces - transfers
        for column, path in enumerate((*paths, passes, computed, reduces, transfers, tokens), 6):
            values[:, number, column] = path
    return Totals(values)


def roofline_s(c: Configurations, of: Totals | None = None) -> FloatArray:
    """(n, phases) time of a batch if every kernel ran at its roofline, one after the other, and nothing else took time.

    A lower bound, but for prompts in chunks that several pipeline stages compute at once: kernels as measured
    (aiconfigurator 0.12.0, batch 1, prompt 1024) take 1.2 to 2.1 times as long, and engines add host time to each pass,
    which counts most for small models in small batches.
    """
    return (of or totals(c)).values[:, :, TOTALS.index("time_s")]


def roofline_j(c: Configurations, of: Totals | None = None) -> FloatArray:
    """(n, phases) energy of all GPUs in the time of `roofline_s`: crude, but growing with every operation and byte.

    Each GPU draws its idle power and a fifth of the range up to its TDP throughout; the rest of the range in proportion
    to what it does, where computing at the peak rate counts 1, memory at its full bandwidth 0.5, links 0.2, and all
    together at most 1. Round numbers, not fitted: a model that learns the ratio to it corrects them. Stages of
    a pipeline that wait draw no less here than their idle power and that fifth.
    """
    summed = of or totals(c)
    time_s = summed.values[:, :, TOTALS.index("time_s")]
    busy_s = summed.values[:, :, TOTALS.index("busy_s")]
    idle_w, tdp_w = c.gpu_values("idle_w", "tdp_w")
    range_w = tdp_w - idle_w
    always_w = c.n_gpus * (idle_w + _ACTIVE_POWER * range_w)
    busy_w = c.tp * (1 - _ACTIVE_POWER) * range_w
    energy_j: FloatArray = always_w[:, None] * time_s + busy_w[:, None] * busy_s
    return energy_j
