"""Reads a sweep file: which nodes, models, parallelisms and engines, and which workloads on them.

The result is a frozen `Sweep`; docs/sweep-files.md explains every field to people.
"""

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from harness.deployment.catalog import Name, model_shape, node_spec, user_path
from harness.deployment.enginespec import EngineEntry, check_engines, engine_limits, launch_options
from harness.deployment.rulespec import RulesEntry, measurement_rules
from harness.deployment.samplingspec import SamplingEntry, SamplingRules, sampling_rules
from harness.deployment.validation import PositiveInt, Strict, bad_input_of, bounded_s
from harness.deployment.yamlfile import load_yaml
from harness.engines.base import LaunchOptions
from harness.errors import BadInput
from harness.plan import MeasurementRules
from harness.points import Deployment, ModelShape, NodeSpec
from harness.texts import shown_path
from harness.units import parse_duration_s
from harness.workload.slices import MAX_LENGTH_SCALE, MIN_LENGTH_SCALE, MIN_SLICE_S, parse_rate, parse_slice_rule

Bits = Literal[32, 16, 8]
ParallelSize = Annotated[int, Field(ge=1, le=1024)]
MOST_NODES = 16
"""Of one deployment."""


DEFAULT_DRAIN = "120s"
"""The drain rule: after the last arrival, requests have this long; what is left is aborted. The longest answer
of the Azure chat trace (1000 tokens) fits at 120 ms per token."""


class _Model(Strict):
    shape: str
    weights: str | None = None
    revision: str = ""


class _Parallelism(Strict):
    tp: ParallelSize
    pp: ParallelSize = 1
    nodes: Annotated[int, Field(ge=1, le=MOST_NODES)] = 1


class _Sampled(Strict):
    trace: str
    per_deployment: Annotated[int, Field(ge=1, le=10_000)]


class _Grid(Strict):
    prompt_tokens: Annotated[list[PositiveInt], Field(min_length=1)]
    generated_tokens: Annotated[list[PositiveInt], Field(min_length=1)]


class _Batches(Strict):
    sizes: Annotated[list[PositiveInt], Field(min_length=1)]
    sampled: _Sampled | None = None
    grid: _Grid | None = None


class _Replay(Strict):
    trace: str
    duration: str = "60s"
    slice: str = "median"
    rate: str | int | float = "1"
    length_scale: float = 1.0
    context_policy: Literal["clip-prompt", "drop"] = "clip-prompt"
    drain: str = DEFAULT_DRAIN


class _SweepFile(Strict):
    sweep: Name
    simulate: bool
    nodes: Annotated[list[str], Field(min_length=1)]
    models: Annotated[list[str | _Model], Field(min_length=1)]
    bits: Annotated[list[Bits], Field(min_length=1, default_factory=lambda: [16])]
    parallelism: Annotated[list[_Parallelism], Field(min_length=1)]
    engines: Annotated[list[EngineEntry], Field(min_length=1)]
    batches: list[_Batches] = Field(default_factory=list)
    replays: list[_Replay] = Field(default_factory=list)
    measurement: RulesEntry = RulesEntry()
    sampling: SamplingEntry = SamplingEntry()


@dataclass(frozen=True, slots=True)
class BatchSpace:
    """Batches to draw points from: sizes x either lengths sampled from a trace, or a grid of lengths.

    Attributes:
        place: file and entry that it was read from, for complaints.
    """

    sizes: tuple[int, ...]
    trace: str = ""
    per_deployment: int = 0
    grid: tuple[tuple[int, int], ...] = ()
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ReplaySpec:
    """A replay to take on every deployment, its slice still to be chosen.

    Attributes:
        place: file and entry that it was read from, for complaints; empty where it comes from no file.
    """

    trace: str
    duration_s: float
    slice_rule: str
    rate_scale: float | None
    capacity_share: float | None
    context_policy: str
    drain_s: float
    length_scale: float = 1.0
    place: str = field(default="", compare=False)


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
    sampling: SamplingRules = SamplingRules()


def load_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Raises:
        BadInput: with the field, its value and what is accepted, as one line.
    """
    where = shown_path(path)
    _check_exists(path)
    try:
        file = _SweepFile.model_validate(load_yaml(path))
    except ValidationError as error:
        raise bad_input_of(error, where) from error
    if not file.batches and not file.replays:
        raise BadInput(f"{where}: batches", [], "at least one entry under batches or replays")
    nodes = tuple(node_spec(name, f"{where}: nodes[{index}]", path.parent) for index, name in enumerate(file.nodes))
    _refuse_doubles(f"{where}: nodes", [node.kind for node in nodes])
    for index, node in enumerate(nodes):
        if file.simulate and node.gpu is None:
            accepted = "a kind of node with GPUs: one without cannot be simulated"
            raise BadInput(f"{where}: nodes[{index}]", node.kind, accepted, "simulate: false")
    _check_bits(file.bits, nodes, f"{where}: bits")
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
        rules=measurement_rules(file.measurement, f"{where}: measurement"),
        sampling=sampling_rules(file.sampling, f"{where}: sampling"),
    )


def _check_exists(path: Path) -> None:
    """Only of what is not there; what cannot be read is for `load_yaml` to say."""
    try:
        path.stat()
    except FileNotFoundError as error:
        raise BadInput(
            shown_path(path), "No such file or directory", "an existing sweep file", "check the path"
        ) from error
    except (OSError, ValueError):
        return


def _check_bits(bits: list[Bits], nodes: tuple[NodeSpec, ...], where: str) -> None:
    for node in nodes:
        for index, width in enumerate(bits):
            if node.gpu is None and width != 32:
                accepted = f"32 on {node.kind}: a node without GPUs serves float32"
                raise BadInput(f"{where}[{index}]", width, accepted, "bits: [32]")


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
    for index, parallel in enumerate(file.parallelism):
        _check_parallelism(parallel, [shape for shape, _ in shapes], nodes, f"{path}: parallelism[{index}]")
    check_engines(
        file.engines, [shape for shape, _ in shapes], f"{path}: engines", any(not model.weights for _, model in shapes)
    )
    made: dict[Deployment, LaunchOptions] = {}
    entries = [(engine, f"{path}: engines[{index}]") for index, engine in enumerate(file.engines)]
    for node, (shape, model), bits, (engine, where), parallel in product(
        nodes, shapes, file.bits, entries, file.parallelism
    ):
        deployment = Deployment(
            gpu=node.gpu_kind,
            model=shape,
            bits=bits,
            limits=engine_limits(engine, shape),
            tensor_parallel=parallel.tp,
            pipeline_parallel=parallel.pp,
            weights="real" if model.weights else "dummy",
            revision=model.revision,
            nodes=parallel.nodes,
        )
        made[deployment] = launch_options(engine, model.weights or "", where)
    return tuple(made), tuple(made.values())


def _check_weights(weights: str | None, field: str) -> None:
    if weights is not None and not (user_path(weights, field) / "config.json").is_file():
        raise BadInput(field, weights, "a folder that holds config.json and the weights", "leave out for dummy weights")


def _check_parallelism(
    parallel: _Parallelism, shapes: list[ModelShape], nodes: tuple[NodeSpec, ...], field: str
) -> None:
    """Refuse what no engine can do with any model on any node of the sweep; what only some cannot is an outcome."""
    if all(shape.heads % parallel.tp for shape in shapes):
        divisors = [size for size in range(1, 65) if any(shape.heads % size == 0 for shape in shapes)]
        whose = " or ".join({shape.heads: f"the {shape.heads} heads of {shape.name}" for shape in shapes}.values())
        raise BadInput(f"{field}.tp", parallel.tp, f"a divisor of {whose}: {divisors}")
    deepest = max(shapes, key=lambda shape: shape.layers)
    if parallel.pp > deepest.layers:
        raise BadInput(f"{field}.pp", parallel.pp, f"at most the {deepest.layers} layers of {deepest.name}")
    if parallel.pp % parallel.nodes:
        raise BadInput(
            f"{field}.nodes", parallel.nodes, f"a divisor of pp {parallel.pp}: each node takes whole pipeline stages"
        )
    most = max(node.places for node in nodes)
    if parallel.tp * parallel.pp > most * parallel.nodes:
        places = "GPUs" if any(node.gpus for node in nodes) else "engine ranks"
        several = "a node" if parallel.nodes == 1 else f"each of {parallel.nodes} nodes"
        more = "" if parallel.pp == 1 else f"nodes: {-(-parallel.tp * parallel.pp // most)} for pipelines over several"
        raise BadInput(field, f"tp {parallel.tp} x pp {parallel.pp}", f"at most the {most} {places} of {several}", more)


def _batch_space(spec: _Batches, where: str) -> BatchSpace:
    if (spec.sampled is None) == (spec.grid is None):
        raise BadInput(where, "sampled and grid", "exactly one of `sampled` (lengths from a trace) or `grid`")
    sizes = tuple(dict.fromkeys(spec.sizes))
    if spec.sampled is not None:
        sampled, place = spec.sampled, f"{where}.sampled"
        return BatchSpace(sizes=sizes, trace=sampled.trace, per_deployment=sampled.per_deployment, place=place)
    assert spec.grid is not None
    pairs = dict.fromkeys(product(spec.grid.prompt_tokens, spec.grid.generated_tokens))
    return BatchSpace(sizes=sizes, grid=tuple(pairs), place=where)


def _replay_spec(spec: _Replay, where: str) -> ReplaySpec:
    rate_scale, capacity_share = parse_rate(str(spec.rate), f"{where}.rate")
    parse_slice_rule(spec.slice, f"{where}.slice")
    duration_s = parse_duration_s(spec.duration, f"{where}.duration")
    if duration_s < MIN_SLICE_S:
        raise BadInput(f"{where}.duration", spec.duration, f"at least {MIN_SLICE_S:g}s")
    if not MIN_LENGTH_SCALE <= spec.length_scale <= MAX_LENGTH_SCALE:
        raise BadInput(f"{where}.length_scale", spec.length_scale, f"{MIN_LENGTH_SCALE:g} to {MAX_LENGTH_SCALE:g}")
    return ReplaySpec(
        trace=spec.trace,
        duration_s=duration_s,
        slice_rule=spec.slice,
        rate_scale=rate_scale,
        capacity_share=capacity_share,
        context_policy=spec.context_policy,
        drain_s=bounded_s(spec.drain, f"{where}.drain", 1.0, 3600.0),
        length_scale=spec.length_scale,
        place=where,
    )
