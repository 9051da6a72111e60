"""What predictors learn from: configurations with their energies, of own runs and of published measurements."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from harness.deployment.catalog import model_shape
from harness.errors import BadInput
from harness.points import NO_GPU, FloatArray, GpuSpec, IntArray, ModelShape, StrArray
from harness.store import read_table
from harness_analysis.configurations import COLUMNS, Configurations, Index
from harness_analysis.gpus import known_gpus
from harness_analysis.public import argonne, mlenergy, released
from harness_analysis.public.shapes import SHAPES

__all__ = [
    "COLUMNS",
    "Configurations",
    "Examples",
    "Index",
    "concatenated",
    "from_argonne",
    "from_mlenergy",
    "from_released",
    "from_runs",
]
Spec = TypeVar("Spec")
RELEASED_MODELS = {"llama2-7b": "llama-2-7b", "internlm-20b": "internlm-20b", "llama2-70b": "llama-2-70b"}
"""The released data's names -> the bundled shapes."""
MLENERGY_PROMPT_TOKENS = {"chat": 120.0, "code": 150.0}
"""Prompt lengths that are not published, from the prompts that the benchmark sends (ml-energy/leaderboard):

chat: 500 first turns of ShareGPT, 216,075 characters as JSON: 360 of text each, some 90 tokens, and 30 of the system
prompt and the chat template. code: the problems of HumanEval, 450 characters each, some 130 tokens, and instructions.
"""
_RUN_COLUMNS = (
    "point_id", "environment_id", "source", "gpu", "model", "bits", "tp", "pp", "batch_size", "prompt_tokens",
    "generated_tokens", "engine", "token_budget", "gpu_energy_j", "gpu_prefill_energy_j", "point", "status", "purpose",
    "workload",
)  # fmt: skip
_VALID = (
    (pc.field("workload") == "batch")
    & (pc.field("status") == "ok")
    & (pc.field("purpose") != "warmup")
    & (pc.field("gpu") != NO_GPU)
    & pc.field("gpu_energy_j").is_valid()
    # A graph knows one kind of link between GPUs, that inside a node.
    & (pc.field("n_nodes").is_null() | (pc.field("n_nodes") == 1))
)
_MODEL = re.compile(r'"model":(\{[^{}]*\})')
"""In the text of a point."""


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Configurations with what they took.

    Attributes:
        configurations: n of them.
        prefill_j, total_j: (n,) energy of all GPUs for one batch, gross; NaN where it is not known. The labels of the
            released data have no unit.
        source: (n,) where each comes from: `simulated` or `measured` for own runs, else the name of the publication.
        noise: (n,) relative standard error of the mean total, from its repetitions; NaN where it is not known. By
            default of none.
        point_id, environment_id: (n,) of own runs; empty for published data, and by default.

    Raises:
        ValueError: columns of different lengths.
    """

    configurations: Configurations
    prefill_j: FloatArray
    total_j: FloatArray
    source: StrArray
    noise: FloatArray = field(default_factory=lambda: np.empty(0))
    point_id: StrArray = field(default_factory=lambda: np.empty(0, np.str_))
    environment_id: StrArray = field(default_factory=lambda: np.empty(0, np.str_))

    def __post_init__(self) -> None:
        n = len(self.configurations)
        unsaid = {"noise": np.full(n, np.nan), "point_id": np.full(n, ""), "environment_id": np.full(n, "")}
        for name, values in unsaid.items():
            if not len(getattr(self, name)):
                object.__setattr__(self, name, values)
        if any(len(getattr(self, name)) != n for name in _EXAMPLE_COLUMNS):
            raise ValueError("examples have one label and one source for each configuration")

    def __len__(self) -> int:
        return len(self.configurations)

    @property
    def groups(self) -> IntArray:
        """`Configurations.groups`."""
        return self.configurations.groups()

    @property
    def token_j(self) -> FloatArray:
        """(n,) total energy per generated token, prefill included."""
        return self.total_j / (self.configurations.batch_size * self.configurations.generated_tokens)

    def take(self, index: Index) -> "Examples":
        """Those at `index`: positions, a mask or a slice."""
        columns: dict[str, Any] = {name: getattr(self, name)[index] for name in _EXAMPLE_COLUMNS}
        return Examples(self.configurations.take(index), **columns)


_EXAMPLE_COLUMNS = ("prefill_j", "total_j", "source", "noise", "point_id", "environment_id")


def concatenated(parts: Sequence[Examples]) -> Examples:
    """The examples of several sources, one after the other.

    Raises:
        BadInput: one name that stands for two shapes or GPUs.
        ValueError: no parts.
    """
    if not parts:
        raise ValueError("no examples to concatenate")
    several = [part.configurations for part in parts]
    columns: dict[str, Any] = {name: np.concatenate([getattr(one, name) for one in several]) for name in COLUMNS}
    return Examples(
        Configurations(
            **columns,
            shapes=reduce(lambda left, right: merged(left, right, "model"), [one.shapes for one in several]),
            gpus=reduce(lambda left, right: merged(left, right, "gpu"), [one.gpus for one in several]),
        ),
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _EXAMPLE_COLUMNS},
    )


def from_runs(
    results: Path | Sequence[Path], mix_sources: bool = False, gpus: Mapping[str, GpuSpec] | None = None
) -> Examples:
    """Batches of results folders: the mean of all valid repetitions of a point in an environment, probes included.

    Replays, runs that are not `ok`, nodes without GPUs and deployments over several nodes are left out.

    Args:
        mix_sources: take simulated and measured folders together.
        gpus: figures of kinds that `known_gpus` does not have.

    Raises:
        BadInput: no valid batch, folders of both sources, one name for two shapes, a kind of GPU without figures;
            a folder that does not exist.
        StoreError, StoreRefused, UnreadableFile: as `harness.store.read_table`.
    """
    folders = [results] if isinstance(results, Path) else list(results)
    shapes: Mapping[str, ModelShape] = {}
    tables = [pd.DataFrame(columns=list(_RUN_COLUMNS))]
    for folder in folders:
        table = read_table(folder, "runs", _RUN_COLUMNS, _VALID)
        shapes = merged(shapes, _shapes_of(pc.unique(table["point"]).to_pylist()), "model")
        # A point weighs more than all other columns together.
        tables.append(table.drop_columns("point").to_pandas())
    runs = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
    where = ", ".join(str(folder) for folder in folders)
    if runs.empty:
        raise BadInput("results", where, "folders with valid runs of batches on GPUs", "run harness sweep first")
    sources = sorted(set(runs["source"]))
    if len(sources) > 1 and not mix_sources:
        raise BadInput("results", where, f"folders of one source, not of {' and '.join(sources)}", "take one of them")
    energies = ["gpu_energy_j", "gpu_prefill_energy_j"]
    keys = ["point_id", "environment_id", "source"]
    grouped = runs.groupby(keys, sort=False)
    rows = grouped.first().drop(columns=energies).join(grouped[energies].mean())
    scatter: pd.Series[float] = grouped["gpu_energy_j"].std() / np.sqrt(grouped["gpu_energy_j"].count())
    rows = rows.assign(noise=scatter / rows["gpu_energy_j"]).reset_index()
    return Examples(
        Configurations.from_frame(rows, shapes, {**known_gpus(), **(gpus or {})}),
        rows["gpu_prefill_energy_j"].to_numpy(np.float64),
        rows["gpu_energy_j"].to_numpy(np.float64),
        rows["source"].to_numpy(np.str_),
        noise=rows["noise"].to_numpy(np.float64),
        point_id=rows["point_id"].to_numpy(np.str_),
        environment_id=rows["environment_id"].to_numpy(np.str_),
    )


def from_released(folder: Path | str, split: Literal["train", "val"] = "train") -> Examples:
    """The data released with the LLMCO2 paper, as a single A100 (80 GB) of 16 bits: how it was divided is not said.

    One GPU holds no 70B, so only ratios between its configurations mean anything, and its labels have no unit (see
    `public.released`).

    Raises:
        BadInput: see `public.released.read`.
    """
    rows = released.read(folder)
    rows = rows[rows["split"] == split].assign(bits=16, tp=1, pp=1)
    rows["model"] = rows["model"].map(RELEASED_MODELS)
    shapes = {name: model_shape(name) for name in RELEASED_MODELS.values()}
    return Examples(
        Configurations.from_frame(rows, shapes, known_gpus()),
        rows["prefill_label"].to_numpy(np.float64),
        rows["total_label"].to_numpy(np.float64),
        np.full(len(rows), released.NAMES[split]),
    )


def from_mlenergy(folder: Path | str, prompt_tokens: Mapping[str, float] = MLENERGY_PROMPT_TOKENS) -> Examples:
    """ML.ENERGY's rows of dense models: a batch is the mean number of requests in flight, at J/request each.

    `Examples.token_j` is then the published energy per token. The prefill's energy is not known.

    Args:
        prompt_tokens: by task, because prompt lengths are not published.

    Raises:
        BadInput: see `public.mlenergy.read`.
    """
    rows = mlenergy.read(folder)
    rows = rows[rows["model"].isin(SHAPES)]
    rows = rows.assign(prompt_tokens=rows["task"].map(prompt_tokens))
    return Examples(
        Configurations.from_frame(rows, SHAPES, known_gpus()),
        np.full(len(rows), np.nan),
        (rows["energy_j"] * rows["batch_size"]).to_numpy(np.float64),
        np.full(len(rows), mlenergy.NAME),
    )


def from_argonne(folder: Path | str) -> Examples:
    """The rows of LLM-Inference-Bench with power: single cards, 1,024 tokens in and out, four batch sizes.

    The second of idle in the published mean power is taken out (`public.argonne.without_idle_second`), at the card's
    own idle power: 1 to 16% more energy than published. The prefill's energy is not known.

    Raises:
        BadInput: see `public.argonne.read`.
    """
    rows = argonne.read(folder)
    rows = rows[rows["energy_j"].notna() & rows["model"].isin(SHAPES)]
    configurations = Configurations.from_frame(rows, SHAPES, known_gpus())
    latency_s, power_w = rows["latency_s"].to_numpy(np.float64), rows["power_w"].to_numpy(np.float64)
    (idle_w,) = configurations.gpu_values("idle_w")
    return Examples(
        configurations,
        np.full(len(rows), np.nan),
        argonne.without_idle_second(power_w, latency_s, idle_w) * latency_s * configurations.n_gpus,
        np.full(len(rows), argonne.NAME),
    )


def _shapes_of(points: Iterable[str]) -> Mapping[str, ModelShape]:
    """Every run carries its model's dimensions in its point; of thousands of points there are few models."""
    models: dict[str, dict[str, Any]] = {}
    for point in points:
        match = _MODEL.search(point)
        text = point if match is None else match[1]
        if text not in models:
            models[text] = json.loads(point)["deployment"]["model"]
    found: Mapping[str, ModelShape] = {}
    for model in models.values():
        shape = ModelShape(**model)
        found = merged(found, {shape.name: shape}, "model")
    return found


def merged(left: Mapping[str, Spec], right: Mapping[str, Spec], field: str) -> Mapping[str, Spec]:
    """Both lookups in one.

    Raises:
        BadInput: a name that stands for different things.
    """
    for name in left.keys() & right.keys():
        if left[name] != right[name]:
            raise BadInput(field, name, "one meaning for one name", "rename one of the two, or read them apart")
    return {**left, **right}
