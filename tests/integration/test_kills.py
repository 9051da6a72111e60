"""`kill -9` at random moments of a sweep, each followed by a rerun: nothing lost, nothing doubled."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.integration.support import environment, harness, read, write_sweep

KEY = ["point_id", "environment_id", "launch_id", "repetition", "attempt"]
KILLS = 50
REPETITIONS = 100
"""So many that no machine finishes them between the kills."""
ENOUGH = 20
SEED = 20261121

# The real command, with small segments: the store seals and compacts every few runs, so that kills fall there too.
SWEEP = [
    sys.executable,
    "-c",
    "import harness.store.writer as w, harness.store.compact as c\n"
    "w.ROWS_PER_SEGMENT.update(runs=10, requests=50, iterations=50, power=200)\n"
    "c.MOST_SEGMENTS = 2\n"
    "from harness.cli.main import main\n"
    "main()",
    *("sweep", "sweep.yaml", "--results", "out"),
]


def check_folder(results: Path) -> int:
    """Every file readable, every key once, every detail row of a recorded run; returns the runs there are."""
    if not (results / "runs").exists():
        return 0
    for path in results.rglob("*.parquet"):
        if not path.name.startswith((".", "_")):
            pq.read_table(path)
    runs = read(results)
    assert not runs.duplicated(KEY).any()
    return len(runs)


@pytest.mark.slow
def test_fifty_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    write_sweep(
        tmp_path,
        ("[dgx-h100]", "[dgx-h100, dgx-a100]"),
        ("sizes: [1, 8]", "sizes: [1, 2, 4, 8, 16, 32]"),
        ("prompt_tokens: [128]", "prompt_tokens: [64, 128, 256, 512]"),
        ("repetitions: 2", f"repetitions: {REPETITIONS}"),
    )
    results, rng = tmp_path / "out", random.Random(SEED)
    known = compactions = 0
    for kill in range(KILLS):
        child = subprocess.Popen(
            SWEEP, cwd=tmp_path, env=environment(PYTHONPATH=str(REPOSITORY)),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        time.sleep(rng.uniform(0.3, 4.0))
        assert child.poll() is None, f"the sweep ended before kill {kill}: make it longer"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert not [process for process in psutil.process_iter() if _session(process) == child.pid], "orphan"
        runs = check_folder(results)
        assert runs >= known, "a stored run disappeared"
        known = runs
        compactions = max([compactions, *(int(path.name[-6:]) - 1 for path in results.glob(".generations/runs-*"))])
    assert known > 0
    assert compactions > 0, "no compaction happened: the kills did not test it"
    done = harness("sweep", "sweep.yaml", "--results", "out", "--repetitions", ENOUGH, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_folder(results)
    runs = read(results).query("purpose == 'sweep'")
    assert not runs.duplicated(["point_id", "repetition"]).any()
    assert (runs[runs["repetition"] <= ENOUGH].groupby("point_id").size() == ENOUGH).all()
    assert runs["point_id"].nunique() == 2 * 2 * 6 * 4
    keys = set(read(results)[KEY].astype(str).agg(".".join, axis=1))
    for table in ("requests", "iterations", "power"):
        assert set(read(results, table)["run_id"]) <= keys, f"{table} has rows of runs that are not there"


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:
        return None
