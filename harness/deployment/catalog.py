"""Kinds of node and shapes of model: the bundled ones by name, any other by its file."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from harness.bundled import bundled_path
from harness.deployment.validation import Strict, bad_input_of
from harness.deployment.yamlfile import load_yaml
from harness.errors import BadInput
from harness.points import NO_GPU, CpuSpec, GpuSpec, ModelShape, NodeSpec
from harness.units import BYTES_PER_GIB

# Wide enough for any hardware, and narrow enough for the simulator's counters and clocks to hold what follows.
Memory = Annotated[float, Field(ge=0.1, le=1e5)]
Speed = Annotated[float, Field(ge=0.01, le=1e6)]
Power = Annotated[float, Field(ge=0.1, le=1e5)]
PowerOrNone = Annotated[float, Field(ge=0, le=1e5)]
Register = Annotated[float, Field(ge=100, le=1e12)]
Name = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class _GpuFile(Strict):
    kind: Name
    name: str
    memory_gib: Memory
    peak_tflops: Speed
    memory_bandwidth_gb_per_s: Speed
    link_bandwidth_gb_per_s: Speed
    idle_w: Power
    tdp_w: Power


class _CpuFile(Strict):
    name: str
    sockets: Annotated[int, Field(ge=1, le=16)]
    idle_w: Power
    tdp_w: Power
    dram_idle_w: PowerOrNone
    dram_tdp_w: PowerOrNone
    has_dram_counter: bool
    package_wrap_j: Register
    dram_wrap_j: Register


class _NodeFile(Strict):
    """With GPUs it gives `gpu` and `cpu`; without, how many engine ranks the processors found may hold."""

    kind: Name
    gpus: Annotated[int, Field(ge=0, le=64)]
    gpu: _GpuFile | None = None
    cpu: _CpuFile | None = None
    ranks: Annotated[int, Field(ge=1, le=64)] | None = None


def bundled_names(folder: str, suffix: str) -> list[str]:
    return sorted(path.name.removesuffix(suffix) for path in bundled_path("deployments", folder).glob(f"*{suffix}"))


def user_path(name: str, field: str) -> Path:
    """The path that a person wrote, `~` resolved.

    Raises:
        BadInput: `~somebody` who does not exist, or a NUL character.
    """
    try:
        if "\0" in name:
            raise RuntimeError("a NUL character")
        return Path(name).expanduser()
    except RuntimeError as error:
        raise BadInput(field, name, "the path of a file or folder", str(error)) from error


def _bundled_or_file(name: str, folder: str, suffix: str, field: str, beside: Path | None) -> Path:
    if not name.endswith((".yaml", ".yml", ".json")) and "/" not in name:
        known = bundled_names(folder, suffix)
        if name in known:
            return bundled_path("deployments", folder, name + suffix)
        raise BadInput(field, name, f"{', '.join(known)}, or the path of a {suffix} file")
    path = user_path(name, field)
    return path if path.is_absolute() or beside is None else beside / path


def node_spec(name: str, field: str = "nodes", beside: Path | None = None) -> NodeSpec:
    """A kind of node by its bundled name, or from a YAML file with its figures.

    Args:
        beside: folder that a relative path starts from.

    Raises:
        BadInput: no such kind, or figures that make no sense.
    """
    path = _bundled_or_file(name, "nodes", ".yaml", field, beside)
    try:
        file = _NodeFile.model_validate(load_yaml(path))
    except ValidationError as error:
        raise bad_input_of(error, str(path)) from error
    gpu, cpu = file.gpu, file.cpu
    if file.gpus == 0:
        if gpu is not None or cpu is not None or file.ranks is None:
            raise BadInput(f"{path}: gpus", 0, "with `ranks`, without `gpu` and `cpu`")
        return NodeSpec(file.kind, None, 0, None, file.ranks)
    if gpu is None or cpu is None or file.ranks is not None:
        raise BadInput(f"{path}: gpus", file.gpus, "with the figures of `gpu` and `cpu`, without `ranks`")
    if gpu.kind == NO_GPU:
        raise BadInput(f"{path}: gpu.kind", gpu.kind, "another name: this one stands for no GPU")
    if gpu.tdp_w <= gpu.idle_w:
        raise BadInput(f"{path}: gpu.tdp_w", gpu.tdp_w, f"more than gpu.idle_w ({gpu.idle_w:g})")
    if cpu.tdp_w <= cpu.idle_w:
        raise BadInput(f"{path}: cpu.tdp_w", cpu.tdp_w, f"more than cpu.idle_w ({cpu.idle_w:g})")
    return NodeSpec(
        kind=file.kind,
        gpus=file.gpus,
        gpu=GpuSpec(
            kind=gpu.kind,
            name=gpu.name,
            memory_bytes=int(gpu.memory_gib * BYTES_PER_GIB),
            peak_flops=gpu.peak_tflops * 1e12,
            memory_bandwidth_bytes_per_s=gpu.memory_bandwidth_gb_per_s * 1e9,
            link_bandwidth_bytes_per_s=gpu.link_bandwidth_gb_per_s * 1e9,
            idle_w=gpu.idle_w,
            tdp_w=gpu.tdp_w,
        ),
        cpu=CpuSpec(**cpu.model_dump()),
    )


def model_shape(name: str, field: str = "models", beside: Path | None = None) -> ModelShape:
    """A model's shape by its bundled name, or from any dense Llama-shaped Hugging Face `config.json`.

    A path may be the file, or the folder that holds it (the model is then named after the folder).

    Raises:
        BadInput: no such model, or a config.json that is not Llama-shaped.
    """
    path = _bundled_or_file(name, "models", ".json", field, beside)
    if path.is_dir():
        path = path / "config.json"
    try:
        if not path.is_file():
            raise BadInput(field, str(path), "a Llama-shaped config.json, or the folder that holds it")
        if path.stat().st_size > 1 << 20:
            raise BadInput(field, str(path), "a config.json of at most 1 MiB")
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition(";")[0]
        raise BadInput(field, f"{path}: {reason}", "a Llama-shaped config.json in JSON") from error
    if not isinstance(config, dict):
        raise BadInput(field, str(path), "a JSON object with hidden_size, num_hidden_layers, ...")
    shape_name = path.parent.name if path.name == "config.json" else path.stem
    return _shape_from_config(shape_name, config, f"{path}")


def _shape_from_config(name: str, config: dict[str, Any], where: str) -> ModelShape:
    for key, value in config.items():
        if "experts" in key and isinstance(value, int) and value > 1:
            raise BadInput(f"{where}: {key}", value, "a dense model (a mixture of experts is not supported)")

    def integer(key: str, default: int | None = None) -> int:
        value = config.get(key, default)
        if value is None and default is not None:
            value = default
        if isinstance(value, float) and math.isfinite(value) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10**8:
            raise BadInput(f"{where}: {key}", value, "a positive integer", "use a Llama-shaped config.json")
        return value

    hidden, heads = integer("hidden_size"), integer("num_attention_heads")
    if hidden % heads and "head_dim" not in config:
        raise BadInput(f"{where}: num_attention_heads", heads, f"a divisor of hidden_size {hidden}, or head_dim given")
    kv_heads = integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise BadInput(f"{where}: num_key_value_heads", kv_heads, f"a divisor of num_attention_heads {heads}")
    return ModelShape(
        name=name,
        hidden_size=hidden,
        intermediate_size=integer("intermediate_size"),
        layers=integer("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=integer("head_dim", hidden // heads),
        vocab_size=integer("vocab_size"),
        max_context_tokens=integer("max_position_embeddings"),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        attention_bias=bool(config.get("attention_bias", False)),
    )
