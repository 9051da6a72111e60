"""Questions to a trained predictor: as configurations, whether they can run, and how they differ from what taught."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

import pandas as pd

from harness.deployment.catalog import bundled_names, node_spec
from harness.errors import BadInput
from harness.feasibility import point_obstacle
from harness.points import BatchWorkload, Deployment, EngineLimits, ModelShape, Point
from harness.trainer import Question
from harness_analysis.baselines.whitebox import levels
from harness_analysis.cards import Card
from harness_analysis.configurations import Configurations
from harness_analysis.gnn.calibration import Range
from harness_analysis.gpus import known_gpus

_LENGTHS = {"batch_size": "batch", "prompt_tokens": "prompt", "generated_tokens": "generated tokens"}


def as_learnt(question: Question, card: Card) -> Question:
    """The question in the names of training, and nothing of it left out.

    A model of the dimensions of one that taught is asked under that one's name; one that only shares its name gets
    another. A GPU may be given by its kind in any case, or by its full name.

    Raises:
        BadInput: a GPU that is not known, or a token budget or engine that is not one.
    """
    engine = question.engine or next(iter(card.token_budgets))
    # An engine that did not teach is taken to be served as the commonest was.
    budgets = card.token_budgets.get(engine) or next(iter(card.token_budgets.values()))
    return replace(
        question,
        gpu=gpu_kind(question.gpu),
        model=_named(question.model, card.models),
        engine=engine,
        token_budget=question.token_budget or budgets[0],
    )


def gpu_kind(name: str) -> str:
    """Raises BadInput for a GPU without figures."""
    gpus = known_gpus()
    by_name = {kind: kind for kind in gpus} | {gpu.name.lower(): kind for kind, gpu in gpus.items()}
    if name.lower() not in by_name:
        raise BadInput("--gpu", name, ", ".join(sorted(gpus)))
    return by_name[name.lower()]


def _named(shape: ModelShape, taught: dict[str, ModelShape]) -> ModelShape:
    same = [name for name, one in taught.items() if _computes(one) == _computes(shape)]
    if same:
        return replace(shape, name=shape.name if shape.name in same else same[0])
    return replace(shape, name=f"{shape.name} (other dimensions)") if shape.name in taught else shape


def _computes(shape: ModelShape) -> ModelShape:
    """Without what makes no difference to the energy."""
    return replace(shape, name="", max_context_tokens=0)


def configurations_of(questions: Sequence[Question]) -> Configurations:
    """Of questions `as_learnt`, in their order."""
    rows = [
        {
            "gpu": question.gpu, "model": question.model.name, "bits": question.bits, "tp": question.tp,
            "pp": question.pp, "batch_size": question.batch_size, "prompt_tokens": question.prompt_tokens,
            "generated_tokens": question.generated_tokens, "engine": question.engine,
            "token_budget": question.token_budget,
        }
        for question in questions
    ]  # fmt: skip
    return Configurations.from_frame(
        pd.DataFrame(rows), {question.model.name: question.model for question in questions}, known_gpus()
    )


def obstacle(question: Question) -> str:
    """Why the batch cannot run at once on one node, or ""; of a question `as_learnt`.

    Taken from the engine is only its token budget: it may hold as many sequences, and as long ones, as are asked.
    """
    context = question.prompt_tokens + question.generated_tokens
    sequences = min(question.batch_size, question.token_budget or question.batch_size)
    limits = EngineLimits(question.engine or "", question.token_budget or context, sequences, context)
    deployment = Deployment(
        question.gpu, question.model, question.bits, limits, question.tp, question.pp, weights="real"
    )
    workload = BatchWorkload(question.batch_size, question.prompt_tokens, question.generated_tokens)
    places = _gpus_of_a_node().get(question.gpu, deployment.gpus)
    return point_obstacle(Point(deployment, workload), known_gpus()[question.gpu], places)


@cache
def _gpus_of_a_node() -> dict[str, int]:
    """By kind of GPU, the most that a bundled node has."""
    found: dict[str, int] = {}
    for name in bundled_names("nodes", ".yaml"):
        node = node_spec(name)
        found[node.gpu_kind] = max(found.get(node.gpu_kind, 0), node.gpus)
    return found


def differences(c: Configurations, covered: Range, card: Card) -> list[tuple[str, ...]]:
    """(n,) for each configuration how it differs from all that taught, as phrases."""
    deployments = levels(c)[-1]
    beyond = covered.beyond(c)
    return [
        (*_strange(c, at, str(deployments[at]), covered, card), *(_beyond(c, at, covered) if beyond[at] else ()))
        for at in range(len(c))
    ]


def _strange(c: Configurations, at: int, deployment: str, covered: Range, card: Card) -> list[str]:
    gpu, model, engine, budget = str(c.gpu[at]), str(c.model[at]), str(c.engine[at]), int(c.token_budget[at])
    found = []
    if gpu not in covered.gpus:
        found.append(f"GPU {gpu}: training had {_some(covered.gpus)}")
    if model not in covered.models:
        found.append(f"model {model}: training had {_some(covered.models)}")
    if not found and deployment not in covered.deployments:
        divided = f"tp {c.tp[at]:g} x pp {c.pp[at]:g}"
        found.append(f"{model} in {c.bits[at]:g} bits at {divided} on {gpu}: not in training")
    if engine not in card.token_budgets:
        found.append(f"engine {engine}: training had {_some(card.token_budgets)}")
    elif budget not in card.token_budgets[engine]:
        known = ", ".join(map(str, sorted(card.token_budgets[engine])))
        found.append(f"{engine} with a token budget of {budget}: training had {known}")
    return found


def _beyond(c: Configurations, at: int, covered: Range) -> list[str]:
    found = []
    for (name, words), low, high in zip(_LENGTHS.items(), covered.low, covered.high, strict=True):
        value = getattr(c, name)[at]
        if not low <= value <= high:
            found.append(f"{words} {value:g}: training had {low:g} to {high:g}")
    return found


def _some(names: Iterable[str], most: int = 6) -> str:
    shown = sorted(names)
    return ", ".join(shown) if len(shown) <= most else f"{len(shown)} others"
