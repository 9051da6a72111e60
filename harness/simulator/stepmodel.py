"""Time and energy of the steps of one deployment on one kind of GPU: kernels, attention, all-reduces, stages, host."""

import math
from dataclasses import dataclass
from typing import Generic, NamedTuple

import numpy as np

from harness.points import BoolArray, Deployment, FloatArray, GpuSpec, IntArray
from harness.simulator.clocking import capped, capped_one
from harness.simulator.constants import FABRIC_HOP_S, Constants, fabric_bytes_per_s
from harness.simulator.kernels import (
    ACTIVATION_BYTES,
    SMALL_KERNELS_PER_LAYER,
    Kernels,
    Table,
    captured_sizes,
    head_table,
    layer_table,
)
from harness.simulator.stepshape import Number, StepShape

_ALL_REDUCES_PER_LAYER = 2
_LAUNCHES_PER_LAYER = 4 + SMALL_KERNELS_PER_LAYER + 1
"""Matrix products, small kernels, attention; all-reduces come on top."""
_NOTHING = 1e-9


class StepParts(NamedTuple, Generic[Number]):
    """One step before any power cap: seconds, and joules of one GPU of an earlier stage.

    Attributes:
        step_s: the whole step.
        busy_s: one stage's own kernels, over all micro-batches, without the head's.
        clocked_s: what of it shortens with a faster clock.
        collectives_s: one stage's all-reduces, over all micro-batches.
        head_s, head_clocked_s: the output head, on the last stage only.
        host_s: outside kernels, on no GPU.
        clocked_j, other_j: energy above loaded idle, of multiplies and of everything else.
        head_clocked_j, head_other_j: what the head adds on the last stage.
    """

    step_s: Number
    busy_s: Number
    clocked_s: Number
    collectives_s: Number
    head_s: Number
    head_clocked_s: Number
    host_s: Number
    clocked_j: Number
    other_j: Number
    head_clocked_j: Number
    head_other_j: Number


@dataclass(frozen=True, slots=True, eq=False)
class StepCost:
    """Steps of one deployment, every array (n,).

    Attributes:
        duration_s: time of a step, stretched where the power cap binds.
        relative_clock: SM clock over the full one; below 1 where the cap binds.
        dynamic_w: of a GPU of any stage but the last, above loaded idle.
        last_dynamic_w: of a GPU of the last stage, which has the output head.
        streamed_tokens: tokens that the step produced at most, one for each sequence.
    """

    duration_s: FloatArray
    relative_clock: FloatArray
    dynamic_w: FloatArray
    last_dynamic_w: FloatArray
    streamed_tokens: FloatArray


class StepModel:
    """Time and power of the steps of one deployment on one kind of GPU."""

    def __init__(self, deployment: Deployment, gpu: GpuSpec, constants: Constants) -> None:
        model, limits = deployment.model, deployment.limits
        tp, pp = deployment.tensor_parallel, deployment.pipeline_parallel
        engine = constants.engine(limits.engine, limits.enforce_eager)
        kernels = Kernels(gpu, constants.gpu)
        shares, range_w = constants.gpu, gpu.tdp_w - gpu.idle_w
        self.pipeline_parallel = pp
        # Stages differ by at most one layer; the mean keeps the sum over stages exact.
        layers = model.layers / pp
        # A prompt chunk and all decoding sequences: no step holds more.
        most = max(limits.token_budget, limits.max_sequences)
        layer = layer_table(kernels, deployment, most, engine.graphs) * layers
        # Outside CUDA graphs no layer is done before its kernels have been launched.
        launches = _LAUNCHES_PER_LAYER + (_ALL_REDUCES_PER_LAYER if tp > 1 else 0)
        in_graph = int(captured_sizes(limits)[-1]) if engine.graphs else 0
        launch_s = np.where(np.arange(most + 1) > in_graph, launches * layers * engine.launch_s, 0.0)
        self._layer = _Rows(layer, launch_s)
        self._head = _Rows(head_table(kernels, deployment, limits.max_sequences), np.zeros(limits.max_sequences + 1))

        # Query heads that share a key head on one GPU.
        group = model.heads / max(tp, model.kv_heads)
        key_bytes = model.kv_bytes_per_token / pp / min(tp, model.kv_heads) * (1 + shares.group_reread * (group - 1))
        self._key_s = key_bytes / (gpu.memory_bandwidth_bytes_per_s * shares.kv_efficiency)
        self._key_j = shares.kv_share * range_w * self._key_s
        pair_flops = 4 * model.heads * model.head_dim * layers / tp
        self._pair_s = pair_flops / (gpu.peak_flops * shares.attention_efficiency)
        self._pair_j = shares.attention_share * range_w * self._pair_s
        self._half_tokens = shares.attention_half_tokens

        link_bytes_per_s = gpu.link_bandwidth_bytes_per_s * shares.link_efficiency
        hidden_bytes = model.hidden_size * ACTIVATION_BYTES
        self._collective_s = self._collective_token_s = 0.0
        if tp > 1:
            count = _ALL_REDUCES_PER_LAYER * layers
            self._collective_s = count * (shares.all_reduce_s + (tp - 2) * shares.all_reduce_gpu_s)
            # Ring all-reduce: each GPU sends 2 (l - 1) / l of the layer's activation.
            self._collective_token_s = count * 2 * (tp - 1) / tp * hidden_bytes / link_bytes_per_s
        self._send_s, self._send_token_s = shares.all_reduce_s, hidden_bytes / link_bytes_per_s
        if deployment.nodes > 1:
            # Of the pp - 1 sends, as many as there are nodes but one leave a node.
            crossing = (deployment.nodes - 1) / (pp - 1)
            fabric_token_s = hidden_bytes / (fabric_bytes_per_s(gpu.kind) * shares.link_efficiency)
            self._send_s += crossing * FABRIC_HOP_S
            self._send_token_s += crossing * (fabric_token_s - self._send_token_s)
        self._host_s, self._host_sequence_s = engine.host_step_s, engine.host_sequence_s
        self._active_w = shares.active_share * range_w
        self._collective_w = shares.collective_share * range_w
        self._bubble_w = shares.bubble_share * range_w
        self._headroom_w = gpu.tdp_w - shares.loaded_idle_w(gpu)
        self._static_share = shares.static_share

    def micro_batches(self, sequences: FloatArray) -> FloatArray:
        """Micro-batches that each step of a replay is split into: as many as there are stages and sequences for."""
        return np.clip(sequences, 1.0, self.pipeline_parallel)

    def duration_s(self, shape: StepShape[float]) -> float:
        """Time of one step of a replay, for loops that take them one by one; the same as `cost` gives."""
        sequences = shape.prefill_requests + shape.decode_requests
        micro = float(min(max(sequences, 1), self.pipeline_parallel))
        tokens = math.ceil((shape.prefill_tokens + shape.decode_requests) / micro)
        parts = self._parts(
            shape,
            micro,
            float(self.pipeline_parallel),
            self._layer.one(tokens),
            self._head.one(math.ceil(sequences / micro)),
        )
        other_j = parts.other_j + parts.head_other_j
        clocked_j = parts.clocked_j + parts.head_clocked_j
        if other_j + clocked_j <= self._headroom_w * parts.step_s:
            return parts.step_s
        clocked_s = parts.clocked_s + parts.head_clocked_s
        return capped_one(parts.step_s, clocked_s, other_j, clocked_j, self._headroom_w, self._static_share)

    def cost(self, shape: StepShape[FloatArray], micro: FloatArray, overlapped: BoolArray | None = None) -> StepCost:
        """Time and power of (n,) steps.

        Where a step would draw more than the power limit, the clock falls until it does not.

        Args:
            micro: (n,) equal micro-batches of each step, which follow one another through the stages.
            overlapped: (n,) where the next step follows this one into the pipeline without waiting for its end.
        """
        sequences = shape.prefill_requests + shape.decode_requests
        tokens = np.ceil((shape.prefill_tokens + shape.decode_requests) / micro).astype(np.int64)
        stages = np.full(len(tokens), float(self.pipeline_parallel))
        if overlapped is not None:
            stages = np.where(overlapped, 1.0, stages)
        head = self._head.many(np.ceil(sequences / micro).astype(np.int64))
        parts = self._parts(shape, micro, stages, self._layer.many(tokens), head)
        clocked_s = parts.clocked_s + parts.head_clocked_s
        other_j = parts.other_j + parts.head_other_j
        clocked_j = parts.clocked_j + parts.head_clocked_j
        duration_s, clock = capped(parts.step_s, clocked_s, other_j, clocked_j, self._headroom_w, self._static_share)
        voltage = self._static_share + (1 - self._static_share) * clock**2
        return StepCost(
            duration_s,
            clock,
            np.minimum((parts.other_j + parts.clocked_j * voltage) / duration_s, self._headroom_w),
            np.minimum((other_j + clocked_j * voltage) / duration_s, self._headroom_w),
            sequences,
        )

    def parts(self, shape: StepShape[FloatArray], micro: FloatArray) -> StepParts[FloatArray]:
        """What (n,) steps consist of, before any cap; for tests and tables."""
        sequences = shape.prefill_requests + shape.decode_requests
        tokens = np.ceil((shape.prefill_tokens + shape.decode_requests) / micro).astype(np.int64)
        head = self._head.many(np.ceil(sequences / micro).astype(np.int64))
        return self._parts(shape, micro, micro * 0.0 + self.pipeline_parallel, self._layer.many(tokens), head)

    def _parts(
        self,
        shape: StepShape[Number],
        micro: Number,
        stages: Number,
        layer: "_Row[Number]",
        head: "_Row[Number]",
    ) -> StepParts[Number]:
        """A step whose micro-batches follow one another through `stages` stages.

        With no more micro-batches than stages, none waits for another but at the last stage, which also has the
        head: the step lasts as long as one takes through all stages, and all heads.
        """
        layer_s, layer_clocked_s, layer_clocked_j, layer_memory_j, launch_s = layer
        head_s, head_clocked_s, head_clocked_j, head_memory_j, _ = head
        half = 1.0 + self._half_tokens * shape.prefill_requests / (shape.prefill_tokens + _NOTHING)
        prefill_s = shape.prefill_pairs * half * self._pair_s
        decode_s = shape.decode_context_tokens * self._key_s
        part_tokens = (shape.prefill_tokens + shape.decode_requests) / micro
        kernels_s = layer_s * micro + prefill_s + decode_s
        collectives_s = (part_tokens * self._collective_token_s + self._collective_s) * micro
        # What launches last longer than the kernels: written so that it serves one step and many.
        short_s = launch_s * micro - kernels_s - collectives_s
        stalled_s = (short_s + abs(short_s)) / 2
        sends_s = (stages - 1.0) * (part_tokens * self._send_token_s + self._send_s)
        host_s = (shape.prefill_requests + shape.decode_requests) * self._host_sequence_s + self._host_s
        heads_s = head_s * micro
        step_s = stages * (kernels_s + collectives_s + stalled_s) / micro + heads_s + sends_s + host_s
        # A stage is never done before it has seen all micro-batches.
        waiting_s = step_s - kernels_s - collectives_s - heads_s
        other_j = (
            layer_memory_j * micro
            + shape.decode_context_tokens * self._key_j
            + kernels_s * self._active_w
            + collectives_s * self._collective_w
            + (waiting_s + heads_s) * self._bubble_w
        )
        clocked_j = layer_clocked_j * micro + prefill_s * (self._pair_j / self._pair_s)
        return StepParts(
            step_s,
            kernels_s,
            layer_clocked_s * micro + prefill_s,
            collectives_s,
            heads_s,
            head_clocked_s * micro,
            host_s,
            clocked_j,
            other_j,
            head_clocked_j * micro,
            head_memory_j * micro + heads_s * (self._active_w - self._bubble_w),
        )


_Row = tuple[Number, Number, Number, Number, Number]
"""Seconds, clocked seconds, clocked joules, memory joules of a table's row, and the seconds that its launches take."""


class _Rows:
    """A table by its rows, for one step or for many."""

    def __init__(self, table: Table, launch_s: FloatArray) -> None:
        self._columns = (table.time_s, table.clocked_s, table.clocked_j, table.memory_j, launch_s)
        self._rows: list[_Row[float]] = list(zip(*(column.tolist() for column in self._columns), strict=True))

    def one(self, count: int) -> _Row[float]:
        return self._rows[count]

    def many(self, count: IntArray) -> _Row[FloatArray]:
        time_s, clocked_s, clocked_j, memory_j, launch_s = (column[count] for column in self._columns)
        return time_s, clocked_s, clocked_j, memory_j, launch_s
