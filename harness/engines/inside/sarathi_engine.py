"""Sarathi-Serve's engine as a `engine_service.Backend`: exact counts, aborts, and what each of its steps held.

Runs in Sarathi's own environment: standard library only, Python 3.10 or newer, nothing of `harness` but this folder.
Written against microsoft/sarathi-serve at 96f9911. What is used of it, by object:

    engine      add_request, step (blocking; with PP > 1 it hands out what the engine's own threads did), config,
                seq_manager, scheduler
    scheduler   schedule, on_step_completed (both wrapped here), waiting, running
                block_manager: free, can_allocate (wrapped here)
    seq_manager seq_map, on_schedule and on_step_completed (both wrapped here)

What is repaired:

-   Sarathi has no abort: an aborted request went on to compute. Here a request that no step has held leaves the waiting
    queue. One that runs is taken out of the running list and announced to the workers as preempted, the one message in
    Sarathi's protocol that frees a sequence's blocks on both sides; it is never scheduled again.
-   A preempted sequence forgets how many tokens it had generated, and would generate more than was asked; with PP > 1,
    what it had in the pipeline is booked to its second life (microsoft/sarathi-serve#41). Here it goes on as a new
    sequence with an id of its own, whose prompt is what was there, for the tokens that are left. The preemption of a
    sequence that was alone is lost, and nothing is ever scheduled again; here the schedule is made anew at once.
-   With PP > 1, one thread schedules while another books finished steps into the same lists. One lock keeps them apart.
"""

import dataclasses
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from harness.engines.inside.engine_service import Request, Step
else:
    from engine_service import Request, Step


class Part(NamedTuple):
    """One sequence in a step, as it was when the step was scheduled."""

    sequence: Any
    chunk: int
    context_tokens: int
    generated: int


class UnderWay(NamedTuple):
    """A step that is scheduled and not completed. `gone`: sequences whose blocks it frees, to be forgotten after it."""

    start_s: float
    parts: list[Part]
    gone: list[str]


def request_key(seq_id: str) -> int:
    """Key of the request that a sequence belongs to: a continuation's id is the request's, `~` and a number."""
    return int(seq_id.partition("~")[0])


class SarathiBackend:
    """Args: the engine that `LLMEngine.from_system_config` made, the class `SamplingParams`, what to do at the end."""

    def __init__(self, engine: Any, sampling_params: Callable[..., Any], close: Callable[[], None]) -> None:
        self._engine, self._sampling_params, self._close = engine, sampling_params, close
        model = engine.config.model_config
        self.max_context_tokens: int = model.max_model_len
        self.vocabulary: int = model.hf_config.vocab_size
        self.most_under_way: int = engine.config.parallel_config.pipeline_parallel_size
        self._lock = threading.RLock()
        self._live: dict[int, str] = {}
        self._unwanted: set[str] = set()
        self._announce: list[str] = []
        self._under_way: deque[UnderWay] = deque()
        self._done: deque[Step] = deque()
        self._continuations = 0
        scheduler, manager = engine.scheduler, engine.seq_manager
        self._schedule, scheduler.schedule = scheduler.schedule, self._scheduled
        self._complete, scheduler.on_step_completed = scheduler.on_step_completed, self._completed
        blocks = scheduler.block_manager
        self._can_allocate, blocks.can_allocate = blocks.can_allocate, self._may_allocate
        self._note, manager.on_schedule = manager.on_schedule, self._noted
        self._book, manager.on_step_completed = manager.on_step_completed, self._booked

    def submit(self, requests: Sequence[Request]) -> None:
        with self._lock:
            for request in requests:
                self._live[request.key] = str(request.key)
                self._add(str(request.key), request.prompt, request.max_tokens, request.arrived_s)

    def abort(self, key: int) -> None:
        with self._lock:
            seq_id = self._live.pop(key, None)
            if seq_id is not None:
                self._unwanted.add(seq_id)

    def has_work(self) -> bool:
        return bool(self._live or self._under_way or self._done)

    def step(self) -> Step | None:
        self._engine.step()
        return self._done.popleft() if self._done else None

    def describe(self) -> Mapping[str, Any]:
        described: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self._engine.config), default=str))
        return described

    def close(self) -> None:
        self._close()

    def _add(self, seq_id: str, prompt: list[int], max_tokens: int, arrived_s: float) -> None:
        self._engine.add_request(
            # None, which the signature allows, cannot be sent to the workers: their message wants text.
            prompt="",
            sampling_params=self._sampling_params(temperature=0.0, ignore_eos=True, max_tokens=max_tokens),
            prompt_token_ids=prompt,
            arrival_time=arrived_s,
            seq_id=seq_id,
        )

    def _scheduled(self) -> Any:
        """In place of `scheduler.schedule`. Holds the lock until `_noted`, where there is anything to note."""
        with self._lock:
            # Within the lock: whatever the step can hold has arrived before.
            start_s = time.monotonic()
            self._drop_unwanted()
            outputs = self._schedule()
            while outputs.is_empty() and outputs.preempted_seq_ids:
                self._continue_preempted(outputs.preempted_seq_ids)
                self._announce += outputs.preempted_seq_ids
                outputs = self._schedule()
            if outputs.is_empty():
                return outputs
            self._continue_preempted(outputs.preempted_seq_ids)
            outputs.preempted_seq_ids.extend(self._announce)
            self._announce = []
            parts = []
            for scheduled in outputs.scheduled_seq_metadata_list:
                sequence, chunk = self._sequences[scheduled.seq_id], scheduled.num_prompt_tokens
                context = sequence.get_num_prompt_tokens_processed() + chunk if chunk else sequence.get_len()
                parts.append(Part(sequence, chunk, context, sequence.get_output_len()))
            self._under_way.append(UnderWay(start_s, parts, list(outputs.preempted_seq_ids)))
            self._lock.acquire()
            return outputs

    def _may_allocate(self, sequence: Any) -> bool:
        """In place of `block_manager.can_allocate`: what is preempted in this schedule does not come back in it."""
        return not sequence.is_executing() and self._can_allocate(sequence)

    def _noted(self, outputs: Any) -> Any:
        """In place of `seq_manager.on_schedule`, which sets the states that the schedule decided on."""
        try:
            return self._note(outputs)
        finally:
            self._lock.release()

    def _booked(self, *arguments: Any) -> None:
        """In place of `seq_manager.on_step_completed`. Holds the lock until `_completed`, which follows in its thread.

        No schedule in between may see what is finished, or preempt a sequence whose new token is not counted yet.
        """
        self._lock.acquire()
        try:
            self._book(*arguments)
        except BaseException:
            self._lock.release()
            raise

    def _completed(self) -> None:
        """In place of `scheduler.on_step_completed`; steps complete in the order in which they were scheduled."""
        try:
            self._complete()
            end_s = time.monotonic()
            step = self._under_way.popleft()
            new_tokens = {}
            for sequence, _, _, generated in step.parts:
                key = request_key(sequence.seq_id)
                # One that was preempted in mid-step has its tokens booked nowhere; its continuation makes them anew.
                if not sequence.is_waiting() and sequence.get_output_len() > generated:
                    new_tokens[key] = sequence.get_output_len() - generated
                if sequence.is_finished():
                    self._live.pop(key, None)
            for seq_id in step.gone:
                self._sequences.pop(seq_id, None)
            chunks = {request_key(part.sequence.seq_id): part.chunk for part in step.parts}
            context = sum(part.context_tokens for part in step.parts)
            self._done.append(Step(step.start_s, end_s, chunks, context, new_tokens))
        finally:
            self._lock.release()

    @property
    def _sequences(self) -> dict[str, Any]:
        sequences: dict[str, Any] = self._engine.seq_manager.seq_map
        return sequences

    def _drop_unwanted(self) -> None:
        """Take aborted sequences out of the scheduler's lists; those in a step under way wait for the next time."""
        scheduler = self._engine.scheduler
        for seq_id in list(self._unwanted):
            sequence = self._sequences.get(seq_id)
            if sequence is None or sequence.is_finished():
                self._unwanted.discard(seq_id)
            elif sequence in scheduler.waiting:
                scheduler.waiting.remove(sequence)
                del self._sequences[seq_id]
                self._unwanted.discard(seq_id)
            elif sequence.is_paused():
                scheduler.running.remove(sequence)
                scheduler.block_manager.free(sequence)
                self._announce.append(seq_id)
                self._unwanted.discard(seq_id)

    def _continue_preempted(self, preempted: list[str]) -> None:
        """Replace sequences that lost their blocks by new ones, first in the queue as they were."""
        waiting = self._engine.scheduler.waiting
        for seq_id in preempted:
            sequence, key = self._sequences[seq_id], request_key(seq_id)
            waiting.remove(sequence)
            if key not in self._live:
                continue
            self._continuations += 1
            self._live[key] = f"{key}~{self._continuations}"
            left = sequence.sampling_params.max_tokens - sequence.get_output_len()
            self._add(self._live[key], sequence.get_token_ids(), left, sequence.arrival_time)
            waiting.insert(0, waiting.pop())
