"""Real servers that are killed, hang, lose the harness, or do not start: typed, with the log's tail, no orphan."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from harness.engines.base import Served
from harness.engines.launching import engine_version
from harness.engines.server import ServerEngine
from harness.errors import (
    EngineCrashed,
    EngineHung,
    EngineUnavailable,
    KvCacheOutOfMemory,
    LaunchFailed,
    PortTaken,
    VersionUnsupported,
    WeightsUnavailable,
)
from harness.points import Schedule
from tests.fixtures.processes import after_steps, gone_within, writers
from tests.vllm.servers import REPOSITORY, deployment, launch, log_path, needs_vllm, options

pytestmark = [pytest.mark.vllm, pytest.mark.flaky(reruns=2, reruns_delay=2)]

HANG_LIMIT_S = 6.0


def steady(requests: int) -> Schedule:
    return Schedule(np.arange(requests) * 0.05, np.full(requests, 50), np.full(requests, 30), requests * 0.05)


def tree(engine: ServerEngine) -> list[psutil.Process]:
    """The server and everything below it, the server first."""
    (keeper,) = engine.pids
    return psutil.Process(keeper).children(recursive=True)


def test_a_server_killed_in_mid_replay_is_a_crash_with_what_was_served(tmp_path: Path) -> None:
    needs_vllm()
    engine = launch(tmp_path, deployment())
    try:
        after_steps(log_path(engine), 60, tree(engine)[0].kill)
        with pytest.raises(EngineCrashed, match="signal 9") as caught:
            engine.replay(steady(120), drain_s=60.0, seed=1)
    finally:
        engine.stop()
    error = caught.value
    assert error.log_tail
    assert Path(error.log_path).is_file()
    assert isinstance(error.partial, Served)
    outcomes = error.partial.requests.outcome.tolist()
    assert {"finished"} < set(outcomes) <= {"finished", "lost", "refused"}
    finished = error.partial.requests.outcome == "finished"
    assert (error.partial.requests.generated_tokens[finished] == 30).all()
    assert writers(log_path(engine)) == []
    with pytest.raises(Exception, match="stopped"):
        engine.replay(steady(1), drain_s=1.0, seed=1)


def test_an_engine_core_killed_in_mid_replay_is_a_crash(tmp_path: Path) -> None:
    """The server's front lives on for a while and answers with errors."""
    needs_vllm()
    engine = launch(tmp_path, deployment(tensor_parallel=2))
    try:
        inner = [process for process in tree(engine) if "EngineCore" in " ".join(process.cmdline())]
        assert inner, [process.cmdline() for process in tree(engine)]
        after_steps(log_path(engine), 60, inner[0].kill)
        with pytest.raises(EngineCrashed) as caught:
            engine.replay(steady(120), drain_s=60.0, seed=1)
    finally:
        engine.stop()
    assert "EngineDead" in caught.value.log_tail or "EngineCore" in caught.value.log_tail
    assert isinstance(caught.value.partial, Served)
    assert "finished" in caught.value.partial.requests.outcome.tolist()
    assert writers(log_path(engine)) == []


def test_a_server_that_hangs_is_ended_within_its_limit(tmp_path: Path) -> None:
    needs_vllm()
    engine = launch(tmp_path, deployment(pipeline_parallel=2), hang_limit_s=HANG_LIMIT_S)
    stopped_s = []

    def stop_all() -> None:
        stopped_s.append(time.monotonic())
        for process in tree(engine):
            process.send_signal(signal.SIGSTOP)

    try:
        after_steps(log_path(engine), 60, stop_all)
        with pytest.raises(EngineHung, match="requests were waiting") as caught:
            engine.replay(steady(60), drain_s=600.0, seed=1)
        hung_for_s = time.monotonic() - stopped_s[0]
    finally:
        engine.stop()
    assert HANG_LIMIT_S < hung_for_s < HANG_LIMIT_S + 60.0
    assert isinstance(caught.value.partial, Served)
    assert "finished" in caught.value.partial.requests.outcome.tolist()
    assert writers(log_path(engine)) == []


def test_nothing_is_left_when_the_harness_is_killed(tmp_path: Path) -> None:
    needs_vllm()
    code = (
        "import sys, time; from pathlib import Path; from tests.vllm.servers import *\n"
        "engine = launch(Path(sys.argv[1]), deployment(2, 1)); print(log_path(engine), flush=True); time.sleep(600)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        with child.stdout:
            log = Path(child.stdout.readline().strip())
        assert len(writers(log)) >= 5  # keeper, server, engine core, two workers
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert gone_within(log, 60.0)


def failed_launch(folder: Path, expected: type[LaunchFailed], *arguments: str, weights_path: str = "") -> LaunchFailed:
    needs_vllm()
    wanted = deployment(weights="real" if weights_path else "dummy")
    with pytest.raises(expected) as caught:
        launch(folder, wanted, options(*arguments, weights_path=weights_path))
    assert type(caught.value) is expected
    assert Path(caught.value.log_path).is_file()
    assert caught.value.log_tail
    assert writers(Path(caught.value.log_path)) == []
    return caught.value


def test_an_argument_that_vllm_does_not_know(tmp_path: Path) -> None:
    error = failed_launch(tmp_path, VersionUnsupported, "--no-such-argument", "1")
    assert "--no-such-argument" in str(error)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        failed_launch(tmp_path, PortTaken, "--port", str(taken.getsockname()[1]))


def test_a_kv_cache_that_holds_no_sequence(tmp_path: Path) -> None:
    error = failed_launch(tmp_path, KvCacheOutOfMemory, "--kv-cache-memory-bytes", "100K")
    assert "No available memory for the cache blocks" in str(error)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    config = (REPOSITORY / "deployments" / "models" / "tiny-llama.json").read_text()
    (model / "config.json").write_text(config)
    failed_launch(tmp_path, WeightsUnavailable, "--skip-tokenizer-init", weights_path=str(model))


def test_the_version_is_known_without_a_launch(tmp_path: Path) -> None:
    needs_vllm()
    assert engine_version(deployment(), options())[0].isdigit()


def test_a_command_that_is_not_there() -> None:
    wanted = options()
    missing = type(wanted)(command=("/no/such/vllm", "serve", "{model}"))
    with pytest.raises(EngineUnavailable, match="no such program"):
        engine_version(deployment(), missing)
