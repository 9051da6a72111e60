"""The graph of the LLMCO2 paper: kernels are its nodes, what one computes of another's result its edges.

It is the same for all configurations, so that many graphs are one dense array: with one GPU to a stage the all-reduces
have zero features, with one stage the transfer has. A layer stands for all layers, because they are alike; embedding,
output head and the transfer between stages are nodes of their own. Prefill and decode have node features apart.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.points import FloatArray, IntArray
from harness_analysis.configurations import Configurations
from harness_analysis.features import PHASES, KernelFeatures, Totals, kernel_features, roofline_j, roofline_s, totals
from harness_analysis.kernels import KERNELS, PhaseFeatures

NODES = KERNELS
_INPUTS: dict[str, tuple[str, ...]] = {
    "attn_norm": ("embedding",),
    "q_proj": ("attn_norm",),
    "k_proj": ("attn_norm",),
    "v_proj": ("attn_norm",),
    "qk_matmul": ("q_proj", "k_proj"),
    "softmax": ("qk_matmul",),
    "sv_matmul": ("softmax", "v_proj"),
    "out_proj": ("sv_matmul",),
    "attn_all_reduce": ("out_proj",),
    "attn_add": ("attn_all_reduce", "embedding"),
    "mlp_norm": ("attn_add",),
    "gate_proj": ("mlp_norm",),
    "up_proj": ("mlp_norm",),
    "mlp_act": ("gate_proj", "up_proj"),
    "down_proj": ("mlp_act",),
    "mlp_all_reduce": ("down_proj",),
    "mlp_add": ("mlp_all_reduce", "attn_add"),
    "send_recv": ("mlp_add",),
    "lm_head": ("send_recv",),
}
EDGES: IntArray = np.array(
    [(NODES.index(source), NODES.index(kernel)) for kernel, inputs in _INPUTS.items() for source in inputs], np.int64
).T
"""(2, edges) positions in `NODES`: from, to. Along the data only; who wants both ways adds `EDGES[::-1]`."""
_KINDS = (
    ("embedding",),
    ("attn_norm", "mlp_norm"),
    ("q_proj",),
    ("k_proj", "v_proj"),
    ("qk_matmul",),
    ("softmax",),
    ("sv_matmul",),
    ("out_proj",),
    ("attn_all_reduce", "mlp_all_reduce"),
    ("attn_add", "mlp_add"),
    ("gate_proj", "up_proj"),
    ("mlp_act",),
    ("down_proj",),
    ("send_recv",),
    ("lm_head",),
)
KERNEL_TYPES: npt.NDArray[np.float32] = np.array([[node in kinds for kinds in _KINDS] for node in NODES], np.float32)
"""(nodes, types) one-hot: the same for all configurations, so it is no part of `node_features`."""
NODE_FEATURES = (
    "rows", "inner", "columns", "operations", "weight_bytes", "activation_bytes", "kv_bytes", "network_bytes",
    "paper_network_bytes", "time_s", "performance_flops", "executions",
)  # fmt: skip
_MEMORY = ("weight_bytes", "activation_bytes", "kv_bytes")
_SMALLEST_S = 1e-9
"""Times are counted in nanoseconds before their logarithm is taken; all other features are at least 1, or 0."""
GLOBAL_FEATURES = (
    "bits", "tp", "pp", "batch_size", "prompt_tokens", "generated_tokens", "prompt_chunks",
    "hidden_size", "intermediate_size", "layers", "heads", "kv_heads", "vocab_size",
    "peak_flops", "memory_bandwidth_bytes_per_s", "link_bandwidth_bytes_per_s", "idle_w", "tdp_w",
    "prefill_operations", "decode_operations", "prefill_bytes", "decode_bytes", "prefill_network_bytes",
    "decode_network_bytes", "prefill_kernels", "decode_kernels", "prefill_time_s", "decode_time_s",
    "prefill_energy_j", "decode_energy_j",
)  # fmt: skip
"""Of the configuration as a whole: `prompt_chunks` are the passes that the engine's token budget divides the prompts
into; totals are those of `features.totals`, time and energy the roofline's (the time in nanoseconds)."""


@dataclass(frozen=True, slots=True, eq=False)
class NodeFeatures:
    """Of both phases, each (n, nodes, features) in the order of `NODES` and `NODE_FEATURES`."""

    prefill: npt.NDArray[np.float32]
    decode: npt.NDArray[np.float32]


def node_features(c: Configurations, features: KernelFeatures | None = None) -> NodeFeatures:
    """What each node of each graph knows, as log(1 + x): a kernel's bytes span nine powers of ten.

    Zero means nothing: no such kernel here. They are not standardised: that belongs to the training data.

    Args:
        features: those of `c`, if they are at hand. Their raw values are what the paper's code divides by the maximum.
    """
    features = features or kernel_features(c)
    return NodeFeatures(_logarithms(features.prefill), _logarithms(features.decode))


def global_features(c: Configurations, summed: Totals | None = None) -> npt.NDArray[np.float32]:
    """(n, features) what belongs to no node, as log(1 + x), in the order of `GLOBAL_FEATURES`.

    Args:
        summed: totals of `c`, if they are at hand.
    """
    summed = summed or totals(c)
    chunks = np.maximum(np.ceil(c.batch_size * c.prompt_tokens / c.token_budget), 1)
    columns: list[FloatArray] = [
        c.bits, c.tp, c.pp, c.batch_size, c.prompt_tokens, c.generated_tokens, chunks,
        *c.shape_values("hidden_size", "intermediate_size", "layers", "heads", "kv_heads", "vocab_size"),
        *c.gpu_values(*GLOBAL_FEATURES[13:18]),
        *(summed.of("operations", phase) for phase in PHASES),
        *(np.sum([summed.of(total, phase) for total in _MEMORY], axis=0) for phase in PHASES),
        *(summed.of("network_bytes", phase) for phase in PHASES),
        *(summed.of("kernels", phase) for phase in PHASES),
        *(roofline_s(c, summed) / _SMALLEST_S).T,
        *roofline_j(c, summed).T,
    ]  # fmt: skip
    return np.log1p(np.stack(columns, axis=1)).astype(np.float32)


def _logarithms(phase: PhaseFeatures) -> npt.NDArray[np.float32]:
    raw = np.stack([phase.of(name) / (_SMALLEST_S if name == "time_s" else 1) for name in NODE_FEATURES], axis=2)
    return np.log1p(raw).astype(np.float32)
