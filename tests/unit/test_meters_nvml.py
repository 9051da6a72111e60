"""The real pynvml over a fake libnvidia-ml.so.1, each case in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.nvml.build import build_fake_nvml

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
    print(json.dumps({
        "absent": dict(meter.absent),
        "uuids": [gpu.uuid for gpu in gpus],
        "power": [gpu.power_w() for gpu in gpus],
        "power_source": [gpu.power_source for gpu in gpus],
        "reasons": [sorted(gpu.state(0.0).event_reasons) for gpu in gpus],
        "foreign": [gpu.state(0.0).foreign_pids for gpu in gpus],
        "limit": [gpu.state(0.0).power_limit_w for gpu in gpus],
    }))
    meter.close()
    meter.close()
"""

WINDOW = """
import json, time
from harness.clock import WallClock
from harness.errors import MeasurementError
from harness.meters.nvml import open_nvml
from harness.meters.sampler import PollingSampler
from harness.meters.window import window_energies
with open_nvml() as meter:
    sampler = PollingSampler([meter], WallClock())
    sampler.start()
    # Begin early in the low half of a period of 1 s, end 50 ms after the high half.
    time.sleep(1 - time.monotonic() % 1)
    sampler.settle()
    start_s = sampler.mark()
    time.sleep(1 - start_s % 1 + 0.05)
    end_s = sampler.mark()
    sampler.settle()
    recording = sampler.stop()
    try:
        found = window_energies(recording, start_s, end_s, [gpu.uuid for gpu in meter.gpus])
        print(json.dumps([start_s, end_s, found.gpu.energy_j, found.gpu.uncertainty_j, found.gpu_power_integral_j]))
    except MeasurementError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fake_nvml(tmp_path_factory.mktemp("nvml"))


def run(library: Path, code: str, **settings: str) -> Any:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FAKE_NVML_")}
    environment |= {"LD_LIBRARY_PATH": str(library.parent), **{f"FAKE_NVML_{k}": v for k, v in settings.items()}}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def glance(library: Path, own: str = "()", **settings: str) -> Any:
    return run(library, GLANCE.replace("OWN", own), **settings)


def test_gpus_are_found_with_uuid_instant_power_and_limit(library: Path) -> None:
    found = glance(library, GPUS="2")
    assert found["uuids"] == ["GPU-fake-0000", "GPU-fake-0001"]
    assert found["power"] == [100.0, 110.0]
    assert found["power_source"] == ["instant", "instant"]
    assert found["reasons"] == [[], []]
    assert found["limit"] == [700.0, 700.0]


def test_without_field_186_power_usage_is_read_and_named(library: Path) -> None:
    found = glance(library, NO_INSTANT="1")
    assert (found["power"], found["power_source"]) == ([100.0], ["power_usage"])


def test_event_reasons_have_names_and_idle_is_left_out(library: Path) -> None:
    found = glance(library, REASONS="0x1085")
    assert found["reasons"] == [["bit_0x1000", "hw_power_brake_slowdown", "sw_power_cap"]]


def test_a_process_is_foreign_unless_it_descends_from_one_of_ours(library: Path) -> None:
    pid = os.getpid()
    assert glance(library, PID=str(pid))["foreign"] == [[pid]]
    assert glance(library, f"[{pid}]", PID=str(pid))["foreign"] == [[]]
    assert glance(library, f"[{os.getppid()}]", PID=str(pid))["foreign"] == [[]]
    assert glance(library, f"[{pid}]", PID="999999999")["foreign"] == [[999999999]]


def test_mig_is_refused_with_its_gpu_and_the_command(library: Path) -> None:
    found = glance(library, GPUS="2", MIG="1")
    assert "GPU-fake-0001" in found
    assert "nvidia-smi -i GPU-fake-0001 -mig 0" in found


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"NO_DRIVER": "1"}, "Driver Not Loaded"),
        ({"NO_ENERGY": "1"}, "does not give GPU energy (NVML says: Not Supported)"),
        ({"GPUS": "0"}, "shows no GPU"),
    ],
)
def test_missing_hardware_is_an_absent_meter_with_the_reason(
    library: Path, settings: dict[str, str], reason: str
) -> None:
    assert reason in glance(library, **settings)["absent"]["gpu"]


def test_without_any_nvml_library_the_reason_says_so(tmp_path: Path) -> None:
    found = glance(tmp_path / "none")
    if found["uuids"]:
        pytest.skip("this machine has an NVIDIA driver")
    assert "NVML Shared Library Not Found" in found["absent"]["gpu"]


def test_a_burst_between_two_quiet_ends_is_measured_to_a_percent(library: Path) -> None:
    start_s, end_s, energy_j, uncertainty_j, integral_j = run(
        library, WINDOW, GPUS="8", LOW_W="100", HIGH_W="600", PERIOD_S="1"
    )
    high_s = min(0.5, 1 - start_s % 1)
    truth_j = sum(low * (end_s - start_s) + high_s * (600 - low) for low in range(100, 180, 10))
    assert abs(energy_j - truth_j) < max(uncertainty_j, 0.01 * truth_j)
    assert uncertainty_j < 0.02 * truth_j
    assert integral_j == pytest.approx(truth_j, rel=0.3)


@pytest.mark.parametrize(
    ("setting", "error", "words"),
    [("RELOAD_AT_S", "CounterWentBack", "counter fell from"), ("LOST_AT_S", "CounterLost", "GPU is lost")],
)
def test_a_reload_and_a_lost_gpu_make_the_window_invalid(library: Path, setting: str, error: str, words: str) -> None:
    found = run(library, WINDOW, GPUS="2", PERIOD_S="1", **{setting: "1.0"})
    assert found[0] == error
    assert words in found[1]
