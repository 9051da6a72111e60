"""Whether a deployment and a point can run at all: decided from memory and divisibility, before a launch.

The memory model is the engines' own: weights, then a reserve for activations, then the KV cache in what is
left of `MEMORY_UTILISATION` (vLLM's `--gpu-memory-utilization`). It is an estimate; an engine may still refuse.
"""

from harness.points import KV_BITS, BatchWorkload, Deployment, GpuSpec, ModelShape, Point
from harness.units import BYTES_PER_GIB

MEMORY_UTILISATION = 0.9
RUNTIME_RESERVE_BYTES = 1.0 * BYTES_PER_GIB
"""CUDA graphs and communication buffers that an engine keeps beside weights and cache."""
_ACTIVATION_BYTES = 2
_LOGIT_BYTES = 4


def stage_layers(model: ModelShape, pipeline_parallel: int) -> int:
    """Layers of the fullest pipeline stage."""
    return -(-model.layers // pipeline_parallel)


def weight_bytes_per_gpu(deployment: Deployment) -> float:
    """Bytes of weights on the fullest GPU: its layers, and the larger of embedding and head."""
    model, tp = deployment.model, deployment.tensor_parallel
    per_weight = deployment.bits / 8
    layers = stage_layers(model, deployment.pipeline_parallel) * model.layer_parameters
    embeddings = model.vocab_size * model.hidden_size
    if deployment.pipeline_parallel == 1 and not model.tied_embeddings:
        embeddings *= 2
    # Embedding and head stay in 16 bits when the layers are quantised.
    return layers * per_weight / tp + embeddings * (KV_BITS / 8) / tp


def activation_bytes_per_gpu(deployment: Deployment) -> float:
    """Peak activations of one step at the full token budget, and the logits of all sequences."""
    model, limits, tp = deployment.model, deployment.limits, deployment.tensor_parallel
    per_token = (4 * model.hidden_size + 2 * model.intermediate_size / tp) * _ACTIVATION_BYTES
    logits = limits.max_sequences * model.vocab_size * _LOGIT_BYTES / tp
    return limits.token_budget * per_token + logits


def kv_cache_tokens(deployment: Deployment, gpu: GpuSpec) -> int:
    """Tokens of context that fit in the KV cache; zero or negative when the weights leave no room."""
    model = deployment.model
    # With fewer KV heads than GPUs, each head is kept more than once.
    split = min(deployment.tensor_parallel, model.kv_heads)
    stage_share = stage_layers(model, deployment.pipeline_parallel) / model.layers
    per_token = model.kv_bytes_per_token * stage_share / split
    free = (
        gpu.memory_bytes * MEMORY_UTILISATION
        - weight_bytes_per_gpu(deployment)
        - activation_bytes_per_gpu(deployment)
        - RUNTIME_RESERVE_BYTES
    )
    return int(free // per_token)


def deployment_obstacle(deployment: Deployment, gpu: GpuSpec, node_gpus: int) -> str:
    """Why the deployment cannot run on a node, as one line, or "" when it can."""
    model, limits = deployment.model, deployment.limits
    tp, pp = deployment.tensor_parallel, deployment.pipeline_parallel
    if deployment.gpus > node_gpus:
        return f"needs {deployment.gpus} GPUs (tp {tp} x pp {pp}), the node has {node_gpus}"
    if model.heads % tp:
        return f"tp {tp} does not divide the {model.heads} attention heads"
    if model.intermediate_size % tp:
        return f"tp {tp} does not divide the intermediate size {model.intermediate_size}"
    if model.kv_heads % tp and tp % model.kv_heads:
        return f"tp {tp} and the {model.kv_heads} KV heads do not divide one another"
    if pp > model.layers:
        return f"pp {pp} exceeds the {model.layers} layers"
    if limits.engine == "sarathi" and model.layers % pp:
        return f"sarathi needs pp {pp} to divide the {model.layers} layers"
    if limits.engine == "sarathi" and model.kv_heads % tp:
        return f"sarathi needs tp {tp} to divide the {model.kv_heads} KV heads"
    if limits.engine == "vllm" and limits.token_budget < limits.max_sequences:
        return f"vllm needs a token budget ({limits.token_budget}) of at least its {limits.max_sequences} sequences"
    if limits.max_context_tokens > model.max_context_tokens:
        return f"context {limits.max_context_tokens} exceeds the model's {model.max_context_tokens}"
    return _memory_obstacle(deployment, gpu)


def _memory_obstacle(deployment: Deployment, gpu: GpuSpec) -> str:
    tokens = kv_cache_tokens(deployment, gpu)
    if tokens >= deployment.limits.max_context_tokens:
        return ""
    weights_gib = weight_bytes_per_gpu(deployment) / BYTES_PER_GIB
    memory_gib = gpu.memory_bytes / BYTES_PER_GIB
    if weights_gib >= memory_gib * MEMORY_UTILISATION:
        return f"weights need {weights_gib:.1f} GiB per GPU of {memory_gib:.0f} GiB"
    return (
        f"KV cache holds {max(tokens, 0)} tokens beside {weights_gib:.1f} GiB of weights,"
        f" one context needs {deployment.limits.max_context_tokens}"
    )


def point_obstacle(point: Point, gpu: GpuSpec, node_gpus: int) -> str:
    """Why the point cannot run on a node, as one line, or "" when it can."""
    obstacle = deployment_obstacle(point.deployment, gpu, node_gpus)
    if obstacle or not isinstance(point.workload, BatchWorkload):
        return obstacle
    workload, limits = point.workload, point.deployment.limits
    context = workload.prompt_tokens + workload.generated_tokens
    if context > limits.max_context_tokens:
        return f"{context} tokens per request exceed the context of {limits.max_context_tokens}"
    if workload.batch_size > limits.max_sequences:
        return f"batch {workload.batch_size} exceeds the engine's {limits.max_sequences} sequences"
    tokens = kv_cache_tokens(point.deployment, gpu)
    if workload.batch_size * context > tokens:
        return f"batch needs {workload.batch_size * context} tokens of KV cache, {tokens} fit: it would run in waves"
    return ""
