"""The command line, and a real server that is killed in mid-replay: a failed run with the log's tail, then the rest."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.fixtures.processes import after_steps, writers
from tests.integration.support import environment, read
from tests.vllm.servers import REPOSITORY, VLLM, needs_vllm

pytestmark = [pytest.mark.vllm, pytest.mark.flaky(reruns=2, reruns_delay=2)]

LIMIT_S = 600.0


def write_replays(path: Path) -> Path:
    """A replay of the bundled profile, three times."""
    content = {
        "sweep": "killed",
        "simulate": False,
        "nodes": ["cpu-only"],
        "models": ["tiny-llama"],
        "bits": [32],
        "parallelism": [{"tp": 1}],
        "engines": [
            {
                "name": "vllm",
                "token_budget": 2048,
                "max_sequences": 64,
                "max_context_tokens": 4096,
                "command": [str(VLLM), "serve", "{model}"],
                "ready_limit": "10m",
            }
        ],
        "replays": [
            {"trace": "azure2023-conv", "duration": "15s", "rate": 1, "length_scale": 0.1, "drain": "60s"},
        ],
        "measurement": {"repetitions": 3, "window": "1s", "idle": "1s", "foreign_cores": 64},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def wait_for(found: "list[Path]", path: Path, pattern: str, child: "subprocess.Popen[str]") -> Path:
    until_s = time.monotonic() + LIMIT_S
    while not found:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < until_s, f"no {pattern}"
        time.sleep(0.1)
        found += sorted(path.glob(pattern))
    return found[0]


def test_a_server_killed_in_mid_replay_fails_one_run_and_the_sweep_goes_on(tmp_path: Path) -> None:
    needs_vllm()
    results = tmp_path / "results"
    sweep = write_replays(tmp_path / "sweep.yaml")
    child = subprocess.Popen(
        [sys.executable, "-m", "harness", "sweep", str(sweep), "--results", str(results)],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        log = wait_for([], results, "logs/*/engine.log", child)
        wait_for([], results, "**/runs*/*.parquet", child)  # the warm-up is over
        server = next(process for process in map(psutil.Process, writers(log)) if "serve" in process.cmdline()[1:3])
        after_steps(log, 100, server.kill)
        output, errors = child.communicate(timeout=LIMIT_S)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, output + errors
    runs = read(results)
    runs = runs[runs["purpose"] == "sweep"]
    failed, done = runs[runs["status"] == "failed"], runs[runs["status"] == "ok"]
    assert len(failed) == 1
    assert len(done) == 3
    reason = failed["reason"].iloc[0]
    assert reason.startswith("EngineCrashed: the engine ended by signal 9")
    assert str(log) in reason
    assert len(reason.splitlines()) > 5  # the log's tail
    assert failed["launch_id"].iloc[0] not in set(done["launch_id"].iloc[-1:])
    assert all(writers(path) == [] for path in results.glob("logs/*/engine.log"))
    requests = read(results, "requests")
    kept = requests[requests["run_id"] == failed["run_id"].iloc[0]]
    outcomes = set(kept["outcome"])
    assert {"finished"} < outcomes <= {"finished", "lost", "refused"}
