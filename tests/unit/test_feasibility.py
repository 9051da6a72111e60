"""Feasibility is decided before a launch, from memory and divisibility."""

from dataclasses import replace
from typing import Any

import pytest

from harness.feasibility import (
    deployment_obstacle,
    kv_cache_tokens,
    node_obstacle,
    point_obstacle,
    weight_bytes_per_gpu,
)
from harness.points import NO_GPU, BatchWorkload, Point
from tests.unit.builders import batch_point, deployment, node


@pytest.mark.parametrize(
    ("model", "billions"), [("llama-2-7b", 6.738), ("internlm-20b", 20.09), ("llama-2-70b", 68.98)]
)  # fmt: skip
def test_parameter_counts_of_the_three_models(model: str, billions: float) -> None:
    assert deployment(model).model.parameters / 1e9 == pytest.approx(billions, rel=1e-3)


def test_weights_split_over_gpus() -> None:
    whole = weight_bytes_per_gpu(deployment("llama-2-70b", tp=1))
    assert whole == pytest.approx(138e9, rel=0.01)
    assert weight_bytes_per_gpu(deployment("llama-2-70b", tp=8)) == pytest.approx(whole / 8)
    assert weight_bytes_per_gpu(deployment("llama-2-70b", tp=1, pp=8)) == pytest.approx(whole / 8, rel=0.03)


@pytest.mark.parametrize(("tp", "pp", "fits"), [(1, 1, False), (2, 1, True), (4, 1, True), (2, 2, True)])
def test_70b_in_16_bits_on_cards_of_80_gb(tp: int, pp: int, fits: bool) -> None:
    """One card cannot hold it; two can, barely (its power on two A100 has been published)."""
    spec = node("dgx-a100")
    obstacle = deployment_obstacle(deployment("llama-2-70b", tp=tp, pp=pp, gpu="a100"), spec.gpu, spec.gpus)
    assert (obstacle == "") is fits, obstacle


def test_kv_cache_of_7b_on_80_gb() -> None:
    """(0.9 x 80 GiB - 12.6 GiB - reserve) / 0.5 MiB per token: vLLM reports some 110,000 tokens."""
    assert 100_000 < kv_cache_tokens(deployment(), node().gpu) < 125_000


def test_uneven_pipeline_is_refused_by_sarathi_only() -> None:
    spec = node()
    sarathi = deployment("internlm-20b", pp=8, engine="sarathi")
    assert "60 layers" in deployment_obstacle(sarathi, spec.gpu, spec.gpus)
    assert deployment_obstacle(deployment("internlm-20b", pp=8), spec.gpu, spec.gpus) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine": "sarathi", "bits": 8}, "sarathi serves no weights of 8 bits"),
        ({"engine": "transformers", "bits": 8}, "transformers serves no weights of 8 bits"),
        ({"engine": "transformers", "tp": 2}, "transformers serves tp 1 x pp 1 only"),
        ({"engine": "sarathi", "gpu": NO_GPU}, "sarathi computes on GPUs only"),
    ],
)
def test_what_one_engine_cannot_do_another_may(changes: dict[str, Any], words: str) -> None:
    bits, others = changes.get("bits", 16), {name: value for name, value in changes.items() if name != "bits"}
    item = replace(deployment(**others), bits=bits)
    spec = node()
    assert words in deployment_obstacle(item, spec.gpu, spec.gpus)
    other = replace(item, limits=replace(item.limits, engine="vllm"))
    assert deployment_obstacle(other, spec.gpu, spec.gpus) == ""


def test_on_a_node_without_gpus_only_what_is_known_is_checked() -> None:
    spec = node("cpu-only")
    assert (spec.gpu, spec.cpu, spec.gpus, spec.gpu_kind, spec.places) == (None, None, 0, "none", 4)
    huge = batch_point(batch=128, prompt=4000, generated=96, model="llama-2-70b", gpu=NO_GPU)
    assert node_obstacle(huge, spec) == "", "memory is not judged"
    assert "needs 8 engine ranks" in node_obstacle(batch_point(tp=8, gpu=NO_GPU), spec)
    assert "128 sequences" in node_obstacle(batch_point(batch=129, gpu=NO_GPU), spec)


def test_a_batch_must_fit_as_one_batch() -> None:
    spec = node()

    def obstacle(batch: int, prompt: int, generated: int) -> str:
        point = replace(batch_point(), workload=BatchWorkload(batch, prompt, generated))
        return point_obstacle(point, spec.gpu, spec.gpus)

    assert obstacle(8, 128, 16) == ""
    assert "context of 4096" in obstacle(1, 4000, 100)
    assert "128 sequences" in obstacle(129, 1, 1)
    assert "waves" in obstacle(64, 3000, 1000)


def test_more_gpus_than_the_node_has() -> None:
    spec = node()
    point = Point(deployment(tp=8), BatchWorkload(1, 8, 8))
    assert "the node has 4" in point_obstacle(point, spec.gpu, 4)


def test_over_several_nodes_each_has_its_share_and_only_vllm_serves() -> None:
    over_two = replace(deployment("llama-2-70b", 8, 2), nodes=2)
    assert deployment_obstacle(over_two, node().gpu, 8) == ""
    assert "needs 8 GPUs (tp 8 x pp 2 over 2 nodes), the node has 4" in deployment_obstacle(over_two, node().gpu, 4)
    sarathi = replace(over_two, limits=replace(over_two.limits, engine="sarathi"))
    assert "sarathi is launched on one node, not on 2" in deployment_obstacle(sarathi, node().gpu, 8)


def test_a_point_of_one_node_keeps_the_id_that_it_had_before_there_could_be_several() -> None:
    point = batch_point()
    assert (point.point_id, point.deployment.deployment_id) == ("0e157fdb259fec09", "2cbbb26d8efa623d")
    over_two = replace(point.deployment, pipeline_parallel=2, nodes=2)
    assert over_two.deployment_id != replace(over_two, nodes=1).deployment_id
    assert over_two.label.startswith("h100 llama-2-7b tp1 pp2 2nodes ")
