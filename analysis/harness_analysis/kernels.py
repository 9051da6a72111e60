"""What each kernel has to do, from first principles: operations, bytes, transfers, roofline time.

A layer is 15 kernels and two all-reduces; embedding, output head and the transfer between pipeline stages stand for
themselves. Each has, for one pass through the model, the features of *one execution on one GPU* (tensor parallel
shards), and how often it is executed in the phase. The sources of the formulas:

- A product of (rows, inner) by (inner, columns) is 2 x rows x inner x columns operations. It reads its weights
  once (at the model's bits; computation, activations and KV cache are in 16 bits whatever those are).
- Operations per element of norm (7), softmax (5), activation (2) and residual (1): LLM-Viewer (arXiv 2402.16363),
  whose numbers the tests compare with these.
- Attention is fused (FlashAttention, arXiv 2205.14135): scores stay on the chip, and of the prompt's pairs of query and
  key only the causal half, p (p + 1) / 2, is computed. `eager=True` has all p x p, written to memory and read back.
- KV heads are kept more than once where there are fewer of them than tensor parallel GPUs.
- Ring all-reduce among l GPUs: each sends 2 (l - 1) / l of the activation, tokens x hidden x 2 bytes (Patarasuk and
  Yuan, 2009). LLMCO2 (arXiv 2410.02950) has n x n / l x (l - 1) x 2 bytes, of a square matrix: here with n the hidden
  size, whatever the tokens, as `paper_network_bytes`.
- Between stages the hidden state goes over once, tokens x hidden x 2 bytes, in both.
- Roofline: time = max(operations / peak, bytes / bandwidth, transfer / link bandwidth), with data-sheet figures;
  performance = operations / time. No kernel reaches it.
"""

from dataclasses import dataclass

import numpy as np

from harness.points import BITS_PER_BYTE, FloatArray
from harness_analysis.configurations import Configurations

KERNELS = (
    "embedding", "attn_norm", "q_proj", "k_proj", "v_proj", "qk_matmul", "softmax", "sv_matmul", "out_proj",
    "attn_all_reduce", "attn_add", "mlp_norm", "gate_proj", "up_proj", "mlp_act", "down_proj", "mlp_all_reduce",
    "mlp_add", "send_recv", "lm_head",
)  # fmt: skip
ALL_REDUCES = ("attn_all_reduce", "mlp_all_reduce")
FEATURES = (
    "rows", "inner", "columns", "operations", "weight_bytes", "activation_bytes", "kv_bytes", "network_bytes",
    "paper_network_bytes", "time_s", "performance_flops", "busy_s", "executions",
)  # fmt: skip
"""Of one execution on one GPU, but for the last:

rows, inner, columns: dimensions of the product; of attention the queries, the head's width and the keys per query.
operations: additions and multiplications.
weight_bytes, activation_bytes, kv_bytes: read from or written to memory.
network_bytes, paper_network_bytes: sent to other GPUs.
time_s, performance_flops: by the roofline.
busy_s: the part of `time_s` for which the GPU is as good as at full power (see `features.roofline_j`).
executions: in the phase, over all layers, stages and steps of one batch.
"""
_BYTES = 2
"""Of an activation, of an element of the KV cache, and of weights that are not quantised (norms, biases, head)."""
_NORM_OPERATIONS, _SOFTMAX_OPERATIONS, _ACTIVATION_OPERATIONS = 7, 5, 2
_MEMORY_POWER, _NETWORK_POWER = 0.5, 0.2
"""Of the power that computing at the peak rate takes: see `features.roofline_j`."""


@dataclass(frozen=True, slots=True, eq=False)
class PhaseFeatures:
    """Features of one phase: `values` is (n, kernels, features), in the order of `KERNELS` and `FEATURES`."""

    values: FloatArray

    def of(self, feature: str) -> FloatArray:
        """(n, kernels) one feature."""
        return self.values[:, :, FEATURES.index(feature)]

    def kernel(self, kernel: str, feature: str) -> FloatArray:
        """(n,) one feature of one kernel."""
        return self.values[:, KERNELS.index(kernel), FEATURES.index(feature)]

    def summed(self, feature: str) -> FloatArray:
        """(n,) over all executions of all kernels, on one GPU after the other (the path of a batch)."""
        # einsum over strided views needs no array of the products.
        found: FloatArray = np.einsum("nk,nk->n", self.of(feature), self.of("executions"))
        return found


def ring_all_reduce_bytes(tokens: FloatArray, hidden_size: FloatArray, gpus: FloatArray) -> FloatArray:
    """What each of `gpus` sends to sum an activation of (tokens, hidden_size) among them, bytes."""
    sent: FloatArray = 2 * (gpus - 1) / gpus * tokens * hidden_size * _BYTES
    return sent


def paper_all_reduce_bytes(size: FloatArray, gpus: FloatArray) -> FloatArray:
    """The same for a matrix of (size, size) after LLMCO2's formula, bytes."""
    sent: FloatArray = size * size / gpus * (gpus - 1) * _BYTES
    return sent


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """What one pass of a phase holds, each (n,): `pairs` and `keys` are per sequence."""

    tokens: FloatArray
    sequences: FloatArray
    pairs: FloatArray
    keys: FloatArray
    passes: FloatArray


class _Table:
    """Collects (n,) columns and hands them out as (n, kernels, features); what is not put in stays zero."""

    def __init__(self, n: int) -> None:
        # Columns lie together in memory: they are written and read one by one.
        self.columns = np.zeros((len(FEATURES), len(KERNELS), n))

    def put(self, kernel: str, **features: FloatArray) -> None:
        for name, values in features.items():
            self.columns[FEATURES.index(name), KERNELS.index(kernel)] = values

    def row(self, feature: str) -> FloatArray:
        """(kernels, n), to be read or written."""
        row: FloatArray = self.columns[FEATURES.index(feature)]
        return row


def phase_features(c: Configurations, step: Pass, eager: bool) -> PhaseFeatures:
    """Features of the phase that takes `step.passes` of such passes; all zero where that is none."""
    table = _Table(len(c))
    _put_layer(table, c, step, eager)
    _put_once(table, c, step)
    _put_network(table, c, step)
    happens = step.passes > 0
    if not happens.all():
        table.columns *= happens
    _put_roofline(table, c)
    return PhaseFeatures(table.columns.transpose(2, 1, 0))


def _put_layer(table: _Table, c: Configurations, step: Pass, eager: bool) -> None:
    hidden, inner, heads, kv_heads, head_dim, layers, bias = c.shape_values(
        "hidden_size", "intermediate_size", "heads", "kv_heads", "head_dim", "layers", "attention_bias"
    )
    weight = c.bits / BITS_PER_BYTE
    q_size = heads / c.tp * head_dim
    kv_size = np.maximum(kv_heads / c.tp, 1) * head_dim
    inner = inner / c.tp
    executions = layers * step.passes
    products = {
        "q_proj": (hidden, q_size, bias),
        "k_proj": (hidden, kv_size, bias),
        "v_proj": (hidden, kv_size, bias),
        "out_proj": (q_size, hidden, bias),
        "gate_proj": (hidden, inner, 0.0),
        "up_proj": (hidden, inner, 0.0),
        "down_proj": (inner, hidden, 0.0),
    }
    for kernel, (wide, high, biased) in products.items():
        to_cache = kernel in ("k_proj", "v_proj")
        table.put(
            kernel,
            rows=step.tokens,
            inner=wide,
            columns=high,
            operations=step.tokens * high * (2 * wide + biased),
            weight_bytes=high * (wide * weight + biased * _BYTES),
            activation_bytes=step.tokens * _BYTES * (wide if to_cache else wide + high),
            kv_bytes=step.tokens * _BYTES * high * to_cache,
            executions=executions,
        )
    elementwise = {
        "attn_norm": (hidden, _NORM_OPERATIONS, 2, _BYTES),
        "mlp_norm": (hidden, _NORM_OPERATIONS, 2, _BYTES),
        "attn_add": (hidden, 1, 3, 0),
        "mlp_add": (hidden, 1, 3, 0),
        "mlp_act": (inner, _ACTIVATION_OPERATIONS, 3, 0),
    }
    for kernel, (width, operations, touched, weight_size) in elementwise.items():
        table.put(
            kernel,
            rows=step.tokens,
            columns=width,
            operations=step.tokens * width * operations,
            weight_bytes=width * weight_size,
            activation_bytes=step.tokens * width * touched * _BYTES,
            executions=executions,
        )
    _put_attention(table, step, eager, q_size, kv_size, head_dim, executions)


def _put_attention(
    table: _Table,
    step: Pass,
    eager: bool,
    q_size: FloatArray,
    kv_size: FloatArray,
    head_dim: FloatArray,
    executions: FloatArray,
) -> None:
    """Both products read their half of the cache once per step: K the first, V the second."""
    scores = step.sequences * step.pairs * q_size / head_dim
    in_memory = scores * _BYTES * eager
    vectors = step.tokens * q_size * _BYTES
    common = {"rows": step.tokens, "columns": step.sequences * step.pairs / step.tokens, "executions": executions}
    product = {
        "inner": head_dim,
        "operations": 2 * step.sequences * step.pairs * q_size,
        "activation_bytes": vectors + in_memory,
        "kv_bytes": step.sequences * step.keys * kv_size * _BYTES,
    }
    table.put("qk_matmul", **common, **product)
    table.put("softmax", **common, operations=scores * _SOFTMAX_OPERATIONS, activation_bytes=2 * in_memory)
    table.put("sv_matmul", **common, **product)


def _put_once(table: _Table, c: Configurations, step: Pass) -> None:
    """Embedding and output head: once per pass, in 16 bits also where the layers are quantised."""
    hidden, vocabulary = c.shape_values("hidden_size", "vocab_size")
    vocabulary = vocabulary / c.tp
    table.put(
        "embedding",
        rows=step.tokens,
        columns=hidden,
        activation_bytes=2 * step.tokens * hidden * _BYTES,
        executions=step.passes,
    )
    table.put(
        "lm_head",
        rows=step.sequences,
        inner=hidden,
        columns=vocabulary,
        operations=2 * step.sequences * hidden * vocabulary,
        weight_bytes=hidden * vocabulary * _BYTES,
        activation_bytes=step.sequences * (hidden + vocabulary) * _BYTES,
        executions=step.passes,
    )


def _put_network(table: _Table, c: Configurations, step: Pass) -> None:
    """All-reduces and transfers between stages; nothing but zeros where there is one GPU to a stage, or one stage."""
    hidden, layers = c.shape_values("hidden_size", "layers")
    reduces, hands_over = c.tp > 1, c.pp > 1
    for kernel in ALL_REDUCES:
        table.put(
            kernel,
            rows=step.tokens * reduces,
            columns=hidden * reduces,
            network_bytes=ring_all_reduce_bytes(step.tokens, hidden, c.tp),
            paper_network_bytes=paper_all_reduce_bytes(hidden, c.tp),
            executions=layers * step.passes * reduces,
        )
    volume = step.tokens * hidden * _BYTES * hands_over
    table.put(
        "send_recv",
        rows=step.tokens * hands_over,
        columns=hidden * hands_over,
        network_bytes=volume,
        paper_network_bytes=volume,
        executions=(c.pp - 1) * step.passes,
    )


def _put_roofline(table: _Table, c: Configurations) -> None:
    peak, bandwidth, link = c.gpu_values("peak_flops", "memory_bandwidth_bytes_per_s", "link_bandwidth_bytes_per_s")
    operations = table.row("operations")
    compute_s = operations / peak
    memory_s = (table.row("weight_bytes") + table.row("activation_bytes") + table.row("kv_bytes")) / bandwidth
    network_s = table.row("network_bytes") / link
    time_s = np.maximum(np.maximum(compute_s, memory_s), network_s)
    table.row("time_s")[:] = time_s
    np.divide(operations, time_s, out=table.row("performance_flops"), where=time_s > 0)
    busy_s = compute_s + _MEMORY_POWER * memory_s + _NETWORK_POWER * network_s
    np.minimum(busy_s, time_s, out=table.row("busy_s"))
