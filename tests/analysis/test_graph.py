"""The graph of kernels: its shape, what its nodes and the whole know, and what happens to nodes that are not there."""

import numpy as np
import pytest

from harness_analysis.features import kernel_features, roofline_j, roofline_s, totals
from harness_analysis.graph import (
    EDGES,
    GLOBAL_FEATURES,
    KERNEL_TYPES,
    NODE_FEATURES,
    NODES,
    global_features,
    node_features,
)
from tests.analysis.test_features import one

NETWORK = [NODES.index(name) for name in ("attn_all_reduce", "mlp_all_reduce", "send_recv")]


def ancestors(node: str) -> set[str]:
    """What a node's result depends on."""
    found: set[int] = set()
    waiting = [NODES.index(node)]
    while waiting:
        target = waiting.pop()
        sources = set(EDGES[0, EDGES[1] == target].tolist()) - found
        found |= sources
        waiting += sources
    return {NODES[index] for index in found}


def test_everything_flows_from_the_embedding_to_the_head() -> None:
    """Without a kernel that nothing feeds or that feeds nothing, a message can reach every node."""
    assert ancestors("lm_head") == set(NODES) - {"lm_head"}
    assert all("embedding" in ancestors(node) for node in NODES if node != "embedding")
    assert all(node not in ancestors(node) for node in NODES)


def test_the_data_flow_of_a_layer() -> None:
    """Residuals join behind both blocks, keys do not depend on queries, and sums over GPUs come before residuals."""
    assert ancestors("qk_matmul") == {"embedding", "attn_norm", "q_proj", "k_proj"}
    assert "qk_matmul" in ancestors("sv_matmul")
    edges = {(NODES[source], NODES[target]) for source, target in EDGES.T}
    assert {("embedding", "attn_add"), ("attn_add", "mlp_add"), ("attn_all_reduce", "attn_add")} <= edges
    assert len(edges) == EDGES.shape[1] == 24


def test_kernel_types_are_shared_by_kernels_that_do_the_same() -> None:
    assert (KERNEL_TYPES.sum(axis=1) == 1).all()
    of = {node: tuple(row) for node, row in zip(NODES, KERNEL_TYPES, strict=True)}
    assert of["gate_proj"] == of["up_proj"]
    assert of["attn_all_reduce"] == of["mlp_all_reduce"]
    assert len({of[node] for node in ("q_proj", "k_proj", "out_proj", "down_proj", "lm_head")}) == 5


def test_nodes_know_the_logarithms_of_their_kernels_features() -> None:
    c = one(tp=2, pp=2, prompt_tokens=[5, 7])
    nodes, raw = node_features(c), kernel_features(c)
    column = NODE_FEATURES.index("operations")
    np.testing.assert_allclose(np.expm1(nodes.prefill[:, :, column]), raw.prefill.of("operations"), rtol=1e-5)
    time_ns = np.expm1(nodes.decode[:, :, NODE_FEATURES.index("time_s")])
    np.testing.assert_allclose(time_ns, raw.decode.of("time_s") * 1e9, rtol=1e-5)
    assert nodes.prefill.shape == nodes.decode.shape == (2, len(NODES), len(NODE_FEATURES))


def test_prefill_and_decode_are_told_apart() -> None:
    """One phase's features must not overwrite the other's, and a batch without decode steps has none."""
    nodes = node_features(one(generated_tokens=[1, 4]))
    assert not nodes.decode[0].any()
    assert nodes.decode[1].any()
    assert (nodes.prefill[0] == nodes.prefill[1]).all()
    assert not np.allclose(nodes.prefill[1], nodes.decode[1])


@pytest.mark.parametrize(("tp", "pp", "empty"), [(1, 1, 3), (2, 1, 1), (1, 2, 2), (2, 2, 0)])
def test_the_graph_stays_and_absent_nodes_are_zero(tp: int, pp: int, empty: int) -> None:
    nodes = node_features(one(tp=tp, pp=pp))
    assert sum(not nodes.prefill[0, node].any() for node in NETWORK) == empty


def test_global_features_are_named_right() -> None:
    """Each by its name, because the columns come from five places."""
    c = one(tp=2, pp=2, batch_size=3, prompt_tokens=50, generated_tokens=4)
    found = dict(zip(GLOBAL_FEATURES, np.expm1(global_features(c).astype(np.float64))[0], strict=True))
    summed = totals(c)
    memory = ("weight_bytes", "activation_bytes", "kv_bytes")
    expected = {
        "bits": 16, "tp": 2, "pp": 2, "batch_size": 3, "prompt_tokens": 50, "generated_tokens": 4,
        "hidden_size": 8, "intermediate_size": 16, "layers": 4, "heads": 4, "kv_heads": 2, "vocab_size": 10,
        "peak_flops": 100, "memory_bandwidth_bytes_per_s": 10, "link_bandwidth_bytes_per_s": 4,
        "idle_w": 50, "tdp_w": 150, "prompt_chunks": 1,
        "decode_operations": summed.of("operations", "decode")[0],
        "prefill_bytes": sum(summed.of(name, "prefill")[0] for name in memory),
        "decode_network_bytes": summed.of("network_bytes", "decode")[0],
        "decode_kernels": summed.of("kernels", "decode")[0],
        "prefill_time_s": roofline_s(c)[0, 0] * 1e9,
        "decode_energy_j": roofline_j(c)[0, 1],
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_a_token_budget_cuts_prompts_into_passes() -> None:
    """150 prompt tokens at 64 to a step take three; without a budget they take one."""
    c = one(prompt_tokens=[50, 50], token_budget=[64.0, np.inf])
    chunks = global_features(c)[:, GLOBAL_FEATURES.index("prompt_chunks")]
    assert np.expm1(chunks) == pytest.approx([3, 1])
