"""The real pynvml over a fake libnvidia-ml.so.1, each case in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.nvml.build import build_fake_nvml
from tests.fixtures.nvml.driver import FakeDriver, constant, steps

pytestmark = pytest.mark.flaky(reruns=3, reruns_delay=1)
"""Real clocks and processes: a machine that stalls for half a second turns any of them."""

GLANCE = """
import json
from harness.errors import HarnessError
from harness.meters.nvml import open_nvml
try:
    meter = open_nvml(lambda: OWN)
except HarnessError as error:
    print(json.dumps(str(error)))
else:
    gpus = getattr(meter, "gpus", ())
    states = [gpu.state(0.0) for gpu in gpus]
    print(json.dumps({
        "absent": dict(meter.absent),
        "uuids": [gpu.uuid for gpu in gpus],
        "power": [gpu.power_w() for gpu in gpus],
        "power_source": [gpu.power_source for gpu in gpus],
        "reasons": [sorted(state.event_reasons) for state in states],
        "foreign": [state.foreign_pids for state in states],
        "limit": [state.power_limit_w for state in states],
        "seen": [gpu.channels[0].seen_share for gpu in gpus],
    }))
    meter.close()
    meter.close()
"""

WINDOW = """
import json, os, sys, time
from harness.clock import WallClock
from harness.errors import MeasurementError
from harness.meters.nvml import open_nvml
from harness.meters.sampler import PollingSampler
from harness.meters.window import window_energies
length_s = float(sys.argv[1])
origin_s = time.monotonic()
os.environ["FAKE_NVML_ORIGIN_S"] = repr(origin_s)  # after the imports, which take their time
with open_nvml() as meter:
    sampler = PollingSampler([meter], WallClock(), state_period_s=0.1)
    sampler.start()
    sampler.settle()
    start_s = sampler.mark()
    time.sleep(length_s)
    end_s = sampler.mark()
    sampler.settle()
    recording = sampler.stop()
    states = [[s.device, s.time_s - origin_s, sorted(s.event_reasons), s.foreign_pids] for s in recording.states]
    window = {"origin_s": origin_s, "start_s": start_s, "end_s": end_s, "states": states}
    for name, uuids in (("all", [gpu.uuid for gpu in meter.gpus]), ("first", [meter.gpus[0].uuid])):
        try:
            found = window_energies(recording, start_s, end_s, uuids, gated=True)
            window[name] = [found.gpu.energy_j, found.gpu.uncertainty_j, found.gpu_power_integral_j]
        except MeasurementError as error:
            window[name] = [type(error).__name__, str(error)]
    print(json.dumps(window))
"""
HIGH_S = (0.6, 0.9)
"""The burst of `burst`; settling takes 0.4 to 0.5 s."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fake_nvml(tmp_path_factory.mktemp("nvml"))


def run(library: Path, driver: FakeDriver, code: str, *arguments: str) -> Any:
    file = driver.write(library.parent / "driver")
    environment = os.environ | {"LD_LIBRARY_PATH": str(library.parent), "FAKE_NVML": str(file)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def glance(library: Path, own: str = "()", gpus: int = 1, **settings: object) -> Any:
    driver = FakeDriver([constant(100 + 10 * i) for i in range(gpus)], settings=settings)
    return run(library, driver, GLANCE.replace("OWN", own))


def test_gpus_are_found_with_uuid_instant_power_and_limit(library: Path) -> None:
    found = glance(library, gpus=2)
    assert found["uuids"] == ["GPU-fake-0000", "GPU-fake-0001"]
    assert found["power"] == [100.0, 110.0]
    assert found["power_source"] == ["instant", "instant"]
    assert found["reasons"] == [[], []]
    assert found["limit"] == [700.0, 700.0]


@pytest.mark.parametrize(
    ("board", "seen_share"),
    [
        ("NVIDIA A100-SXM4-80GB", 0.25),
        ("NVIDIA A100 80GB PCIe", 0.25),
        ("NVIDIA H100 80GB HBM3", 0.25),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA L40S", None),
    ],
)
def test_of_boards_that_were_looked_into_it_is_known_how_much_they_see(
    library: Path, board: str, seen_share: float | None
) -> None:
    assert glance(library, name=board)["seen"] == [seen_share]


def test_without_field_186_power_usage_is_read_and_named(library: Path) -> None:
    found = glance(library, no_instant=1)
    assert (found["power"], found["power_source"]) == ([100.0], ["power_usage"])


def test_event_reasons_have_names_and_idle_is_left_out(library: Path) -> None:
    found = glance(library, reasons="0x1085")
    assert found["reasons"] == [["bit_0x1000", "hw_power_brake_slowdown", "sw_power_cap"]]


def test_a_process_is_foreign_unless_it_descends_from_one_of_ours(library: Path) -> None:
    pid = os.getpid()
    assert glance(library, pid=pid)["foreign"] == [[pid]]
    assert glance(library, f"[{pid}]", pid=pid)["foreign"] == [[]]
    assert glance(library, f"[{os.getppid()}]", pid=pid)["foreign"] == [[]]
    assert glance(library, f"[{pid}]", pid=999999999)["foreign"] == [[999999999]]


def test_mig_is_refused_with_its_gpu_and_the_command(library: Path) -> None:
    found = glance(library, gpus=2, mig=1)
    assert "GPU-fake-0001" in found
    assert "nvidia-smi -i GPU-fake-0001 -mig 0" in found


@pytest.mark.parametrize(
    ("gpus", "settings", "reason"),
    [
        (1, {"no_driver": 1}, "Driver Not Loaded"),
        (1, {"no_energy": 1}, "does not give GPU energy (NVML says: Not Supported)"),
        (1, {"lost_at_s": -1}, "does not give GPU energy (NVML says: GPU is lost)"),
        (0, {}, "shows no GPU"),
    ],
)
def test_missing_hardware_is_an_absent_meter_with_the_reason(
    library: Path, gpus: int, settings: dict[str, object], reason: str
) -> None:
    assert reason in glance(library, gpus=gpus, **settings)["absent"]["gpu"]


def test_without_any_nvml_library_the_reason_says_so(tmp_path: Path) -> None:
    found = glance(tmp_path / "libnvidia-ml.so.1")
    if found["uuids"]:
        pytest.skip("this machine has an NVIDIA driver")
    assert "NVML Shared Library Not Found" in found["absent"]["gpu"]


def burst(gpus: int, settings: dict[str, object], gains: Sequence[float] = ()) -> FakeDriver:
    """GPUs of 100 W and more that draw 600 W during `HIGH_S`."""
    low_s, high_s = HIGH_S
    traces = [steps([low_s, high_s - low_s, 4.0], [100 + 10 * i, 600, 100 + 10 * i]) for i in range(gpus)]
    return FakeDriver(traces, None, gains, settings=settings)


def window(library: Path, driver: FakeDriver, length_s: float = 0.6) -> tuple[dict[str, Any], float]:
    """One window as the sampler measures it from the end of settling on, and its true energy."""
    found: dict[str, Any] = run(library, driver, WINDOW, str(length_s))
    assert found["start_s"] - found["origin_s"] < HIGH_S[0]
    truth_j = replace(driver, origin_s=found["origin_s"]).truth_j(found["start_s"], found["end_s"])
    return found, truth_j


def test_a_burst_between_two_quiet_ends_is_measured_to_a_percent(library: Path) -> None:
    found, truth_j = window(library, burst(8, {"jitter_s": 0.002, "missed": 0.02}))
    energy_j, uncertainty_j, integral_j = found["all"]
    assert abs(energy_j - truth_j) < max(uncertainty_j, 0.01 * truth_j)
    assert uncertainty_j < 0.03 * truth_j
    assert integral_j == pytest.approx(truth_j, rel=0.3)


@pytest.mark.parametrize("slow_s", ["0.005 1", "0.05 40"])
def test_the_uncertainty_covers_what_slow_readings_do(library: Path, slow_s: str) -> None:
    found, truth_j = window(library, burst(1, {"slow_s": slow_s}))
    energy_j, uncertainty_j, _ = found["all"]
    assert abs(energy_j - truth_j) < uncertainty_j
    assert uncertainty_j < truth_j


def test_a_boards_gain_is_in_its_energy(library: Path) -> None:
    found, truth_j = window(library, burst(1, {}, gains=[0.954]))
    energy_j, uncertainty_j, _ = found["all"]
    assert abs(energy_j - 0.954 * truth_j) < uncertainty_j
    assert abs(energy_j - truth_j) > uncertainty_j


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"reload_at_s": 0.8}, "CounterWentBack", "counter fell from"),
        ({"lost_at_s": "0.8 1"}, "CounterLost", "GPU is lost"),
    ],
)
def test_a_reload_and_a_lost_gpu_make_the_window_invalid(
    library: Path, settings: dict[str, object], error: str, words: str
) -> None:
    found, _ = window(library, burst(2, settings))
    assert found["all"][0] == error
    assert words in found["all"][1]
    if "lost_at_s" in settings:  # the other GPU's window stands
        assert found["first"][0] == pytest.approx(100 * 0.6 + 500 * 0.3, rel=0.1)


def test_what_comes_and_goes_within_a_window_is_seen(library: Path) -> None:
    found, _ = window(library, burst(2, {"pid": "999999999 1 0.6 1.0", "reasons": "0x40 0 0.8 9"}))
    with_process = [(device, at_s) for device, at_s, _, pids in found["states"] if pids == [999999999]]
    assert {device for device, _ in with_process} == {"GPU-fake-0001"}
    assert min(at_s for _, at_s in with_process) > 0.5
    assert max(at_s for _, at_s in with_process) < 1.1
    assert {device for device, _, reasons, _ in found["states"] if reasons} == {"GPU-fake-0000"}
    assert ["hw_thermal_slowdown"] in [reasons for _, _, reasons, _ in found["states"]]
