"""The doctor explains itself on any machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness import doctor as doctor_module
from harness.doctor import Check, check_engines, check_results, check_traces
from harness.meters import rapl
from tests.fixtures.nvml.build import build_fake_nvml
from tests.fixtures.powercap import FakePackage, build_powercap, two_intel_sockets

ON_FAKE_GPUS = """
import json
from dataclasses import asdict
from harness.doctor import check_gpus
print(json.dumps([asdict(check) for check in check_gpus()]))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fake_nvml(tmp_path_factory.mktemp("nvml"))


def gpu_checks(library: Path, **settings: str) -> list[dict[str, Any]]:
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(library.parent),
        **{f"FAKE_NVML_{key}": value for key, value in settings.items()},
    }
    done = subprocess.run([sys.executable, "-c", ON_FAKE_GPUS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    checks: list[dict[str, Any]] = json.loads(done.stdout)
    return checks


def test_each_gpu_is_listed_with_its_measured_refresh_and_latency(library: Path) -> None:
    checks = gpu_checks(library, GPUS="2")
    assert [check["status"] for check in checks] == ["ok", "ok"]
    assert checks[1]["name"] == "gpu GPU-fake-0001"
    refresh_ms = float(checks[0]["detail"].split("refreshed every ")[1].split()[0])
    assert refresh_ms == pytest.approx(100, abs=5)


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({"MIG": "0"}, "missing", "-mig 0"),
        ({"LOST_AT_S": "0.1"}, "missing", "GPU is lost"),
        ({"LOW_W": "0"}, "missing", "does not move"),
        ({"PID": "1"}, "warn", "processes on it: 1"),
        ({"NO_INSTANT": "1"}, "warn", "field 186"),
    ],
)
def test_what_is_wrong_with_a_gpu_is_named_with_a_fix(
    library: Path, settings: dict[str, str], status: str, words: str
) -> None:
    (check,) = gpu_checks(library, **settings)
    assert check["status"] == status
    assert check["fix"]
    assert words in check["detail"] + check["fix"]


def rapl_checks(root: Path, packages: list[FakePackage], monkeypatch: pytest.MonkeyPatch) -> dict[str, Check]:
    build_powercap(root, packages)
    monkeypatch.setattr(doctor_module, "open_rapl", lambda: rapl.open_rapl(root))
    return {check.name: check for check in doctor_module.check_rapl()}


def test_counters_that_stand_still_are_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = rapl_checks(tmp_path, two_intel_sockets(), monkeypatch)
    assert {check.status for check in checks.values()} == {"warn"}
    assert "package-1 0.0 W; wraps at 262.1 kJ; read by powercap" in checks["cpu"].detail
    assert "does not move" in checks["dram"].detail


def test_a_machine_without_rapl_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = rapl_checks(tmp_path, [], monkeypatch)
    assert {check.status for check in checks.values()} == {"missing"}
    assert all(check.fix for check in checks.values())


def vllm_on_path(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Check:
    command = folder / "vllm"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return next(check for check in check_engines() if check.name == "vllm")


def test_vllm_is_asked_for_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = vllm_on_path(tmp_path, "echo noise >&2; echo 0.22.1", monkeypatch)
    assert (check.status, check.detail) == ("ok", f"0.22.1 at {tmp_path / 'vllm'}")
    check = vllm_on_path(tmp_path, "echo no libcuda >&2; exit 1", monkeypatch)
    assert check.status == "missing"
    assert "no libcuda" in check.detail


def test_a_vllm_that_never_answers_does_not_hold_the_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "_VERSION_LIMIT_S", 0.2)
    assert "took over" in vllm_on_path(tmp_path, "exec sleep 20", monkeypatch).detail


def test_traces_say_which_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_TRACES", str(tmp_path))
    (check,) = check_traces()
    assert (check.status, check.fix) == ("warn", "harness traces fetch all")
    (tmp_path / "AzureLLMInferenceTrace_code.csv").write_text("")
    checks = list(check_traces())
    assert [check.status for check in checks] == ["ok", "warn"]
    assert str(tmp_path) in checks[0].detail


def test_a_results_folder_that_cannot_be_written_is_missing(tmp_path: Path) -> None:
    (check,) = check_results(tmp_path / "new" / "folder")
    assert check.status in ("ok", "warn")
    assert list(tmp_path.iterdir()) == []
    (check,) = check_results(Path("/proc/results"))
    assert check.status == "missing"
    (tmp_path / "file").write_text("")
    (check,) = check_results(tmp_path / "file")
    assert check.status == "missing"


def test_the_command_ends_with_zero_and_shows_a_fix_below_each_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.cli.doctor import doctor

    shown = CliRunner().invoke(doctor, [])
    assert shown.exit_code == 0, shown.output
    assert shown.output.strip().splitlines()[-1].endswith("missing")
    as_json = CliRunner().invoke(doctor, ["--json"])
    checks = json.loads(as_json.output)["checks"]
    assert {"python", "cpu", "dram", "vllm", "results", "processor"} <= {check["name"] for check in checks}
    assert all(check["fix"] for check in checks if check["status"] == "missing")
    for check in checks:
        if check["fix"]:
            assert f"fix: {check['fix']}" in shown.output
