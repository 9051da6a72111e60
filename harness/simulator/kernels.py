"""Kernels of one layer on one GPU: their time and energy over the tokens that pass through them.

All that depends on the number of tokens alone is worked out once for every number up to the token budget, so that a
step costs a few look-ups however fine the model of its kernels is.
"""

from dataclasses import dataclass

import numpy as np

from harness.points import KV_BITS, Deployment, EngineLimits, FloatArray, GpuSpec, IntArray
from harness.simulator.constants import GpuConstants

ACTIVATION_BYTES = KV_BITS // 8
_TILE_ROWS = np.array([16, 32, 64, 128])
_TILE_COLUMNS = 128
_SPLIT_DEPTH = 1024
"""A product with too few tiles is split along its inner dimension, in parts of at least this length."""
SMALL_KERNELS_PER_LAYER = 5
"""Two norms with their residuals, rotary positions, the cache's write, the gated activation."""
_CAPTURED = np.array([1, 2, 4, *range(8, 257, 8), *range(272, 513, 16)])
"""All sizes that vLLM may capture CUDA graphs for (`cudagraph_capture_sizes`, 0.11 and later)."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Seconds and joules above `active` power, one for each count from 0.

    Attributes:
        time_s: (n,).
        clocked_s: (n,) the part of it that shortens with a faster clock.
        clocked_j, memory_j: (n,) energy of multiplies, of moving bytes.
    """

    time_s: FloatArray
    clocked_s: FloatArray
    clocked_j: FloatArray
    memory_j: FloatArray

    def __add__(self, other: "Table") -> "Table":
        return Table(
            self.time_s + other.time_s,
            self.clocked_s + other.clocked_s,
            self.clocked_j + other.clocked_j,
            self.memory_j + other.memory_j,
        )

    def __mul__(self, count: float) -> "Table":
        return Table(self.time_s * count, self.clocked_s * count, self.clocked_j * count, self.memory_j * count)


class Kernels:
    """Costs of single kernels on one kind of GPU."""

    def __init__(self, gpu: GpuSpec, constants: GpuConstants) -> None:
        self.constants = constants
        range_w = gpu.tdp_w - gpu.idle_w
        self.flops_per_s = gpu.peak_flops * constants.compute_efficiency
        self.bytes_per_s = gpu.memory_bandwidth_bytes_per_s * constants.memory_efficiency
        self.flop_j = constants.compute_share * range_w / self.flops_per_s
        self.byte_j = constants.memory_share * range_w / self.bytes_per_s

    def product(self, rows: FloatArray, inner: float, columns: float, bits: int) -> Table:
        """A matrix product of (rows, inner) with (inner, columns) weights of `bits`.

        Tiles go in waves over the multiprocessors: a last wave that is not full takes as long as a full one, and
        rows are padded to the tile. With few tiles the inner dimension is split.
        """
        constants = self.constants
        speed = self.flops_per_s * (constants.eight_bit_speed if bits < KV_BITS else 1.0)
        useful = 2.0 * rows * inner * columns
        done = padded = useful
        if constants.multiprocessors:
            padded, done = self._tiled(rows, inner, columns)
        compute_s = done / speed
        moved = columns * inner * bits / 8 + ACTIVATION_BYTES * rows * (inner + columns)
        memory_s = moved / self.bytes_per_s
        sharpness = constants.roofline_sharpness
        sum_of_powers = compute_s**sharpness + memory_s**sharpness
        # A smooth maximum: near the ridge of the roofline neither hides the other entirely.
        roof_s = sum_of_powers ** (1 / sharpness)
        clocked_s = roof_s * compute_s**sharpness / sum_of_powers
        # What pads a tile is multiplied too; a multiprocessor without a tile rests.
        energy = useful + constants.padding_share * (padded - useful)
        # 8-bit multiplies cost less in proportion to how much faster they are.
        flop_j = self.flop_j * self.flops_per_s / speed
        return _empty_at_zero(Table(roof_s + constants.kernel_s, clocked_s, energy * flop_j, moved * self.byte_j), rows)

    def movement(self, moved_bytes: FloatArray, kernels: int) -> Table:
        """Kernels that move bytes and compute next to nothing."""
        time_s = moved_bytes / self.bytes_per_s + kernels * self.constants.kernel_s
        none = np.zeros_like(moved_bytes)
        return _empty_at_zero(Table(time_s, none, none, moved_bytes * self.byte_j), moved_bytes)

    def _tiled(self, rows: FloatArray, inner: float, columns: float) -> tuple[FloatArray, FloatArray]:
        """Multiplies and adds of whole tiles, and of whole waves of them: what the multiprocessors are held for."""
        multiprocessors = self.constants.multiprocessors
        tile_rows = _TILE_ROWS[np.minimum(np.searchsorted(_TILE_ROWS, rows), len(_TILE_ROWS) - 1)]
        tiles = np.maximum(np.ceil(rows / tile_rows), 1.0) * np.ceil(columns / _TILE_COLUMNS)
        split = np.clip(np.floor(multiprocessors / tiles), 1.0, max(1.0, inner // _SPLIT_DEPTH))
        waves = np.ceil(tiles * split / multiprocessors)
        of_one = 2.0 * tile_rows * _TILE_COLUMNS * inner
        return tiles * of_one, waves * multiprocessors / split * of_one


def layer_table(kernels: Kernels, deployment: Deployment, tokens: int, graphs: bool) -> Table:
    """All of one layer but attention and all-reduces, over 0 to `tokens` tokens on one GPU.

    With `graphs`, a number of tokens that a CUDA graph holds is padded to the next captured size.
    """
    model, tp, bits = deployment.model, deployment.tensor_parallel, deployment.bits
    hidden, inner = model.hidden_size, model.intermediate_size
    q_size, kv_size = model.heads * model.head_dim, model.kv_heads * model.head_dim
    # With fewer KV heads than GPUs, each head is kept more than once.
    kv_share = kv_size / min(tp, model.kv_heads)
    rows = np.arange(tokens + 1, dtype=np.float64)
    if graphs:
        rows = padded_to_graph(rows, captured_sizes(deployment.limits))
    matrices = (
        (hidden, q_size / tp + 2 * kv_share),
        (q_size / tp, hidden),
        (hidden, 2 * inner / tp),
        (inner / tp, hidden),
    )
    # Read or written once per token: two norms with their residuals on the whole hidden state; queries, keys, values
    # and the gated MLP's three vectors on a share.
    per_token = 8 * hidden + 2 * q_size / tp + 4 * kv_share + 3 * inner / tp
    table = kernels.movement(rows * per_token * ACTIVATION_BYTES, SMALL_KERNELS_PER_LAYER)
    for depth, width in matrices:
        table = table + kernels.product(rows, depth, width, bits)
    return table


def head_table(kernels: Kernels, deployment: Deployment, sequences: int) -> Table:
    """The output head and the sampler over 0 to `sequences` sequences, on a GPU of the last stage."""
    model, tp = deployment.model, deployment.tensor_parallel
    rows = np.arange(sequences + 1, dtype=np.float64)
    logits = kernels.movement(rows * model.vocab_size * 4 * 2 / tp, 2)
    return kernels.product(rows, model.hidden_size, model.vocab_size / tp, KV_BITS) + logits


def captured_sizes(limits: EngineLimits) -> IntArray:
    """(n,) sizes that vLLM captures CUDA graphs for: up to twice its sequences, its token budget, and 512 tokens."""
    largest = min(2 * limits.max_sequences, limits.token_budget)
    return _CAPTURED[: np.searchsorted(_CAPTURED, largest, side="right")]


def padded_to_graph(tokens: FloatArray, captured: IntArray) -> FloatArray:
    """(n,) tokens as a CUDA graph runs them: the next captured size, or as they are above the largest."""
    index = np.minimum(np.searchsorted(captured, tokens), len(captured) - 1)
    return np.where((tokens > 0) & (tokens <= captured[-1]), captured[index], tokens).astype(np.float64)


def _empty_at_zero(table: Table, count: FloatArray) -> Table:
    """Nothing to compute: no kernel."""
    some = count > 0
    return Table(table.time_s * some, table.clocked_s * some, table.clocked_j * some, table.memory_j * some)
