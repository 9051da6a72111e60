"""The simulated scheduler forms the steps that the engine of its policy would."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import BadInput
from harness.points import EngineLimits, FloatArray
from harness.simulator.batching import Batching, Scheduler
from harness.simulator.policy import SARATHI, STATIC, VLLM, policy_of
from harness.simulator.stepshape import StepShape

LARGE_KV = 1_000_000
BLOCK_TOKENS = 16
CONTINUOUS = ("vllm", "sarathi")


def limits(token_budget: int, max_sequences: int, engine: str = "vllm") -> EngineLimits:
    return EngineLimits(engine, token_budget, max_sequences, 4096)


def scheduled(
    prompts: list[int],
    asked: list[int],
    engine: EngineLimits,
    kv_tokens: int = LARGE_KV,
    arrival_s: list[float] | None = None,
) -> Batching:
    """Requests that arrive together, or at given times; a step lasts a second."""
    arrival = np.zeros(len(prompts)) if arrival_s is None else np.array(arrival_s)
    return Scheduler(arrival, np.array(prompts), np.array(asked), engine, kv_tokens, lambda shape: 1.0).run()


def gated(size: int, prompt: int, generated: int, engine: EngineLimits, kv_tokens: int = LARGE_KV) -> Batching:
    """A batch in units of steps."""
    return scheduled([prompt] * size, [generated] * size, engine, kv_tokens)


def blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)


@pytest.mark.parametrize("engine", [*CONTINUOUS, "transformers"])
def test_a_batch_within_the_budget_is_one_prefill_step_and_then_decode_only_steps(engine: str):
    made = gated(8, 128, 16, limits(8192, 128, engine))
    assert made.prefill_requests.tolist() == [8] + [0] * 15
    assert made.prefill_tokens.tolist() == [1024] + [0] * 15
    assert made.decode_requests.tolist() == [0] + [8] * 15
    assert made.prefill_context_tokens.tolist() == [8 * 128] + [0] * 15
    assert made.decode_context_tokens.tolist() == [0] + [8 * (128 + step) for step in range(1, 16)]
    assert made.prefill_pairs.tolist() == [8 * 128 * 129 // 2] + [0] * 15
    assert made.context_tokens.tolist() == [8 * 128] + [8 * (128 + step) for step in range(1, 16)]
    assert (made.first_token_s == 1).all()
    assert (made.finished_s == 16).all()


@pytest.mark.parametrize("engine", CONTINUOUS)
def test_a_small_budget_mixes_prompt_chunks_with_the_few_that_decode(engine: str):
    # On real vLLM, 32 x 2048 + 28 at a budget of 512 gave 126 mixed steps of 157 and at most 7 decoding.
    made = gated(32, 2048, 28, limits(512, 128, engine))
    mixed = (made.prefill_tokens > 0) & (made.decode_requests > 0)
    assert abs(int(mixed.sum()) - 126) <= 2
    assert abs(len(made) - 157) <= 2
    assert made.decode_requests.max() == 7
    assert (made.prefill_tokens + made.decode_requests).max() == 512


@pytest.mark.parametrize("engine", [*CONTINUOUS, "transformers"])
def test_a_batch_above_max_sequences_runs_in_waves(engine: str):
    made = gated(10, 16, 4, limits(512, 4, engine))
    assert (made.prefill_requests + made.decode_requests).max() == 4
    assert sorted(set(made.admitted_s.tolist())) == [0, 4, 8]


def test_a_batch_larger_than_the_cache_runs_in_waves():
    # 250 tokens and the six that are read again fill 16 blocks: two requests at a time, and none outgrows its place.
    made = gated(6, 250, 7, limits(8192, 128), kv_tokens=2 * 256)
    assert sorted(set(made.admitted_s.tolist())) == [0, 7, 14]
    assert made.prefill_tokens.sum() == 6 * 250, "nothing was computed twice"


@pytest.mark.parametrize("engine", CONTINUOUS)
def test_running_out_of_cache_preempts_the_last_and_computes_it_again(engine: str):
    # Both prompts fit; both full contexts do not.
    made = gated(2, 100, 50, limits(512, 8, engine), kv_tokens=240)
    assert made.kv_tokens.max() <= 240
    assert made.generated_tokens.tolist() == [50, 50]
    assert made.prefill_tokens.sum() > 200
    assert made.finished_s[0] < made.finished_s[1]
    assert made.first_token_s.tolist() == [1, 1]


@pytest.mark.parametrize("engine", CONTINUOUS)
def test_idle_time_between_arrivals_holds_no_step(engine: str):
    made = Scheduler(
        np.array([0.0, 10.0]), np.array([5, 5]), np.array([3, 3]), limits(64, 8, engine), LARGE_KV, lambda shape: 0.5
    ).run()
    assert made.start_s.tolist() == [0.0, 0.5, 1.0, 10.0, 10.5, 11.0]


@pytest.mark.parametrize("engine", [*CONTINUOUS, "transformers"])
def test_no_step_ends_after_the_deadline_and_what_came_until_then_is_counted(engine: str):
    lengths = np.full(3, 10), np.array([2, 5, 100])
    made = Scheduler(np.zeros(3), *lengths, limits(64, 8, engine), LARGE_KV, lambda shape: 1.0, deadline_s=7.5).run()
    assert (made.start_s + made.duration_s).max() == 7.0
    assert made.generated_tokens.tolist() == [2, 5, 7]
    assert np.isnan(made.finished_s).tolist() == [False, False, True]


def test_a_deadline_in_a_preemption_loses_no_token():
    whole = gated(2, 100, 50, limits(512, 8), kv_tokens=240)
    for deadline_s in range(1, len(whole)):
        cut = Scheduler(
            np.zeros(2), np.full(2, 100), np.full(2, 50), limits(512, 8), 240, lambda shape: 1.0, deadline_s
        ).run()
        # The budget holds every prompt, so each chunk ends one and gives a token, also when it is computed again.
        assert cut.generated_tokens.sum() == cut.decode_requests.sum() + cut.prefill_requests.sum()
        assert cut.prefill_tokens.tolist() == whole.prefill_tokens[:deadline_s].tolist()


def test_no_requests_make_no_steps():
    made = scheduled([], [], limits(64, 8))
    assert len(made) == len(made.more_prefill) == len(made.shape.prefill_tokens) == len(made.generated_tokens) == 0


def test_a_request_longer_than_the_cache_is_refused_instead_of_waiting_for_ever():
    assert len(scheduled([40], [9], limits(64, 8), kv_tokens=48)) == 9
    with pytest.raises(BadInput, match="at least 64, for the longest request"):
        scheduled([40], [10], limits(64, 8), kv_tokens=48)


@pytest.mark.parametrize("engine", CONTINUOUS)
def test_a_request_that_fills_the_cache_alone_runs_to_its_end(engine: str):
    """Sarathi's watermark and its wish for a free block would keep it waiting for ever."""
    kv_tokens = 200 * BLOCK_TOKENS
    made = scheduled([kv_tokens - 20, 30], [21, 5], limits(512, 8, engine), kv_tokens)
    assert made.generated_tokens.tolist() == [21, 5]
    assert made.kv_tokens.max() == kv_tokens


def test_the_step_time_is_asked_of_what_the_step_is_recorded_to_hold():
    asked: list[StepShape[float]] = []

    def step_time(shape: StepShape[float]) -> float:
        asked.append(shape)
        return 0.25

    made = Scheduler(np.zeros(5), np.full(5, 90), np.full(5, 7), limits(128, 4), LARGE_KV, step_time).run()
    recorded = made.shape
    assert all(column.dtype == np.float64 for column in recorded)
    for index, column in enumerate(recorded):
        assert [shape[index] for shape in asked] == column.tolist()


# ---- prefill that may follow without waiting


def test_chunks_that_need_no_sampled_token_may_follow_at_once():
    assert gated(3, 100, 1, limits(50, 8)).more_prefill.tolist() == [True] * 5 + [False]


def test_a_step_that_decodes_what_the_one_before_sampled_does_not_follow_at_once():
    made = gated(3, 100, 2, limits(50, 8))
    assert made.decode_requests.tolist() == [0, 0, 1, 0, 0, 1, 0, 1]
    assert made.more_prefill.tolist() == [True, False, False, True, False, False, False, False]


def test_a_prompt_that_comes_after_idle_time_does_not_follow_at_once():
    made = scheduled([100, 100], [1, 1], limits(50, 8), arrival_s=[0.0, 10.0])
    assert made.more_prefill.tolist() == [True, False, True, False]


# ---- where the policies differ


def test_each_engine_has_its_policy_and_an_unknown_one_schedules_as_vllm_does():
    assert [policy_of(name) for name in ("vllm", "sarathi", "transformers")] == [VLLM, SARATHI, STATIC]
    assert policy_of("another") == VLLM


def test_in_the_same_tight_cache_vllm_preempts_where_sarathi_waits():
    """Two prompts of 100 blocks in 201: one block is free, and Sarathi keeps two of them."""
    kv_tokens = 201 * BLOCK_TOKENS
    vllm = gated(2, 1600, 40, limits(4096, 8, "vllm"), kv_tokens)
    sarathi = gated(2, 1600, 40, limits(4096, 8, "sarathi"), kv_tokens)
    assert vllm.admitted_s.tolist() == [0, 0]
    assert vllm.prefill_tokens.sum() == 1600 + 1600 + 1601, "the second was computed again, with its first token"
    assert sarathi.admitted_s.tolist() == [0, 40]
    assert sarathi.prefill_tokens.sum() == 3200
    assert sarathi.first_token_s[1] > vllm.first_token_s[1]


def test_sarathi_reserves_a_prompt_when_it_is_admitted_and_vllm_as_it_is_computed():
    vllm, sarathi = (gated(1, 320, 2, limits(64, 8, engine)) for engine in CONTINUOUS)
    assert vllm.kv_tokens.tolist() == [64, 128, 192, 256, 320, 336]
    assert sarathi.kv_tokens.tolist() == [320, 320, 320, 320, 320, 336]
    assert vllm.prefill_tokens.tolist() == sarathi.prefill_tokens.tolist()


def test_decoding_may_take_the_blocks_that_a_prompt_of_vllm_was_admitted_on():
    """Of six blocks, decoding takes one while five are filled: the last chunk has none, and all chunks are lost."""
    made = scheduled([28, 96], [10, 2], limits(17, 8), kv_tokens=8 * BLOCK_TOKENS, arrival_s=[0.0, 2.0])
    assert made.admitted_s.tolist() == [0, 2]
    assert made.prefill_tokens[2:9].tolist() == [16, 16, 16, 16, 16, 0, 0]
    assert made.prefill_tokens.sum() == 28 + 80 + 96
    assert made.generated_tokens.tolist() == [10, 2]


@pytest.mark.parametrize("engine", CONTINUOUS)
def test_a_prompt_of_which_only_the_first_chunk_fits_is_not_admitted(engine: str):
    made = scheduled([30, 100], [20, 2], limits(32, 8, engine), kv_tokens=8 * BLOCK_TOKENS)
    assert made.admitted_s.tolist() == [0, 20]
    assert made.prefill_tokens.sum() == 130


def test_sarathi_preempts_for_a_free_block_that_nobody_needs():
    """Two prompts of two blocks each, in four; neither outgrows its second block."""
    vllm, sarathi = (gated(2, 24, 6, limits(512, 8, engine), 4 * BLOCK_TOKENS) for engine in CONTINUOUS)
    assert vllm.prefill_tokens.sum() == 48
    assert vllm.finished_s.tolist() == [6, 6]
    assert sarathi.prefill_tokens.sum() > 48
    assert sarathi.finished_s[0] == 6
    assert sarathi.finished_s[1] > 6


def test_nothing_is_admitted_in_a_step_that_preempts():
    """The blocks that the second gives back in the second step would hold it again."""
    made = gated(2, 24, 6, limits(512, 8, "sarathi"), 4 * BLOCK_TOKENS)
    assert made.decode_requests[1:4].tolist() == [1, 1, 1]
    assert made.prefill_tokens[:4].tolist() == [48, 0, 25, 0]


# ---- static batches


def test_a_static_batch_holds_prompts_of_one_length_and_runs_to_its_end():
    made = scheduled([20, 30, 20, 20], [3, 2, 6, 1], limits(512, 8, "transformers"), arrival_s=[0.0, 0.0, 0.0, 1.0])
    assert made.admitted_s.tolist() == [0, 6, 0, 8]
    assert made.decode_requests.tolist() == [0, 2, 2, 1, 1, 1, 0, 1, 0]
    assert made.generated_tokens.tolist() == [3, 2, 6, 1]


def test_a_static_batch_computes_whole_prompts_first_and_then_decodes_in_lockstep():
    made = gated(5, 40, 3, limits(100, 8, "transformers"))
    assert made.prefill_requests.tolist() == [2, 2, 1, 0, 0]
    assert made.prefill_tokens.tolist() == [80, 80, 40, 0, 0]
    assert made.decode_requests.tolist() == [0, 0, 0, 5, 5]
    assert made.first_token_s.tolist() == [1, 1, 2, 2, 3]
    assert made.decode_context_tokens.tolist() == [0, 0, 0, 5 * 41, 5 * 42]


def test_a_static_prompt_above_the_budget_is_computed_in_pieces_of_its_own():
    made = gated(2, 70, 2, limits(32, 8, "transformers"))
    assert made.prefill_tokens.tolist() == [32, 32, 6, 32, 32, 6, 0]
    assert made.prefill_context_tokens.tolist() == [32, 64, 70, 32, 64, 70, 0]


def test_a_static_batch_takes_no_more_requests_than_the_cache_holds_to_their_ends():
    made = gated(5, 40, 11, limits(512, 8, "transformers"), kv_tokens=120)
    assert made.admitted_s.tolist() == [0, 0, 11, 11, 22]
    assert made.kv_tokens.max() == 100
    assert made.prefill_tokens.sum() == 200


# ---- against a scheduler that walks through everything


@dataclass
class Sequence:
    number: int
    prompt: int
    asked: int
    computed: int = 0
    produced: int = 0
    blocks: int = 0
    decodes: bool = False

    @property
    def target(self) -> int:
        return self.prompt + self.produced


class PlainScheduler:
    """The same rules block by block and request by request, in the order of the engines' sources: the oracle."""

    def __init__(self, prompts: list[int], asked: list[int], engine: EngineLimits, kv_tokens: int) -> None:
        self.engine, self.policy = engine, policy_of(engine.engine)
        self.waiting = [Sequence(number, *lengths) for number, lengths in enumerate(zip(prompts, asked, strict=True))]
        self.running: list[Sequence] = []
        self.all_blocks = self.free = kv_tokens // BLOCK_TOKENS
        self.preempted: set[int] = set()

    def evict(self, victim: Sequence) -> None:
        self.free += victim.blocks
        victim.blocks, victim.computed, victim.decodes = 0, 0, False
        self.waiting.insert(0, victim)
        self.preempted.add(victim.number)

    def take(self, one: Sequence, tokens: int) -> None:
        missing = max(0, blocks(tokens) - one.blocks)
        self.free -= missing
        one.blocks += missing
        assert self.free >= 0

    def vllm_running(self, budget: int) -> list[tuple[Sequence, int]]:
        parts: list[tuple[Sequence, int]] = []
        index = 0
        while index < len(self.running) and budget > 0:
            one = self.running[index]
            tokens = min(one.target - one.computed, budget)
            while blocks(one.computed + tokens) - one.blocks > self.free:
                victim = self.running.pop()
                self.evict(victim)
                if victim is one:
                    return parts
            self.take(one, one.computed + tokens)
            parts.append((one, tokens))
            budget -= tokens
            index += 1
        return parts

    def sarathi_running(self, budget: int) -> list[tuple[Sequence, int]]:
        parts: list[tuple[Sequence, int]] = []
        queue = self.running
        kept: list[Sequence] = []
        filling: list[Sequence] = []
        alone = len(queue) == 1
        while queue:
            one = queue.pop(0)
            if not one.decodes:
                filling.append(one)
                continue
            while self.free == 0 and not alone:
                victim = queue.pop() if queue else one
                self.evict(victim)
                alone = len(queue) + len(kept) == 0
                if victim is one:
                    break
            else:
                self.take(one, one.computed + 1)
                kept.append(one)
                parts.append((one, 1))
                budget -= 1
        for one in filling:
            if min(one.target - one.computed, budget) > 0:
                parts.append((one, min(one.target - one.computed, budget)))
                budget -= parts[-1][1]
        self.running = kept + filling
        return parts

    def step(self) -> tuple[int, ...]:
        self.preempted = set()
        budget = self.engine.token_budget
        sarathi = self.policy.whole_prompt
        parts = self.sarathi_running(budget) if sarathi else self.vllm_running(budget)
        budget -= sum(tokens for _, tokens in parts)
        while self.waiting and budget > 0 and not self.preempted and len(self.running) < self.engine.max_sequences:
            one = self.waiting[0]
            kept_free = int(self.policy.watermark * self.all_blocks) if self.running else 0
            if self.free - blocks(one.target) < kept_free:
                break
            tokens = min(one.target, budget)
            self.take(one, one.target if sarathi else tokens)
            self.running.append(self.waiting.pop(0))
            parts.append((one, tokens))
            budget -= tokens
        decoding = [one for one, _ in parts if one.decodes]
        chunks = [(one, tokens) for one, tokens in parts if not one.decodes]
        held = (
            len(chunks),
            sum(tokens for _, tokens in chunks),
            sum(one.computed + tokens for one, tokens in chunks),
            sum(one.computed + query + 1 for one, tokens in chunks for query in range(tokens)),
            len(decoding),
            sum(one.computed + 1 for one in decoding),
            (self.all_blocks - self.free) * BLOCK_TOKENS,
        )
        for one, tokens in parts:
            one.computed += tokens
            if one.computed == one.target:
                one.produced += 1
                one.decodes = True
            if one.produced == one.asked:
                self.free += one.blocks
                self.running.remove(one)
        return held

    def run(self) -> list[tuple[int, ...]]:
        steps = []
        while self.waiting or self.running:
            steps.append(self.step())
        return steps


@dataclass
class Case:
    prompts: list[int]
    asked: list[int]
    engine: EngineLimits
    kv_tokens: int
    arrival_s: list[float]


@st.composite
def cases(draw: st.DrawFn, engines: tuple[str, ...], arrivals: bool = True) -> Case:
    """Few requests in a cache from just large enough for the longest to ample, with and without a watermark."""
    count = draw(st.integers(1, 12))
    longest = draw(st.sampled_from([60, 600]))
    prompts = draw(st.lists(st.integers(1, longest), min_size=count, max_size=count))
    asked = draw(st.lists(st.integers(1, 60), min_size=count, max_size=count))
    max_sequences = draw(st.integers(1, 8))
    budget = draw(st.integers(max_sequences, 2 * longest))
    least = max(blocks(prompt + made - 1) for prompt, made in zip(prompts, asked, strict=True)) * BLOCK_TOKENS
    kv_tokens = draw(st.integers(least, least + 3 * longest))
    moments = st.lists(st.floats(0, 60), min_size=count, max_size=count)
    arrival_s = sorted(draw(moments)) if arrivals else [0.0] * count
    return Case(prompts, asked, limits(budget, max_sequences, draw(st.sampled_from(engines))), kv_tokens, arrival_s)


@settings(max_examples=300, deadline=None)
@given(cases(CONTINUOUS, arrivals=False))
def test_steps_agree_with_a_scheduler_that_walks_through_all_requests(case: Case):
    made = scheduled(case.prompts, case.asked, case.engine, case.kv_tokens)
    held = cast("list[FloatArray]", [*made.shape, made.kv_tokens])
    steps = [tuple(int(value) for value in step) for step in zip(*held, strict=True)]
    assert steps == PlainScheduler(case.prompts, case.asked, case.engine, case.kv_tokens).run()


@settings(max_examples=150, deadline=None)
@given(cases((*CONTINUOUS, "transformers")))
def test_every_request_gets_its_tokens_within_the_limits_of_the_engine(case: Case):
    made = scheduled(case.prompts, case.asked, case.engine, case.kv_tokens, case.arrival_s)
    assert made.generated_tokens.tolist() == case.asked
    assert np.isfinite(made.finished_s).all(), "none starves"
    assert made.kv_tokens.max() <= case.kv_tokens
    assert (made.prefill_tokens + made.decode_requests).max() <= case.engine.token_budget
    assert (made.prefill_requests + made.decode_requests).max() <= case.engine.max_sequences
    assert (made.prefill_tokens + made.decode_requests).min() > 0, "no step is empty"
    assert made.prefill_tokens.sum() >= sum(case.prompts)
    assert (made.kv_tokens >= made.decode_context_tokens).all(), "what is read is kept"
    assert (made.admitted_s >= case.arrival_s).all()
    assert (made.first_token_s > made.admitted_s).all()
    assert (made.finished_s >= made.first_token_s).all()
    if case.engine.engine != "transformers":
        assert (np.diff(made.admitted_s) >= 0).all(), "first come, first served"
        assert (np.diff(made.first_token_s) >= 0).all()


@settings(max_examples=100, deadline=None)
@given(cases((*CONTINUOUS, "transformers")))
def test_in_an_ample_cache_every_token_is_computed_once(case: Case):
    """Then sums over the steps do not depend on how prompts were cut and requests put together."""
    made = scheduled(case.prompts, case.asked, case.engine, LARGE_KV, case.arrival_s)
    prompts, asked = np.array(case.prompts), np.array(case.asked)
    assert made.prefill_tokens.sum() == prompts.sum()
    assert made.prefill_pairs.sum() == (prompts * (prompts + 1) // 2).sum()
    assert made.decode_requests.sum() == (asked - 1).sum()
    assert made.decode_context_tokens.sum() == ((asked - 1) * prompts + asked * (asked - 1) // 2).sum()


@settings(max_examples=100, deadline=None)
@given(cases(("transformers",)))
def test_a_static_engine_never_mixes_prompts_with_decoding(case: Case):
    made = scheduled(case.prompts, case.asked, case.engine, case.kv_tokens, case.arrival_s)
    assert not ((made.prefill_requests > 0) & (made.decode_requests > 0)).any()
    assert made.prefill_tokens.sum() == sum(case.prompts), "nothing is preempted"


@settings(max_examples=100, deadline=None)
@given(cases(CONTINUOUS))
def test_what_may_follow_at_once_is_prefill_before_prefill(case: Case):
    made = scheduled(case.prompts, case.asked, case.engine, case.kv_tokens, case.arrival_s)
    for step in np.flatnonzero(made.more_prefill):
        assert made.decode_requests[step : step + 2].tolist() == [0, 0]
        assert (made.prefill_tokens[step : step + 2] > 0).all()
        assert made.start_s[step + 1] == made.start_s[step] + made.duration_s[step]
