"""A simulated serving engine: gated batches and replays, as steps with times, tokens and power."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.engines.base import Requests, Served, Steps
from harness.errors import EngineCrashed, EngineError
from harness.feasibility import kv_cache_tokens
from harness.points import BatchWorkload, Deployment, FloatArray, IntArray, Schedule
from harness.simulator.activity import batch_activity, replay_activity
from harness.simulator.batching import Batching, Scheduler, StepTime
from harness.simulator.hardware import Hardware
from harness.simulator.seeds import factor, generator, noise
from harness.simulator.stepmodel import StepCost, StepModel
from harness.simulator.stepshape import StepShape

ENGINE_VERSION = "simulated-3"
GAP_S = 15e-3
GAP_SD = 0.10
STEP_SD = 0.01
LAUNCH_SD = 0.007
WINDOW_SD = 0.004
STOP_S = 3.0
_GAP_BEFORE_SHARE = 0.8
"""Of the gap between batches, most lies before the first step (enqueue, resume), the rest after the last."""
_TRANSIT_S = 0.3e-3
_SEND_S = 0.2e-3
_NOISE_BLOCK = 4096
_KEPT_SHAPES = 256


@dataclass(frozen=True, slots=True, eq=False)
class _Shape:
    """One gated batch of a workload: its steps (times are step numbers), their micro-batches, and what they cost."""

    batching: Batching
    cost: StepCost
    micro: IntArray


class SimulatedEngine:
    """One life of an engine on the GPUs that the hardware holds for it; made by `SimulatedNode.launch`."""

    def __init__(self, hardware: Hardware, deployment: Deployment, seed: int, load_s: float) -> None:
        self._hardware, self._deployment, self._load_s = hardware, deployment, load_s
        self._model = StepModel(deployment, hardware.gpu, hardware.constants)
        self._kv_tokens = kv_cache_tokens(deployment, hardware.gpu)
        self._gpu_uuids = tuple(hardware.gpu_uuids[index] for index in hardware.held)
        self._launch = (hardware.seed, deployment.deployment_id, seed)
        random = generator("launch", *self._launch)
        self._time_factor, self._power_factor = factor(random, LAUNCH_SD), factor(random, LAUNCH_SD)
        self._shapes: dict[BatchWorkload, _Shape] = {}
        self._windows = 0
        self._ended = ""

    @property
    def gpu_uuids(self) -> tuple[str, ...]:
        return self._gpu_uuids

    @property
    def version(self) -> str:
        return ENGINE_VERSION

    @property
    def load_s(self) -> float:
        return self._load_s

    @property
    def launched(self) -> Mapping[str, object]:
        return {}

    @property
    def running(self) -> bool:
        """Neither stopped nor crashed."""
        return not self._ended

    def stop(self) -> None:
        if self.running:
            self._end("stopped")
            self._hardware.clock.sleep(STOP_S)

    def prepare_batches(self, workload: BatchWorkload, batches: int, seed: int) -> Callable[[], Served]:
        self._check_usable(workload.prompt_tokens + workload.generated_tokens)
        shape = self._shape(workload)
        return lambda: self._serve_batches(workload, shape, batches, seed)

    def replay(self, schedule: Schedule, drain_s: float, seed: int) -> Served:
        longest_tokens = schedule.prompt_tokens + schedule.generated_tokens
        self._check_usable(int(longest_tokens.max(initial=0)))
        start_s = self._hardware.clock.monotonic_s()
        if self._batches_before_crash(1) == 0:
            self._crash()
        random, time_factor, power_factor = self._window("replay", seed)
        sent_s = np.maximum.accumulate(schedule.arrival_s + random.exponential(_SEND_S, len(schedule)))
        deadline_s = (float(schedule.arrival_s[-1]) if len(schedule) else 0.0) + drain_s
        batching = Scheduler(
            sent_s,
            schedule.prompt_tokens,
            schedule.generated_tokens,
            self._deployment.limits,
            self._kv_tokens,
            self._noisy_step_time(random, time_factor),
            deadline_s - _TRANSIT_S,
        ).run()
        all_finished = not np.isnan(batching.finished_s).any()
        length_s = float((batching.finished_s + _TRANSIT_S).max(initial=0.0)) if all_finished else deadline_s
        held = batching.shape
        micro = self._model.micro_batches(held.prefill_requests + held.decode_requests)
        cost = self._model.cost(held, micro)
        self._hardware.work(
            replay_activity(self._deployment, batching, cost, start_s, length_s, power_factor, self._hardware.host)
        )
        requests = Requests(
            batch_index=np.zeros(len(schedule), np.int64),
            scheduled_s=start_s + schedule.arrival_s,
            sent_s=start_s + sent_s,
            admitted_s=start_s + batching.admitted_s,
            first_token_s=start_s + batching.first_token_s + _TRANSIT_S,
            finished_s=start_s + batching.finished_s + _TRANSIT_S,
            queue_s=batching.admitted_s - sent_s,
            prefill_s=batching.first_token_s - batching.admitted_s,
            decode_s=batching.finished_s - batching.first_token_s,
            prompt_tokens=schedule.prompt_tokens,
            generated_tokens=batching.generated_tokens,
            asked_tokens=schedule.generated_tokens,
            outcome=np.where(np.isnan(batching.finished_s), "timeout", "finished"),
        )
        steps = _steps(batching, (start_s + batching.start_s)[None], batching.duration_s[None], micro.astype(np.int64))
        return Served(start_s, self._hardware.clock.monotonic_s(), 1, requests, steps)

    def _serve_batches(self, workload: BatchWorkload, shape: _Shape, batches: int, seed: int) -> Served:
        self._check_usable(0)
        served = self._batches_before_crash(batches)
        random, time_factor, power_factor = self._window(workload.label, seed)
        start_s = self._hardware.clock.monotonic_s()
        steps = len(shape.batching)
        step_s = shape.cost.duration_s * time_factor * noise(random, STEP_SD, (served, steps))
        gap_s = GAP_S * noise(random, GAP_SD, (served, 1))
        segment_s = np.concatenate((gap_s * _GAP_BEFORE_SHARE, step_s, gap_s * (1 - _GAP_BEFORE_SHARE)), axis=1)
        time_s = start_s + np.concatenate(([0.0], np.cumsum(segment_s)))
        if served:
            self._hardware.work(batch_activity(self._deployment, shape.cost, time_s, power_factor, self._hardware.host))
        if served < batches:
            self._crash()
        bound_s = time_s[:-1].reshape(batches, steps + 2)
        requests = _batch_requests(workload, shape.batching, bound_s[:, 0], bound_s[:, 1:])
        under_way_s = self._under_way_s(shape.batching, bound_s[:, 1:])
        made = _steps(shape.batching, bound_s[:, 1:-1], under_way_s, shape.micro)
        return Served(start_s, self._hardware.clock.monotonic_s(), batches, requests, made)

    def _shape(self, workload: BatchWorkload) -> _Shape:
        """The steps of one batch: alike for all batches of a workload, so found once."""
        if workload not in self._shapes:
            size = workload.batch_size
            batching = Scheduler(
                np.zeros(size),
                np.full(size, workload.prompt_tokens),
                np.full(size, workload.generated_tokens),
                self._deployment.limits,
                self._kv_tokens,
                lambda shape: 1.0,
            ).run()
            if len(self._shapes) == _KEPT_SHAPES:
                self._shapes.clear()
            held = batching.shape
            # Requests whose prompts are computed in one step stay one micro-batch; in several, they decode apart.
            groups = min(int((held.prefill_requests > 0).sum()), size, self._model.pipeline_parallel)
            micro = np.where(held.prefill_requests > 0, 1.0, np.minimum(held.decode_requests, max(groups, 1)))
            cost = self._model.cost(held, micro, batching.more_prefill)
            self._shapes[workload] = _Shape(batching, cost, micro.astype(np.int64))
        return self._shapes[workload]

    def _under_way_s(self, batching: Batching, bound_s: FloatArray) -> FloatArray:
        """(batches, m) how long each step was in the pipeline, from (batches, m + 1) bounds.

        A step that the next one follows into the pipeline leaves the last stage when that is long under way.
        """
        duration_s = np.diff(bound_s, axis=1)
        if not batching.more_prefill.any():
            return duration_s
        last = np.where(batching.more_prefill, len(batching), np.arange(len(batching)))
        left_s = bound_s[:, 1 + np.minimum.accumulate(last[::-1])[::-1]] - bound_s[:, :-1]
        through_s = duration_s * np.where(batching.more_prefill, self._model.pipeline_parallel, 1)
        return np.minimum(through_s, left_s)

    def _noisy_step_time(self, random: np.random.Generator, time_factor: float) -> StepTime:
        model = self._model
        block: list[float] = []

        def step_time(shape: StepShape[float]) -> float:
            if not block:
                block.extend((time_factor * noise(random, STEP_SD, (_NOISE_BLOCK,))).tolist())
            return block.pop() * model.duration_s(shape)

        return step_time

    def _window(self, label: str, seed: int) -> tuple[np.random.Generator, float, float]:
        """Generator of one window, and its factors on time and on dynamic power."""
        self._windows += 1
        random = generator("window", *self._launch, self._windows, label, seed)
        time_factor = self._time_factor * factor(random, WINDOW_SD)
        return random, time_factor, self._power_factor * factor(random, WINDOW_SD)

    def _batches_before_crash(self, batches: int) -> int:
        """How many of the next batches the engine survives."""
        begun = self._hardware.batches_begun
        crash_at = [number for number in self._hardware.faults.crash_at if begun < number <= begun + batches]
        survived = min(crash_at) - begun - 1 if crash_at else batches
        self._hardware.batches_begun += min(survived + 1, batches)
        return survived

    def _crash(self) -> None:
        self._end("crashed")
        self._check_usable(0)

    def _end(self, how: str) -> None:
        self._ended = how
        self._hardware.hold(())

    def _check_usable(self, longest_tokens: int) -> None:
        if self._ended == "crashed":
            raise EngineCrashed("the engine has crashed", "CUDA error: an illegal memory access was encountered")
        if self._ended:
            raise EngineError("the engine has been stopped")
        limit = self._deployment.limits.max_context_tokens
        if longest_tokens > limit:
            raise EngineError(f"a request of {longest_tokens} tokens exceeds the context of {limit}")


def _steps(batching: Batching, start_s: FloatArray, duration_s: FloatArray, micro: IntArray) -> Steps:
    """Steps of (batches, m) times, all of the same composition, as a pipelined engine's scheduler sees them.

    Each of the (m,) micro-batches is a step of its own; those of one step are under way together. Sequences are dealt
    out evenly, prompt chunks first; a chunk stays whole.
    """
    batches, step = len(start_s), np.repeat(np.arange(len(batching)), micro)
    part = np.arange(len(step)) - (np.cumsum(micro) - micro)[step]
    chunks, decodes = batching.prefill_requests[step], batching.decode_requests[step]
    dealt, dealt_after = ((chunks + decodes) * so_far // micro[step] for so_far in (part, part + 1))

    def repeated(values: IntArray) -> IntArray:
        return np.tile(values, batches)

    def of_chunks(total: IntArray) -> IntArray:
        return _between(total[step], np.minimum(dealt, chunks), np.minimum(dealt_after, chunks), chunks)

    def of_decodes(total: IntArray) -> IntArray:
        return _between(total[step], np.maximum(dealt - chunks, 0), np.maximum(dealt_after - chunks, 0), decodes)

    return Steps(
        start_s=start_s[:, step].ravel(),
        duration_s=duration_s[:, step].ravel(),
        batch_index=np.repeat(np.arange(batches), len(step)),
        prefill_requests=repeated(of_chunks(batching.prefill_requests)),
        prefill_tokens=repeated(of_chunks(batching.prefill_tokens)),
        decode_requests=repeated(of_decodes(batching.decode_requests)),
        context_tokens=repeated(
            of_chunks(batching.prefill_context_tokens) + of_decodes(batching.decode_context_tokens)
        ),
    )


def _between(total: IntArray, first: IntArray, last: IntArray, of: IntArray) -> IntArray:
    """What items `first` to `last`, of `of` alike, have of a total; whole numbers that add up to it."""
    of = np.maximum(of, 1)
    return total * last // of - total * first // of


def _batch_requests(workload: BatchWorkload, batching: Batching, sent_s: FloatArray, bound_s: FloatArray) -> Requests:
    """Requests of all batches: the shape's times are step numbers, which pick from each batch's bounds.

    Args:
        sent_s: (batches,) when each batch was due.
        bound_s: (batches, m + 1) bounds of the steps.
    """
    batches, size = len(bound_s), workload.batch_size
    admitted_s, first_s, finished_s = (
        bound_s[:, moment.astype(np.int64)].ravel()
        for moment in (batching.admitted_s, batching.first_token_s, batching.finished_s)
    )
    scheduled_s = np.repeat(sent_s, size)
    return Requests(
        batch_index=np.repeat(np.arange(batches), size),
        scheduled_s=scheduled_s,
        sent_s=scheduled_s + _SEND_S,
        admitted_s=admitted_s,
        first_token_s=first_s + _TRANSIT_S,
        finished_s=finished_s + _TRANSIT_S,
        queue_s=admitted_s - (scheduled_s + _SEND_S),
        prefill_s=first_s - admitted_s,
        decode_s=finished_s - first_s,
        prompt_tokens=np.full(batches * size, workload.prompt_tokens),
        generated_tokens=np.tile(batching.generated_tokens, batches),
        asked_tokens=np.full(batches * size, workload.generated_tokens),
        outcome=np.full(batches * size, "finished"),
    )
