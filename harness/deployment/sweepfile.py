"""Reads a sweep file: which nodes, models, parallelisms and engines, and which workloads on them.

The result is a frozen `Sweep`; docs/sweep-files.md explains every field to people.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.deployment.catalog import Name, model_shape, node_spec, user_path
from harness.deployment.validation import bad_input_of
from harness.deployment.yamlfile import load_yaml
from harness.errors import BadInput
from harness.plan import MeasurementRules
from harness.points import Deployment, EngineLimits, ModelShape, NodeSpec
from harness.units import format_duration, parse_duration_s
from harness.workload.slices import parse_rate

PositiveInt = Annotated[int, Field(ge=1, le=10**7)]
ParallelSize = Annotated[int, Field(ge=1, le=1024)]


DEFAULT_DRAIN = "120s"
"""The drain rule: after the last arrival, requests have this long; what is left is aborted. The longest answer
of the Azure chat trace (1000 tokens) fits at 120 ms per token."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Model(_Strict):
    shape: str
    weights: str | None = None
    revision: str = ""


class _Parallelism(_Strict):
    tp: ParallelSize
    pp: ParallelSize = 1


class _Engine(_Strict):
    name: Literal["vllm", "sarathi"]
    token_budget: PositiveInt
    max_sequences: PositiveInt
    max_context_tokens: PositiveInt
    enforce_eager: bool = False
    command: list[str] | None = None


class _Sampled(_Strict):
    trace: str
    per_deployment: Annotated[int, Field(ge=1, le=10_000)]


class _Grid(_Strict):
    prompt_tokens: Annotated[list[PositiveInt], Field(min_length=1)]
    generated_tokens: Annotated[list[PositiveInt], Field(min_length=1)]


class _Batches(_Strict):
    sizes: Annotated[list[PositiveInt], Field(min_length=1)]
    sampled: _Sampled | None = None
    grid: _Grid | None = None


class _Replay(_Strict):
    trace: str
    duration: str = "60s"
    slice: str = "median"
    rate: str | int | float = "1"
    context_policy: Literal["clip-prompt", "drop"] = "clip-prompt"
    drain: str = DEFAULT_DRAIN


class _Rules(_Strict):
    repetitions: Annotated[int, Field(ge=1, le=100)] = 5
    half_width: Annotated[float, Field(ge=1e-3, le=1)] | None = None
    most_repetitions: Annotated[int, Field(ge=1, le=1000)] = 20
    window: str = "2s"
    uncertainty: Annotated[float, Field(ge=1e-4, le=1)] = 0.01
    window_limit: str = "30s"
    idle: str = "5s"
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3


class _SweepFile(_Strict):
    sweep: Name
    simulate: bool
    nodes: Annotated[list[str], Field(min_length=1)]
    models: Annotated[list[str | _Model], Field(min_length=1)]
    bits: Annotated[list[Literal[16, 8]], Field(min_length=1)] = [16]
    parallelism: Annotated[list[_Parallelism], Field(min_length=1)]
    engines: Annotated[list[_Engine], Field(min_length=1)]
    batches: list[_Batches] = []
    replays: list[_Replay] = []
    measurement: _Rules = _Rules()


@dataclass(frozen=True, slots=True)
class BatchSpace:
    """Batches to draw points from: sizes x either lengths sampled from a trace, or a grid of lengths."""

    sizes: tuple[int, ...]
    trace: str = ""
    per_deployment: int = 0
    grid: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ReplaySpec:
    """A replay to take on every deployment, its slice still to be chosen."""

    trace: str
    duration_s: float
    slice_rule: str
    rate_scale: float | None
    capacity_share: float | None
    context_policy: str
    drain_s: float


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """How to start an engine on a real node; no part of a point's content."""

    weights_path: str = ""
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sweep:
    """A validated sweep file."""

    name: str
    path: str
    simulate: bool
    nodes: tuple[NodeSpec, ...]
    deployments: tuple[Deployment, ...]
    options: tuple[LaunchOptions, ...]
    batches: tuple[BatchSpace, ...]
    replays: tuple[ReplaySpec, ...]
    rules: MeasurementRules


def load_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Raises:
        BadInput: with the field, its value and what is accepted, as one line.
    """
    where = str(path)
    try:
        file = _SweepFile.model_validate(load_yaml(path))
    except ValidationError as error:
        raise bad_input_of(error, where) from error
    if not file.batches and not file.replays:
        raise BadInput(f"{where}: batches", [], "at least one entry under batches or replays")
    nodes = tuple(node_spec(name, f"{where}: nodes[{index}]", path.parent) for index, name in enumerate(file.nodes))
    _refuse_doubles(f"{where}: nodes", [node.kind for node in nodes])
    deployments, options = _deployments(file, nodes, path)
    return Sweep(
        name=file.sweep,
        path=where,
        simulate=file.simulate,
        nodes=nodes,
        deployments=deployments,
        options=options,
        batches=tuple(_batch_space(spec, f"{where}: batches[{index}]") for index, spec in enumerate(file.batches)),
        replays=tuple(_replay_spec(spec, f"{where}: replays[{index}]") for index, spec in enumerate(file.replays)),
        rules=MeasurementRules(
            repetitions=file.measurement.repetitions,
            half_width=file.measurement.half_width,
            most_repetitions=file.measurement.most_repetitions,
            window_s=_bounded_s(file.measurement.window, f"{where}: measurement.window", 0.2, 600.0),
            idle_s=_bounded_s(file.measurement.idle, f"{where}: measurement.idle", 0.5, 600.0),
            uncertainty=file.measurement.uncertainty,
            window_limit_s=_bounded_s(file.measurement.window_limit, f"{where}: measurement.window_limit", 0.2, 600.0),
            max_attempts=file.measurement.max_attempts,
        ),
    )


def _bounded_s(text: str, field: str, least_s: float, most_s: float) -> float:
    duration_s = parse_duration_s(text, field)
    if not least_s <= duration_s <= most_s:
        raise BadInput(field, text, f"{format_duration(least_s)} to {format_duration(most_s)}")
    return duration_s


def _refuse_doubles(field: str, names: list[str]) -> None:
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise BadInput(field, doubles[0], "each entry once")


def _deployments(
    file: _SweepFile, nodes: tuple[NodeSpec, ...], path: Path
) -> tuple[tuple[Deployment, ...], tuple[LaunchOptions, ...]]:
    shapes: list[tuple[ModelShape, _Model]] = []
    for index, entry in enumerate(file.models):
        model = _Model(shape=entry) if isinstance(entry, str) else entry
        shapes.append((model_shape(model.shape, f"{path}: models[{index}]", path.parent), model))
        _check_weights(model.weights, f"{path}: models[{index}].weights")
    _refuse_doubles(f"{path}: models", [shape.name for shape, _ in shapes])
    _refuse_doubles(f"{path}: engines", [str(engine) for engine in file.engines])
    for index, parallel in enumerate(file.parallelism):
        for shape, _ in shapes:
            _check_parallelism(parallel, shape, nodes, f"{path}: parallelism[{index}]")
    for engine_index, engine in enumerate(file.engines):
        _check_context(engine, [shape for shape, _ in shapes], f"{path}: engines[{engine_index}]")
    made: dict[Deployment, LaunchOptions] = {}
    for node, (shape, model), bits, engine, parallel in product(
        nodes, shapes, file.bits, file.engines, file.parallelism
    ):
        limits = EngineLimits(
            engine=engine.name,
            token_budget=engine.token_budget,
            max_sequences=engine.max_sequences,
            max_context_tokens=engine.max_context_tokens,
            enforce_eager=engine.enforce_eager,
        )
        deployment = Deployment(
            gpu=node.gpu.kind,
            model=shape,
            bits=bits,
            limits=limits,
            tensor_parallel=parallel.tp,
            pipeline_parallel=parallel.pp,
            weights="real" if model.weights else "dummy",
            revision=model.revision,
        )
        made[deployment] = LaunchOptions(weights_path=model.weights or "", command=tuple(engine.command or ()))
    return tuple(made), tuple(made.values())


def _check_weights(weights: str | None, field: str) -> None:
    if weights is not None and not (user_path(weights, field) / "config.json").is_file():
        raise BadInput(field, weights, "a folder that holds config.json and the weights", "leave out for dummy weights")


def _check_parallelism(parallel: _Parallelism, shape: ModelShape, nodes: tuple[NodeSpec, ...], field: str) -> None:
    """Refuse what no engine can do on any node of the sweep; what only some cannot is a recorded outcome."""
    if shape.heads % parallel.tp:
        divisors = [size for size in range(1, 65) if shape.heads % size == 0]
        raise BadInput(f"{field}.tp", parallel.tp, f"a divisor of the {shape.heads} heads of {shape.name}: {divisors}")
    if parallel.pp > shape.layers:
        raise BadInput(f"{field}.pp", parallel.pp, f"at most the {shape.layers} layers of {shape.name}")
    most = max(node.gpus for node in nodes)
    if parallel.tp * parallel.pp > most:
        raise BadInput(field, f"tp {parallel.tp} x pp {parallel.pp}", f"at most the {most} GPUs of a node")


def _check_context(engine: _Engine, shapes: list[ModelShape], field: str) -> None:
    least = min(shape.max_context_tokens for shape in shapes)
    if engine.max_context_tokens > least:
        raise BadInput(f"{field}.max_context_tokens", engine.max_context_tokens, f"at most the models' {least}")
    if engine.max_context_tokens < 2:
        raise BadInput(f"{field}.max_context_tokens", engine.max_context_tokens, "at least 2")
    for part in engine.command or ():
        if "\0" in part:
            raise BadInput(f"{field}.command", part, "arguments without NUL characters")


def _batch_space(spec: _Batches, field: str) -> BatchSpace:
    if (spec.sampled is None) == (spec.grid is None):
        raise BadInput(field, "sampled and grid", "exactly one of `sampled` (lengths from a trace) or `grid`")
    sizes = tuple(dict.fromkeys(spec.sizes))
    if spec.sampled is not None:
        return BatchSpace(sizes=sizes, trace=spec.sampled.trace, per_deployment=spec.sampled.per_deployment)
    assert spec.grid is not None
    pairs = dict.fromkeys(product(spec.grid.prompt_tokens, spec.grid.generated_tokens))
    return BatchSpace(sizes=sizes, grid=tuple(pairs))


def _replay_spec(spec: _Replay, field: str) -> ReplaySpec:
    rate_scale, capacity_share = parse_rate(str(spec.rate))
    return ReplaySpec(
        trace=spec.trace,
        duration_s=parse_duration_s(spec.duration, f"{field}.duration"),
        slice_rule=spec.slice,
        rate_scale=rate_scale,
        capacity_share=capacity_share,
        context_policy=spec.context_policy,
        drain_s=_bounded_s(spec.drain, f"{field}.drain", 1.0, 3600.0),
    )
