"""Results folders of any size, written by the store itself: nothing is measured for them.

Rows of `runs` that a simulated node brought are taken again and again, and made to be of the points of the lab's sweep:
whatever names a run, its point and its deployment is that point's, so that the sweep goes on from the folder. Energies
are of a formula, so that a predictor has something to learn. Only the first runs of a folder have details; what details
weigh is measured apart (`bytes_per_run`).
"""

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.points import BatchWorkload, NodeSpec, Point
from harness.records import RunBundle
from harness.schema import TABLES, tables_of
from harness.simulator.node import SimulatedNode
from harness.store import Writer
from harness.store.files import write_parquet
from harness.store.layout import file_schema, table_segments
from harness.store.reader import row_count, run_ids, stream
from scale.lab import AGENTS, RUNS_PER_POINT, SEED, STARTED, feasible_points, lab_space, lab_sweep, specs_of

POINTS_PER_SEGMENT = 20_000
"""Of 120,000 runs: more than the 32 MB that a compaction joins, so that what it costs is not that of joining these."""
_POINTS_PER_PART = 4_000
_REPETITION_S = 10.0


def store(folder: Path, runs: int, templates: Sequence[RunBundle]) -> int:
    """Fill a new folder with some `runs` runs of `lab_sweep(runs)`; returns how many."""
    sweep = lab_sweep(runs)
    points = feasible_points(sweep, lab_space(sweep))[: runs // RUNS_PER_POINT]
    rows = tables_of([one for one in templates if one.run.status == "ok"])["runs"].combine_chunks()
    specs = specs_of(sweep)
    random = np.random.default_rng(SEED)
    stored = 0
    with Writer(folder, "simulated", "benchmark of scale", durable=False) as writer:
        for start in range(0, len(points), POINTS_PER_SEGMENT):
            taken = points[start : start + POINTS_PER_SEGMENT]
            parts = [
                _rows_of(taken[first : first + _POINTS_PER_PART], start + first, rows, specs, random)
                for first in range(0, len(taken), _POINTS_PER_PART)
            ]
            ids = [run_id for part in parts for run_id in run_ids(part).to_pylist()]
            writer.append_parts(ids, {table: parts if table == "runs" else () for table in TABLES})
            stored += len(ids)
    _leave_plan(folder, sweep.name, sweep.rules.repetitions, points, specs)
    return stored


def _rows_of(
    points: Sequence[tuple[Point, str]],
    first: int,
    rows: pa.Table,
    specs: dict[str, NodeSpec],
    random: np.random.Generator,
) -> pa.Table:
    """All runs of some points, the warm-up first; points of one deployment follow one another in a launch."""
    n = len(points) * RUNS_PER_POINT
    table = rows.take(random.integers(len(rows), size=n))
    repetition = np.tile(np.arange(RUNS_PER_POINT), len(points))
    per_point = _columns_of(points, first, specs)
    columns: dict[str, Any] = {
        name: [value for value in values for _ in range(RUNS_PER_POINT)] for name, values in per_point.items()
    }
    joules = np.repeat([_energy_j(point, specs) for point, _ in points], RUNS_PER_POINT, axis=0)
    scatter = random.normal(1.0, 0.01, n)
    position = (first * RUNS_PER_POINT + np.arange(n)) // AGENTS
    columns |= {
        "repetition": repetition,
        "attempt": np.ones(n, np.int64),
        "purpose": np.where(repetition == 0, "warmup", "sweep"),
        "gpu_prefill_energy_j": joules[:, 0] * scatter,
        "gpu_energy_j": joules.sum(axis=1) * scatter,
        "started_at": [STARTED + timedelta(seconds=_REPETITION_S * int(at)) for at in position],
        "window_started_s": _REPETITION_S * position.astype(np.float64),
    }
    for field in table.schema:
        # Rows taken again and again would be squeezed to nothing.
        if pa.types.is_floating(field.type) and field.name not in columns:
            columns[field.name] = pc.multiply(table[field.name], pa.array(random.normal(1.0, 0.001, n)))
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        column = values if isinstance(values, pa.ChunkedArray) else pa.array(values, field.type)
        table = table.set_column(place, field, column)
    place = table.schema.get_field_index("run_id")
    return table.set_column(place, table.schema.field(place), run_ids(table)).cast(file_schema("runs", "simulated"))


def _columns_of(points: Sequence[tuple[Point, str]], first: int, specs: dict[str, NodeSpec]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    nodes = {kind: SimulatedNode(spec, "node", SEED, start_utc=STARTED) for kind, spec in specs.items()}
    known: dict[Any, Any] = {}
    for number, (point, trace) in enumerate(points):
        deployment, workload = point.deployment, point.workload
        assert isinstance(workload, BatchWorkload)
        if deployment not in known:
            known[deployment] = nodes[deployment.gpu].environment(deployment)
        environment, limits = known[deployment], deployment.limits
        row = {
            "sweep": "simulated-space",
            "point_id": point.point_id,
            "environment_id": environment.environment_id,
            "launch_id": f"{deployment.deployment_id[:8]}{first // _POINTS_PER_PART:04x}",
            "node": f"node-{(first + number) % AGENTS:02d}",
            "node_kind": environment.node_kind,
            "gpu": deployment.gpu,
            "gpu_name": environment.gpu_name,
            "n_gpus": deployment.gpus,
            "engine": environment.engine,
            "engine_version": environment.engine_version,
            "model": deployment.model.name,
            "bits": deployment.bits,
            "tp": deployment.tensor_parallel,
            "pp": deployment.pipeline_parallel,
            "token_budget": limits.token_budget,
            "max_sequences": limits.max_sequences,
            "max_context_tokens": limits.max_context_tokens,
            "workload": "batch",
            "trace": trace,
            "batch_size": workload.batch_size,
            "prompt_tokens": float(workload.prompt_tokens),
            "generated_tokens": float(workload.generated_tokens),
            "point": point.to_json(),
        }
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return found


def _energy_j(point: Point, specs: dict[str, NodeSpec]) -> tuple[float, float]:
    """Prefill and decode by a roofline of the crudest kind: at full power for as long as operations or bytes take."""
    deployment, workload = point.deployment, point.workload
    gpu = specs[deployment.gpu].gpu
    assert gpu is not None
    assert isinstance(workload, BatchWorkload)
    parameters, weights = deployment.model.parameters, deployment.model.weight_bytes(deployment.bits)
    per_s, read_per_s = 0.4 * gpu.peak_flops, 0.6 * gpu.memory_bandwidth_bytes_per_s
    prefill_s = 2 * parameters * workload.batch_size * workload.prompt_tokens / per_s
    step_s = max(weights / read_per_s, 2 * parameters * workload.batch_size / per_s)
    overhead = 1.0 + 0.1 * (deployment.gpus - 1)
    return gpu.tdp_w * prefill_s * overhead, gpu.tdp_w * step_s * (workload.generated_tokens - 1) * overhead


def _leave_plan(
    folder: Path, sweep: str, repetitions: int, points: Sequence[tuple[Point, str]], specs: dict[str, NodeSpec]
) -> None:
    """What a sweep over these points would leave, for `harness status`."""
    nodes = {kind: SimulatedNode(spec, "node", SEED, start_utc=STARTED) for kind, spec in specs.items()}
    keys = [(point.point_id, nodes[point.deployment.gpu].environment(point.deployment).environment_id)
            for point, _ in points]  # fmt: skip
    content = {"sweep": sweep, "repetitions": repetitions, "max_attempts": 3, "pid": 0, "points": sorted(keys)}
    (folder / f"plan-{sweep}.json").write_text(json.dumps(content), "utf-8")


def bytes_per_run(folder: Path, templates: Sequence[RunBundle]) -> Iterator[dict[str, object]]:
    """Of each table, rows and bytes that a run has: as it is stored first, and joined as a compaction joins.

    Joined, the templates stand twelve times over, so that what a file says of itself weighs little.
    """
    with Writer(folder, "simulated", "benchmark of scale", durable=False) as writer:
        for start in range(0, len(templates), 100):
            writer.append(templates[start : start + 100])
    for table in TABLES:
        segments = table_segments(folder, table)
        rows = sum(row_count(segment) for segment in segments)
        joined = folder / f".{table}.parquet"
        write_parquet(joined, file_schema(table, "simulated"), stream(segments, table, "simulated"), False, False)
        first_bytes = sum(segment.path.stat().st_size for segment in segments)
        yield {
            "table": table,
            "rows_per_run": rows / len(templates),
            "bytes_per_row_first": first_bytes / max(rows, 1),
            "bytes_per_row_joined": joined.stat().st_size / max(rows, 1),
            "bytes_per_run_joined": joined.stat().st_size / len(templates),
        }


def runs_bytes(folder: Path) -> int:
    """Bytes of the table `runs` as it lies on the disk."""
    return sum(segment.path.stat().st_size for segment in table_segments(folder, "runs"))


def row_groups(folder: Path) -> int:
    return sum(pq.read_metadata(segment.path).num_row_groups for segment in table_segments(folder, "runs"))
