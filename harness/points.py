"""What is measured: models, nodes, deployments, workloads and points, as frozen records.

A point is a deployment x a workload. Its `point_id` is a hash of its canonical content, so the same
point has the same id on every node and in every session.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

Source = Literal["measured", "estimated", "simulated"]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
StrArray = npt.NDArray[np.str_]
BITS_PER_BYTE = 8
NO_GPU = "none"
"""The kind of GPU of a node without any: engines compute on its processors."""
KV_BITS = 16
"""The KV cache is kept in 16 bits, whatever the weights' width (the default of both engines)."""


def content_id(content: object, length: int = 16) -> str:
    """The first `length` hex digits of the sha256 of `content` as canonical JSON."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The dimensions of a dense Llama-shaped decoder (gated MLP, RMS norms, rotary positions)."""

    name: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_context_tokens: int
    tied_embeddings: bool = False
    attention_bias: bool = False

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer: q, k, v, o projections, three MLP matrices, two norms."""
        q_size, kv_size = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden_size * (2 * q_size + 2 * kv_size)
        bias = (q_size + 2 * kv_size + self.hidden_size) if self.attention_bias else 0
        return attention + bias + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size

    @property
    def parameters(self) -> int:
        """All weights: layers, embedding, output head (unless tied) and the last norm."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.layers * self.layer_parameters + embeddings + self.hidden_size

    def weight_bytes(self, bits: int) -> float:
        """Bytes of all weights at `bits` per weight."""
        return self.parameters * bits / BITS_PER_BYTE

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token of context keeps, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * KV_BITS // BITS_PER_BYTE


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """A kind of GPU by its data-sheet figures (dense rates, one direction of the link)."""

    kind: str
    name: str
    memory_bytes: int
    peak_flops: float
    memory_bandwidth_bytes_per_s: float
    link_bandwidth_bytes_per_s: float
    idle_w: float
    tdp_w: float


@dataclass(frozen=True, slots=True)
class CpuSpec:
    """A node's processors and memory; powers are for the whole node, not per socket."""

    name: str
    sockets: int
    idle_w: float
    tdp_w: float
    dram_idle_w: float
    dram_tdp_w: float
    has_dram_counter: bool
    package_wrap_j: float
    dram_wrap_j: float

    def times(self, nodes: int) -> "CpuSpec":
        """Those of several nodes together."""
        return replace(
            self,
            sockets=self.sockets * nodes,
            idle_w=self.idle_w * nodes,
            tdp_w=self.tdp_w * nodes,
            dram_idle_w=self.dram_idle_w * nodes,
            dram_tdp_w=self.dram_tdp_w * nodes,
        )


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A kind of node: how many GPUs of which kind, beside which processors.

    Without GPUs, `gpu` and `cpu` are None: nothing is supposed of the processors that are found. `ranks` are then the
    engine ranks (tp x pp) that it may hold; elsewhere there is one for each GPU.
    """

    kind: str
    gpu: GpuSpec | None
    gpus: int
    cpu: CpuSpec | None
    ranks: int = 0

    @property
    def gpu_kind(self) -> str:
        """`none` without GPUs."""
        return NO_GPU if self.gpu is None else self.gpu.kind

    @property
    def places(self) -> int:
        """How many engine ranks it may hold."""
        return self.gpus or self.ranks


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """A serving engine and the limits that decide how it batches."""

    engine: str
    token_budget: int
    max_sequences: int
    max_context_tokens: int
    enforce_eager: bool = False
    stream_interval: int = 1
    """Tokens per streamed chunk of a replay's answers: each costs the server's processors something (rule 21)."""


# Without slots: an id is asked for many times, and kept once it was computed.
@dataclass(frozen=True)
class Deployment:
    """One way to serve one model on one kind of GPU.

    `weights` says whether the values are real or dummy; where they lie is no part of the point. Over several `nodes`
    each has as many of the pipeline's stages, whole ones and neighbours.
    """

    gpu: str
    model: ModelShape
    bits: int
    limits: EngineLimits
    tensor_parallel: int
    pipeline_parallel: int
    weights: Literal["real", "dummy"]
    revision: str = ""
    nodes: int = 1

    @property
    def gpus(self) -> int:
        """GPUs that it holds, on all its nodes; on a node without GPUs, its ranks."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def gpus_per_node(self) -> int:
        return self.gpus // self.nodes

    def content(self) -> dict[str, object]:
        """What its id is made of; on one node nothing says so, as it was before there could be several."""
        content = asdict(self)
        if self.nodes == 1:
            del content["nodes"]
        return content

    @cached_property
    def deployment_id(self) -> str:
        return content_id(self.content())

    @property
    def label(self) -> str:
        """For tables: `h100 llama-2-7b tp2 pp1 vllm@8192` (token budget), with the bits where they are not 16."""
        bits = "" if self.bits == KV_BITS else f" {self.bits}bit"
        parallel = f"tp{self.tensor_parallel} pp{self.pipeline_parallel}"
        if self.nodes > 1:
            parallel += f" {self.nodes}nodes"
        return f"{self.gpu} {self.model.name}{bits} {parallel} {self.limits.engine}@{self.limits.token_budget}"


@dataclass(frozen=True, slots=True)
class BatchWorkload:
    """`batch_size` requests that enter the engine together, all of the same lengths."""

    batch_size: int
    prompt_tokens: int
    generated_tokens: int

    def prefill_only(self) -> "BatchWorkload":
        """The same batch stopped at its first token."""
        return replace(self, generated_tokens=1)

    @property
    def label(self) -> str:
        return f"batch {self.batch_size} x {self.prompt_tokens}+{self.generated_tokens}"


@dataclass(frozen=True, slots=True)
class ReplayWorkload:
    """A slice of a trace at its own arrival times.

    `rate_scale` multiplies the arrival rate; with `capacity_share` the scale is instead found per
    launch, so that the slice's mean rate is that share of what the deployment can take.
    `context_policy` names the rule by which requests over the context were clipped. `length_scale` multiplies the
    trace's prompt and generated tokens, rounded up, before that.
    """

    trace: str
    trace_sha256: str
    start_s: float
    duration_s: float
    context_policy: str
    drain_s: float
    rate_scale: float | None = 1.0
    capacity_share: float | None = None
    length_scale: float = 1.0

    @property
    def label(self) -> str:
        rate = f"capacity:{self.capacity_share:g}" if self.capacity_share else f"x{self.rate_scale:g}"
        lengths = "" if self.length_scale == 1.0 else f" lengths x{self.length_scale:g}"
        return f"replay {self.trace} {self.start_s:g}s+{self.duration_s:g}s {rate}{lengths}"


Workload = BatchWorkload | ReplayWorkload


@dataclass(frozen=True)
class Point:
    """A deployment x a workload: what five repetitions are taken of."""

    deployment: Deployment
    workload: Workload

    def content(self) -> dict[str, object]:
        kind = "batch" if isinstance(self.workload, BatchWorkload) else "replay"
        return {"deployment": self.deployment.content(), "workload": {"kind": kind, **asdict(self.workload)}}

    def to_json(self) -> str:
        return json.dumps(self.content(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def point_id(self) -> str:
        return content_id(self.content())

    @property
    def label(self) -> str:
        return f"{self.deployment.label} {self.workload.label}"


@dataclass(frozen=True)
class Environment:
    """What may not be mixed: runs of two environments are not repetitions of one another.

    `processor` is what computes on a node without GPUs; elsewhere it is empty.
    """

    source: Source
    node_kind: str
    gpu: str
    gpu_name: str
    driver_version: str
    engine: str
    engine_version: str
    power_limit_w: float | None
    processor: str = ""

    @cached_property
    def environment_id(self) -> str:
        content = asdict(self)
        if not self.processor:
            del content["processor"]
        return content_id(content, 12)


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Requests of a replay, ready to be sent: sliced and clipped, not yet scaled in rate.

    Attributes:
        arrival_s: (n,) seconds from the slice's start, not decreasing.
        prompt_tokens, generated_tokens: (n,) both at least 1.
        duration_s: length of the slice (arrivals stop there).
        clipped: how many requests the context policy shortened.
        dropped: how many it left out.
    """

    arrival_s: FloatArray
    prompt_tokens: IntArray
    generated_tokens: IntArray
    duration_s: float
    clipped: int = 0
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.arrival_s)

    def scaled(self, rate_scale: float) -> "Schedule":
        """The same requests at `rate_scale` times the rate."""
        return replace(self, arrival_s=self.arrival_s / rate_scale, duration_s=self.duration_s / rate_scale)
