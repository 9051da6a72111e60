"""Energy over tensor parallel size, as in Fig. 9 of the LLMCO2 paper: up for one request, down per GPU for batches."""

import pytest

from harness.deployment.catalog import model_shape, node_spec
from harness.points import BatchWorkload, Deployment, EngineLimits
from harness.simulator.node import SimulatedNode

LIMITS = EngineLimits("vllm", token_budget=8192, max_sequences=128, max_context_tokens=4096)
CODING_REQUEST = BatchWorkload(1, 1469, 13)
"""Medians of the Azure code trace."""
CHAT_BATCH = BatchWorkload(64, 1020, 129)
"""Medians of the Azure conversation trace."""
SIZES = (1, 2, 4, 8)


def joules_per_token(node_kind: str, tp: int, workload: BatchWorkload) -> float:
    """True energy of the GPUs that serve, per generated token."""
    spec = node_spec(node_kind)
    node = SimulatedNode(spec, "scaling", seed=3)
    engine = node.launch(Deployment(spec.gpu_kind, model_shape("llama-2-7b"), 16, LIMITS, tp, 1, "dummy"), seed=0)
    batches = 3
    served = engine.prepare_batches(workload, batches, seed=1)()
    energy_j = sum(node.truth.energy_j("gpu", uuid, served.start_s, served.end_s) for uuid in engine.gpu_uuids)
    return energy_j / (batches * workload.batch_size * workload.generated_tokens)


@pytest.mark.parametrize("node_kind", ["dgx-a100", "dgx-h100"])
def test_a_single_coding_request_costs_more_joules_per_token_on_more_gpus(node_kind: str) -> None:
    by_size = [joules_per_token(node_kind, tp, CODING_REQUEST) for tp in SIZES]
    assert by_size == sorted(by_size)
    assert by_size[-1] > 1.3 * by_size[0]


@pytest.mark.parametrize("node_kind", ["dgx-a100", "dgx-h100"])
def test_a_large_chat_batch_costs_each_gpu_less_per_token(node_kind: str) -> None:
    per_gpu = [joules_per_token(node_kind, tp, CHAT_BATCH) / tp for tp in SIZES]
    assert per_gpu == sorted(per_gpu, reverse=True)
    assert per_gpu[-1] < 0.5 * per_gpu[0]
