"""What the counters of a real GPU do: their refresh, their latency, and how well windows can be placed.

`make gpu-check` runs it on the first GPU, which must be free, and writes what it saw to
results/reference/gpu-check-BOARD.json (`HARNESS_GPU_CHECK_FOLDER` names another folder). The loaded parts
need an interpreter with torch and CUDA: this one, or the one that `HARNESS_TORCH_PYTHON` names.
Nothing on the card is changed.
"""

import json
import os
import platform
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from harness.clock import WallClock
from harness.errors import BadInput
from harness.meters.base import Recording, Series
from harness.meters.nvml import NvmlGpu, NvmlMeter, open_nvml
from harness.meters.sampler import PollingSampler
from harness.meters.window import mean_power, window_energies

REPOSITORY = Path(__file__).parents[2]
POLL_S = 5.0
IDLE_S = 5.0
LOAD_S = 10.0
WARM_UP_S = 5.0
WINDOWS_S = (*[0.2] * 6, *[0.5] * 6, *[1.0] * 5, *[2.0] * 5, *[5.0] * 2, 10.0)
SETTLE_S = 1.0

Report = dict[str, Any]


def obstacle() -> str:
    """Why there is no GPU to check, or ""."""
    try:
        opened = open_nvml()
    except BadInput as error:
        return str(error)
    opened.close()
    return opened.absent.get("gpu", "")


WHY_NOT = obstacle()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(WHY_NOT), reason=f"no GPU to check: {WHY_NOT}")]


@pytest.fixture(scope="module")
def meter() -> Iterator[NvmlMeter]:
    opened = open_nvml()
    assert isinstance(opened, NvmlMeter)
    with opened:
        yield opened


@pytest.fixture(scope="module")
def gpu(meter: NvmlMeter) -> NvmlGpu:
    return meter.gpus[0]


@pytest.fixture(scope="module")
def report(meter: NvmlMeter, gpu: NvmlGpu) -> Iterator[Report]:
    found: Report = {
        "machine": {
            "gpu": gpu.name,
            "gpu_uuid": gpu.uuid,
            "gpu_memory_bytes": gpu.memory_bytes,
            "gpus": len(meter.gpus),
            "power_limit_w": gpu.power_limit_w,
            "power_source": gpu.power_source,
            "driver_version": meter.driver_version,
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
        },
        "versions": {"python": platform.python_version(), "nvidia-ml-py": version("nvidia-ml-py")},
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    yield found
    folder = Path(os.environ.get("HARNESS_GPU_CHECK_FOLDER", REPOSITORY / "results" / "reference"))
    folder.mkdir(parents=True, exist_ok=True)
    board = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    path = folder / f"gpu-check-{board}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(f"\nwritten: {path}")


@dataclass
class Load:
    """The process that multiplies, on the first GPU only."""

    process: "subprocess.Popen[str]"

    def go(self, duration_s: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"go {duration_s}\n")
        self.process.stdin.flush()

    def done(self) -> int:
        return int(self._line("done").split()[1])

    def ready(self) -> None:
        self._line("ready")

    def _line(self, word: str) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith(word):
            pytest.skip(f"no load: torch with CUDA did not start in {self.process.args!r}")
        return line


@pytest.fixture(scope="module")
def load(gpu: NvmlGpu) -> Iterator[Load]:
    python = os.environ.get("HARNESS_TORCH_PYTHON", sys.executable)
    process = subprocess.Popen(
        [python, str(Path(__file__).with_name("load.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": gpu.uuid},
    )
    try:
        started = Load(process)
        started.ready()
        yield started
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def poll(read: Callable[[], float]) -> Report:
    """Read as fast as 2 kHz for a while; when the value changed, and how long reads took."""
    changes_s, latency_s, last = [], [], None
    until_s = time.monotonic() + POLL_S
    while (before_s := time.monotonic()) < until_s:
        value = read()
        after_s = time.monotonic()
        latency_s.append(after_s - before_s)
        if last is not None and value != last:
            changes_s.append((before_s + after_s) / 2)
        last = value
        time.sleep(0.0005)
    return {
        "reads": len(latency_s),
        "latency_ms": quantiles(1000 * np.array(latency_s)),
        "interval_ms": quantiles(1000 * np.diff(changes_s)),
        "interval_ms_histogram": histogram(1000 * np.diff(changes_s)),
    }


def quantiles(values: npt.NDArray[np.float64]) -> Report:
    if len(values) == 0:
        return {}
    return {name: round(float(np.quantile(values, q)), 4) for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}


def histogram(values_ms: npt.NDArray[np.float64]) -> dict[str, int]:
    """How often each interval occurred, to the nearest millisecond."""
    rounded, counts = np.unique(np.rint(values_ms).astype(int), return_counts=True)
    return {str(value): int(count) for value, count in zip(rounded, counts, strict=True)}


def counter_of(recording: Recording, gpu: NvmlGpu) -> Series:
    return next(series for series in recording.series if series.channel.device == gpu.uuid)


def test_refresh_and_latency_of_the_counter_and_of_the_power(gpu: NvmlGpu, report: Report) -> None:
    report["counter_refresh"] = poll(lambda: gpu.read()[0])
    report["power_refresh"] = poll(gpu.power_w)
    refresh_ms = report["counter_refresh"]["interval_ms"]
    assert refresh_ms, "the energy counter does not move"
    # The estimates assume about 100 ms; a much slower counter would need longer settling.
    assert 5 < refresh_ms["p50"] < 250


def test_idle_power(meter: NvmlMeter, gpu: NvmlGpu, report: Report) -> None:
    sampler = PollingSampler([meter], WallClock())
    sampler.start()
    start_s = sampler.mark()
    time.sleep(IDLE_S)
    end_s = sampler.mark()
    recording = sampler.stop()
    power = mean_power(counter_of(recording, gpu), start_s, end_s)
    trace = next(trace for trace in recording.power if trace.device == gpu.uuid)
    report["idle"] = {
        "counter_w": power.power_w,
        "counter_uncertainty_w": power.uncertainty_w,
        "trace_mean_w": float(trace.power_w.mean()),
        "trace_sd_w": float(trace.power_w.std()),
        "state": state_of(gpu),
    }
    assert 1 < power.power_w < 500


def state_of(gpu: NvmlGpu) -> Report:
    state = gpu.state(time.monotonic())
    return {
        "temperature_c": state.temperature_c,
        "sm_clock_mhz": state.sm_clock_mhz,
        "event_reasons": sorted(state.event_reasons),
        "processes": len(state.foreign_pids),
    }


def test_energy_of_a_known_load_by_counter_and_by_power(
    meter: NvmlMeter, gpu: NvmlGpu, report: Report, load: Load
) -> None:
    load.go(1.0)  # the first products load kernels
    load.done()
    time.sleep(3.0)
    sampler = PollingSampler([meter], WallClock())
    sampler.start()
    sampler.settle()
    start_s = sampler.mark()
    load.go(LOAD_S)
    time.sleep(LOAD_S / 2)
    state = state_of(gpu)
    products = load.done()
    end_s = sampler.mark()
    sampler.settle()
    found = window_energies(sampler.stop(), start_s, end_s, [gpu.uuid])
    energy_j, uncertainty_j, integral_j = found.gpu.energy_j, found.gpu.uncertainty_j, found.gpu_power_integral_j
    assert energy_j is not None
    assert uncertainty_j is not None
    assert integral_j is not None
    flop = products * 2.0 * 8192**3
    report["load"] = {
        "window_s": end_s - start_s,
        "products": products,
        "tflop_per_s": flop / (end_s - start_s) / 1e12,
        "energy_j": energy_j,
        "uncertainty_j": uncertainty_j,
        "power_integral_j": integral_j,
        "integral_over_counter": integral_j / energy_j,
        "mean_w": energy_j / (end_s - start_s),
        "state": state,
    }
    assert uncertainty_j < 0.02 * energy_j
    assert 0.5 < integral_j / energy_j < 2


def test_windows_of_a_steady_load_against_its_long_run_mean(
    meter: NvmlMeter, gpu: NvmlGpu, report: Report, load: Load
) -> None:
    rng = random.Random(1)
    load.go(WARM_UP_S + sum(WINDOWS_S) + 2.2 * SETTLE_S * (len(WINDOWS_S) + 1))
    time.sleep(WARM_UP_S)
    sampler = PollingSampler([meter], WallClock())
    sampler.start()
    windows = []
    for window_s in WINDOWS_S:
        time.sleep(rng.uniform(0, 0.1))  # a phase of its own
        sampler.settle()
        start_s = sampler.mark()
        time.sleep(window_s + rng.uniform(0, 0.1))  # nor a whole number of refreshes
        windows.append((window_s, start_s, sampler.mark()))
        sampler.settle()
    recording = sampler.stop()
    load.done()
    series = counter_of(recording, gpu)
    long_run = mean_power(series, windows[0][1], windows[-1][2])
    rows = []
    for nominal_s, start_s, end_s in windows:
        energy = window_energies(recording, start_s, end_s, [gpu.uuid]).gpu
        assert energy.energy_j is not None
        assert energy.uncertainty_j is not None
        expected_j = long_run.power_w * (end_s - start_s)
        first, last = (int(np.abs(series.time_s - time_s).argmin()) for time_s in (start_s, end_s))
        unaligned_j = (int(series.counts[last]) - int(series.counts[first])) * series.channel.joules_per_count
        rows.append(
            {
                "window_s": nominal_s,
                "error_pct": 100 * (energy.energy_j / expected_j - 1),
                "uncertainty_pct": 100 * energy.uncertainty_j / expected_j,
                "unaligned_error_pct": 100 * (unaligned_j / expected_j - 1),
            }
        )
    report["windows"] = {"long_run_w": long_run.power_w, "state": state_of(gpu), "rows": rows}
    # Of a load whose own power wanders, more than a few percent would be the method's fault.
    assert np.median([abs(row["error_pct"]) for row in rows if row["window_s"] >= 1]) < 3
