"""What energy is a sum of: physical terms of each phase, each in joules at data-sheet rates and full power.

A term is a time (operations over the peak rate, bytes over a bandwidth, or a count times a round figure) times the TDP
of the GPUs that it keeps: all that the job holds for waiting and overheads, those of one stage for work. Fitted factors
say how far reality is from the data sheet; `USUAL` is where they are looked for before any data are seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.points import FloatArray
from harness_analysis.baselines.tiles import TILES, fills
from harness_analysis.configurations import Configurations
from harness_analysis.features import KernelFeatures, Phase, PhaseFeatures, Totals, kernel_features, totals
from harness_analysis.kernels import ALL_REDUCES, KERNELS

PREFILL_TERMS = ("launches", "path", "work", "tiles_128", "tiles_256", "attention", "network")
DECODE_TERMS = (
    "launches", "host", "sequences", "path", "products", "weights", "activations", "kv_cache", "network", "reduces",
)  # fmt: skip
TERMS = (*(f"prefill_{name}" for name in PREFILL_TERMS), *(f"decode_{name}" for name in DECODE_TERMS))
"""Columns of `terms`:

launches: kernels, all-reduces and transfers started, 5 us each; a prefill starts them again for each part that the
token budget divides it into. host: passes, 1 ms each. sequences: in a decode step, 10 us each. reduces: all-reduces,
10 us each. All these hold every GPU.
path: roofline time of all kernels one after the other, of every GPU: what is drawn whatever is done.
work: the same of the GPUs of one stage, without attention and transfers.
products, attention, weights, activations, kv_cache, network: work, by what bounds it.
tiles_128, tiles_256: products in whole tiles and waves (`tiles`), or their memory time if that is longer.
"""
USUAL: FloatArray = np.array([1.0, 0.5, 0.3, 0.3, 0.3, 3.6, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0])
"""Factors before any data. Attention's is four times that of products per operation (counted over the causal half):
a judgement, that its kernels compute most of the masked half too and reach about half of the rate of a large product.
Data of short prompts hardly change it; energies of much longer ones hang on it."""
SPREAD: FloatArray = np.array([1.0] * 5 + [0.25] + [1.0] + [1.0] * 10)
"""How far a factor may be from the usual one, as a share of it (one standard deviation)."""
N_PREFILL = len(PREFILL_TERMS)
ATTENTION = TERMS.index("prefill_attention")
WORK = [TERMS.index(f"prefill_{name}") for name in ("work", "tiles_128", "tiles_256")]
_PRODUCTS = ("q_proj", "k_proj", "v_proj", "out_proj", "gate_proj", "up_proj", "down_proj")
_ATTENTION = ("qk_matmul", "softmax", "sv_matmul")
_LAUNCH_S, _PASS_S, _SEQUENCE_S, _REDUCE_S = 5e-6, 1e-3, 1e-5, 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class Physics:
    """Features of n configurations, computed once: prompts longer than the model's context are cut to it."""

    configurations: Configurations
    features: KernelFeatures
    totals: Totals

    @staticmethod
    def of(c: Configurations) -> "Physics":
        (context,) = c.shape_values("max_context_tokens")
        cut = replace(c, prompt_tokens=np.minimum(c.prompt_tokens, context))
        features = kernel_features(cut)
        return Physics(cut, features, totals(cut, features))


def terms(physics: Physics) -> FloatArray:
    """(n, len(TERMS)) of each configuration's batch, on all its GPUs together."""
    c, found = physics.configurations, physics.totals
    peak, bandwidth, link, tdp_w = c.gpu_values(
        "peak_flops", "memory_bandwidth_bytes_per_s", "link_bandwidth_bytes_per_s", "tdp_w"
    )
    every_w = c.n_gpus * tdp_w
    columns: dict[str, FloatArray] = {}
    phases: tuple[Phase, ...] = ("prefill", "decode")
    for phase in phases:
        kernels = physics.features.phase(phase)
        started = sum(found.of(name, phase) for name in ("kernels", "all_reduces", "transfers"))
        parts = np.maximum(np.ceil(c.batch_size * c.prompt_tokens / c.token_budget), 1) if phase == "prefill" else 1.0
        products = _operations(kernels, (*_PRODUCTS, "lm_head")) * c.tp
        columns |= {
            f"{phase}_launches": started * parts * _LAUNCH_S * every_w,
            f"{phase}_host": found.of("passes", phase) * _PASS_S * every_w,
            f"{phase}_sequences": found.of("tokens", phase) * _SEQUENCE_S * every_w,
            f"{phase}_reduces": found.of("all_reduces", phase) * _REDUCE_S * every_w,
            f"{phase}_path": found.of("time_s", phase) * every_w,
            f"{phase}_work": _apart_from_attention_s(kernels) * c.tp * tdp_w,
            f"{phase}_products": products / peak * tdp_w,
            f"{phase}_attention": _operations(kernels, _ATTENTION) * c.tp / peak * tdp_w,
            f"{phase}_weights": found.of("weight_bytes", phase) / bandwidth * tdp_w,
            f"{phase}_activations": found.of("activation_bytes", phase) / bandwidth * tdp_w,
            f"{phase}_kv_cache": found.of("kv_bytes", phase) / bandwidth * tdp_w,
            f"{phase}_network": found.of("network_bytes", phase) / link * tdp_w,
        }
    in_tiles = _in_tiles_s(c, physics.features.prefill, peak, bandwidth) * (c.tp * tdp_w)[:, None]
    columns |= {"prefill_tiles_128": in_tiles[:, 0], "prefill_tiles_256": in_tiles[:, 1]}
    return np.stack([columns[name] for name in TERMS], axis=1)


def _operations(kernels: PhaseFeatures, names: tuple[str, ...]) -> FloatArray:
    """(n,) of these kernels, over all executions, on one GPU of a stage."""
    return _over_executions(kernels, names, "operations")


def _apart_from_attention_s(kernels: PhaseFeatures) -> FloatArray:
    """(n,) roofline time of all other kernels, but for transfers."""
    others = [name for name in KERNELS if name not in (*_ATTENTION, *ALL_REDUCES, "send_recv")]
    return _over_executions(kernels, others, "time_s")


def _over_executions(kernels: PhaseFeatures, names: Sequence[str], feature: str) -> FloatArray:
    each = [kernels.kernel(name, feature) * kernels.kernel(name, "executions") for name in names]
    summed: FloatArray = np.sum(each, axis=0)
    return summed


def _in_tiles_s(c: Configurations, kernels: PhaseFeatures, peak: FloatArray, bandwidth: FloatArray) -> FloatArray:
    """(n, tiles) time of a layer's products, over all layers, in whole tiles and waves."""
    filled = fills(c.gpu, kernels)
    time_s = np.zeros((len(c), len(TILES)))
    for name in _PRODUCTS:
        compute_s = (kernels.kernel(name, "operations") / peak)[:, None] / filled[name]
        memory_s = (kernels.kernel(name, "weight_bytes") + kernels.kernel(name, "activation_bytes")) / bandwidth
        time_s += np.maximum(compute_s, memory_s[:, None]) * kernels.kernel(name, "executions")[:, None]
    return time_s
