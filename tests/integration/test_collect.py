"""`harness collect` as cron runs it: one line, one night after another, killed at any step, two at once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.app import cli
from harness.collect import LOCK
from harness.errors import BadInput, StoreRefused
from harness.store.lock import hold_lock
from tests.conftest import REPOSITORY
from tests.integration.support import HARNESS, environment, harness, read, write_sweep

COLLECT = ("collect", "sweep.yaml", "--budget", "5m", "--results", "out")
KEY = ["point_id", "environment_id", "launch_id", "repetition", "attempt"]

STEPS = {
    "measuring": "harness.shelf.Writer.append",
    "probing": "harness.nightprobes.NightProbes.take",
    "between probes and compaction": "harness.nightprobes.NightProbes.ended",
    "compacting": "harness.store.writer.compact_table",
    "training": "harness.collect.retrain",
    "writing the page": "harness.collect.with_night",
    "writing the record": "harness.collect.write_night",
    "putting the page there": "harness.collect.write_whole",
    "dropping old pages": "harness.collect.drop_old",
    "keeping the predictor": "harness.collect.keep",
}
"""What is called in each step; a kill comes in its place."""

KILLED = """
import os, signal
from unittest.mock import patch
from harness.cli.main import main
with patch("{what}", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)):
    main()
"""


def nights(results: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted((results / "reports").glob("*.json"))]


def test_a_night_is_one_line_and_the_next_one_has_nothing_left(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    first = harness(*COLLECT, cwd=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    (line,) = first.stdout.splitlines()
    (record,) = (tmp_path / "out" / "reports").glob("*.json")
    assert "small (simulated), " in line
    assert "8 runs, nothing left; 1 node probed, drift not known yet; not trained: " in line
    assert line.endswith(f"; {record.relative_to(tmp_path)}")
    page = record.with_suffix(".html").read_text("utf-8")
    assert "8 runs, nothing left" in page
    assert "SIMULATED" in page
    second = harness(*COLLECT, "--json", cwd=tmp_path)
    assert (second.returncode, second.stderr) == (0, "")
    night = json.loads(second.stdout)
    assert (night["measured"]["runs_taken"], night["measured"]["runs_left"]) == (0, 0)
    assert night == nights(tmp_path / "out")[-1]
    runs = read(tmp_path / "out")
    assert not runs.duplicated(KEY).any()
    assert runs.query("purpose == 'probe'")["launch_id"].nunique() == 2


@pytest.mark.slow
def test_something_to_look_at_is_said_on_standard_error_with_a_code_of_its_own(tmp_path: Path) -> None:
    """A point that is given up: no engine starts with it."""
    write_sweep(tmp_path)
    code = (
        "import functools\n"
        "from pathlib import Path\n"
        "import harness.cluster.local as local, harness.simulator.node as node\n"
        "from harness.deployment.sweepfile import load_sweep\n"
        "from harness.simulator.faults import Faults\n"
        "broken = frozenset(item.deployment_id for item in load_sweep(Path('sweep.yaml')).deployments[:1])\n"
        "local.SimulatedNode = functools.partial(node.SimulatedNode, faults=Faults(failing_deployments=broken))\n"
        "from harness.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *COLLECT], cwd=tmp_path, env=environment(PYTHONPATH=str(REPOSITORY)),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "1 TO LOOK AT" in done.stdout
    assert done.stderr == ("harness: 2 points given up; harness status says why, and --max-attempts allows more\n")


def test_a_second_collect_is_refused_and_names_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    with (
        hold_lock(tmp_path / "out", "harness collect first.yaml", LOCK),
        pytest.raises(StoreRefused) as refused,
    ):
        CliRunner().invoke(cli, COLLECT, catch_exceptions=False)
    assert refused.value.exit_code == 2
    assert f"held by pid {os.getpid()} on {socket.gethostname()} since " in str(refused.value)
    assert "harness collect first.yaml" in str(refused.value)
    assert not (tmp_path / "out" / "runs").exists()


def test_a_reason_of_many_lines_is_one_line_that_commands_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.collect._failures", lambda outcome: ["two was lost: a\n\x1b[2Jb"])
    done = CliRunner().invoke(cli, COLLECT)
    assert done.exit_code == 3
    assert done.stderr == "harness: two was lost: a \N{REPLACEMENT CHARACTER}[2Jb\n"
    assert len(done.stdout.splitlines()) == 1


def test_what_a_command_makes_is_not_everyones_to_write(tmp_path: Path) -> None:
    """Whatever the umask; an engine loads code from its launch's folder."""
    code = "import atexit, os; from harness.cli.main import main; atexit.register(lambda: print(os.umask(0))); main()"
    write_sweep(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code, *COLLECT], cwd=tmp_path, env=environment(), umask=0, capture_output=True,
        text=True, check=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == str(0o002)
    made = [path for path in (tmp_path / "out").rglob("*") if not path.is_symlink()]
    assert made
    assert not [path for path in made if path.stat().st_mode & 0o002]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--drift", "3"), "--drift"),
        (("--drift", "0%"), "--drift"),
        (("--since", "yesterday"), "--since"),
        (("--budget", "6"), "--budget"),
    ],
)
def test_bad_input_makes_no_folder(
    arguments: tuple[str, str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=named):
        CliRunner().invoke(cli, [*COLLECT, *arguments], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_night_killed_at_any_step_is_followed_by_a_whole_one(step: str, tmp_path: Path) -> None:
    """After a night that went well, so that there is something to lose."""
    write_sweep(tmp_path)
    assert harness(*COLLECT, cwd=tmp_path).returncode == 0
    before = set(read(tmp_path / "out")[KEY].astype(str).agg(".".join, axis=1))
    more = (*COLLECT, "--repetitions", "3")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(what=STEPS[step]), *more], cwd=tmp_path,
        env=environment(PYTHONPATH=str(REPOSITORY)), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stdout == ""
    for night in nights(tmp_path / "out"):
        assert night["sweep"] == "small", "what is there is whole"
    done = harness(*more, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing left" in done.stdout
    runs = read(tmp_path / "out")
    keys = set(runs[KEY].astype(str).agg(".".join, axis=1))
    assert before <= keys, "nothing is lost"
    assert len(keys) == len(runs), "nothing is doubled"
    sweep = runs.query("purpose == 'sweep'")
    assert not sweep.duplicated(["point_id", "repetition"]).any()
    assert len(sweep) == 4 * 3
    left = [path.name for path in (tmp_path / "out" / "reports").iterdir() if path.name.endswith(".tmp")]
    assert left == [], "a half written file was taken over by the next one, or removed"


@pytest.mark.slow
def test_a_night_that_is_told_to_stop_keeps_what_it_measured(tmp_path: Path) -> None:
    write_sweep(tmp_path, ("repetitions: 2", "repetitions: 100"), ("sizes: [1, 8]", "sizes: [1, 2, 4, 8, 16, 32]"))
    child = subprocess.Popen(
        [*HARNESS, *COLLECT], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline_s = time.monotonic() + 120
    while not (tmp_path / "out" / "runs").exists() or read(tmp_path / "out").empty:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    stdout, stderr = child.communicate(timeout=60)
    assert (child.returncode, stdout) == (130, ""), stderr
    (line,) = stderr.splitlines()
    assert "SIGTERM" in line
    stored = read(tmp_path / "out")
    assert 0 < len(stored.query("purpose == 'sweep'")) < 1200
    assert not (tmp_path / "out" / "reports").exists(), "it was no whole night"
    again = harness(*COLLECT, "--repetitions", 1, "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    runs = read(tmp_path / "out")
    assert set(stored[KEY].astype(str).agg(".".join, axis=1)) <= set(runs[KEY].astype(str).agg(".".join, axis=1))
    assert not runs.query("purpose == 'sweep'").duplicated(["point_id", "repetition"]).any()
