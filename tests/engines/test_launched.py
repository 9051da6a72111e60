"""The engines behind the harness's own launching: gated batches and a replay, through the protocol of engines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from harness.clock import WallClock
from harness.engines.base import Engine, LaunchOptions
from harness.engines.launching import LaunchRequest, engine_version, launch_engine
from harness.errors import KvCacheOutOfMemory, LaunchFailed, VersionUnsupported
from harness.points import BatchWorkload, Deployment, Schedule
from tests.engines.servers import STAND_IN, TRANSFORMERS_PYTHON, deployment

BATCHES = 6
WORKLOAD = BatchWorkload(batch_size=8, prompt_tokens=8, generated_tokens=12)


def options(engine: str, **added: str) -> LaunchOptions:
    if engine == "sarathi":
        return LaunchOptions(environment={"PYTHONPATH": str(STAND_IN), **added}, ready_limit_s=60)
    command = (str(TRANSFORMERS_PYTHON), "-m", "transformers_server", "--model", "{model}")
    return LaunchOptions(command=command, ready_limit_s=120)


@contextmanager
def launched(served: Deployment, folder: Path, chosen: LaunchOptions) -> Iterator[Engine]:
    engine = launch_engine(LaunchRequest(served, chosen, (), folder, 1, WallClock()))
    try:
        yield engine
    finally:
        engine.stop()


@pytest.fixture(
    scope="module",
    params=["sarathi", "sarathi-pp2", pytest.param("transformers", marks=pytest.mark.engines)],
)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    name, _, stages = request.param.partition("-pp")
    if name == "transformers" and not TRANSFORMERS_PYTHON.is_file():
        pytest.skip("no Python with transformers")
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with launched(deployment(name, int(stages or 1)), tmp_path_factory.mktemp(request.param), options(name)) as made:
        yield made
    after = {process.pid for process in psutil.Process().children(recursive=True)}
    assert after <= before, "something was left behind"


def test_batches_are_the_batches_that_were_asked_for(engine: Engine) -> None:
    served = engine.prepare_batches(WORKLOAD, BATCHES, seed=3)()
    assert served.batches == BATCHES
    assert (served.requests.outcome == "finished").all()
    assert (served.requests.generated_tokens == 12).all()
    assert (served.requests.prompt_tokens == 8).all()
    steps = served.steps
    for batch in range(BATCHES):
        of_batch = steps.batch_index == batch
        assert steps.prefill_requests[of_batch].tolist() == [8] + [0] * 11
        assert steps.decode_requests[of_batch].tolist() == [0] + [8] * 11
    assert (steps.prefill_tokens + steps.decode_requests <= 64).all()


def test_a_replay_is_served_at_its_own_times(engine: Engine) -> None:
    arrival_s = np.sort(np.random.default_rng(1).uniform(0, 1.5, 24))
    prompts = np.random.default_rng(2).choice([3, 40, 150], 24)
    generated = np.random.default_rng(3).integers(1, 20, 24)
    served = engine.replay(Schedule(arrival_s, prompts, generated, 1.5), drain_s=120.0, seed=5)
    requests = served.requests
    assert (requests.outcome == "finished").all()
    assert (requests.generated_tokens == generated).all()
    assert served.steps.prefill_tokens.sum() == prompts.sum()
    assert served.steps.decode_requests.sum() == (generated - 1).sum()
    assert (requests.admitted_s >= requests.scheduled_s).all()
    assert (requests.finished_s >= requests.first_token_s).all()


def test_what_is_not_over_when_the_replay_ends_is_aborted_in_the_engine(engine: Engine) -> None:
    arrival_s = np.zeros(4)
    generated = np.array([2, 1000, 1000, 1000])
    served = engine.replay(Schedule(arrival_s, np.full(4, 9), generated, 0.1), drain_s=0.5, seed=5)
    assert set(served.requests.outcome.tolist()) <= {"finished", "timeout"}
    again = engine.prepare_batches(WORKLOAD, 1, seed=4)()
    assert again.steps.decode_requests.tolist() == [0] + [8] * 11


def test_how_it_was_launched_is_known(engine: Engine) -> None:
    resolved = engine.launched["resolved"]
    assert isinstance(resolved, dict)
    assert resolved.get("model_config", resolved).get("max_model_len", resolved.get("max_context_tokens")) == 1024
    assert engine.version[0].isdigit()


def test_the_version_is_asked_before_the_launch() -> None:
    assert engine_version(deployment("sarathi"), options("sarathi")) == "0.1.8"


@pytest.mark.parametrize(
    ("served", "variables", "kind", "said"),
    [
        (deployment("sarathi"), {"STAND_IN_FAIL": "build"}, KvCacheOutOfMemory, "No available memory for the cache"),
        (deployment("sarathi", max_context_tokens=8192 * 9), {}, LaunchFailed, "Not enough available memory"),
    ],
)
def test_failures_of_a_launch_are_typed(
    tmp_path: Path, served: Deployment, variables: dict[str, str], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said), launched(served, tmp_path, options("sarathi", **variables)):
        pass


def test_an_unknown_option_is_a_version_that_is_not_supported(tmp_path: Path) -> None:
    chosen = LaunchOptions(environment={"PYTHONPATH": str(STAND_IN)}, arguments=("--model_config_new", "1"))
    with pytest.raises(VersionUnsupported, match="no such option"), launched(deployment("sarathi"), tmp_path, chosen):
        pass


_: Callable[..., Engine] = launch_engine
"""A launched engine is one by the protocol."""
