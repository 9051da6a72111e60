"""The simulated scheduler forms the steps that vLLM would."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.points import EngineLimits
from harness.simulator.batching import Batching, Scheduler

LARGE_KV = 1_000_000


def limits(token_budget: int, max_sequences: int) -> EngineLimits:
    return EngineLimits("vllm", token_budget, max_sequences, 4096)


def gated(size: int, prompt: int, generated: int, engine: EngineLimits, kv_tokens: int = LARGE_KV) -> Batching:
    """A batch in units of steps."""
    lengths = np.full(size, prompt), np.full(size, generated)
    return Scheduler(np.zeros(size), *lengths, engine, kv_tokens, lambda *_: 1.0).run()


def test_a_batch_within_the_budget_is_one_prefill_step_and_then_decode_only_steps():
    made = gated(8, 128, 16, limits(8192, 128))
    assert made.prefill_requests.tolist() == [8] + [0] * 15
    assert made.prefill_tokens.tolist() == [1024] + [0] * 15
    assert made.decode_requests.tolist() == [0] + [8] * 15
    assert made.context_tokens.tolist() == [8 * 128] + [8 * (128 + step) for step in range(1, 16)]
    assert made.pairs[0] == 8 * 128 * 129 // 2
    assert (made.first_token_s == 1).all()
    assert (made.finished_s == 16).all()


def test_a_small_budget_mixes_prompt_chunks_with_the_few_that_decode():
    # On real vLLM, 32 x 2048 + 28 at a budget of 512 gave 126 mixed steps of 157 and at most 7 decoding.
    made = gated(32, 2048, 28, limits(512, 128))
    mixed = (made.prefill_tokens > 0) & (made.decode_requests > 0)
    assert abs(int(mixed.sum()) - 126) <= 2
    assert abs(len(made) - 157) <= 2
    assert made.decode_requests.max() == 7
    assert (made.prefill_tokens + made.decode_requests).max() == 512


def test_a_batch_above_max_sequences_runs_in_waves():
    made = gated(10, 16, 4, limits(512, 4))
    assert (made.prefill_requests + made.decode_requests).max() == 4
    assert sorted(set(made.admitted_s.tolist())) == [0, 4, 8]


def test_running_out_of_cache_preempts_the_last_and_computes_it_again():
    # Both prompts fit; both full contexts do not.
    made = gated(2, 100, 50, limits(512, 8), kv_tokens=240)
    assert made.kv_tokens.max() <= 240
    assert made.generated_tokens.tolist() == [50, 50]
    assert made.prefill_tokens.sum() > 200
    assert made.finished_s[0] < made.finished_s[1]
    assert made.first_token_s.tolist() == [1, 1]


def test_idle_time_between_arrivals_holds_no_step():
    made = Scheduler(
        np.array([0.0, 10.0]), np.array([5, 5]), np.array([3, 3]), limits(64, 8), LARGE_KV, lambda *_: 0.5
    ).run()
    assert made.start_s.tolist() == [0.0, 0.5, 1.0, 10.0, 10.5, 11.0]


def test_no_step_ends_after_the_deadline_and_what_came_until_then_is_counted():
    made = Scheduler(
        np.zeros(3), np.full(3, 10), np.array([2, 5, 100]), limits(64, 8), LARGE_KV, lambda *_: 1.0, deadline_s=7.5
    ).run()
    assert (made.start_s + made.duration_s).max() == 7.0
    assert made.generated_tokens.tolist() == [2, 5, 7]
    assert np.isnan(made.finished_s).tolist() == [False, False, True]


@dataclass
class Sequence:
    number: int
    prompt: int
    asked: int
    computed: int = 0
    produced: int = 0
    decodes: bool = False

    @property
    def target(self) -> int:
        return self.prompt + self.produced

    @property
    def reserved(self) -> int:
        return self.computed if self.decodes else self.target


def plain_scheduler(
    prompts: list[int], asked: list[int], engine: EngineLimits, kv_tokens: int
) -> list[tuple[int, ...]]:
    """The same rules token by token, without any running total: the oracle."""
    waiting = [Sequence(number, *lengths) for number, lengths in enumerate(zip(prompts, asked, strict=True))]
    running: list[Sequence] = []
    steps = []
    while waiting or running:
        preempted = False
        while sum(one.reserved for one in running) + sum(one.decodes for one in running) > kv_tokens:
            victim = running.pop()
            victim.computed, victim.decodes = 0, False
            waiting.insert(0, victim)
            preempted = True
        decoding = [one for one in running if one.decodes]
        budget = engine.token_budget - len(decoding)
        chunks: list[tuple[Sequence, int]] = []
        for one in running:
            if not one.decodes and budget > 0:
                chunks.append((one, min(budget, one.target - one.computed)))
                budget -= chunks[-1][1]
        while budget > 0 and waiting and not preempted and len(running) < engine.max_sequences:
            if sum(one.reserved for one in running) + len(decoding) + waiting[0].target > kv_tokens:
                break
            running.append(waiting.pop(0))
            chunks.append((running[-1], min(budget, running[-1].target)))
            budget -= chunks[-1][1]
        context = 0
        for one in decoding:
            one.computed += 1
            context += one.computed
            one.produced += 1
        for one, chunk in chunks:
            one.computed += chunk
            context += one.computed
            if one.computed == one.target:
                one.produced += 1
                one.decodes = True
        steps.append((len(chunks), sum(chunk for _, chunk in chunks), len(decoding), context))
        running = [one for one in running if one.produced < one.asked]
    return steps


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_steps_agree_with_a_token_by_token_scheduler(data: st.DataObject):
    count = data.draw(st.integers(1, 12))
    prompts = data.draw(st.lists(st.integers(1, 60), min_size=count, max_size=count))
    asked = data.draw(st.lists(st.integers(1, 25), min_size=count, max_size=count))
    max_sequences = data.draw(st.integers(1, 8))
    engine = limits(data.draw(st.integers(max_sequences, 80)), max_sequences)
    kv_tokens = data.draw(st.integers(max(p + a for p, a in zip(prompts, asked, strict=True)), 400))
    made = Scheduler(np.zeros(count), np.array(prompts), np.array(asked), engine, kv_tokens, lambda *_: 1.0).run()
    steps = zip(made.prefill_requests, made.prefill_tokens, made.decode_requests, made.context_tokens, strict=True)
    assert [tuple(int(value) for value in step) for step in steps] == plain_scheduler(prompts, asked, engine, kv_tokens)
    assert made.generated_tokens.tolist() == asked
    assert made.kv_tokens.max() <= kv_tokens
    assert (made.prefill_tokens + made.decode_requests).max() <= engine.token_budget
    assert (np.diff(made.admitted_s) >= 0).all(), "first come, first served"
