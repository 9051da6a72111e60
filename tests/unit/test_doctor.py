"""The doctor explains itself on any machine."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.doctor import Check, meters, software
from harness.doctor.meters import check_cpu, check_node_power, measure_pace
from harness.doctor.software import check_engines, check_results, check_traces
from harness.meters import nodepower, rapl
from harness.meters.base import Channel
from tests.fixtures.nvml.build import build_fake_nvml
from tests.fixtures.powercap import (
    FakePackage,
    RunningPowercap,
    build_powercap,
    sapphire_rapids,
    two_intel_sockets,
    write_cpuinfo,
)

ON_FAKE_GPUS = """
import json
from dataclasses import asdict
from harness.doctor.meters import check_gpus
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
        ({"PERSISTENCE": "0"}, "warn", "nvidia-smi -i GPU-fake-0000 -pm 1"),
    ],
)
def test_what_is_wrong_with_a_gpu_is_named_with_a_fix(
    library: Path, settings: dict[str, str], status: str, words: str
) -> None:
    (check,) = gpu_checks(library, **settings)
    assert check["status"] == status
    assert check["fix"]
    assert words in check["detail"] + check["fix"]


def rapl_checks(
    root: Path, packages: list[FakePackage], monkeypatch: pytest.MonkeyPatch, model: int = 106
) -> dict[str, Check]:
    if not (root / "intel-rapl").exists():
        build_powercap(root, packages)
    cpuinfo = write_cpuinfo(root / "cpuinfo", model=model)
    monkeypatch.setattr(meters, "open_rapl", lambda: rapl.open_rapl(root, cpuinfo))
    return {check.name: check for check in meters.check_rapl()}


@contextmanager
def running(root: Path, packages: list[FakePackage], cpu_w: float, dram_w: float) -> Iterator[None]:
    """A tree that counts up meanwhile."""
    power_w = {package.name: cpu_w for package in packages} | {f"{package.name} dram": dram_w for package in packages}
    tree = RunningPowercap(build_powercap(root, packages), packages, power_w)
    ending = threading.Event()

    def run() -> None:
        begin_s = time.monotonic()
        while not ending.is_set():
            tree.advance(time.monotonic() - begin_s)
            time.sleep(0.001)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def test_counters_that_stand_still_are_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = rapl_checks(tmp_path, two_intel_sockets(), monkeypatch)
    assert {check.status for check in checks.values()} == {"warn"}
    assert "package-1 0.0 W; does not move, read in " in checks["cpu"].detail
    assert "by powercap; wraps at 262.1 kJ" in checks["cpu"].detail
    assert "stands still" in checks["dram"].detail


def test_counters_that_move_are_listed_with_watts_refresh_and_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = two_intel_sockets()[:2]
    with running(tmp_path, packages, cpu_w=200, dram_w=20):
        checks = rapl_checks(tmp_path, packages, monkeypatch)
    assert {check.status for check in checks.values()} == {"ok"}, checks
    watts = float(checks["dram"].detail.split("package-1-dram ")[1].split()[0])
    assert watts == pytest.approx(20, rel=0.5)
    assert "refreshed every " in checks["cpu"].detail


def test_the_old_unit_of_sapphire_rapids_names_the_kernel_and_impossible_watts_are_doubted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, low = tmp_path / "old", tmp_path / "low"
    with running(old, sapphire_rapids(old_unit=True), cpu_w=200, dram_w=5):
        dram = rapl_checks(old, [], monkeypatch, model=143)["dram"]
    assert dram.status == "warn"
    assert "reads 4x low" in dram.detail
    assert "4c081324df56" in dram.fix
    monkeypatch.setattr(meters, "count_dimms", lambda: 16)
    with running(low, sapphire_rapids(old_unit=False), cpu_w=200, dram_w=1.5):
        dram = rapl_checks(low, [], monkeypatch, model=143)["dram"]
    assert dram.status == "warn"
    assert "for each DIMM of 16: less than the 0.5 W" in dram.detail
    assert "BIOS" in dram.fix


def test_a_machine_without_rapl_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = rapl_checks(tmp_path, [], monkeypatch)
    assert {check.status for check in checks.values()} == {"missing"}
    assert all("sudo modprobe intel_rapl_msr" in check.fix for check in checks.values())


class Ticking:
    """A counter that moves every 2 ms."""

    channels = (Channel("cpu", "package-0", 1e-6, None, 0.001, "measured"),)

    def read(self) -> tuple[int]:
        return (int(time.perf_counter() / 0.002),)


def test_the_refresh_is_found_by_watching_the_counter() -> None:
    refresh_s, read_s = measure_pace(Ticking())
    assert refresh_s == pytest.approx(0.002, rel=0.3)
    assert 0 < read_s < 0.001


AS_NOBODY = """
import os, sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from click.testing import CliRunner
from tests.fixtures.powercap import build_powercap, two_intel_sockets
from harness.cli.doctor import doctor
from harness.meters.rapl import POWERCAP
build_powercap(POWERCAP, two_intel_sockets())
for path in POWERCAP.rglob("energy_uj"):
    path.chmod(0o400)
private = Path(tempfile.mkdtemp(), "results")
os.chdir("/")
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
shown = CliRunner().invoke(doctor, ["--results", str(private)])
print(shown.output)
if shown.exception:
    raise shown.exception
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not read")
def test_with_broken_permissions_the_repair_is_named_and_the_command_ends_with_zero() -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    inside = 'mount -t tmpfs tmpfs /sys/class && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", inside, "sh", sys.executable, "-c", AS_NOBODY, str(Path.cwd())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    cpu = next(i for i, line in enumerate(lines) if line.startswith("missing  cpu"))
    assert "/sys/class/powercap/intel-rapl/intel-rapl:0/energy_uj: permission denied" in lines[cpu]
    assert f"fix: {rapl.PERMISSION_FIX}" in lines[cpu + 1]
    results = next(i for i, line in enumerate(lines) if line.startswith("missing  results"))
    assert "fix: give another folder with --results" in lines[results + 1]


def test_a_management_controller_is_asked_once_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (check,) = check_node_power()
    assert (check.status, "no ipmitool on PATH" in check.detail) == ("missing", True)
    assert nodepower.IPMI_FIX in check.fix
    command = tmp_path / "ipmitool"
    command.write_text("#!/bin/sh\necho 'Instantaneous power reading: 4321 Watts'\n")
    command.chmod(0o755)
    (check,) = check_node_power()
    assert check.status == "ok"
    assert "ipmi" in check.detail


def test_a_governor_that_moves_clocks_is_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "FOREIGN_CPU_CORES", 1e9)
    monkeypatch.setattr(meters.HostWatch, "governors", lambda _: frozenset({"powersave"}))
    (check,) = check_cpu()
    assert (check.status, "governor powersave" in check.detail) == ("warn", True)
    assert "sudo cpupower frequency-set -g performance" in check.fix
    monkeypatch.setattr(meters, "FOREIGN_CPU_CORES", -1.0)
    (check,) = check_cpu()
    assert "with the work of others" in check.detail


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
    monkeypatch.setattr(software, "_VERSION_LIMIT_S", 0.2)
    assert "took over" in vllm_on_path(tmp_path, "exec sleep 20", monkeypatch).detail


def test_traces_say_which_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_TRACES", str(tmp_path))
    (check,) = check_traces()
    assert (check.status, check.fix) == ("warn", "harness traces fetch all")
    (tmp_path / "AzureLLMInferenceTrace_code.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    checks = list(check_traces())
    assert [check.status for check in checks] == ["missing", "warn"]
    assert str(tmp_path) in checks[0].detail
    assert "not the published file" in checks[0].detail


def test_a_fetched_trace_is_said_to_be_there(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_TRACES", str(data_dir / "azure"))
    (check,) = check_traces()
    assert check.status == "ok"


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
    from harness.cli import doctor as command
    from harness.cli.doctor import doctor

    # One look at this machine for both: how busy it is changes from one look to the next.
    found = command.examine(Path("results"))
    monkeypatch.setattr(command, "examine", lambda results: found)
    shown = CliRunner().invoke(doctor, [])
    assert shown.exit_code == 0, shown.output
    assert shown.output.strip().splitlines()[-1].endswith("missing")
    as_json = CliRunner().invoke(doctor, ["--json"])
    checks = json.loads(as_json.output)["checks"]
    assert {"python", "cpu", "dram", "node power", "vllm", "results", "processor"} <= {
        check["name"] for check in checks
    }
    assert all(check["fix"] for check in checks if check["status"] == "missing")
    for check in checks:
        if check["fix"]:
            assert f"fix: {check['fix']}" in shown.output
