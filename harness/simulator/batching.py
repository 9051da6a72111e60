"""Which requests each engine step holds: continuous batching with chunked prefill, as the engine's policy has it.

Each step takes the decoding sequences first, then prompt chunks in order of arrival up to the token budget. A waiting
request is admitted when a sequence is free and its prompt fits in the free KV cache. When decoding runs out of cache,
the request admitted last is preempted: its cache is dropped and computed again later. `policy` says where engines
differ, and from which sources. The work to form a step grows with its prompt chunks, not with what decodes in it.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, chain, compress

import numpy as np

from harness.errors import BadInput
from harness.points import BoolArray, EngineLimits, FloatArray, IntArray
from harness.simulator.kvcache import KvBlocks
from harness.simulator.policy import policy_of
from harness.simulator.stepshape import StepShape

StepTime = Callable[[StepShape[float]], float]
"""Seconds of a step from what it holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Batching:
    """What a scheduler did with n requests in m steps.

    Attributes:
        start_s, duration_s: (m,) of the steps.
        prefill_requests, prefill_tokens, prefill_context_tokens, prefill_pairs, decode_requests,
            decode_context_tokens: (m,) what each held, as in `StepShape`.
        kv_tokens: (m,) tokens of KV cache reserved during each step: whole blocks.
        more_prefill: (m,) prompt chunks alone, and the next step is so too and follows at once. It needs no token that
            this one samples, so it may enter a pipeline's first stage as soon as this one leaves it.
        admitted_s, first_token_s, finished_s: (n,) of the requests, NaN where it never came.
        generated_tokens: (n,) tokens that came.
    """

    start_s: FloatArray
    duration_s: FloatArray
    prefill_requests: IntArray
    prefill_tokens: IntArray
    prefill_context_tokens: IntArray
    prefill_pairs: IntArray
    decode_requests: IntArray
    decode_context_tokens: IntArray
    kv_tokens: IntArray
    more_prefill: BoolArray
    admitted_s: FloatArray
    first_token_s: FloatArray
    finished_s: FloatArray
    generated_tokens: IntArray

    def __len__(self) -> int:
        return len(self.start_s)

    @property
    def context_tokens(self) -> IntArray:
        """(m,) keys read by the attention of each step."""
        return self.prefill_context_tokens + self.decode_context_tokens

    @property
    def shape(self) -> StepShape[FloatArray]:
        """What the steps held, for models of time and power."""
        return StepShape(*(getattr(self, name).astype(np.float64) for name in StepShape._fields))


class Scheduler:
    """One run of the scheduler over requests that arrive at given times.

    A request that runs alone always goes on, whatever the policy keeps free: Sarathi would wait for ever.

    Args:
        arrival_s: (n,) not decreasing.
        prompt_tokens, generated_tokens: (n,) at least 1.
        limits: budget and sequences, at least 1 each; the engine's name decides the policy.
        kv_tokens: size of the KV cache in tokens of context; what does not fill a block is not used.
        step_time: how long a step takes.
        deadline_s: no step is begun that would end later; what is unfinished then stays so.

    Raises:
        BadInput: a request is longer than the KV cache.
    """

    def __init__(
        self,
        arrival_s: FloatArray,
        prompt_tokens: IntArray,
        generated_tokens: IntArray,
        limits: EngineLimits,
        kv_tokens: int,
        step_time: StepTime,
        deadline_s: float = math.inf,
    ) -> None:
        self._policy = policy_of(limits.engine)
        self._cache = KvBlocks(self._policy, kv_tokens)
        longest_blocks = self._cache.longest_blocks(prompt_tokens, generated_tokens)
        if longest_blocks > self._cache.limit:
            least_tokens = longest_blocks * self._cache.block_tokens
            raise BadInput("kv_tokens", kv_tokens, f"at least {least_tokens}, for the longest request")
        self._arrival_s: list[float] = arrival_s.tolist()
        self._prompt: list[int] = prompt_tokens.tolist()
        self._asked: list[int] = generated_tokens.tolist()
        self._limits, self._step_time, self._deadline_s = limits, step_time, deadline_s
        self._produced = [0] * len(self._prompt)
        # What must be computed before the next token comes: the prompt, after a preemption also what was generated.
        self._target = list(self._prompt)
        self._waiting: deque[int] = deque()
        self._arrived = 0
        # The request whose prompt is computed in part, its tokens so far, the blocks that it holds.
        self._filling: int | None = None
        self._filled = self._filling_blocks = 0
        # Of a static batch: requests to be computed, and those that wait for them before they decode.
        self._batch: deque[int] = deque()
        self._prefilled: list[int] = []
        # Decoding requests, in order of admission -> the step after which they began to.
        self._decoding: dict[int, int] = {}
        self._ending: dict[int, list[int]] = {}
        self._decode_context = self._step = 0
        self._admitted_s, self._first_s, self._finished_s = ([math.nan] * len(self._prompt) for _ in range(3))
        self._log: list[tuple[float, float, StepShape[float], int]] = []

    def run(self) -> Batching:
        """Take steps until every request has finished or the deadline is near."""
        now_s = 0.0
        while True:
            while self._arrived < len(self._arrival_s) and self._arrival_s[self._arrived] <= now_s:
                self._waiting.append(self._arrived)
                self._arrived += 1
            if not (self._decoding or self._waiting or self._filling is not None or self._batch):
                if self._arrived == len(self._arrival_s):
                    break
                now_s = self._arrival_s[self._arrived]
                continue
            duration_s = self._take_step(now_s)
            if duration_s is None:
                break
            now_s += duration_s
        for request, entered in self._decoding.items():
            self._produced[request] += self._step - entered - 1
        return self._result()

    def _take_step(self, now_s: float) -> float | None:
        """Form and run one step; its duration, or None when it would end after the deadline."""
        cache = self._cache
        if self._policy.static:
            self._form_batch()
        roomy = cache.used + cache.growing(self._step) < cache.limit or self._make_room()
        cache.used += cache.growing(self._step)
        decodes = len(self._decoding)
        self._decode_context += decodes
        budget = self._limits.token_budget - decodes
        chunks = tokens = context = pairs = 0
        admitted: list[int] = []
        completed: list[int] = []
        while budget > 0:
            request = self._filling
            if request is None:
                request = self._admit(decodes, chunks, budget) if roomy and (self._waiting or self._batch) else None
                if request is None:
                    break
                admitted.append(request)
            before, target = self._filled, self._target[request]
            chunk = min(budget, target - before)
            after = before + chunk
            blocks = cache.blocks(after) - self._filling_blocks
            if blocks > 0:
                if cache.used + blocks > cache.limit:
                    self._preempt_last()
                    break
                cache.used += blocks
                self._filling_blocks += blocks
            self._filled = after
            context += after
            pairs += chunk * before + chunk * (chunk + 1) // 2
            chunks, tokens, budget = chunks + 1, tokens + chunk, budget - chunk
            if after == target:
                completed.append(request)
                self._filling = None
        shape = StepShape(chunks, tokens, context, pairs, decodes, self._decode_context)
        duration_s = self._step_time(shape)
        end_s = now_s + duration_s
        if end_s > self._deadline_s:
            return None
        self._log.append((now_s, duration_s, shape, cache.used))
        for request in admitted:
            if math.isnan(self._admitted_s[request]):
                self._admitted_s[request] = now_s
        if completed:
            self._complete(completed, end_s)
        for request in self._ending.pop(self._step, ()):
            entered = self._decoding.pop(request)
            self._decode_context -= cache.leave(self._target[request], entered, self._step - entered)
            self._produced[request] = self._asked[request]
            self._finished_s[request] = end_s
        self._step += 1
        return duration_s

    def _admit(self, decodes: int, chunks: int, budget: int) -> int | None:
        """Begin the prefill of the next request; None when there is none, or no place for it in this step."""
        if self._policy.static:
            if not self._batch or (chunks and self._target[self._batch[0]] > budget):
                return None
            queue, taken = self._batch, 0
        else:
            if not self._waiting or decodes + chunks >= self._limits.max_sequences:
                return None
            blocks = self._cache.blocks(self._target[self._waiting[0]])
            kept_free = self._cache.kept_free if decodes or chunks else 0
            if self._cache.used + blocks + kept_free > self._cache.limit:
                return None
            queue, taken = self._waiting, blocks if self._policy.whole_prompt else 0
        self._filling, self._filled, self._filling_blocks = queue.popleft(), 0, taken
        self._cache.used += taken
        return self._filling

    def _form_batch(self) -> None:
        """When no static batch is under way: the oldest request, and all that may be served together with it."""
        if self._batch or self._decoding or self._filling is not None:
            return
        prompt, most = self._prompt[self._waiting[0]], min(self._limits.max_sequences, self._limits.token_budget)
        alike = [request for request in self._waiting if self._prompt[request] == prompt][:most]
        used = accumulate(self._cache.blocks(prompt + self._asked[request] - 1) for request in alike)
        self._batch.extend(compress(alike, (blocks <= self._cache.limit for blocks in used)))
        chosen = set(self._batch)
        self._waiting = deque(request for request in self._waiting if request not in chosen)

    def _make_room(self) -> bool:
        """Preempt until decoding has the blocks that it needs in this step; False when that was necessary."""
        cache, waiting = self._cache, len(self._waiting)
        while cache.used + cache.growing(self._step) + self._spare_blocks() > cache.limit:
            self._preempt_last()
        return len(self._waiting) == waiting

    def _spare_blocks(self) -> int:
        """Blocks that must be free for decoding to go on, beside those that it takes in this step."""
        alone = len(self._decoding) + (self._filling is not None) < 2
        if not self._policy.spare_block or alone or not self._decoding:
            return 0
        # Each wants a free one when its turn comes, so the last decides: it takes that block, or leaves it.
        request, entered = next(reversed(self._decoding.items()))
        return int(not self._cache.grows(self._target[request], entered, self._step))

    def _preempt_last(self) -> None:
        """Drop the cache of the request admitted last; it is the first to be admitted again."""
        if self._filling is not None:
            request, self._filling = self._filling, None
            self._cache.used -= self._filling_blocks
        else:
            request, entered = self._decoding.popitem()
            decoded = self._step - entered - 1
            self._ending[entered + self._asked[request] - self._produced[request]].remove(request)
            self._decode_context -= self._cache.leave(self._target[request], entered, decoded)
            self._produced[request] += decoded
            self._target[request] = self._prompt[request] + self._produced[request]
        self._waiting.appendleft(request)

    def _complete(self, requests: list[int], end_s: float) -> None:
        """Prompts are computed: each gives a token, and the requests decode from the next step on."""
        for request in requests:
            self._produced[request] += 1
            if math.isnan(self._first_s[request]):
                self._first_s[request] = end_s
            if self._produced[request] == self._asked[request]:
                self._cache.used -= self._cache.blocks(self._target[request])
                self._finished_s[request] = end_s
            else:
                self._prefilled.append(request)
        if self._batch:
            return
        for request in self._prefilled:
            self._decoding[request] = self._step
            self._decode_context += self._target[request]
            self._cache.enter(self._target[request], self._step)
            left = self._asked[request] - self._produced[request]
            self._ending.setdefault(self._step + left, []).append(request)
        self._prefilled.clear()

    def _result(self) -> Batching:
        start, duration, shapes, blocks = zip(*self._log, strict=True) if self._log else [()] * 4
        start_s, duration_s = np.array(start, np.float64), np.array(duration, np.float64)
        # Several times as fast as to make arrays of the tuples.
        flat = np.fromiter(chain.from_iterable(shapes), np.int64)
        held = StepShape(*flat.reshape(-1, len(StepShape._fields)).T.copy())
        chunks_alone = (held.prefill_requests > 0) & (held.decode_requests == 0)
        at_once = start_s[:-1] + duration_s[:-1] == start_s[1:]
        return Batching(
            start_s=start_s,
            duration_s=duration_s,
            **held._asdict(),
            kv_tokens=np.array(blocks, np.int64) * self._cache.block_tokens,
            more_prefill=chunks_alone & np.append(chunks_alone[1:] & at_once, False),
            admitted_s=np.array(self._admitted_s),
            first_token_s=np.array(self._first_s),
            finished_s=np.array(self._finished_s),
            generated_tokens=np.array(self._produced, np.int64),
        )
