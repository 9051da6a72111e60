"""Arrow schemas of the four tables, and the way from records to rows.

History of SCHEMA_VERSION:
    1   first version (2026-11)
    2   runs: n_nodes, clock_uncertainty_s (2026-11)
"""

import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from harness.engines.base import Steps
from harness.points import FloatArray, IntArray
from harness.records import ENERGY_DOMAINS, Energy, RunBundle, RunRecord, WindowDetail

SCHEMA_VERSION = 2
TABLES = ("requests", "iterations", "power", "runs")
"""In the order of writing: `runs` is last, so a run is there only when all of it is."""

_ARROW_TYPES: dict[object, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    datetime: pa.timestamp("us", tz="UTC"),
    tuple[str, ...]: pa.list_(pa.string()),
    tuple[float, ...]: pa.list_(pa.float64()),
}


def _arrow_type(annotation: object) -> tuple[pa.DataType, bool]:
    """The Arrow type of a field's annotation, and whether it may be null."""
    if typing.get_origin(annotation) is types.UnionType:
        (inner,) = (arg for arg in typing.get_args(annotation) if arg is not type(None))
        return _ARROW_TYPES[inner], True
    if typing.get_origin(annotation) is typing.Literal:
        return pa.string(), False
    return _ARROW_TYPES[annotation], False


def _energy_fields() -> Iterator[tuple[pa.Field, str]]:
    for domain in ENERGY_DOMAINS:
        per = "of the window in a replay, per batch otherwise"
        yield pa.field(f"{domain}_energy_j", pa.float64()), f"gross energy, {per}, J"
        yield pa.field(f"{domain}_energy_uncertainty_j", pa.float64()), "random part, 95% half-width, J"
        yield pa.field(f"{domain}_source", pa.string()), "measured, estimated or simulated"
        yield pa.field(f"{domain}_reason", pa.string()), "why the energy is null"


def _run_fields() -> Iterator[tuple[pa.Field, str]]:
    yield pa.field("schema_version", pa.int64(), nullable=False), "version of this table's schema"
    yield pa.field("run_id", pa.string(), nullable=False), "the run's key joined by dots; detail tables refer to it"
    hints = typing.get_type_hints(RunRecord)
    for item in fields(RunRecord):
        if item.name == "energies":
            yield from _energy_fields()
        else:
            arrow_type, nullable = _arrow_type(hints[item.name])
            yield pa.field(item.name, arrow_type, nullable=nullable), _doc(item)


def _doc(item: "Field[Any]") -> str:
    return str(item.metadata["doc"])


RUN_COLUMNS: dict[str, str] = {item.name: doc for item, doc in _run_fields()}
"""Column -> its line in the data dictionary."""


def _detail(*columns: tuple[str, pa.DataType, str]) -> dict[str, tuple[pa.DataType, str]]:
    common = (
        ("run_id", pa.string(), "the run's key: point, environment, launch, repetition and attempt, joined by dots"),
        ("point_id", pa.string(), "the run's point"),
        ("window", pa.string(), "prefill, full or replay"),
    )
    return {name: (arrow_type, doc) for name, arrow_type, doc in (*common, *columns)}


DETAIL_COLUMNS: dict[str, dict[str, tuple[pa.DataType, str]]] = {
    "requests": _detail(
        ("batch_index", pa.int32(), "which batch of the window"),
        ("request_index", pa.int32(), "which request, in order of sending"),
        ("scheduled_s", pa.float64(), "when it was due, s from the window's start"),
        ("sent_s", pa.float64(), "when it was sent, s from the window's start"),
        ("admitted_s", pa.float64(), "start of the first step that held it, s; null: never"),
        ("first_token_s", pa.float64(), "first token, s; null: never"),
        ("finished_s", pa.float64(), "last token, s; null: never"),
        ("queue_s", pa.float64(), "inside the engine: from its arrival there until admitted, s"),
        ("prefill_s", pa.float64(), "inside the engine: from admitted to the first token, s"),
        ("decode_s", pa.float64(), "inside the engine: from the first token to the last, s"),
        ("prompt_tokens", pa.int32(), "prompt tokens, counted by the engine"),
        ("generated_tokens", pa.int32(), "generated tokens, counted by the engine"),
        ("asked_tokens", pa.int32(), "generated tokens that were asked for"),
        ("outcome", pa.string(), "finished, refused, lost, timeout (drain limit), aborted or malformed"),
    ),
    "iterations": _detail(
        ("batch_index", pa.int32(), "which batch of the window"),
        ("step_index", pa.int32(), "first step of this row, from the window's start"),
        (
            "n_steps",
            pa.int32(),
            "steps in this row: as many decoding sequences, one after another or in turn with others",
        ),
        ("start_s", pa.float64(), "start of the first step, s from the window's start"),
        ("duration_s", pa.float64(), "time inside the steps, summed, s; steps overlap where a pipeline holds several"),
        ("prefill_requests", pa.int32(), "prompt chunks in each step"),
        ("prefill_tokens", pa.int32(), "prompt tokens in each step"),
        ("decode_requests", pa.int32(), "decoding sequences in each step"),
        ("context_tokens", pa.int64(), "keys read by attention, summed over sequences and steps"),
    ),
    "power": _detail(
        ("gpu_uuid", pa.string(), "which GPU"),
        ("time_s", pa.float64(), "time of the reading, s from the window's start"),
        ("power_w", pa.float32(), "instantaneous power, W"),
    ),
}


def _schemas() -> dict[str, pa.Schema]:
    metadata = {"harness.schema_version": str(SCHEMA_VERSION)}
    schemas = {"runs": pa.schema([item for item, _ in _run_fields()], metadata)}
    for name, columns in DETAIL_COLUMNS.items():
        schemas[name] = pa.schema(
            [pa.field(column, arrow_type) for column, (arrow_type, _) in columns.items()], metadata
        )
    return schemas


SCHEMAS: dict[str, pa.Schema] = _schemas()


def run_row(run: RunRecord) -> dict[str, object]:
    """The row of `runs` for one record; energy domains that are missing get a reason, never a zero."""
    row: dict[str, object] = {"schema_version": SCHEMA_VERSION, "run_id": run.run_id}
    for item in fields(RunRecord):
        if item.name != "energies":
            row[item.name] = getattr(run, item.name)
            continue
        for domain in ENERGY_DOMAINS:
            energy = run.energies.get(domain) or Energy.absent("not measured")
            row[f"{domain}_energy_j"] = energy.energy_j
            row[f"{domain}_energy_uncertainty_j"] = energy.uncertainty_j
            row[f"{domain}_source"] = energy.source
            row[f"{domain}_reason"] = energy.reason if energy.energy_j is None else None
    return row


def tables_of(bundles: list[RunBundle]) -> dict[str, pa.Table]:
    """The rows of several bundles, one Arrow table for each of the four tables."""
    return {
        "requests": _detail_table("requests", bundles, _request_columns),
        "iterations": _detail_table("iterations", bundles, _iteration_columns),
        "power": _detail_table("power", bundles, _power_columns),
        "runs": pa.Table.from_pylist([run_row(bundle.run) for bundle in bundles], schema=SCHEMAS["runs"]),
    }


def _detail_table(
    name: str, bundles: list[RunBundle], columns_of: Callable[[WindowDetail], dict[str, Any]]
) -> pa.Table:
    schema = SCHEMAS[name]
    tables = []
    for bundle in bundles:
        for detail in bundle.details:
            columns = columns_of(detail)
            length = len(next(iter(columns.values())))
            if length == 0:
                continue
            keys = {"run_id": bundle.run.run_id, "point_id": bundle.run.point_id, "window": detail.window}
            arrays = [
                pa.repeat(pa.scalar(keys[item.name], item.type), length)
                if item.name in keys
                else pa.array(columns[item.name], from_pandas=True).cast(item.type)
                for item in schema
            ]
            tables.append(pa.Table.from_arrays(arrays, schema=schema))
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _request_columns(detail: WindowDetail) -> dict[str, Any]:
    requests = detail.requests
    return {
        "batch_index": requests.batch_index,
        "request_index": np.arange(len(requests)),
        "scheduled_s": requests.scheduled_s - detail.start_s,
        "sent_s": requests.sent_s - detail.start_s,
        "admitted_s": requests.admitted_s - detail.start_s,
        "first_token_s": requests.first_token_s - detail.start_s,
        "finished_s": requests.finished_s - detail.start_s,
        "queue_s": requests.queue_s,
        "prefill_s": requests.prefill_s,
        "decode_s": requests.decode_s,
        "prompt_tokens": requests.prompt_tokens,
        "generated_tokens": requests.generated_tokens,
        "asked_tokens": requests.asked_tokens,
        "outcome": requests.outcome,
    }


def joined_steps(steps: Steps) -> tuple[IntArray, IntArray]:
    """Indices of the steps, those of one row of `iterations` together, and where among them each row begins.

    A step that holds prompt tokens is a row of its own. Of the decoding steps between two of those, the ones with as
    many sequences are one row: they follow one another or, in a pipeline, take turns with other micro-batches.
    """
    if len(steps) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    alone = steps.prefill_tokens > 0
    apart = (steps.batch_index[1:] != steps.batch_index[:-1]) | alone[1:] | alone[:-1]
    stretch = np.concatenate(([0], np.cumsum(apart)))
    _, first, row = np.unique(
        stretch * (steps.decode_requests.max() + 1) + steps.decode_requests, return_index=True, return_inverse=True
    )
    order = np.argsort(first[row], kind="stable")
    return order, np.flatnonzero(np.diff(first[row][order], prepend=-1))


def _iteration_columns(detail: WindowDetail) -> dict[str, Any]:
    steps, (order, begins) = detail.steps, joined_steps(detail.steps)
    first = order[begins]
    summed: Callable[[Any], Any] = lambda values: (  # noqa: E731
        np.add.reduceat(values[order], begins) if len(begins) else values
    )
    return {
        "batch_index": steps.batch_index[first],
        "step_index": first,
        "n_steps": np.diff(np.append(begins, len(steps))),
        "start_s": steps.start_s[first] - detail.start_s,
        "duration_s": summed(steps.duration_s),
        "prefill_requests": steps.prefill_requests[first],
        "prefill_tokens": steps.prefill_tokens[first],
        "decode_requests": steps.decode_requests[first],
        "context_tokens": summed(steps.context_tokens),
    }


def _power_columns(detail: WindowDetail) -> dict[str, Any]:
    empty: list[FloatArray] = [np.zeros(0)]
    return {
        "gpu_uuid": [trace.device for trace in detail.power for _ in range(len(trace.time_s))],
        "time_s": np.concatenate(empty + [trace.time_s for trace in detail.power]) - detail.start_s,
        "power_w": np.concatenate(empty + [trace.power_w for trace in detail.power]),
    }
