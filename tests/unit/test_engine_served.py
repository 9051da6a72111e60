"""What the client saw and what the engine recorded become one table, and a disagreement is an error."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.engines.base import Served
from harness.engines.client import Answers, Outcome
from harness.engines.inside.steplog import StepLog
from harness.engines.served import Asked, check, put_together
from harness.engines.steps import Records, StepTail
from harness.errors import EngineError, WrongTokenCount

FIRST = 40
ASKED = Asked(FIRST, np.array([10, 20]), np.array([3, 3]), streamed=False)


def answers(*outcome: Outcome, start_s: float = 100.0) -> Answers:
    finished = np.array([one == "finished" for one in outcome])
    return Answers(
        due_s=np.full(2, start_s),
        sent_s=np.full(2, start_s + 0.1),
        first_token_s=np.full(2, np.nan),
        finished_s=np.where(finished, start_s + 9.0, np.nan),
        prompt_tokens=np.where(finished, ASKED.prompt_tokens, -1),
        generated_tokens=np.where(finished, 3, -1),
        outcome=outcome,
        status=np.full(2, 200),
        messages=("", ""),
        metrics=({}, {}),
        chunk_s=None,
        cpu_s=0.25,
        start_s=start_s,
    )


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """Two requests that entered together, the second one a chunk later; and one of another window."""
    log = StepLog(str(tmp_path / "log"))
    log.step(101.0, 102.0, 2, 24, 0, 24)
    log.step(102.0, 103.0, 1, 6, 1, 31)
    log.step(103.0, 104.0, 0, 0, 2, 35)
    log.step(104.0, 105.0, 0, 0, 1, 22)
    log.request(FIRST, 100.5, 101.0, 102.0, 104.0, 10, 3)
    log.request(FIRST + 1, 100.5, 101.0, 103.0, 105.0, 20, 3)
    log.request(7, 1.0, 2.0, 3.0, 4.0, 1, 1)
    return StepTail(tmp_path / "log").look()


def served(records: Records, *outcome: Outcome, asked: Asked = ASKED) -> Served:
    return put_together([asked], [answers(*outcome)], records, 100.0, 110.0, 1)


def test_times_of_an_answer_in_one_piece_are_the_engines(records: Records) -> None:
    made = served(records, "finished", "finished")
    requests = made.requests
    assert requests.first_token_s.tolist() == [102.0, 103.0]
    assert requests.finished_s.tolist() == [104.0, 105.0]
    assert requests.admitted_s.tolist() == [101.0, 101.0]
    assert requests.queue_s.tolist() == [0.5, 0.5]
    assert requests.prefill_s.tolist() == [1.0, 2.0]
    assert requests.decode_s.tolist() == [2.0, 2.0]
    assert made.client_cpu_s == 0.25
    check(made, [ASKED])


def test_times_of_a_streamed_answer_are_the_clients(records: Records) -> None:
    made = served(records, "finished", "finished", asked=replace(ASKED, streamed=True))
    assert made.requests.finished_s.tolist() == [109.0, 109.0]
    assert np.isnan(made.requests.first_token_s).all()
    assert made.requests.decode_s.tolist() == [2.0, 2.0]


def test_an_aborted_request_keeps_what_the_engine_knows(records: Records) -> None:
    requests = served(records, "finished", "timeout").requests
    assert requests.outcome.tolist() == ["finished", "timeout"]
    assert np.isnan(requests.finished_s[1])
    assert np.isnan(requests.decode_s[1])
    assert requests.generated_tokens.tolist() == [3, 3]
    assert requests.prompt_tokens.tolist() == [10, 20]


def test_steps_belong_to_the_batch_that_began_before_them(records: Records) -> None:
    second = replace(ASKED, first_number=90)
    pairs = [answers("finished", "finished"), answers("finished", "finished", start_s=102.5)]
    made = put_together([ASKED, second], pairs, records, 100.0, 110.0, 1)
    assert made.batches == 2
    assert made.steps.batch_index.tolist() == [0, 0, 1, 1]
    assert made.requests.batch_index.tolist() == [0, 0, 1, 1]


def test_other_counts_than_asked_are_an_error_with_what_was_served(records: Records) -> None:
    for wrong in (replace(ASKED, generated_tokens=np.array([3, 4])), replace(ASKED, prompt_tokens=np.array([10, 21]))):
        made = served(records, "finished", "finished", asked=wrong)
        with pytest.raises(WrongTokenCount, match=r"1 of 2 requests; request 1 has 20\+3 tokens") as caught:
            check(made, [wrong])
        assert caught.value.partial is made


def test_missing_records_are_an_error(records: Records) -> None:
    made = served(replace(records, requests=records.requests[:1]), "finished", "finished")
    with pytest.raises(EngineError, match="step log lacks 1 of 2"):
        check(made, [ASKED])


def test_prompt_tokens_that_were_not_computed_are_an_error(records: Records) -> None:
    made = served(replace(records, steps=records.steps[1:]), "finished", "finished")
    with pytest.raises(EngineError, match="only 6 of 30 prompt tokens were computed"):
        check(made, [ASKED])


def test_nothing_served_is_fine(records: Records) -> None:
    made = put_together([], [], Records.joined([]), 1.0, 2.0, 1)
    check(made, [])
    assert len(made.requests) == len(made.steps) == 0
