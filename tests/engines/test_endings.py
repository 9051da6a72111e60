"""An engine that is killed, hangs, or is interrupted: a typed error with what was served until then, and no orphan."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import psutil
import pytest

from harness.clock import WallClock
from harness.engines.base import LaunchOptions, Served
from harness.engines.launching import LaunchRequest, launch_engine
from harness.engines.server import ServerEngine
from harness.errors import EngineCrashed, EngineError, EngineHung, Interrupted
from harness.points import BatchWorkload, Schedule
from tests.engines.servers import STAND_IN, deployment
from tests.fixtures.processes import after_steps, writers

HANG_LIMIT_S = 2.0
BATCHES, WORKLOAD = 200, BatchWorkload(batch_size=8, prompt_tokens=8, generated_tokens=20)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ServerEngine]:
    options = LaunchOptions(environment={"PYTHONPATH": str(STAND_IN)}, ready_limit_s=60)
    request = LaunchRequest(deployment("sarathi"), options, (), tmp_path, 1, WallClock(), hang_limit_s=HANG_LIMIT_S)
    made = launch_engine(request)
    yield made
    made.stop()
    assert writers(log_path(made)) == []


def server(engine: ServerEngine) -> psutil.Process:
    (keeper,) = engine.pids
    return psutil.Process(keeper).children()[0]


def log_path(engine: ServerEngine) -> Path:
    return Path(str(engine.launched["log_path"]))


def steady(requests: int) -> Schedule:
    return Schedule(np.arange(requests) * 0.02, np.full(requests, 9), np.full(requests, 5), requests * 0.02)


def serve(engine: ServerEngine, how: str) -> Served:
    if how == "batches":
        return engine.prepare_batches(WORKLOAD, BATCHES, seed=1)()
    return engine.replay(steady(100), drain_s=60.0, seed=1)


def some_were_served(partial: object) -> None:
    assert isinstance(partial, Served)
    finished = partial.requests.outcome == "finished"
    assert 0 < finished.sum() < len(partial.requests) or partial.batches < BATCHES
    assert not np.isnan(partial.requests.finished_s[finished]).any()
    assert np.isnan(partial.requests.finished_s[~finished]).all()
    assert len(partial.steps) > 0


@pytest.mark.parametrize("how", ["batches", "replay"])
def test_a_killed_engine_is_a_crash(engine: ServerEngine, how: str) -> None:
    after_steps(log_path(engine), 60, server(engine).kill)
    with pytest.raises(EngineCrashed, match="signal 9") as caught:
        serve(engine, how)
    assert Path(caught.value.log_path).is_file()
    some_were_served(caught.value.partial)
    with pytest.raises(EngineCrashed):
        engine.replay(steady(1), drain_s=1.0, seed=1)


@pytest.mark.parametrize("how", ["batches", "replay"])
def test_a_stopped_engine_hangs_and_is_killed_at_its_limit(engine: ServerEngine, how: str) -> None:
    process, stopped_s = server(engine), []

    def suspend() -> None:
        stopped_s.append(time.monotonic())
        process.suspend()

    after_steps(log_path(engine), 60, suspend)
    with pytest.raises(EngineHung) as caught:
        serve(engine, how)
    assert HANG_LIMIT_S <= time.monotonic() - stopped_s[0] < HANG_LIMIT_S + 20.0
    some_were_served(caught.value.partial)


@pytest.mark.parametrize("how", ["batches", "replay"])
def test_an_interrupt_keeps_what_was_served(engine: ServerEngine, how: str) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    after_steps(log_path(engine), 60, lambda: os.kill(os.getpid(), signal.SIGALRM))
    try:
        with pytest.raises(Interrupted) as caught:
            serve(engine, how)
    finally:
        signal.signal(signal.SIGALRM, before)
    some_were_served(caught.value.partial)


def test_a_long_silence_without_work_is_no_hang(engine: ServerEngine) -> None:
    gap_s = 2.5 * HANG_LIMIT_S
    schedule = Schedule(np.array([0.0, gap_s]), np.array([5, 5]), np.array([3, 3]), gap_s)
    served = engine.replay(schedule, drain_s=30.0, seed=1)
    assert set(served.requests.outcome) == {"finished"}


def test_a_stopped_engine_serves_no_more_and_can_be_stopped_again(engine: ServerEngine) -> None:
    engine.stop()
    engine.stop()
    with pytest.raises(EngineError, match="has been stopped"):
        engine.prepare_batches(WORKLOAD, 1, seed=1)
