"""How long an engine step takes: a roofline per GPU, all-reduces, pipeline stages and host overhead.

A step is described by four numbers, each a float or an (n,) array:
    tokens           prompt and decode tokens that pass through the layers
    sequences        sequences that hold them
    context_tokens   keys read by attention, summed over sequences
    pairs            query-key pairs of attention, summed over sequences
and by `micro`, the micro-batches that it is split into under pipeline parallelism (1: it is not).
"""

from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from harness.points import KV_BITS, Deployment, FloatArray, GpuSpec

Number = TypeVar("Number", float, FloatArray)
_ACTIVATION_BYTES = KV_BITS // 8
_ALL_REDUCES_PER_LAYER = 2


@dataclass(frozen=True, slots=True)
class LatencyConstants:
    """Constants of the latency model; docs/simulator.md gives the reason for each.

    Attributes:
        compute_efficiency: achieved share of the peak rate in large matrix products.
        attention_efficiency: the same in prefill attention.
        memory_efficiency: achieved share of the memory bandwidth.
        link_efficiency: achieved share of the link's bandwidth.
        collective_latency_s: one all-reduce or send of nothing.
        roofline_sharpness: exponent of the smooth maximum of compute and memory time.
        host_step_s: time of a step outside kernels, by engine.
        host_eager_step_s: the same where CUDA graphs are off, or for an engine not listed.
        host_sequence_s: more of it for each sequence.
    """

    compute_efficiency: float = 0.65
    attention_efficiency: float = 0.45
    memory_efficiency: float = 0.80
    link_efficiency: float = 0.80
    collective_latency_s: float = 14e-6
    roofline_sharpness: float = 4.0
    host_step_s: dict[str, float] = field(default_factory=lambda: {"vllm": 2.0e-3})
    host_eager_step_s: float = 4.0e-3
    host_sequence_s: float = 10e-6


class StepTimes(NamedTuple, Generic[Number]):
    """Parts of one step, in seconds.

    Attributes:
        step_s: the whole step.
        kernels_s: one stage's own kernels, over all micro-batches, without the head's.
        collectives_s: one stage's all-reduces, over all micro-batches.
        head_s: the output head, on the last stage only.
        host_s: outside kernels, on no GPU.
    """

    step_s: Number
    kernels_s: Number
    collectives_s: Number
    head_s: Number
    host_s: Number


class StepWork(NamedTuple, Generic[Number]):
    """Work of one step on one GPU of a stage; the head's comes on top on the last stage."""

    flops: Number
    bytes: Number
    head_flops: Number
    head_bytes: Number


class LatencyModel:
    """Times and work of the steps of one deployment on one kind of GPU."""

    def __init__(self, deployment: Deployment, gpu: GpuSpec, constants: LatencyConstants) -> None:
        model, limits = deployment.model, deployment.limits
        tp, pp = deployment.tensor_parallel, deployment.pipeline_parallel
        self.pipeline_parallel = pp
        self._sharpness = constants.roofline_sharpness
        # Stages differ by at most one layer; the mean keeps the sum over stages exact.
        layers = model.layers / pp
        q_size, kv_size = model.heads * model.head_dim, model.kv_heads * model.head_dim
        matrices = model.hidden_size * (2 * q_size + 2 * kv_size + 3 * model.intermediate_size)
        # Read or written once per token and layer: two norms with their residuals on the whole hidden
        # state; queries, keys, values, attention output and the gated MLP's three vectors on a share.
        per_token = 10 * model.hidden_size + (3 * q_size + 2 * kv_size + 5 * model.intermediate_size) / tp
        self._flops_per_token = 2 * matrices * layers / tp
        self._flops_per_pair = 4 * q_size * layers / tp
        self._weight_bytes = model.layer_parameters * layers * deployment.bits / 8 / tp
        self._bytes_per_token = per_token * layers * _ACTIVATION_BYTES
        # With fewer KV heads than GPUs, each head is kept (and read) more than once.
        self._bytes_per_key = model.kv_bytes_per_token / pp / min(tp, model.kv_heads)
        self._head_flops = 2 * model.hidden_size * model.vocab_size / tp
        self._head_bytes = model.hidden_size * model.vocab_size * _ACTIVATION_BYTES / tp

        self._flops_per_s = gpu.peak_flops * constants.compute_efficiency
        self._attention_flops_per_s = gpu.peak_flops * constants.attention_efficiency
        self._bytes_per_s = gpu.memory_bandwidth_bytes_per_s * constants.memory_efficiency
        link_bytes_per_s = gpu.link_bandwidth_bytes_per_s * constants.link_efficiency
        hidden_bytes = model.hidden_size * _ACTIVATION_BYTES
        self._collective_s = self._collective_token_s = 0.0
        if tp > 1:
            count = _ALL_REDUCES_PER_LAYER * layers
            self._collective_s = count * constants.collective_latency_s
            # Ring all-reduce: each GPU sends 2 (l - 1) / l of the layer's activation.
            self._collective_token_s = count * 2 * (tp - 1) / tp * hidden_bytes / link_bytes_per_s
        self._send_s, self._send_token_s = constants.collective_latency_s, hidden_bytes / link_bytes_per_s
        host_s = constants.host_step_s.get(limits.engine, constants.host_eager_step_s)
        self._host_s = constants.host_eager_step_s if limits.enforce_eager else host_s
        self._host_sequence_s = constants.host_sequence_s

    def times(
        self, tokens: Number, sequences: Number, context_tokens: Number, pairs: Number, micro: Number
    ) -> StepTimes[Number]:
        """Time of a step whose `micro` equal micro-batches follow one another through the stages.

        With no more micro-batches than stages, none waits for another but at the last stage, which also has
        the head: the step lasts as long as one takes through all stages, and all heads.
        """
        part_tokens, part_context = tokens / micro, context_tokens / micro
        matrices_s = self._smooth_max(
            part_tokens * (self._flops_per_token / self._flops_per_s),
            (part_tokens * self._bytes_per_token + self._weight_bytes) / self._bytes_per_s,
        )
        attention_s = self._smooth_max(
            pairs / micro * (self._flops_per_pair / self._attention_flops_per_s),
            part_context * (self._bytes_per_key / self._bytes_per_s),
        )
        collectives_s = part_tokens * self._collective_token_s + self._collective_s
        head_s = self._smooth_max(
            sequences / micro * (self._head_flops / self._flops_per_s),
            micro * 0.0 + self._head_bytes / self._bytes_per_s,
        )
        sends_s = (self.pipeline_parallel - 1) * (part_tokens * self._send_token_s + self._send_s)
        host_s = sequences * self._host_sequence_s + self._host_s
        kernels_s = matrices_s + attention_s
        step_s = self.pipeline_parallel * (kernels_s + collectives_s) + head_s * micro + sends_s + host_s
        return StepTimes(step_s, kernels_s * micro, collectives_s * micro, head_s * micro, host_s)

    def work(
        self, tokens: Number, sequences: Number, context_tokens: Number, pairs: Number, micro: Number
    ) -> StepWork[Number]:
        """FLOPs and bytes of a step on one GPU; each micro-batch reads the weights again."""
        return StepWork(
            tokens * self._flops_per_token + pairs * self._flops_per_pair,
            tokens * self._bytes_per_token + context_tokens * self._bytes_per_key + micro * self._weight_bytes,
            sequences * self._head_flops,
            micro * self._head_bytes,
        )

    def _smooth_max(self, compute_s: Number, memory_s: Number) -> Number:
        """Near the ridge of the roofline neither hides the other entirely."""
        power = self._sharpness
        total: Number = (compute_s**power + memory_s**power) ** (1 / power)
        return total
