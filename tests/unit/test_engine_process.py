"""However an engine, its keeper or the harness ends, nothing of the engine's tree is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.engines.process import EngineProcess
from harness.errors import DiskTooSmall, EngineUnavailable
from tests.fixtures import fake_engine
from tests.fixtures.processes import gone_within, writers

FAKE = str(Path(fake_engine.__file__).absolute())
LIMIT_S = 30.0


def start(log: Path, *words: str, term_limit_s: float = 10.0) -> EngineProcess:
    process = EngineProcess([sys.executable, FAKE, *words], dict(os.environ), log, None, term_limit_s)
    return process


def wait_up(log: Path, processes: int) -> None:
    until_s = time.monotonic() + LIMIT_S
    while log.read_text().count("up ") < processes:
        assert time.monotonic() < until_s, log.read_text()
        time.sleep(0.02)


def test_stopping_ends_children_that_left_the_group(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(log, "2")
    wait_up(log, 3)
    assert len(writers(log)) == 4  # three, and the keeper
    assert process.exit_code is None
    process.stop()
    assert writers(log) == []
    assert process.exit_code == -signal.SIGTERM
    process.stop()  # again


def test_what_ignores_sigterm_is_killed_at_the_limit(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(log, "2", "stubborn", term_limit_s=0.3)
    wait_up(log, 3)
    process.stop()
    assert writers(log) == []
    assert process.exit_code == -signal.SIGKILL


def test_killing_does_not_wait_for_the_term_limit(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(log, "1", "stubborn", term_limit_s=600.0)
    wait_up(log, 2)
    os.kill(process.pid, signal.SIGSTOP)
    process.kill()
    process.kill()
    assert gone_within(log, LIMIT_S)
    process.stop()
    assert process.exit_code == -signal.SIGKILL


@pytest.mark.parametrize("stubborn", [[], ["stubborn"]])
def test_a_killed_harness_leaves_nothing(tmp_path: Path, stubborn: list[str]) -> None:
    log = tmp_path / "log"
    code = (
        "import os, sys, time; from pathlib import Path; from harness.engines.process import EngineProcess\n"
        "EngineProcess([sys.executable, *sys.argv[2:]], dict(os.environ), Path(sys.argv[1]), None, 0.5)\n"
        "time.sleep(600)"
    )
    harness = subprocess.Popen([sys.executable, "-c", code, str(log), FAKE, "2", *stubborn])
    until_s = time.monotonic() + LIMIT_S
    while not log.exists() and time.monotonic() < until_s:
        time.sleep(0.02)
    wait_up(log, 3)
    harness.kill()
    harness.wait()
    assert gone_within(log, LIMIT_S)


def test_what_a_dead_engine_leaves_behind_is_ended_and_its_status_known(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(log, "2", "orphan")
    wait_up(log, 3)
    assert gone_within(log, LIMIT_S)
    assert process.exit_code == 0
    assert process.how_it_ended == "exited with status 0"
    process.stop()


def test_status_and_last_words_of_an_engine_that_ends_by_itself(tmp_path: Path) -> None:
    process = start(tmp_path / "log", "0", "exit", "7")
    until_s = time.monotonic() + LIMIT_S
    while process.exit_code is None and time.monotonic() < until_s:
        time.sleep(0.02)
    assert process.exit_code == 7
    assert process.tail().endswith("the last words")
    process.stop()


def test_an_engine_whose_keeper_is_killed_does_not_outlive_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(log, "0")
    wait_up(log, 1)
    os.kill(process.keeper_pid, signal.SIGKILL)
    assert gone_within(log, LIMIT_S)
    assert process.exit_code == -signal.SIGKILL
    process.stop()


def test_a_signal_to_the_terminal_does_not_reach_the_engine(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(log, "0")
    wait_up(log, 1)
    keeper = psutil.Process(process.keeper_pid)
    assert os.getpgid(keeper.pid) != os.getpgid(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        keeper.send_signal(number)
    time.sleep(0.2)
    assert process.exit_code is None
    process.stop()


def test_the_engine_runs_where_it_was_put(tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    log = tmp_path / "log"
    process = EngineProcess([sys.executable, FAKE, "1"], dict(os.environ), log, frozenset({cpu}))
    wait_up(log, 2)
    assert [psutil.Process(pid).cpu_affinity() for pid in writers(log)] == [[cpu]] * 3
    process.stop()


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="/no/such/program"):
        EngineProcess(["/no/such/program"], {}, tmp_path / "log")
    assert gone_within(tmp_path / "log", LIMIT_S)


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DiskTooSmall):
        EngineProcess([sys.executable, FAKE, "0"], {}, tmp_path / "absent" / "log")
