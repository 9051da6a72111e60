"""Step records of vLLM: a plug-in that watches its scheduler, in the process of the engine core.

vLLM calls `register` in each of its processes (entry-point group `vllm.general_plugins`). It wraps five public methods
of the scheduler class, which synchronous, asynchronous and pipelined engines share: `schedule` gives the start of a
step and what it holds, `update_from_output` its end and the tokens, `add_request` and `finish_requests` the arrivals
and the aborts, `set_pause_state` the gate, whose HTTP answer comes 20 ms late. Steps overlap where several batches are
in flight (pipeline stages, asynchronous scheduling).
Where the log's path is not in the environment nothing is wrapped. A vLLM without these methods ends at launch with one
line; a later surprise ends the records, never the serving: the harness sees that steps are missing.

Runs in the engine's environment: standard library only.
"""

import importlib
import os
import struct
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.engines.inside.steplog import PATH_VARIABLE, StepLog, request_number, write_description
else:
    from steplog import PATH_VARIABLE, StepLog, request_number, write_description

_NEEDED = ("schedule", "update_from_output", "add_request", "finish_requests", "set_pause_state")
_SURPRISES = (AttributeError, KeyError, TypeError, ValueError, OSError, struct.error)
_NOT_YET = float("nan")


class _Request:
    """One that the harness numbered, while the scheduler has it."""

    __slots__ = ("admitted_s", "arrived_s", "first_token_s", "number", "request")

    def __init__(self, number: int, request: Any, arrived_s: float) -> None:
        self.number, self.request, self.arrived_s = number, request, arrived_s
        self.admitted_s = self.first_token_s = _NOT_YET


class _Step:
    """One that was scheduled and whose tokens are not known yet."""

    __slots__ = ("context_tokens", "counts", "first_tokens", "output", "start_s")

    def __init__(self, output: Any, start_s: float) -> None:
        self.output, self.start_s = output, start_s
        self.counts = (0, 0, 0)
        self.context_tokens = 0
        self.first_tokens: list[_Request] = []


class Recorder:
    """What one scheduler does, written to the log as it happens."""

    def __init__(self, log: StepLog) -> None:
        self._log = log
        self._requests: dict[str, _Request] = {}
        self._in_flight: deque[_Step] = deque()
        self._broken = False

    def scheduled(self, scheduler: Any, output: Any, start_s: float) -> None:
        """A step was formed; the scheduler has already counted its tokens as computed."""
        if self._broken or not output.num_scheduled_tokens:
            return
        step, requests = _Step(output, start_s), scheduler.requests
        prefills = prefill_tokens = decodes = context_tokens = 0
        for request_id, tokens in output.num_scheduled_tokens.items():
            request = requests[request_id]
            computed = request.num_computed_tokens
            context_tokens += computed
            if tokens == 1 and computed > request.num_prompt_tokens:
                decodes += 1
                continue
            prefills += 1
            prefill_tokens += tokens
            ours = self._requests.get(request_id)
            if ours is not None:
                if ours.admitted_s != ours.admitted_s:
                    ours.admitted_s = start_s
                if computed >= request.num_prompt_tokens and ours.first_token_s != ours.first_token_s:
                    step.first_tokens.append(ours)
        step.counts, step.context_tokens = (prefills, prefill_tokens, decodes), context_tokens
        self._in_flight.append(step)

    def updated(self, output: Any, made: Any) -> None:
        """The tokens of a step are known; `made` is what the scheduler sends to the clients."""
        if self._broken or not output.num_scheduled_tokens:
            return
        end_s = time.monotonic()
        step = self._in_flight.popleft()
        while step.output is not output:
            step = self._in_flight.popleft()
        self._log.step(step.start_s, end_s, *step.counts, step.context_tokens)
        for ours in step.first_tokens:
            ours.first_token_s = end_s
        for to_client in made.values():
            for one in to_client.outputs:
                if one.finish_reason is not None:
                    self._over(one.request_id, end_s, True)

    def added(self, request: Any) -> None:
        number = request_number(request.request_id)
        if self._broken or number < 0:
            return
        now_s = time.monotonic()
        self._requests[request.request_id] = _Request(number, request, now_s)
        self._log.arrived(number, now_s)

    def paused(self, state: int) -> None:
        """State 0 schedules everything."""
        if not self._broken:
            self._log.gate(state != 0, time.monotonic())

    def aborted(self, request_ids: Any) -> None:
        """After the scheduler was told to end these (all, if None)."""
        if self._broken:
            return
        now_s = time.monotonic()
        ids = (request_ids,) if isinstance(request_ids, str) else request_ids
        for request_id in list(self._requests if ids is None else ids):
            ours = self._requests.get(request_id)
            if ours is not None and ours.request.is_finished():
                self._over(request_id, now_s, False)

    def _over(self, request_id: str, now_s: float, finished: bool) -> None:
        ours = self._requests.pop(request_id, None)
        if ours is None:
            return
        request = ours.request
        self._log.request(
            ours.number,
            ours.arrived_s,
            ours.admitted_s,
            ours.first_token_s,
            now_s,
            request.num_prompt_tokens,
            request.num_output_tokens,
            finished,
        )

    def give_up(self, error: Exception) -> None:
        """No more records; serving goes on."""
        self._broken = True
        print(f"harness: step records end here: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def register() -> None:
    """Entry point of the group `vllm.general_plugins`; may be called several times.

    Raises:
        RuntimeError: this vLLM lacks a method that is watched.
    """
    path = os.environ.get(PATH_VARIABLE)
    if not path:
        return
    try:
        scheduler_class = importlib.import_module("vllm.v1.core.sched.scheduler").Scheduler
    except (ImportError, AttributeError) as error:
        raise RuntimeError(f"harness: this version of vLLM is not supported: {error}") from error
    missing = [name for name in _NEEDED if not callable(getattr(scheduler_class, name, None))]
    if missing:
        raise RuntimeError(f"harness: this version of vLLM is not supported: no Scheduler.{', '.join(missing)}")
    if not hasattr(scheduler_class, "harness_watches"):
        scheduler_class.harness_watches = True
        watch(scheduler_class, path)


def watch(scheduler_class: Any, path: str) -> None:
    """Wrap the methods of the class; each scheduler made from now on writes to the log at `path`."""
    init, schedule, update = scheduler_class.__init__, scheduler_class.schedule, scheduler_class.update_from_output
    add, finish = scheduler_class.add_request, scheduler_class.finish_requests
    set_pause_state = scheduler_class.set_pause_state

    def watched_init(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.harness_recorder = Recorder(StepLog(path))
        write_description(path, describe(self, kwargs.get("vllm_config", args[0] if args else None)))

    def watched_schedule(self: Any, *args: Any, **kwargs: Any) -> Any:
        start_s = time.monotonic()
        output = schedule(self, *args, **kwargs)
        try:
            self.harness_recorder.scheduled(self, output, start_s)
        except _SURPRISES as error:
            self.harness_recorder.give_up(error)
        return output

    def watched_update(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        made = update(self, scheduler_output, *args, **kwargs)
        try:
            self.harness_recorder.updated(scheduler_output, made)
        except (*_SURPRISES, IndexError) as error:
            self.harness_recorder.give_up(error)
        return made

    def watched_add(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        made = add(self, request, *args, **kwargs)
        try:
            self.harness_recorder.added(request)
        except _SURPRISES as error:
            self.harness_recorder.give_up(error)
        return made

    def watched_finish(self: Any, request_ids: Any, *args: Any, **kwargs: Any) -> Any:
        ids = request_ids if request_ids is None or isinstance(request_ids, str) else list(request_ids)
        made = finish(self, ids, *args, **kwargs)
        try:
            self.harness_recorder.aborted(ids)
        except _SURPRISES as error:
            self.harness_recorder.give_up(error)
        return made

    def watched_pause(self: Any, pause_state: Any, *args: Any, **kwargs: Any) -> Any:
        made = set_pause_state(self, pause_state, *args, **kwargs)
        try:
            self.harness_recorder.paused(int(pause_state))
        except _SURPRISES as error:
            self.harness_recorder.give_up(error)
        return made

    scheduler_class.__init__ = watched_init
    scheduler_class.schedule = watched_schedule
    scheduler_class.update_from_output = watched_update
    scheduler_class.add_request = watched_add
    scheduler_class.finish_requests = watched_finish
    scheduler_class.set_pause_state = watched_pause


def describe(scheduler: Any, config: Any) -> dict[str, object]:
    """The configuration that vLLM resolved, as JSON can hold it; what a version does not have is left out."""
    described: dict[str, object] = {"scheduler": type(scheduler).__name__}
    wanted = {
        "model_config": ("model", "dtype", "max_model_len", "enforce_eager", "quantization", "seed"),
        "cache_config": ("num_gpu_blocks", "block_size", "enable_prefix_caching", "cache_dtype"),
        "scheduler_config": (
            "max_num_seqs",
            "max_num_batched_tokens",
            "enable_chunked_prefill",
            "async_scheduling",
            "stream_interval",
        ),
        "parallel_config": ("tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend"),
        "compilation_config": ("mode", "backend", "cudagraph_mode"),
        "device_config": ("device_type",),
    }
    for part, names in wanted.items():
        for name in names:
            value = getattr(getattr(config, part, None), name, None)
            if value is not None:
                described[name] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return described
