"""Small results folders of which every figure of a report can be worked out by hand."""

from pathlib import Path
from typing import Any

import numpy as np

from harness.engines.base import Requests, Steps
from harness.points import FloatArray
from harness.records import Energy, RunBundle, WindowDetail
from harness.report.data import Results, read_results
from harness.store import Writer
from tests.unit.store_factory import make_bundle

START_S = 100.0


def results_of(folder: Path, *bundles: RunBundle) -> Results:
    with Writer(folder / "results", source=bundles[0].run.source, owner="test") as writer:
        writer.append(list(bundles))
    return read_results(folder / "results")


def batch(number: int, gpu_j: float | None, **changes: Any) -> RunBundle:
    """Repetition number % 5 + 1 of point number // 5, with the details of its first batch."""
    plain = make_bundle(number)
    gpu = Energy.absent("no meter") if gpu_j is None else Energy(gpu_j, 1.0, "simulated")
    energies = {**plain.run.energies, "gpu": gpu, "gpu_prefill": Energy(300.0, 1.0, "simulated")}
    return make_bundle(number, **{"energies": energies, "trace": "azure2023-conv", **changes})


def replay(number: int, gpu_j: float, requests: Requests, steps: Steps, **changes: Any) -> RunBundle:
    """Repetition number % 5 + 1 of replay point number // 5."""
    plain = make_bundle(number, details=False)
    columns: dict[str, Any] = {
        "point_id": f"replay-{number // 5:09d}", "workload": "replay", "trace": "azure2023-conv", "batch_size": None,
        "slice_start_s": 60.0, "slice_duration_s": 30.0, "capacity_share": 0.8, "rate_scale": 3.0 + number,
        "context_policy": "clip", "requests": len(requests), "tokens_generated": 10 * len(requests),
        "window_s": 10.0, "energies": {**plain.run.energies, "gpu": Energy(gpu_j, 1.0, "simulated")},
    }  # fmt: skip
    run = make_bundle(number, details=False, **{**columns, **changes}).run
    return RunBundle(run, (WindowDetail("replay", START_S, requests, steps),))


def requests_of(
    formation_s: list[float], latency_s: list[float], prompt: list[int], generated: list[int], outcome: str = "finished"
) -> Requests:
    """Requests due at 0, 1, 2 ... s, sent 1 ms late; a latency of NaN never finished."""
    due_s = START_S + np.arange(len(prompt), dtype=np.float64)
    formation, latency = np.array(formation_s), np.array(latency_s)
    zeros, counts = np.zeros(len(prompt), np.int64), np.array(generated)
    outcomes = np.where(np.isnan(latency), "timeout", outcome)
    inner: FloatArray = np.zeros(len(prompt))
    return Requests(
        zeros, due_s, due_s + 0.001, due_s + formation, due_s + formation + 0.1, due_s + latency, inner, inner, inner,
        np.array(prompt), counts, counts, outcomes,
    )  # fmt: skip


def steps_of(*rows: tuple[float, float, int, int]) -> Steps:
    """Steps given as (start s from the window's start, duration s, prefill tokens, decoding sequences)."""
    start, duration, prefill, decode = (np.array(column) for column in zip(*rows, strict=True))
    return Steps(
        START_S + start, duration, np.zeros(len(rows), np.int64), (prefill > 0).astype(np.int64),
        prefill.astype(np.int64), decode.astype(np.int64), np.ones(len(rows), np.int64),
    )  # fmt: skip


REQUESTS = requests_of([0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, np.nan], [100, 200, 300, 400], [10, 20, 30, 40])
"""Three finished requests and one cut off."""
STEPS = steps_of((0.0, 1.0, 64, 0), (1.0, 0.5, 0, 4), (1.5, 0.5, 0, 4), (2.0, 3.0, 64, 8), (5.0, 1.0, 0, 2))
"""A prefill-only step, two alike (kept as one row), a mixed one, and the last."""
