"""The stand-in driver does what its script says: other tests and the race of meters rest on it."""

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fixtures.nvml.build import build_fake_nvml
from tests.fixtures.nvml.driver import FakeDriver, Gate, Trace, bursts, constant, ramp, square, steps, unsteady

pytestmark = pytest.mark.flaky(reruns=3, reruns_delay=1)
"""Real clocks and processes: a machine that stalls for half a second turns any of them."""

READ = """
import ctypes, json, sys, time
import pynvml
pynvml.nvmlInit()
def instant(handle):
    return pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])[0].value.uiVal
gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
gate = ctypes.CDLL("libnvidia-ml.so.1").fake_nvml_gate
gates = [gate(-1, ctypes.c_double(w), ctypes.c_double(a), ctypes.c_double(b)) for w, a, b in json.loads(sys.argv[2])]
rows, until = [], time.monotonic() + float(sys.argv[1])
while (before := time.monotonic()) < until:
    for i, gpu in enumerate(gpus):
        before = time.monotonic()
        count = pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
        after = time.monotonic()
        rows.append([i, before, after, count, instant(gpu), pynvml.nvmlDeviceGetPowerUsage(gpu)])
    time.sleep(0.002)
print(json.dumps([gates, rows]))
"""
OFFSET_MJ = 40_000_000
PEERS_CALL = [
    "nvmlInitWithFlags",
    "nvmlShutdown",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetName",
    "nvmlDeviceGetArchitecture",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetEnforcedPowerLimit",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetTemperatureV",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetComputeMode",
    "nvmlDeviceGetC2cModeInfoV",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetPersistenceMode",
    "nvmlDeviceGetPowerManagementLimit",
    "nvmlDeviceGetPowerManagementLimitConstraints",
    "nvmlDeviceGetPowerManagementDefaultLimit",
    "nvmlDeviceSetPowerManagementLimit",
]
"""By Zeus 0.16 and CodeCarbon 3.3."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fake_nvml(tmp_path_factory.mktemp("nvml"))


def start(library: Path, driver: FakeDriver, seconds: float, gates: Sequence[Gate] = ()) -> "subprocess.Popen[str]":
    file = driver.write(library.parent / f"driver-{time.monotonic_ns()}")
    environment = os.environ | {"LD_LIBRARY_PATH": str(library.parent), "FAKE_NVML": str(file)}
    loads = json.dumps([[gate.power_w, gate.from_s, gate.until_s] for gate in gates])
    command = [sys.executable, "-c", READ, str(seconds), loads]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> tuple[list[int], np.ndarray[Any, np.dtype[np.float64]]]:
    """Answers to the gates, and rows of GPU, time before and after, mJ, instantaneous and average mW."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    gates, rows = json.loads(output)
    return gates, np.array(rows)


def read(library: Path, driver: FakeDriver, seconds: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return finish(start(library, driver, seconds))[1]


def edges_s(rows: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """When one GPU's counter was first seen at each of its values."""
    return rows[1:, 1][np.diff(rows[:, 3]) > 0]


def test_a_trace_is_integrated_exactly_within_and_across_cycles() -> None:
    saw = Trace(np.array([0.0, 1.0, 1.0, 3.0]), np.array([100.0, 300.0, 0.0, 50.0]))
    for time_s, energy_j in ((0.5, 75.0), (1.0, 200.0), (2.0, 212.5), (3.0, 250.0), (7.0, 700.0), (-2.0, -50.0)):
        assert saw.energy_j(time_s) == pytest.approx(energy_j)
    assert square(100, 500, 2.0, 0.25).energy_j(2.0) == pytest.approx(400)
    assert ramp(100, 300, 5.0).energy_j(10.0) == pytest.approx(2000)


@pytest.mark.parametrize(
    "trace",
    [
        pytest.param(constant(300), id="constant"),
        pytest.param(ramp(100, 700, 0.7), id="ramp"),
        pytest.param(square(100, 600, 0.12), id="square"),
        pytest.param(bursts(100, 600, (0.05, 0.3), np.random.default_rng(1)), id="bursts"),
        pytest.param(unsteady(400, np.random.default_rng(1), 0.2), id="unsteady"),
    ],
)
def test_each_counter_shows_the_scripts_energy_up_to_its_last_refresh(library: Path, trace: Trace) -> None:
    refresh_s, jitter_s = 0.1, 0.004
    driver = FakeDriver([trace, trace.scaled(0.5)], time.monotonic() - 7.0, settings={"jitter_s": jitter_s})
    assert driver.origin_s is not None
    rows = read(library, driver, 0.7)
    for gpu, one in enumerate(driver.traces):
        of_gpu = rows[rows[:, 0] == gpu]
        for _, before_s, after_s, count, *_ in of_gpu:
            latest_mj = 1000 * one.energy_j(after_s - driver.origin_s)
            earliest_mj = 1000 * one.energy_j(before_s - driver.origin_s - refresh_s - 2 * jitter_s)
            assert earliest_mj - 1 <= count - OFFSET_MJ <= latest_mj
        assert 6 <= len(edges_s(of_gpu)) <= 8
    ends_s = [edges_s(rows[rows[:, 0] == gpu])[0] % refresh_s for gpu in range(2)]
    assert abs(ends_s[0] - ends_s[1]) > 0.01  # each at its own phase


def test_two_processes_see_the_same_driver(library: Path) -> None:
    trace = bursts(100, 600, (0.02, 0.3), np.random.default_rng(2))
    driver = FakeDriver(
        [trace], time.monotonic(), settings={"jitter_s": 0.01, "missed": 0.2, "counter_window_s": 0.025}
    )
    processes = [start(library, driver, 1.2) for _ in range(2)]
    seen = [finish(process)[1] for process in processes]
    since = max(rows[0, 2] for rows in seen)
    until = min(rows[-1, 1] for rows in seen)
    assert until > since + 0.3
    shared = [set(rows[(rows[:, 1] > since + 0.11) & (rows[:, 2] < until - 0.11), 3]) for rows in seen]
    counts = [set(rows[:, 3]) for rows in seen]
    assert shared[0] <= counts[1]
    assert shared[1] <= counts[0]


def test_missed_refreshes_leave_longer_gaps(library: Path) -> None:
    rows = read(library, FakeDriver([constant(300)], time.monotonic(), settings={"missed": 0.4}), 1.5)
    gaps = np.round(np.diff(edges_s(rows)) / 0.1)
    assert gaps.max() >= 2
    assert gaps.min() == 1


def test_a_partial_counter_sees_only_the_end_of_each_refresh(library: Path) -> None:
    # Refreshed when the high quarter of each period ends: it sees nothing else.
    trace, settings = square(100, 500, 0.1, 0.25), {"counter_window_s": 0.025}
    rows = read(library, FakeDriver([trace], time.monotonic() - 3, phases_s=[0.0], settings=settings), 1.0)
    shown_w = (rows[-1, 3] - rows[0, 3]) / 1000 / (edges_s(rows)[-1] - edges_s(rows)[0] + 0.1)
    assert shown_w == pytest.approx(500, rel=0.05)
    assert set(rows[:, 4]) == {500_000}


def test_power_is_averaged_over_its_window_and_power_usage_over_a_second(library: Path) -> None:
    trace = steps([0.5, 0.5], [100, 500])
    rows = read(library, FakeDriver([trace], time.monotonic() - 3, phases_s=[0.05]), 1.1)
    assert set(rows[:, 4]) == {100_000, 500_000}
    assert rows[:, 5] == pytest.approx(np.full(len(rows), 300_000), rel=1e-6)


def test_the_gain_is_the_boards_own(library: Path) -> None:
    driver = FakeDriver([constant(400)] * 2, time.monotonic() - 5, gains=[1.0, 0.954], phases_s=[0.02, 0.02])
    rows = read(library, driver, 0.05)
    one, other = ((rows[rows[:, 0] == gpu][0, 3] - OFFSET_MJ) for gpu in range(2))
    assert other / one == pytest.approx(0.954, rel=1e-6)


def test_some_readings_are_slow(library: Path) -> None:
    rows = read(library, FakeDriver([constant(400)], settings={"slow_s": "0.05 7", "latency_s": 0.005}), 1.5)
    latency_s = rows[:, 2] - rows[:, 1]
    assert latency_s.min() >= 0.005
    assert np.mean(latency_s > 0.045) == pytest.approx(1 / 7, abs=0.08)


def test_a_gate_adds_its_energy_and_is_refused_when_it_lies_behind(library: Path) -> None:
    now_s = time.monotonic()
    driver = FakeDriver([constant(100)], now_s - 1)
    gate, past = Gate(400.0, now_s + 1.0, now_s + 1.3), Gate(400.0, now_s - 0.5, now_s)
    answers, rows = finish(start(library, driver, 1.8, [gate, past]))
    assert answers[0] == 0
    assert answers[1] != 0
    before, after = rows[rows[:, 2] < gate.from_s][-1], rows[rows[:, 1] > gate.until_s + 0.11][0]
    idle_j = 100 * (after[1] - before[1])
    assert (after[3] - before[3]) / 1000 == pytest.approx(idle_j + 400 * 0.3, abs=100 * 0.12)
    truth_j = driver.truth_j(before[1], after[1], [gate])
    assert truth_j == pytest.approx(idle_j + 120)


def test_what_zeus_and_codecarbon_call_is_there(library: Path) -> None:
    loaded = ctypes.CDLL(str(library))
    assert [name for name in PEERS_CALL if not hasattr(loaded, name)] == []
    assert os.access(library.parent / "nvidia-smi", os.X_OK)
