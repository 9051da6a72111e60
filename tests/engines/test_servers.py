"""What every engine behind the HTTP front has to do, against real processes."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.engines.servers import TRANSFORMERS_PYTHON, Server, check_sums, deployment, until

BUDGET, SEQUENCES = 64, 8
CPU_LIMIT_S, IDLE_S = 0.1, 2.0


@pytest.fixture(
    scope="module",
    params=["sarathi", "sarathi-pp2", pytest.param("transformers", marks=pytest.mark.engines)],
)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    engine, _, stages = request.param.partition("-pp")
    if engine == "transformers" and not TRANSFORMERS_PYTHON.is_file():
        pytest.skip("no Python with transformers: `make .venv-transformers/.installed`")
    served = deployment(engine, int(stages or 1))
    with Server(served, tmp_path_factory.mktemp(request.param)) as started:
        yield started.wait_ready()


@pytest.fixture(autouse=True)
def _quiet(server: Server) -> None:
    """Nothing of an earlier test is under way, and its records are read."""
    until(lambda: server.metric("num_requests_running") + server.metric("num_requests_waiting") == 0, "idle")
    server.records()


def test_counts_are_exact_and_steps_sum_to_requests(server: Server) -> None:
    asked = [(1 + 37 * index % 200, 1 + 11 * index % 40, index % 2 == 0) for index in range(24)]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(
            pool.map(
                lambda item: server.complete([7] * item[1][0], item[1][1], item[0], stream=item[1][2]),
                enumerate(asked),
            )
        )
    assert [(one.status, one.prompt_tokens, one.generated_tokens) for one in answers] == [
        (200, prompt, tokens) for prompt, tokens, _ in asked
    ]
    records = server.records(requests=len(asked))
    check_sums(records, BUDGET, SEQUENCES)
    logged = {int(one["number"]): (one["prompt_tokens"], one["generated_tokens"]) for one in records.requests}
    assert logged == {index: (prompt, tokens) for index, (prompt, tokens, _) in enumerate(asked)}
    assert records.requests["finished"].all()


def test_every_token_is_an_event_when_streamed(server: Server) -> None:
    assert server.complete([1, 2, 3], 9).token_events == 9


def test_context_grows_by_one_token_a_step(server: Server) -> None:
    server.complete([3] * 100, 4, number=0)
    steps = server.records(requests=1).steps
    assert steps["prefill_tokens"].tolist() == [64, 36, 0, 0, 0]
    assert steps["decode_requests"].tolist() == [0, 0, 1, 1, 1]
    assert steps["context_tokens"].tolist() == [64, 100, 101, 102, 103]


@pytest.mark.parametrize("trial", range(5))
def test_a_gated_batch_enters_in_one_step(server: Server, trial: int) -> None:
    assert server.get("/pause?mode=keep", "POST")[0] == 200
    with ThreadPoolExecutor(SEQUENCES) as pool:
        answers = [pool.submit(server.complete, [trial + 1] * 8, 5, number) for number in range(SEQUENCES)]
        gathered = server.records(arrivals=SEQUENCES)
        time.sleep(0.05)
        assert server.metric("num_requests_waiting") == SEQUENCES
        assert len(gathered.steps) == 0
        assert len(server.records().steps) == 0
        assert server.get("/resume", "POST")[0] == 200
        assert all(answer.result().generated_tokens == 5 for answer in answers)
    steps = server.records(requests=SEQUENCES).steps
    assert steps["prefill_requests"].tolist() == [SEQUENCES, 0, 0, 0, 0]
    assert steps["decode_requests"].tolist() == [0] + [SEQUENCES] * 4


def test_a_batch_that_exceeds_the_budget_is_computed_in_steps_within_it(server: Server) -> None:
    server.get("/pause", "POST")
    with ThreadPoolExecutor(SEQUENCES) as pool:
        answers = [pool.submit(server.complete, [6] * 20, 5, number) for number in range(SEQUENCES)]
        server.records(arrivals=SEQUENCES)
        server.get("/resume", "POST")
        assert all(answer.result().generated_tokens == 5 for answer in answers)
    records = server.records(requests=SEQUENCES)
    check_sums(records, BUDGET, SEQUENCES)
    assert records.steps["prefill_tokens"][0] > BUDGET - 20, "the budget is used"


def test_a_request_that_was_given_up_is_computed_no_further(server: Server) -> None:
    server.give_up(*server.open([5] * 20, 900, number=1))
    given_up = server.records(requests=1).requests
    assert given_up["finished"].tolist() == [0]
    assert given_up["generated_tokens"][0] < 900
    time.sleep(0.3)
    assert len(server.records().steps) == 0


def test_the_others_of_a_batch_keep_their_counts_when_one_is_given_up(server: Server) -> None:
    assert server.get("/pause", "POST")[0] == 200
    lost = [server.send([9] * 8, 800, number) for number in range(3)]
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(server.complete, [9] * 8, 30, number) for number in range(3, 8)]
        server.records(arrivals=8)
        # One before it entered the engine, two from within a running batch.
        lost[0].close()
        server.records(requests=1)
        server.get("/resume", "POST")
        for connection in lost[1:]:
            server.give_up(connection, connection.getresponse())
        assert [answer.result().generated_tokens for answer in answers] == [30] * 5
    records = server.records(requests=7)
    finished = records.requests[records.requests["finished"] == 1]
    assert finished["generated_tokens"].tolist() == [30] * 5
    assert records.steps["prefill_requests"].max() == 7
    assert records.steps["decode_requests"][-1] == 5
    assert server.complete([9] * 8, 3).generated_tokens == 3


def test_an_idle_engine_costs_no_processor_time(server: Server) -> None:
    server.complete([4] * 10, 10)
    time.sleep(0.5)
    process = psutil.Process(server.process.pid)
    before = process.cpu_times()
    time.sleep(IDLE_S)
    after = process.cpu_times()
    used_s = after.user + after.system - before.user - before.system
    assert used_s < CPU_LIMIT_S, f"{used_s:.3f} CPU seconds in {IDLE_S:g} s without work"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"prompt": "text"}, "prompt: a list of token ids"),
        ({"prompt": []}, "prompt: a list of token ids"),
        ({"prompt": [512]}, "ids below 512"),
        ({"ignore_eos": False}, "ignore_eos"),
        ({"min_tokens": 1}, "min_tokens"),
        ({"temperature": 0.7}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1022, "min_tokens": 1022}, "3 + 1022 tokens exceed the context of 1024"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(server: Server, other: dict[str, object], said: str) -> None:
    rest = {name: value for name, value in other.items() if name != "prompt"}
    answer = server.complete(other.get("prompt", [1, 2, 3]), 5, **rest)
    assert answer.status == 400
    assert said in answer.message
    assert server.complete([1, 2, 3], 2).status == 200
