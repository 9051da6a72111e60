"""What a real server serves is what was asked, and its step records say so, at TP1, TP2 and PP2."""

import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

import numpy as np
import pytest

from harness.engines.base import Served
from harness.engines.server import ServerEngine
from harness.engines.steps import StepTail
from harness.errors import EngineError, Interrupted
from harness.points import BatchWorkload, Schedule
from tests.fixtures.processes import after_steps
from tests.vllm.servers import (
    MAX_CONTEXT_TOKENS,
    MAX_SEQUENCES,
    TOKEN_BUDGET,
    deployment,
    launch,
    log_path,
    needs_vllm,
    step_log,
)

pytestmark = [pytest.mark.vllm, pytest.mark.flaky(reruns=2, reruns_delay=2)]


@pytest.fixture(scope="module", params=[(1, 1), (2, 1), (1, 2)], ids=["tp1", "tp2", "pp2"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerEngine]:
    needs_vllm()
    tensor_parallel, pipeline_parallel = request.param
    made = launch(tmp_path_factory.mktemp("launches"), deployment(tensor_parallel, pipeline_parallel))
    yield made
    made.stop()


def mixed_schedule(requests: int, seed: int) -> Schedule:
    random = np.random.default_rng(seed)
    arrival_s = np.cumsum(random.exponential(0.05, requests))
    return Schedule(
        arrival_s, random.integers(1, 400, requests), random.integers(1, 40, requests), float(arrival_s[-1])
    )


def assert_sums_agree(served: Served) -> None:
    """Tokens over steps are tokens over requests (a prefill's last step makes the first token)."""
    requests, steps = served.requests, served.steps
    assert steps.prefill_tokens.sum() == requests.prompt_tokens.sum()
    assert steps.decode_requests.sum() == (requests.generated_tokens - 1).sum()


def assert_times_in_order(served: Served) -> None:
    requests = served.requests
    assert (requests.scheduled_s <= requests.sent_s).all()
    # Stamped after the write, by a client that may have waited for a processor in between: on two of them, both held
    # by the engine's spinning workers, that takes several slices of the scheduler.
    assert (requests.sent_s <= requests.admitted_s + 0.05).all()
    assert (requests.admitted_s < requests.first_token_s).all()
    assert (requests.first_token_s <= requests.finished_s).all()
    assert (requests.queue_s >= 0).all()
    assert (requests.prefill_s > 0).all()
    assert (requests.decode_s >= 0).all()


@pytest.mark.parametrize(("size", "prompt", "generated"), [(1, 1, 1), (8, 64, 1), (8, 64, 16), (32, 33, 7)])
def test_batches_have_exactly_the_tokens_asked_for(
    engine: ServerEngine, size: int, prompt: int, generated: int
) -> None:
    served = engine.prepare_batches(BatchWorkload(size, prompt, generated), 3, seed=size)()
    requests, steps = served.requests, served.steps
    assert served.batches == 3
    assert len(requests) == 3 * size
    assert set(requests.outcome) == {"finished"}
    assert (requests.prompt_tokens == prompt).all()
    assert (requests.generated_tokens == generated).all()
    assert_sums_agree(served)
    assert_times_in_order(served)
    for batch in range(3):
        within = steps.batch_index == batch
        assert within.sum() == generated
        assert steps.context_tokens[within].tolist() == [size * (prompt + done) for done in range(generated)]
    assert served.client_cpu_s is not None
    assert 0 < served.client_cpu_s < served.end_s - served.start_s


def test_a_gated_batch_of_eight_forms_in_one_step(engine: ServerEngine) -> None:
    served = engine.prepare_batches(BatchWorkload(8, 64, 4), 20, seed=5)()
    steps = served.steps
    whole = [
        steps.prefill_requests[steps.batch_index == batch].tolist() == [8, 0, 0, 0]
        and steps.decode_requests[steps.batch_index == batch].tolist() == [0, 8, 8, 8]
        for batch in range(20)
    ]
    assert sum(whole) >= 19


def test_a_batch_above_the_token_budget_is_chunked_and_counted(engine: ServerEngine) -> None:
    served = engine.prepare_batches(BatchWorkload(5, 700, 3), 1, seed=6)()
    assert served.steps.prefill_tokens.max() == TOKEN_BUDGET
    assert (served.steps.prefill_tokens > 0).sum() == 2
    assert_sums_agree(served)


def test_a_batch_above_the_sequence_limit_waits_in_turn(engine: ServerEngine) -> None:
    served = engine.prepare_batches(BatchWorkload(MAX_SEQUENCES + 8, 4, 6), 1, seed=7)()
    steps = served.steps
    assert (steps.prefill_requests + steps.decode_requests).max() == MAX_SEQUENCES
    assert_sums_agree(served)


def test_a_replay_is_exact_and_its_steps_add_up(engine: ServerEngine) -> None:
    schedule = mixed_schedule(80, seed=1)
    served = engine.replay(schedule, drain_s=120.0, seed=2)
    requests = served.requests
    assert set(requests.outcome) == {"finished"}
    assert requests.prompt_tokens.tolist() == schedule.prompt_tokens.tolist()
    assert requests.generated_tokens.tolist() == schedule.generated_tokens.tolist()
    np.testing.assert_allclose(requests.scheduled_s - served.start_s, schedule.arrival_s, atol=1e-6)
    assert_sums_agree(served)
    assert_times_in_order(served)
    assert (served.steps.batch_index == 0).all()


def test_steps_cover_the_time_of_a_saturated_run(engine: ServerEngine) -> None:
    """From the first step until the last one's end requests wait at all times, so steps have to follow one another."""
    requests = 4 * MAX_SEQUENCES
    schedule = Schedule(np.zeros(requests), np.full(requests, 100), np.full(requests, 60), 1.0)
    served = engine.replay(schedule, drain_s=300.0, seed=3)
    assert_sums_agree(served)
    steps = served.steps
    begin_s, end_s = served.requests.admitted_s.min(), (steps.start_s + steps.duration_s).max()
    covered_s, reached_s = 0.0, begin_s
    for start_s, duration_s in zip(steps.start_s, steps.duration_s, strict=True):
        covered_s += max(0.0, start_s + duration_s - max(start_s, reached_s))
        reached_s = max(reached_s, start_s + duration_s)
    assert 0.9 * (end_s - begin_s) <= covered_s <= end_s - begin_s + 1e-6


def test_what_is_unfinished_at_the_drain_limit_is_gone_from_the_engine(engine: ServerEngine) -> None:
    n = 6
    schedule = Schedule(np.zeros(n), np.full(n, 50), np.full(n, MAX_CONTEXT_TOKENS - 50), 0.5)
    served = engine.replay(schedule, drain_s=1.0, seed=4)
    assert set(served.requests.outcome) == {"timeout"}
    assert np.isnan(served.requests.finished_s).all()
    # What was generated until then is known from the engine, and is in the steps (some may end after the abort).
    generated = served.requests.generated_tokens
    assert generated.sum() > 0
    assert 0 <= served.steps.decode_requests.sum() - np.maximum(generated - 1, 0).sum() <= 3 * n
    tail = StepTail(step_log(engine))
    tail.skip()
    time.sleep(0.5)
    assert len(tail.look().steps) == 0
    after = engine.prepare_batches(BatchWorkload(4, 16, 4), 1, seed=9)()
    assert after.steps.decode_requests.tolist() == [0, 4, 4, 4]


def test_an_interrupted_replay_keeps_what_was_served(engine: ServerEngine) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted("the test")

    before = signal.signal(signal.SIGALRM, interrupt)
    after_steps(log_path(engine), 60, lambda: os.kill(os.getpid(), signal.SIGALRM))
    n = 400
    schedule = Schedule(np.arange(n) * 0.05, np.full(n, 20), np.full(n, 4), 20.0)
    try:
        with pytest.raises(Interrupted) as caught:
            engine.replay(schedule, drain_s=60.0, seed=4)
    finally:
        signal.signal(signal.SIGALRM, before)
    partial = caught.value.partial
    assert isinstance(partial, Served)
    finished = partial.requests.outcome == "finished"
    assert 0 < finished.sum() < n
    assert (partial.requests.generated_tokens[finished] == 4).all()
    assert len(partial.steps) > 0


def test_a_request_longer_than_the_context_is_refused_before_it_is_sent(engine: ServerEngine) -> None:
    with pytest.raises(EngineError, match="exceeds the context"):
        engine.prepare_batches(BatchWorkload(1, MAX_CONTEXT_TOKENS, 1), 1, seed=1)


def test_how_it_was_launched_is_told(engine: ServerEngine) -> None:
    resolved = engine.launched["resolved"]
    assert isinstance(resolved, dict)
    assert resolved["max_num_batched_tokens"] == TOKEN_BUDGET
    assert resolved["max_num_seqs"] == MAX_SEQUENCES
    assert resolved["max_model_len"] == MAX_CONTEXT_TOKENS
    assert resolved["enable_prefix_caching"] is False
    assert resolved["dtype"] == "torch.float32"
    argv = engine.launched["argv"]
    assert isinstance(argv, list)
    assert argv[argv.index("--max-num-batched-tokens") + 1] == str(TOKEN_BUDGET)
    assert engine.version == engine.launched["version"] != ""
    assert engine.load_s > 0
