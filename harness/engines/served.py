"""What was served, put together from the client's answers and the engine's own records, and checked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.engines.base import Requests, Served
from harness.engines.client import Answers
from harness.engines.steps import Records, Structured
from harness.errors import EngineError, WrongTokenCount
from harness.points import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Requests that were sent together, numbered from `first_number`; arrays are (n,)."""

    first_number: int
    prompt_tokens: IntArray
    generated_tokens: IntArray
    streamed: bool

    def __len__(self) -> int:
        return len(self.prompt_tokens)


def put_together(
    asked: Sequence[Asked], answers: Sequence[Answers], records: Records, start_s: float, end_s: float, stages: int
) -> Served:
    """One batch per pair of `asked` and `answers`; a step belongs to the last batch that began before it.

    Times of an answer that is not streamed are the engine's: its client sees both at once.
    """
    begins_s = np.array([one.start_s for one in answers])
    index = np.searchsorted(begins_s, records.steps["start_s"], side="right") - 1
    parts = [
        _requests(number, one, answer, records.requests)
        for number, (one, answer) in enumerate(zip(asked, answers, strict=True))
    ]
    requests = _joined(parts) if parts else Served.nothing(start_s, end_s).requests
    return Served(
        start_s,
        end_s,
        len(parts),
        requests,
        records.to_steps(np.maximum(index, 0).astype(np.int64), stages),
        float(sum(answer.cpu_s for answer in answers)),
    )


def _requests(batch: int, asked: Asked, answers: Answers, over: Structured) -> Requests:
    n = len(asked)
    seen = _by_request(over, asked.first_number, n)
    finished = np.array([outcome == "finished" for outcome in answers.outcome], bool)
    at_client = asked.streamed
    first_token_s = answers.first_token_s if at_client else np.where(finished, seen.first_token_s, np.nan)
    finished_s = answers.finished_s if at_client else np.where(finished, seen.finished_s, np.nan)
    return Requests(
        batch_index=np.full(n, batch, np.int64),
        scheduled_s=answers.due_s,
        sent_s=answers.sent_s,
        admitted_s=seen.admitted_s,
        first_token_s=first_token_s,
        finished_s=finished_s,
        queue_s=seen.admitted_s - seen.arrived_s,
        prefill_s=seen.first_token_s - seen.admitted_s,
        decode_s=np.where(finished, seen.finished_s - seen.first_token_s, np.nan),
        prompt_tokens=np.where(answers.prompt_tokens >= 0, answers.prompt_tokens, asked.prompt_tokens),
        generated_tokens=np.where(answers.generated_tokens >= 0, answers.generated_tokens, seen.generated_tokens),
        asked_tokens=asked.generated_tokens,
        outcome=np.array(answers.outcome, dtype="<U9"),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What the engine says of each request; NaN and 0 where it says nothing."""

    arrived_s: FloatArray
    admitted_s: FloatArray
    first_token_s: FloatArray
    finished_s: FloatArray
    generated_tokens: IntArray


def _by_request(over: Structured, first_number: int, n: int) -> _Seen:
    position = over["number"].astype(np.int64) - first_number
    ours = (position >= 0) & (position < n)
    position, over = position[ours], over[ours]

    def times(name: str) -> FloatArray:
        values = np.full(n, np.nan)
        values[position] = over[name]
        return values

    generated = np.zeros(n, np.int64)
    generated[position] = over["generated_tokens"]
    return _Seen(times("arrived_s"), times("admitted_s"), times("first_token_s"), times("finished_s"), generated)


def _joined(parts: Sequence[Requests]) -> Requests:
    return Requests(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in Requests.__dataclass_fields__)
    )


def check(served: Served, asked: Sequence[Asked]) -> None:
    """Every finished request has the tokens that were asked for, and the engine's own records say so too.

    Raises:
        WrongTokenCount: other counts than asked.
        EngineError: records are missing, or prompts came out of a cache.
    """
    requests = served.requests
    prompts = np.concatenate([one.prompt_tokens for one in asked]) if asked else np.zeros(0, np.int64)
    finished = requests.outcome == "finished"
    wrong = finished & ((requests.prompt_tokens != prompts) | (requests.generated_tokens != requests.asked_tokens))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        got = f"{requests.prompt_tokens[first]}+{requests.generated_tokens[first]}"
        raise WrongTokenCount(
            f"{int(wrong.sum())} of {len(requests)} requests; request {first} has {got} tokens, "
            f"asked for {prompts[first]}+{requests.asked_tokens[first]}",
            partial=served,
        )
    unseen = int((finished & np.isnan(requests.prefill_s)).sum())
    if unseen:
        raise EngineError(f"the engine's step log lacks {unseen} of {int(finished.sum())} requests", partial=served)
    # Preempted requests compute theirs again, so more is possible; less means that a cache had them.
    computed, needed = int(served.steps.prefill_tokens.sum()), int(prompts[finished].sum())
    if computed < needed:
        raise EngineError(
            f"only {computed} of {needed} prompt tokens were computed: prefix caching is on", partial=served
        )
