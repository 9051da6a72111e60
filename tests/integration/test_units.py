"""The cron lines and systemd units of `deployments/` work as they are, and the documentation shows them as they are."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.integration.support import read, write_sweep

CRON, SYSTEMD = REPOSITORY / "deployments" / "cron", REPOSITORY / "deployments" / "systemd"
INSTALLED = "/opt/harness/bin/harness"
"""Where the files expect the command."""
OPERATIONS = REPOSITORY / "docs" / "operations.md"


def job(name: str) -> tuple[dict[str, str], str]:
    """The environment that a file of /etc/cron.d sets, and its one command."""
    lines = [line for line in (CRON / name).read_text("utf-8").splitlines() if line and not line.startswith("#")]
    *settings, entry = lines
    *when, user, command = entry.split(maxsplit=6)
    assert len(when) == 5
    assert user == "harness", "not root"
    assert "%" not in command, "a new line to cron"
    return dict(line.split("=", 1) for line in settings), command


def run_as_cron(name: str, home: Path, sweep: Path) -> subprocess.CompletedProcess[str]:
    """In cron's bare environment and shell; only the paths of an installation are those of this test."""
    settings, command = job(name)
    here = {
        INSTALLED: str(Path(sys.executable).parent / "harness"),
        "/etc/harness/sweep.yaml": str(sweep),
        "/var/lib/harness": str(home),
    }
    for path, instead in here.items():
        command = command.replace(path, instead)
    bare = {"HOME": str(home), "LOGNAME": "harness", "SHELL": settings["SHELL"], "PATH": settings["PATH"]}
    words = ["env", "-i", *(f"{key}={value}" for key, value in bare.items()), settings["SHELL"], "-c", command]
    return subprocess.run(words, cwd="/", capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_the_cron_lines_work_in_a_bare_environment(tmp_path: Path) -> None:
    """Two nights of two nodes, each morning merged without doubles; nothing goes to cron, which would mail it."""
    sweep, lab = write_sweep(tmp_path), tmp_path / "lab"
    nodes = [tmp_path / "lab" / "nodes" / name for name in ("one", "two")]
    for night in (1, 2):
        for number, node in enumerate(nodes):
            home = tmp_path / f"home-{number}"
            home.mkdir(exist_ok=True)
            done = run_as_cron("harness-collect", home, sweep)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            assert len((home / "collect.log").read_text("utf-8").splitlines()) == night
            # As `rsync -a` would bring it.
            shutil.rmtree(node, ignore_errors=True)
            shutil.copytree(home / "results" / "simulated" / "small", node, symlinks=True)
        done = run_as_cron("harness-merge", lab, sweep)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        merged = read(lab / "results" / "measured" / "lab")
        assert not merged.duplicated(["point_id", "environment_id", "launch_id", "repetition", "attempt"]).any()
        assert len(merged) == sum(len(read(node)) for node in nodes)
    there = {path.name for path in (lab / "results" / "measured" / "lab").iterdir()}
    assert not there & {"reports", "predictor", "rounds"}, "those of a node stay with it"
    assert all((node / "reports").is_dir() for node in nodes)


def test_systemd_finds_no_fault_with_the_units(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed: the units are not verified here")
    units = [tmp_path / path.name for path in sorted(SYSTEMD.glob("harness-collect.*"))]
    assert [unit.suffix for unit in units] == [".service", ".timer"]
    for unit in units:
        text = (SYSTEMD / unit.name).read_text("utf-8")
        assert INSTALLED in text or unit.suffix == ".timer"
        # It is to be a program that is there.
        unit.write_text(text.replace(INSTALLED, str(Path(sys.executable).parent / "harness")), "utf-8")
    done = subprocess.run(
        [tool, "verify", "--man=no", *map(str, units)], env=os.environ | {"SYSTEMD_LOG_LEVEL": "warning"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_runs_the_cron_lines_command_with_time_to_end() -> None:
    (command,) = [line for line in service() if line.startswith("ExecStart=")]
    words = command.removeprefix("ExecStart=")
    assert words in job("harness-collect")[1]
    assert words.endswith("--budget 6h")
    assert "TimeoutStartSec=7h 30min" in service()


@pytest.mark.parametrize(
    "setting",
    ["PrivateDevices", "ProtectClock", "ProtectProc", "PrivateUsers", "PrivateNetwork", "MemoryDenyWriteExecute"],
)
def test_hardening_leaves_what_is_measured_in_sight(setting: str) -> None:
    """Device files of the GPUs, others' processes, group `energy`, the loopback."""
    assert not [line for line in service() if line.startswith(f"{setting}=")]


def service() -> list[str]:
    return (SYSTEMD / "harness-collect.service").read_text("utf-8").splitlines()


def test_users_and_permissions_are_what_systemd_reads() -> None:
    tool = shutil.which("systemd-sysusers")
    if tool is None:
        pytest.skip("systemd-sysusers is not installed")
    done = subprocess.run(
        [tool, "--dry-run", str(SYSTEMD / "harness.sysusers")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    (rule,) = [
        line for line in (SYSTEMD / "harness.tmpfiles").read_text("utf-8").splitlines() if not line.startswith("#")
    ]
    assert rule in OPERATIONS.read_text("utf-8"), "one rule everywhere"


def test_the_documentation_shows_what_was_tested() -> None:
    text = OPERATIONS.read_text("utf-8")
    for name in ("harness-collect", "harness-merge"):
        (entry,) = [line for line in (CRON / name).read_text("utf-8").splitlines() if "/opt/harness" in line]
        assert entry in text
