"""Slurm's part through submitit's local executor: real jobs, real Ray nodes, no Slurm."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.cluster.support import until
from tests.cluster.test_ray import LARGE, POINTS, REPETITIONS, assert_once, measured, stored
from tests.conftest import REPOSITORY
from tests.integration.support import environment, harness, write_sweep

pytestmark = pytest.mark.cluster

MORE = 20


def slurm_sweep(file: Path, folder: Path, *arguments: object) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.slurm_child", *map(str, (file, folder / "out", *arguments))],
        cwd=REPOSITORY, env=environment(RAY_USAGE_STATS_ENABLED="0"), capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_jobs_join_measure_and_end_with_the_controller(tmp_path: Path) -> None:
    said = slurm_sweep(write_sweep(tmp_path, *LARGE), tmp_path, 2)
    assert (said["left"], said["lost"], said["modes"]) == (0, [], ["600"])
    assert set(said["launched"]) == {"sim-dgx-a100", "sim-dgx-h100"}  # type: ignore[call-overload]
    assert_once(measured(tmp_path / "out"))
    folder = tmp_path / "out" / ".cluster"
    (token,) = said["tokens"]  # type: ignore[misc]
    assert not list(folder.glob("token*")), "it goes with the command"
    assert not [path for path in folder.rglob("*") if token.encode() in _content(path)]
    left = [process for process in psutil.process_iter(["cmdline"]) if _is_of(process, folder)]
    assert not left, "jobs and head end with the controller"


def test_a_preempted_job_is_queued_again_and_comes_back(tmp_path: Path) -> None:
    """Ray takes some seconds to leave, so the sweep is one that takes more."""
    more = (("[dgx-a100, dgx-h100]", "[dgx-h100]"), (f"repetitions: {REPETITIONS}", f"repetitions: {MORE}"))
    said = slurm_sweep(write_sweep(tmp_path, *LARGE, *more), tmp_path, 1, "preempt")
    assert (said["left"], said["lost"]) == (0, ["sim-dgx-h100"])
    assert_once(measured(tmp_path / "out"), POINTS // 2, MORE)


def test_a_killed_controller_leaves_no_node_waiting(tmp_path: Path) -> None:
    """Nobody would cancel its jobs: the head ends with it, the nodes with the head, the jobs with their nodes."""
    file = write_sweep(tmp_path, *LARGE, (f"repetitions: {REPETITIONS}", f"repetitions: {MORE}"))
    controller = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.slurm_child", file, tmp_path / "out", "1"], cwd=REPOSITORY,
        env=environment(RAY_USAGE_STATS_ENABLED="0"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: stored(tmp_path / "out", "sim-dgx-a100") >= 5)
    started = psutil.Process(controller.pid).children(recursive=True)
    controller.kill()
    controller.wait()
    assert len(started) > 5
    until(lambda: not any(one.is_running() for one in started))


def test_without_slurm_one_line_says_so(tmp_path: Path) -> None:
    done = harness(
        "sweep", write_sweep(tmp_path), "--results", tmp_path / "out", "--cluster", "slurm", "--budget", "1h",
        cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
    assert "a machine with Slurm's sbatch and srun" in done.stderr


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _is_of(process: psutil.Process, folder: Path) -> bool:
    return any(str(folder) in word for word in process.info["cmdline"] or ())
