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
    "stalls",
)  # fmt: skip
TERMS = (*(f"prefill_{name}" for name in PREFILL_TERMS), *(f"decode_{name}" for name in DECODE_TERMS))
"""Columns of `terms`:

launches: kernels, all-reduces and transfers started, 5 us each; a prefill starts them again for each part that the
token budget divides it into. host: passes, 1 ms each. sequences: in a decode step, 10 us each. reduces: all-reduces,
10 us each. All these hold every GPU.
stalls: the part of the prefill's path that a prefill alone saves because its parts overlap in the stages of a pipeline,
and a whole batch does not, because the first prompts decode by then. It holds every GPU too.
path: roofline time of all kernels one after the other, of every GPU: what is drawn whatever is done.
work: the same of the GPUs of one stage, without attention and transfers.
products, attention, weights, activations, kv_cache, network: work, by what bounds it.
tiles_128, tiles_256: products in whole tiles and waves (`tiles`), or their memory time if that is longer.
"""
USUAL: FloatArray = np.array([1.0, 0.5, 0.3, 0.3, 0.3, 3.6, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 0.5])
"""Factors before any data. Attention's is four times that of products per operation (counted over the causal half):
a judgement, that its kernels compute most of the masked half too and reach about half of the rate of a large product.
Data of short prompts hardly change it; energies of much longer ones hang on it."""
SPREAD: FloatArray = np.array([1.0] * 5 + [0.25] + [1.0] + [1.0] * 11)
"""How far a factor may be from the usual one, as a share of it (one standard deviation)."""
N_PREFILL = len(PREFILL_TERMS)
ATTENTION = TERMS.index("prefill_attention")
WORK = [TERMS.index(f"prefill_{name}") for name in ("work", "tiles_128", "tiles_256")]
_PRODUCTS = ("q_proj", "k_proj", "v_proj", "out_proj", "gate_proj", "up_proj", "down_proj")
_ATTENTION = ("qk_matmul", "softmax", "sv_matmul")
_LAUNCH_S, _PASS_S, _SEQUENCE_S, _REDUCE_S = 5e-6, 1e-3, 1e-5, 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class Physics:
    """Features of n configurations, computed once: prompts longer than the model's context are cut to it.

    Attributes:
        features, totals: of a prefill of all prompts at once, and of the decode of one micro-batch.
        parts: (n,) passes that the token budget divides the prompts into.
        micro_batches: (n,) that decode at the same time, in different stages of a pipeline, and read the weights each
            on its own. Engines keep apart what was prefilled in different passes, up to one for each stage.
    """

    configurations: Configurations
    features: KernelFeatures
    totals: Totals
    parts: FloatArray
    micro_batches: FloatArray

    @staticmethod
    def of(c: Configurations) -> "Physics":
        (context,) = c.shape_values("max_context_tokens")
        cut = replace(c, prompt_tokens=np.minimum(c.prompt_tokens, context))
        parts = np.maximum(np.ceil(c.batch_size * cut.prompt_tokens / c.token_budget), 1)
        micro_batches = np.minimum(np.minimum(c.pp, parts), np.maximum(c.batch_size, 1))
        features = kernel_features(cut)
        if (micro_batches > 1).any():
            one = kernel_features(replace(cut, batch_size=c.batch_size / micro_batches))
            features = KernelFeatures(features.prefill, one.decode)
        return Physics(cut, features, totals(cut, features), parts, micro_batches)

    @property
    def prefill_held(self) -> FloatArray:
        """(n,) share of the prefill's path for which the GPUs are held: parts follow one another through the stages."""
        stages = self.configurations.pp
        return (self.parts + stages - 1) / (self.parts * stages)


def terms(physics: Physics) -> FloatArray:
    """(n, len(TERMS)) of each configuration's batch, on all its GPUs together."""
    c, found = physics.configurations, physics.totals
    peak, bandwidth, link, tdp_w = c.gpu_values(
        "peak_flops", "memory_bandwidth_bytes_per_s", "link_bandwidth_bytes_per_s", "tdp_w"
    )
    columns: dict[str, FloatArray] = {}
    ones = np.ones(len(c))
    phases: tuple[tuple[Phase, FloatArray, FloatArray, FloatArray], ...] = (
        ("prefill", physics.prefill_held, physics.parts, ones),
        ("decode", ones, ones, physics.micro_batches),
    )
    for phase, held, parts, times in phases:
        kernels = physics.features.phase(phase)
        every_w = held * c.n_gpus * tdp_w
        work_w = times * tdp_w
        started = sum(found.of(name, phase) for name in ("kernels", "all_reduces", "transfers"))
        columns |= {
            f"{phase}_launches": started * parts * _LAUNCH_S * every_w,
            f"{phase}_host": found.of("passes", phase) * _PASS_S * every_w,
            f"{phase}_sequences": found.of("tokens", phase) * times * _SEQUENCE_S * every_w,
            f"{phase}_reduces": found.of("all_reduces", phase) * _REDUCE_S * every_w,
            f"{phase}_path": found.of("time_s", phase) * every_w,
            f"{phase}_work": _apart_from_attention_s(kernels) * c.tp * work_w,
            f"{phase}_products": _operations(kernels, (*_PRODUCTS, "lm_head")) * c.tp / peak * work_w,
            f"{phase}_attention": _operations(kernels, _ATTENTION) * c.tp / peak * work_w,
            f"{phase}_weights": found.of("weight_bytes", phase) / bandwidth * work_w,
            f"{phase}_activations": found.of("activation_bytes", phase) / bandwidth * work_w,
            f"{phase}_kv_cache": found.of("kv_bytes", phase) / bandwidth * work_w,
            f"{phase}_network": found.of("network_bytes", phase) / link * work_w,
        }
    decodes = found.of("passes", "decode") > 0
    unheld = decodes * (1 - physics.prefill_held)
    columns["decode_stalls"] = unheld * found.of("time_s", "prefill") * c.n_gpus * tdp_w
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
