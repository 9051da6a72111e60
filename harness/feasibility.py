"""Whether a deployment and a point can run at all: decided from memory and divisibility, before a launch.

The memory model is the engines' own: weights, then a reserve for activations, then the KV cache in what is
left of `MEMORY_UTILISATION` (vLLM's `--gpu-memory-utilization`). It is an estimate; an engine may still refuse.
On a node without GPUs memory is not judged: what an engine may take of the host's is not known beforehand.
"""

from harness.points import KV_BITS, NO_GPU, BatchWorkload, Deployment, GpuSpec, ModelShape, NodeSpec, Point
from harness.units import BYTES_PER_GIB

MEMORY_UTILISATION = 0.9
RUNTIME_RESERVE_BYTES = 1.0 * BYTES_PER_GIB
"""CUDA graphs and communication buffers that an engine keeps beside weights and cache."""
KV_BLOCK_TOKENS = 16
"""Engines give out the cache in blocks of so many tokens."""
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
    """Tokens of context that fit in the KV cache, in whole blocks; zero or negative when the weights leave no room."""
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
    return int(free // per_token) // KV_BLOCK_TOKENS * KV_BLOCK_TOKENS


def node_obstacle(point: Point, node: NodeSpec) -> str:
    """Why the point cannot run on a node of its kind, as one line, or "" when it can."""
    return point_obstacle(point, node.gpu, node.places)


def deployment_obstacle(deployment: Deployment, gpu: GpuSpec | None, places: int) -> str:
    """Why the deployment cannot run on a node, as one line, or "" when it can.

    Args:
        gpu: of the node; None: it has none.
        places: how many engine ranks it may hold, one for each GPU.
    """
    model, limits = deployment.model, deployment.limits
    tp, pp = deployment.tensor_parallel, deployment.pipeline_parallel
    if deployment.gpus_per_node > places:
        what = "engine ranks" if gpu is None else "GPUs"
        each = "" if deployment.nodes == 1 else f" over {deployment.nodes} nodes"
        return f"needs {deployment.gpus_per_node} {what} (tp {tp} x pp {pp}{each}), the node has {places}"
    if model.heads % tp:
        return f"tp {tp} does not divide the {model.heads} attention heads"
    if model.intermediate_size % tp:
        return f"tp {tp} does not divide the intermediate size {model.intermediate_size}"
    if model.kv_heads % tp and tp % model.kv_heads:
        return f"tp {tp} and the {model.kv_heads} KV heads do not divide one another"
    if pp > model.layers:
        return f"pp {pp} exceeds the {model.layers} layers"
    obstacle = _engine_obstacle(deployment)
    if obstacle:
        return obstacle
    if limits.max_context_tokens > model.max_context_tokens:
        return f"context {limits.max_context_tokens} exceeds the model's {model.max_context_tokens}"
    return "" if gpu is None else _memory_obstacle(deployment, gpu)


def _engine_obstacle(deployment: Deployment) -> str:
    """What this engine cannot do and another may."""
    model, limits = deployment.model, deployment.limits
    tp, pp = deployment.tensor_parallel, deployment.pipeline_parallel
    if limits.engine == "vllm" and limits.token_budget < limits.max_sequences:
        return f"vllm needs a token budget ({limits.token_budget}) of at least its {limits.max_sequences} sequences"
    if deployment.nodes > 1 and limits.engine != "vllm":
        return f"{limits.engine} is launched on one node, not on {deployment.nodes}: vllm serves over several"
    if limits.engine == "transformers" and deployment.gpus > 1:
        return f"transformers serves tp 1 x pp 1 only, not tp {tp} x pp {pp}"
    if limits.engine in ("sarathi", "transformers") and deployment.bits < KV_BITS:
        return f"{limits.engine} serves no weights of {deployment.bits} bits"
    if limits.engine != "sarathi":
        return ""
    if deployment.gpu == NO_GPU:
        return "sarathi computes on GPUs only"
    if model.layers % pp:
        return f"sarathi needs pp {pp} to divide the {model.layers} layers"
    if model.kv_heads % tp:
        return f"sarathi needs tp {tp} to divide the {model.kv_heads} KV heads"
    if model.head_dim * model.heads != model.hidden_size:
        return f"sarathi needs heads of hidden size / heads, {model.name} has heads of {model.head_dim}"
    return ""


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


def point_obstacle(point: Point, gpu: GpuSpec | None, places: int) -> str:
    """Why the point cannot run on a node, as one line, or "" when it can; arguments as of `deployment_obstacle`."""
    obstacle = deployment_obstacle(point.deployment, gpu, places)
    if obstacle or not isinstance(point.workload, BatchWorkload):
        return obstacle
    workload, limits = point.workload, point.deployment.limits
    context = workload.prompt_tokens + workload.generated_tokens
    if context > limits.max_context_tokens:
        return f"{context} tokens per request exceed the context of {limits.max_context_tokens}"
    if workload.batch_size > limits.max_sequences:
        return f"batch {workload.batch_size} exceeds the engine's {limits.max_sequences} sequences"
    if gpu is None:
        return ""
    tokens = kv_cache_tokens(point.deployment, gpu)
    if workload.batch_size * context > tokens:
        return f"batch needs {workload.batch_size * context} tokens of KV cache, {tokens} fit: it would run in waves"
    return ""
