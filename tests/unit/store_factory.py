"""Runs with believable values, for tests of the store."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from harness.engines.base import Requests, Steps
from harness.meters.base import PowerTrace
from harness.records import ENERGY_DOMAINS, Energy, RunBundle, RunRecord, WindowDetail
from harness.schema import SCHEMAS

STARTED = datetime(2026, 11, 3, 8, 30, tzinfo=UTC)
GPUS = ("GPU-5c1a", "GPU-9be2")
ABSENT = "no meter of the rest of the node"


def make_bundle(number: int = 0, details: bool = True, **changes: Any) -> RunBundle:
    """Run `number` of a sweep of tp 2, batch 8: five repetitions per point, 100 runs per launch."""
    rng = np.random.default_rng(number)
    energies = {
        domain: Energy(float(rng.normal(900, 30)), float(rng.uniform(1, 9)), "simulated") for domain in ENERGY_DOMAINS
    } | {"rest": Energy.absent(ABSENT)}
    columns: dict[str, Any] = {
        "sweep": "unit", "point_id": f"{number // 5:016x}", "environment_id": "0f3a5c77be10",
        "launch_id": f"launch-{number // 100:05d}", "repetition": number % 5 + 1, "attempt": 1,
        "purpose": "sweep", "status": "ok", "flags": ("sw_power_cap",) if number % 3 == 0 else (),
        "source": "simulated", "node": "sim-1", "node_kind": "dgx-h100", "gpu": "h100",
        "gpu_name": "NVIDIA H100 80GB HBM3", "gpu_uuids": GPUS, "n_gpus": 2,
        "cpu": "Intel Xeon Platinum 8480C", "driver_version": "550.90.07", "power_limit_w": 700.0,
        "engine": "vllm", "engine_version": "0.6.3", "harness_version": "0.1.0", "weights": "dummy",
        "model": "llama-2-7b", "bits": 16, "tp": 2, "pp": 1, "token_budget": 8192, "max_sequences": 256,
        "max_context_tokens": 4096, "enforce_eager": False, "workload": "batch", "batch_size": 8,
        "prompt_tokens": 512.0, "generated_tokens": 128.0, "requests": 24,
        "decode_batch_mean": 7.9, "mixed_step_fraction": 0.0,
        "gap_fraction": float(rng.uniform(0.01, 0.05)), "started_at": STARTED + timedelta(seconds=7.5 * number),
        "window_started_s": 1e4 + 7.5 * number, "window_s": float(rng.normal(2.4, 0.01)), "batches_in_window": 3,
        "prefill_window_s": float(rng.normal(2.1, 0.01)), "prefill_batches_in_window": 40,
        "prefill_s": 0.0525, "duration_s": 0.8, "load_s": 41.5, "ttft_mean_s": float(rng.normal(0.06, 0.002)),
        "tpot_mean_s": float(rng.normal(0.006, 1e-4)), "latency_mean_s": float(rng.normal(0.8, 0.01)),
        "energies": energies, "gpu_energy_by_gpu_j": tuple(rng.normal(450, 10, 2).tolist()),
        "gpu_power_integral_j": float(rng.normal(900, 30)), "gpu_gain_uncertainty": 0.05,
        "gpu_cold_idle_w": 140.0, "gpu_loaded_idle_w": 236.0,
        "point": json.dumps({"number": number // 5, "deployment": {"model": "llama-2-7b", "pad": "x" * 500}}),
    }  # fmt: skip
    start_s = columns["window_started_s"]
    windows = (_window("prefill", start_s, rng), _window("full", start_s + 3, rng)) if details else ()
    return RunBundle(RunRecord(**{**columns, **changes}), windows)


def _window(window: Any, start_s: float, rng: np.random.Generator) -> WindowDetail:
    """The first batch of a window: 8 requests, 12 steps, 2 x 60 readings of power."""
    zeros = np.zeros(8, np.int64)
    sent_s = start_s + rng.uniform(0, 1e-3, 8)
    finished_s = sent_s + rng.uniform(0.7, 0.8, 8)
    finished_s[0] = np.nan if window == "full" else finished_s[0]
    queue_s, prefill_s, decode_s = np.full(8, 0.001), np.full(8, 0.059), finished_s - sent_s - 0.06
    outcome = np.where(np.isnan(finished_s), "timeout", "finished")
    requests = Requests(
        zeros, sent_s, sent_s, sent_s + 0.001, sent_s + 0.06, finished_s, queue_s, prefill_s, decode_s,
        zeros + 512, zeros + 128, zeros + 128, outcome,
    )  # fmt: skip
    steps_s = start_s + np.arange(12) * 0.06
    ones = np.ones(12, np.int64)
    steps = Steps(steps_s, rng.uniform(0.05, 0.06, 12), ones * 0, ones, ones * 64, np.arange(12), ones * 4096)
    times_s = start_s + np.arange(60) * 0.02
    power = tuple(PowerTrace(uuid, times_s, rng.normal(600, 20, 60)) for uuid in GPUS)
    return WindowDetail(window, start_s, requests, steps, power)


ROWS_PER_BUNDLE = {"runs": 1, "requests": 16, "iterations": 24, "power": 240}
"""Rows that `make_bundle` with details gives in each table."""
assert set(ROWS_PER_BUNDLE) == set(SCHEMAS)
