"""Measures a schedule of windows with one tool, as the tool documents it; one process, one tool.

    meters_worker.py TOOL SCHEDULE.json OUTPUT.json

It prints "ready" once it is set up and warm, and reads from its standard input when the schedule begins. It runs in
the tool's own environment, so it imports the standard library and that tool alone.

Each window is `begin(); the work; end()`. Three times are kept, on CLOCK_MONOTONIC: when the call that bounds the
window was entered, when begin returned, when end was entered. The harness's bounding call is the first `mark`,
which says itself when it was entered; before it the sampler settles.
"""

import ctypes
import functools
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

JOULES_PER_KWH = 3.6e6
LAUNCH_S = 0.001
"""From the call that starts a gated load until it draws power."""
GATE_TRIES = 20


class Result(NamedTuple):
    """Joules, and where the tool gives them: its uncertainty, both for each GPU, and what a sensor may have missed."""

    energy_j: float
    uncertainty_j: float | None = None
    by_gpu: tuple[tuple[float, float], ...] = ()
    sampling_bound_j: float | None = None


Tool = tuple[Callable[[], float | None], Callable[[], Result]]
"""begin, which returns when the window began where that is not when it was called; and end."""


def harness(gated: bool = False) -> Tool:
    """PollingSampler: start, settle, mark, the work, mark, settle, stop. `gated`: told that the ends are quiet."""
    from harness.clock import WallClock
    from harness.meters.nvml import NvmlMeter, open_nvml
    from harness.meters.sampler import PollingSampler
    from harness.meters.window import window_energies

    meter = open_nvml()
    assert isinstance(meter, NvmlMeter), meter
    open_windows: list[tuple[PollingSampler, float]] = []

    def begin() -> float:
        sampler = PollingSampler([meter], WallClock())
        sampler.start()
        sampler.settle()
        start_s = sampler.mark()
        open_windows.append((sampler, start_s))
        return start_s

    def end() -> Result:
        sampler, start_s = open_windows.pop()
        end_s = sampler.mark()
        sampler.settle()
        found = window_energies(sampler.stop(), start_s, end_s, [gpu.uuid for gpu in meter.gpus], gated)
        assert found.gpu.energy_j is not None
        by_gpu = tuple((one.energy_j or 0.0, one.uncertainty_j or 0.0) for one in found.by_gpu)
        return Result(found.gpu.energy_j, found.gpu.uncertainty_j, by_gpu, found.gpu_sampling_bound_j)

    return begin, end


def zeus() -> Tool:
    """ZeusMonitor; sync_execution is for torch, which does not run here."""
    from zeus.monitor import ZeusMonitor

    monitor = ZeusMonitor()

    def begin() -> None:
        monitor.begin_window("window", sync_execution=False)

    def end() -> Result:
        return Result(sum(monitor.end_window("window", sync_execution=False).gpu_energy.values()))

    return begin, end


def codecarbon_task() -> Tool:
    """One tracker, a task for each window."""
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(country_iso_code="USA", save_to_file=False, log_level="error")

    def begin() -> None:
        tracker.start_task()

    def end() -> Result:
        return Result(tracker.stop_task().gpu_energy * JOULES_PER_KWH)

    return begin, end


def codecarbon_run() -> Tool:
    """A tracker for each window: start and stop."""
    from codecarbon import OfflineEmissionsTracker

    trackers = []

    def begin() -> None:
        tracker = OfflineEmissionsTracker(country_iso_code="USA", save_to_file=False, log_level="error")
        trackers.append(tracker)
        tracker.start()

    def end() -> Result:
        tracker = trackers.pop()
        tracker.stop()
        return Result(tracker.final_emissions_data.gpu_energy * JOULES_PER_KWH)

    return begin, end


def harness_rapl() -> Tool:
    """PollingSampler over powercap: as with GPUs."""
    from harness.clock import WallClock
    from harness.meters.rapl import open_rapl
    from harness.meters.sampler import PollingSampler
    from harness.meters.window import window_energies

    meter = open_rapl()
    open_windows: list[tuple[PollingSampler, float]] = []

    def begin() -> float:
        sampler = PollingSampler([meter], WallClock())
        sampler.start()
        sampler.settle()
        start_s = sampler.mark()
        open_windows.append((sampler, start_s))
        return start_s

    def end() -> Result:
        sampler, start_s = open_windows.pop()
        end_s = sampler.mark()
        sampler.settle()
        found = window_energies(sampler.stop(), start_s, end_s, [])
        if found.cpu.energy_j is None:
            raise RuntimeError(found.cpu.reason)
        return Result(found.cpu.energy_j, found.cpu.uncertainty_j)

    return begin, end


def zeus_rapl() -> Tool:
    """ZeusMonitor: its CPU energies."""
    from zeus.monitor import ZeusMonitor

    monitor = ZeusMonitor()

    def begin() -> None:
        monitor.begin_window("window", sync_execution=False)

    def end() -> Result:
        found = monitor.end_window("window", sync_execution=False)
        return Result(sum((found.cpu_energy or {}).values()))

    return begin, end


def codecarbon_rapl() -> Tool:
    """One tracker, a task for each window: its CPU energy."""
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(country_iso_code="USA", save_to_file=False, log_level="error")

    def begin() -> None:
        tracker.start_task()

    def end() -> Result:
        return Result(tracker.stop_task().cpu_energy * JOULES_PER_KWH)

    return begin, end


def pyrapl() -> Tool:
    """A pyRAPL.Measurement for each window: the packages it finds, in microjoules."""
    import pyRAPL

    pyRAPL.setup(devices=[pyRAPL.Device.PKG])
    measurements: list[pyRAPL.Measurement] = []

    def begin() -> None:
        measurements.append(pyRAPL.Measurement("window"))
        measurements[-1].begin()

    def end() -> Result:
        measurement = measurements.pop()
        measurement.end()
        if measurement.result.pkg is None:  # a wrap where there is one socket; with two, -262 kJ
            raise RuntimeError("pyRAPL gives no energy")
        return Result(sum(measurement.result.pkg) * 1e-6)

    return begin, end


TOOLS: dict[str, Callable[[], Tool]] = {
    "harness": harness,
    "harness gated": functools.partial(harness, gated=True),
    "zeus": zeus,
    "codecarbon task": codecarbon_task,
    "codecarbon run": codecarbon_run,
    "harness rapl": harness_rapl,
    "zeus rapl": zeus_rapl,
    "codecarbon rapl": codecarbon_rapl,
    "pyRAPL": pyrapl,
}


def sleep_until(time_s: float) -> None:
    while (left_s := time_s - time.monotonic()) > 0:
        time.sleep(left_s)


def start_gate(power_w: float, length_s: float) -> tuple[float, float]:
    """A load on every GPU of the stand-in; returns when it begins and ends."""
    gate = ctypes.CDLL("libnvidia-ml.so.1").fake_nvml_gate
    for _ in range(GATE_TRIES):
        from_s = time.monotonic() + LAUNCH_S
        if gate(-1, ctypes.c_double(power_w), ctypes.c_double(from_s), ctypes.c_double(from_s + length_s)) == 0:
            return from_s, from_s + length_s
    raise RuntimeError("the stand-in took no gate: this process was held up each time")


def measure(tool: Tool, length_s: float, gate_w: float) -> dict[str, object]:
    begin, end = tool
    called_s = time.monotonic()
    called_s = begin() or called_s
    returned_s = time.monotonic()
    if gate_w > 0:
        gate = start_gate(gate_w, length_s)
        sleep_until(gate[1])
    else:
        gate = None
        sleep_until(returned_s + length_s)
    end_s = time.monotonic()
    window: dict[str, object] = {"called_s": called_s, "returned_s": returned_s, "end_s": end_s, "gate": gate}
    try:
        window |= end()._asdict()
    except Exception as error:  # noqa: BLE001 a tool that fails is a row of the table
        window["error"] = f"{type(error).__name__}: {error}"
    return window


def main() -> None:
    warnings.simplefilter("ignore")
    name, schedule, output = sys.argv[1:]
    plan = json.loads(Path(schedule).read_text())
    tool = TOOLS[name]()
    measure(tool, 0.2, 0.0)  # the first window also pays for what is set up once
    print("ready", flush=True)
    schedule_start_s = float(sys.stdin.readline())
    windows = []
    for slot in plan["slots"]:
        sleep_until(schedule_start_s + slot["at_s"])
        windows.append(measure(tool, slot["length_s"], plan["gate_w"]))
    Path(output).write_text(json.dumps(windows))


if __name__ == "__main__":
    main()
