"""Which requests each engine step holds: continuous batching with chunked prefill, as vLLM schedules it.

Each step takes the decoding sequences first, then prompt chunks in order of arrival up to the token budget.
A waiting request is admitted when a sequence is free and its prompt fits in the free KV cache. When decoding
runs out of cache, the request admitted last is preempted: its cache is dropped and computed again later.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.points import EngineLimits, FloatArray, IntArray

StepTime = Callable[[int, int, int, int], float]
"""Seconds of a step from its tokens, sequences, context tokens and query-key pairs."""


@dataclass(frozen=True, slots=True, eq=False)
class Batching:
    """What a scheduler did with n requests in m steps.

    Attributes:
        start_s, duration_s: (m,) of the steps.
        prefill_requests, prefill_tokens, decode_requests, context_tokens, pairs: (m,) what each held.
        kv_tokens: (m,) tokens of KV cache reserved during each step.
        admitted_s, first_token_s, finished_s: (n,) of the requests, NaN where it never came.
        generated_tokens: (n,) tokens that came.
    """

    start_s: FloatArray
    duration_s: FloatArray
    prefill_requests: IntArray
    prefill_tokens: IntArray
    decode_requests: IntArray
    context_tokens: IntArray
    pairs: IntArray
    kv_tokens: IntArray
    admitted_s: FloatArray
    first_token_s: FloatArray
    finished_s: FloatArray
    generated_tokens: IntArray

    def __len__(self) -> int:
        return len(self.start_s)


class Scheduler:
    """One run of the scheduler over requests that arrive at given times.

    Args:
        arrival_s: (n,) not decreasing.
        prompt_tokens, generated_tokens: (n,) at least 1; every sum must fit in `kv_tokens`.
        limits: the token budget must be at least `max_sequences` (vLLM refuses to start otherwise).
        kv_tokens: size of the KV cache in tokens of context.
        step_time: how long a step takes.
        deadline_s: no step is begun that would end later; what is unfinished then stays so.
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
        self._arrival_s: list[float] = arrival_s.tolist()
        self._prompt: list[int] = prompt_tokens.tolist()
        self._asked: list[int] = generated_tokens.tolist()
        self._limits, self._kv_limit = limits, kv_tokens
        self._step_time, self._deadline_s = step_time, deadline_s
        requests = len(self._prompt)
        self._produced = [0] * requests
        # What must be computed before the next token comes: the prompt, and after a preemption
        # also the tokens that had been generated.
        self._target = list(self._prompt)
        self._waiting: deque[int] = deque()
        self._arrived = 0
        self._filling: int | None = None
        self._filled = 0
        # Decoding requests, in order of admission -> the step that completed their prefill.
        self._decoding: dict[int, int] = {}
        self._ending: dict[int, list[int]] = {}
        self._decode_context = 0
        self._kv_used = 0
        self._step = 0
        nan = math.nan
        self._admitted_s, self._first_s, self._finished_s = ([nan] * requests for _ in range(3))
        self._log: list[tuple[float, float, int, int, int, int, int, int]] = []

    def run(self) -> Batching:
        """Take steps until every request has finished or the deadline is near."""
        now_s = 0.0
        while True:
            while self._arrived < len(self._arrival_s) and self._arrival_s[self._arrived] <= now_s:
                self._waiting.append(self._arrived)
                self._arrived += 1
            if not (self._decoding or self._waiting or self._filling is not None):
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
        self._make_room()
        decodes = len(self._decoding)
        self._decode_context += decodes
        self._kv_used += decodes
        context = pairs = self._decode_context
        budget = self._limits.token_budget - decodes
        chunks = tokens = 0
        admitted: list[int] = []
        completed: list[int] = []
        while budget > 0:
            request = self._filling
            if request is None:
                full = decodes + chunks >= self._limits.max_sequences
                request = None if full else self._admit()
                if request is None:
                    break
                admitted.append(request)
            before = self._filled
            chunk = min(budget, self._target[request] - before)
            self._filled = after = before + chunk
            context += after
            pairs += chunk * before + chunk * (chunk + 1) // 2
            chunks, tokens, budget = chunks + 1, tokens + chunk, budget - chunk
            if after == self._target[request]:
                completed.append(request)
                self._filling = None
        duration_s = self._step_time(decodes + tokens, decodes + chunks, context, pairs)
        end_s = now_s + duration_s
        if end_s > self._deadline_s:
            return None
        self._log.append((now_s, duration_s, chunks, tokens, decodes, context, pairs, self._kv_used))
        for request in admitted:
            if math.isnan(self._admitted_s[request]):
                self._admitted_s[request] = now_s
        for request in completed:
            self._first_or_next_token(request, end_s)
        for request in self._ending.pop(self._step, ()):
            held = self._target[request] + self._step - self._decoding.pop(request)
            self._decode_context -= held
            self._kv_used -= held
            self._produced[request] = self._asked[request]
            self._finished_s[request] = end_s
        self._step += 1
        return duration_s

    def _admit(self) -> int | None:
        """Begin the prefill of the first waiting request; None when its tokens do not fit in the cache."""
        if not self._waiting or self._kv_used + self._target[self._waiting[0]] > self._kv_limit:
            return None
        request = self._waiting.popleft()
        self._filling, self._filled = request, 0
        self._kv_used += self._target[request]
        return request

    def _make_room(self) -> None:
        """Preempt the requests admitted last until every decoding sequence can grow by one token.

        What is preempted needs more cache than it gave back, so it is not admitted again in the same step.
        """
        while self._kv_used + len(self._decoding) > self._kv_limit:
            if self._filling is not None:
                request, self._filling = self._filling, None
                self._kv_used -= self._target[request]
            else:
                request, entered = self._decoding.popitem()
                decoded = self._step - entered - 1
                self._ending[entered + self._asked[request] - self._produced[request]].remove(request)
                self._decode_context -= self._target[request] + decoded
                self._kv_used -= self._target[request] + decoded
                self._produced[request] += decoded
                self._target[request] = self._prompt[request] + self._produced[request]
            self._waiting.appendleft(request)

    def _first_or_next_token(self, request: int, end_s: float) -> None:
        self._produced[request] += 1
        if math.isnan(self._first_s[request]):
            self._first_s[request] = end_s
        left = self._asked[request] - self._produced[request]
        if left == 0:
            self._kv_used -= self._target[request]
            self._finished_s[request] = end_s
            return
        self._decoding[request] = self._step
        self._decode_context += self._target[request]
        self._ending.setdefault(self._step + left, []).append(request)

    def _result(self) -> Batching:
        start_s, duration_s, *counts = zip(*self._log, strict=True) if self._log else [()] * 8
        prefill_requests, prefill_tokens, decode_requests, context_tokens, pairs, kv_tokens = (
            np.array(column, np.int64) for column in counts
        )
        return Batching(
            start_s=np.array(start_s, np.float64),
            duration_s=np.array(duration_s, np.float64),
            prefill_requests=prefill_requests,
            prefill_tokens=prefill_tokens,
            decode_requests=decode_requests,
            context_tokens=context_tokens,
            pairs=pairs,
            kv_tokens=kv_tokens,
            admitted_s=np.array(self._admitted_s),
            first_token_s=np.array(self._first_s),
            finished_s=np.array(self._finished_s),
            generated_tokens=np.array(self._produced, np.int64),
        )
