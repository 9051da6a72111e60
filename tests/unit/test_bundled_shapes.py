"""The bundled models and kinds of node are the published ones, and the space that is made of them is large and even."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from harness.bundled import bundled_path
from harness.deployment.catalog import bundled_names, model_shape
from harness.deployment.sweepfile import Sweep, load_sweep
from harness.errors import BadInput
from harness.feasibility import deployment_obstacle, node_obstacle
from harness.machine import gpus_of
from harness.meters.nvml import NvmlMeter
from harness.points import BatchWorkload, Deployment, ModelShape, Point
from harness.space import Space, build_space, spread_out
from harness.workload.library import find_trace
from tests.conftest import REPOSITORY
from tests.unit.builders import deployment, node, write_sweep

PUBLISHED = {
    "tinyllama-1.1b": (1.10, "card of TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
    "llama-3.2-1b": (1.23, "card of meta-llama/Llama-3.2-1B"),
    "smollm2-1.7b": (1.71, "tensors on the page of HuggingFaceTB/SmolLM2-1.7B"),
    "llama-3.2-3b": (3.21, "card of meta-llama/Llama-3.2-3B"),
    "granite-3b-code": (3.48, "tensors on the page of ibm-granite/granite-3b-code-base-2k"),
    "llama-2-7b": (6.74, "tensors on the page of meta-llama/Llama-2-7b-hf"),
    "mistral-7b-v0.3": (7.25, "tensors on the page of mistralai/Mistral-7B-v0.3"),
    "llama-3-8b": (8.03, "tensors on the page of meta-llama/Meta-Llama-3-8B"),
    "falcon3-10b": (10.3, "tensors on the page of tiiuae/Falcon3-10B-Base"),
    "mistral-nemo-12b": (12.2, "tensors on the page of mistralai/Mistral-Nemo-Base-2407"),
    "llama-2-13b": (13.0, "card of meta-llama/Llama-2-13b-hf"),
    "internlm-20b": (20.0, "card of internlm/internlm-20b"),
    "mistral-small-24b": (23.6, "tensors on the page of mistralai/Mistral-Small-24B-Base-2501"),
    "llama-30b": (32.5, "LLaMA paper, arXiv 2302.13971, table 2"),
    "codellama-34b": (33.7, "tensors on the page of codellama/CodeLlama-34b-hf"),
    "yi-34b": (34.4, "tensors on the page of 01-ai/Yi-34B"),
    "llama-65b": (65.2, "LLaMA paper, arXiv 2302.13971, table 2"),
    "deepseek-llm-67b": (67.0, "card of deepseek-ai/deepseek-llm-67b-base"),
    "llama-2-70b": (69.0, "tensors on the page of meta-llama/Llama-2-70b-hf"),
    "llama-3-70b": (70.6, "tensors on the page of meta-llama/Meta-Llama-3-70B"),
}
"""Billions of parameters, and who says so."""
FOR_TESTS = {"tiny-llama"}
"""Made up, for engines on a machine without a GPU."""
SPACE = bundled_path("deployments", "simulated-space.yaml")


@cache
def simulated_space() -> tuple[Sweep, Space]:
    """The bundled space, of the profiles of the traces: the same whatever was fetched."""
    sweep = load_sweep(SPACE)
    return sweep, build_space(sweep, lambda name: find_trace(f"{name}-profile"), 0)


def feasible(point: Point) -> bool:
    sweep, _ = simulated_space()
    (kind,) = (kind for kind in sweep.nodes if kind.gpu_kind == point.deployment.gpu)
    return not node_obstacle(point, kind)


def shapes() -> list[ModelShape]:
    return [model_shape(name) for name in PUBLISHED]


def test_every_bundled_model_has_a_published_size() -> None:
    assert set(bundled_names("models", ".json")) == set(PUBLISHED) | FOR_TESTS


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shape_has_as_many_parameters_as_were_published(name: str) -> None:
    """A wrong figure in a config.json (a layer, a head, tied or not) shows in the total."""
    billions, source = PUBLISHED[name]
    assert model_shape(name).parameters / 1e9 == pytest.approx(billions, rel=0.015), source


def test_the_shapes_vary_in_all_that_a_shape_has() -> None:
    """Of each kind there are some, or a predictor would never meet it."""
    kinds: dict[str, Callable[[ModelShape], bool]] = {
        "each head has its own keys and values": lambda shape: shape.kv_heads == shape.heads,
        "heads share keys and values": lambda shape: shape.kv_heads < shape.heads,
        "wide": lambda shape: shape.hidden_size / shape.layers >= 125,
        "deep": lambda shape: shape.hidden_size / shape.layers <= 90,
        "wide MLP": lambda shape: shape.intermediate_size / shape.hidden_size > 6,
        "narrow MLP": lambda shape: shape.intermediate_size / shape.hidden_size < 2.75,
        "heads that do not make up the hidden size": lambda shape: shape.heads * shape.head_dim != shape.hidden_size,
        "tied embeddings": lambda shape: shape.tied_embeddings,
        "biases": lambda shape: shape.attention_bias,
    }
    for kind, holds in kinds.items():
        assert 1 <= sum(map(holds, shapes())) < len(PUBLISHED), kind
    assert min(shape.parameters for shape in shapes()) < 1.3e9
    assert max(shape.parameters for shape in shapes()) > 70e9
    assert len(shapes()) >= 3 + 12


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_page_of_models_shows_the_figures_of_the_files(name: str) -> None:
    """The line to put there is in the failure."""
    shape = model_shape(name)
    remarks = [
        "tied embeddings" * shape.tied_embeddings,
        "biases" * shape.attention_bias,
        f"heads of {shape.head_dim}" * (shape.heads * shape.head_dim != shape.hidden_size),
    ]
    line = (
        f"| `{name}` | {shape.parameters / 1e9:.2f} | {shape.layers} | {shape.hidden_size} |"
        f" {shape.intermediate_size} | {shape.heads} / {shape.kv_heads} | {shape.vocab_size} |"
        f" {shape.max_context_tokens} | {', '.join(filter(None, remarks))} |"
    )
    page = (REPOSITORY / "docs" / "models.md").read_text("utf-8")
    assert any(written.startswith(line) for written in page.splitlines()), line


class Board:
    def __init__(self, name: str, memory_mib: int) -> None:
        self.name, self.memory_bytes = name, memory_mib << 20


class Boards(NvmlMeter):
    """A server full of one board, that no driver knows."""

    def __init__(self, name: str, memory_mib: int) -> None:
        self.gpus = (Board(name, memory_mib),) * 8  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("kind", "board", "memory_mib"),
    [
        ("dgx-a100-40gb", "NVIDIA A100-SXM4-40GB", 40960), ("dgx-a100", "NVIDIA A100-SXM4-80GB", 81920),
        ("dgx-h100", "NVIDIA H100 80GB HBM3", 81559), ("dgx-h200", "NVIDIA H200", 143771),
    ],
)  # fmt: skip
def test_a_kind_of_node_is_the_machine_that_nvml_shows(kind: str, board: str, memory_mib: int) -> None:
    spec = node(kind)
    assert spec.gpu is not None
    assert gpus_of(Boards(board, memory_mib)).makes(spec)
    assert spec.gpu.name == board
    assert spec.gpu.memory_bytes == pytest.approx(memory_mib << 20, rel=0.01)


def test_the_space_has_all_models_on_all_four_kinds_of_node() -> None:
    sweep, _ = simulated_space()
    assert {item.model.name for item in sweep.deployments} == set(PUBLISHED)
    assert {kind.kind for kind in sweep.nodes} == {"dgx-a100-40gb", "dgx-a100", "dgx-h100", "dgx-h200"}
    gpus = {kind.gpu_kind: kind for kind in sweep.nodes}
    runs = {
        (item.gpu, item.model.name, item.bits)
        for item in sweep.deployments
        if not deployment_obstacle(item, gpus[item.gpu].gpu, gpus[item.gpu].places)
    }
    assert len(runs) == len(gpus) * len(PUBLISHED) * 2, "each model runs somehow, in 16 and in 8 bits"


def test_the_space_holds_ten_thousand_points_that_can_run() -> None:
    _, space = simulated_space()
    points = [item.point for group in space.groups for item in group.candidates]
    assert sum(map(feasible, points)) >= 10_000
    # A sampled length that came twice within a deployment would have been dropped as a double.
    assert {len(group.candidates) for group in space.groups} == {5}
    assert len(points) == len(set(points))


def test_requests_fit_the_context_of_their_model() -> None:
    """The limit of 8,192 tokens is the model's own where that is less, and no length is infeasible for it."""
    _, space = simulated_space()
    contexts = {}
    for group in space.groups:
        limits, model = group.deployment.limits, group.deployment.model
        contexts[model.name] = limits.max_context_tokens
        for item in group.candidates:
            assert isinstance(item.point.workload, BatchWorkload)
            tokens = item.point.workload.prompt_tokens + item.point.workload.generated_tokens
            assert tokens <= limits.max_context_tokens
    assert contexts == {shape.name: min(8192, shape.max_context_tokens) for shape in shapes()}
    assert contexts["llama-65b"] == 2048


def test_a_first_part_of_the_space_is_well_spread() -> None:
    """`--points 500` takes some 100 deployments: every choice that the file offers is among them, and none rules."""
    _, space = simulated_space()
    first = space.first(500, feasible)
    taken = [group.deployment for group in first.groups if any(feasible(item.point) for item in group.candidates)]
    choices: dict[str, tuple[Callable[[Deployment], object], int, float]] = {
        "gpu": (lambda item: item.gpu, 4, 0.35),
        "bits": (lambda item: item.bits, 2, 0.7),
        "engine": (lambda item: (item.limits.engine, item.limits.token_budget), 3, 0.5),
        "parallelism": (lambda item: (item.tensor_parallel, item.pipeline_parallel), 10, 0.25),
        "model": (lambda item: item.model.name, 16, 0.2),
    }
    for name, (choice, at_least, most) in choices.items():
        counts = [sum(choice(item) == value for item in taken) for value in set(map(choice, taken))]
        assert len(counts) >= at_least, name
        assert max(counts) <= most * len(taken), name


def test_token_budgets_and_engines_are_told_apart_by_the_order() -> None:
    """Two that differ in the budget only are not the same place: the second does not wait until everything is taken."""
    budgets = [deployment(tp=tp, token_budget=budget) for tp in (1, 2, 4) for budget in (512, 2048, 8192)]
    assert {item.limits.token_budget for item in spread_out(tuple(budgets))[:4]} >= {512, 8192}


def test_lengths_are_taken_again_where_a_space_is_larger_than_its_trace() -> None:
    """The code trace has 8,819 requests, and fewer different ones; the space asks for 9,600 pairs of it."""
    sweep, space = simulated_space()
    asked = len(sweep.deployments) * 2
    assert asked > 8819
    code = [item for group in space.groups for item in group.candidates if "code" in item.lengths_from]
    assert len(code) == asked


CONTEXT = "max_context_tokens: 4096"


def test_a_context_may_be_clipped_to_what_each_model_takes(tmp_path: Path) -> None:
    models = ("[llama-2-7b]", "[llama-2-7b, llama-65b, llama-3-8b]")
    path = write_sweep(tmp_path, models, (CONTEXT, "max_context_tokens: 6000, clip_context_to_model: true"))
    contexts = {item.model.name: item.limits.max_context_tokens for item in load_sweep(path).deployments}
    assert contexts == {"llama-2-7b": 4096, "llama-65b": 2048, "llama-3-8b": 6000}


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("max_context_tokens: 6000", "at most the models' 2048; fix: or clip_context_to_model: true"),
        ("max_context_tokens: 6000, clip_context_to_model: false", "at most the models' 2048"),
        ("max_context_tokens: 1, clip_context_to_model: true", "at least 2"),
        ("max_context_tokens: 6000, clip_context_to_model: yes please", "true or false"),
    ],
)
def test_a_context_over_a_models_own_is_clipped_only_when_asked(tmp_path: Path, engine: str, expected: str) -> None:
    path = write_sweep(tmp_path, ("[llama-2-7b]", "[llama-2-7b, llama-65b]"), (CONTEXT, engine))
    with pytest.raises(BadInput, match=re.escape(expected)):
        load_sweep(path)


def test_two_engines_that_clipping_makes_the_same_are_refused(tmp_path: Path) -> None:
    """Of 3,000 and 4,000 tokens a model that takes 2,048 would have the same deployment twice, with which options?"""
    entry = "  - {name: vllm, token_budget: 8192, max_sequences: 128, max_context_tokens: 4096}"
    clipped = [entry.replace("4096}", f"{tokens}, clip_context_to_model: true}}") for tokens in (3000, 4000)]
    path = write_sweep(tmp_path, ("[llama-2-7b]", "[llama-2-7b, llama-65b]"), (entry, "\n".join(clipped)))
    with pytest.raises(BadInput, match=r"engines\[1\].*the same deployments of llama-65b"):
        load_sweep(path)


def test_a_split_that_one_model_can_take_is_an_outcome_for_the_others(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, ("[llama-2-7b]", "[llama-2-7b, llama-30b, falcon3-10b]"), ("{tp: 2}", "{tp: 8}"),
                       (CONTEXT, f"{CONTEXT}, clip_context_to_model: true"))  # fmt: skip
    sweep = load_sweep(path)
    spec = sweep.nodes[0]
    obstacles = {
        item.model.name: deployment_obstacle(item, spec.gpu, spec.places)
        for item in sweep.deployments
        if item.tensor_parallel == 8
    }
    assert obstacles == {
        "llama-2-7b": "",
        "llama-30b": "tp 8 does not divide the 52 attention heads",
        "falcon3-10b": "tp 8 does not divide the 12 attention heads",
    }


def test_a_split_that_no_model_can_take_is_refused(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, ("[llama-2-7b]", "[llama-2-7b, llama-30b]"), ("{tp: 2}", "{tp: 8, pp: 61}"),
                       (CONTEXT, "max_context_tokens: 2048"))  # fmt: skip
    with pytest.raises(BadInput, match="at most the 60 layers of llama-30b"):
        load_sweep(path)
    path = write_sweep(tmp_path, ("[llama-2-7b]", "[llama-2-7b, llama-30b]"), ("{tp: 2}", "{tp: 3}"),
                       (CONTEXT, "max_context_tokens: 2048"))  # fmt: skip
    with pytest.raises(BadInput, match="the 32 heads of llama-2-7b or the 52 heads of llama-30b"):
        load_sweep(path)


def test_a_shape_with_heads_of_its_own_size_keeps_a_cache_of_that_size() -> None:
    """Mistral Nemo: 8 heads of 128 in 40 layers, 16 bits, keys and values; not 5,120 / 32 = 160."""
    shape = model_shape("mistral-nemo-12b")
    assert shape.kv_bytes_per_token == 2 * 40 * 8 * 128 * 2
    assert math.isclose(replace(shape, head_dim=160).kv_bytes_per_token / shape.kv_bytes_per_token, 160 / 128)
