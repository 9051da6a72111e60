"""One launch, measured: cold baseline, launch, loaded baseline, warm-ups, then repetitions interleaved.

    cold idle | launch | wait out the spin | loaded idle
    repetition 1 of every point, in a seeded order | repetition 2 of every point, in another order | ...

A point is warmed up just before its first repetition. Points that failed before come last in each round, so that
one that breaks the engine takes nothing from the others. Runs are yielded as they are completed, so that they are
stored before the next one begins. The engine is stopped however the generator ends.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from harness.assemble import LaunchContext, batch_run, new_launch_id, replay_run, unmeasured_run, warmup_run
from harness.engines.base import Engine, Served
from harness.errors import EngineCrashed, EngineError, EngineHung, Interrupted, MeasurementError, WindowTooShort
from harness.happened import check_token_counts
from harness.measured import Baselines, Measured
from harness.meters.target import next_window_s
from harness.node import Node
from harness.plan import Assignment, LaunchPlan
from harness.points import BatchWorkload, Point, ReplayWorkload
from harness.prompts import request_seed
from harness.records import INTERRUPTED, RunBundle
from harness.replay import measure_capacity, resolved_schedule

_COUNTER_PERIOD_S = 0.1
_WINDOW_MARGINS = (1.05, 1.05, 4.0)
"""Batches are planned for so much more than the window, since their duration varies; after none, one or two windows
that came out short. Beside other work the pace changes from one second to the next."""
_WINDOW_ATTEMPTS = len(_WINDOW_MARGINS)
_SEED_STRIDE = 1 << 20
"""A window that is taken again has prompts of its own."""
_INVALID_IN_A_ROW = 5
"""After so many invalid runs without a valid one the launch is given up: the node is not fit to measure."""


@dataclass(slots=True)
class _Pace:
    """What the warm-up and the latest repetition say of a point: how long a batch takes, what load it takes."""

    prefill_s: float = 0.0
    full_s: float = 0.0
    capacity_requests_per_s: float = 0.0


def unheard(_: Assignment) -> None:
    """Nobody wants to know."""


def measure_launch(
    node: Node, plan: LaunchPlan, begins: Callable[[Assignment], None] = unheard
) -> Generator[RunBundle]:
    """Launch the plan's deployment and take its repetitions; yields each run when it is complete.

    An engine that does not start makes every assignment a failed run, a baseline that cannot be measured an
    invalid one. An engine that dies makes the current repetition a failed run (in a warm-up: all of the point's) and
    ends the launch; the rest is asked for again by whoever made the plan.

    Args:
        begins: told of each repetition before it, or its point's warm-up, begins: what is lost if the node is.
    """
    launch_id = new_launch_id()
    context = LaunchContext(node, plan, node.environment(plan.deployment), launch_id)
    try:
        cold = measure_idle(node, plan.rules.idle_s)
        engine = node.launch(plan.deployment, plan.seed)
    except EngineError as error:
        for assignment in plan.assignments:
            yield unmeasured_run(context, assignment, "failed", _engine_reason(error))
        return
    except MeasurementError as error:
        yield from _all_invalid(context, error)
        return
    try:
        node.clock.sleep(plan.rules.spin_s)
        try:
            loaded = measure_idle(node, plan.rules.idle_s)
        except MeasurementError as error:
            yield from _all_invalid(context, error)
            return
        context = context.launched(engine, Baselines(cold, loaded))
        yield from _Launch(node, plan, engine, context).run(begins)
    finally:
        engine.stop()


def measure_window(node: Node, work: Callable[[], Served]) -> Measured:
    """Do `work` inside a window of all counters, with quiet time on both sides."""
    sampler = node.sampler()
    sampler.start()
    try:
        sampler.settle()
        started_at = node.clock.utc()
        start_s = sampler.mark()
        served = work()
        end_s = sampler.mark()
        sampler.settle()
    except BaseException:
        # What became of the engine matters more than what the counters say of it.
        with suppress(MeasurementError):
            sampler.stop()
        raise
    recording = sampler.stop()
    return Measured(recording, start_s, end_s, started_at, served)


def measure_idle(node: Node, idle_s: float) -> Measured:
    """A window in which nothing is asked of the node."""

    def wait() -> Served:
        begin_s = node.clock.monotonic_s()
        node.clock.sleep(idle_s)
        return Served.nothing(begin_s, node.clock.monotonic_s())

    return measure_window(node, wait)


def _all_invalid(context: LaunchContext, error: MeasurementError) -> Iterator[RunBundle]:
    for assignment in context.plan.assignments:
        yield unmeasured_run(context, assignment, "invalid", f"idle baseline: {_measurement_reason(error)}")


def _measurement_reason(error: MeasurementError) -> str:
    return f"{type(error).__name__}: {error}"


def _engine_reason(error: EngineError) -> str:
    reason = f"{type(error).__name__}: {error}"
    if error.log_path:
        reason += f" (log: {error.log_path})"
    return f"{reason}\n{error.log_tail}" if error.log_tail else reason


class _Launch:
    """The part of a launch in which the engine is up."""

    def __init__(self, node: Node, plan: LaunchPlan, engine: Engine, context: LaunchContext) -> None:
        self._node, self._plan, self._engine, self._context = node, plan, engine, context
        self._rng = np.random.default_rng(plan.seed)
        self._pace: dict[str, _Pace] = {}
        self._invalid_in_a_row = 0
        self._unfit: set[str] = set()

    def run(self, begins: Callable[[Assignment], None]) -> Iterator[RunBundle]:
        for assignment in self._interleaved():
            point_id = assignment.point.point_id
            if point_id in self._unfit:
                continue
            begins(assignment)
            try:
                if point_id not in self._pace:
                    yield self._warm_up(Assignment(assignment.point, repetition=0, attempt=0, purpose="warmup"))
            except EngineError as error:
                self._unfit.add(point_id)
                for lost in (item for item in self._plan.assignments if item.point == assignment.point):
                    yield unmeasured_run(self._context, lost, "failed", f"warm-up: {_engine_reason(error)}")
                if isinstance(error, EngineCrashed | EngineHung):
                    return
                continue
            try:
                bundle = self._repetition(assignment)
            except MeasurementError as error:
                bundle = unmeasured_run(self._context, assignment, "invalid", _measurement_reason(error))
            except EngineError as error:
                yield unmeasured_run(self._context, assignment, "failed", _engine_reason(error), error.partial)
                if isinstance(error, EngineCrashed | EngineHung):
                    return
                continue
            except Interrupted as error:
                if error.partial is not None:
                    yield unmeasured_run(self._context, assignment, "failed", INTERRUPTED, error.partial)
                raise
            if self._context.start_temperature_c is None:
                self._context = replace(self._context, start_temperature_c=bundle.run.gpu_temperature_start_c)
            yield bundle
            self._invalid_in_a_row = self._invalid_in_a_row + 1 if bundle.run.status == "invalid" else 0
            if self._invalid_in_a_row >= _INVALID_IN_A_ROW:
                return

    def _interleaved(self) -> Iterator[Assignment]:
        """Round by round over the points, each round in a new seeded order (rule 23); failed points come last."""
        waiting: dict[str, list[Assignment]] = {point.point_id: [] for point in self._plan.points}
        for assignment in self._plan.assignments:
            waiting[assignment.point.point_id].append(assignment)
        failed = {item.point.point_id for item in self._plan.assignments if item.attempt > 1}
        while ids := [point_id for point_id, queue in waiting.items() if queue]:
            order = [ids[index] for index in self._rng.permutation(len(ids))]
            for point_id in sorted(order, key=lambda point_id: point_id in failed):
                yield waiting[point_id].pop(0)

    def _warm_up(self, assignment: Assignment) -> RunBundle:
        """Two batches of each kind, or a saturating replay: warms the engine and tells its pace."""
        point, pace = assignment.point, _Pace()
        started_at = self._node.clock.utc()
        seed = request_seed(point.point_id, 0, self._plan.seed)
        if isinstance(point.workload, BatchWorkload):
            prefill = self._engine.prepare_batches(point.workload.prefill_only(), 2, seed)()
            served = self._engine.prepare_batches(point.workload, 2, seed + 1)()
            check_token_counts(served, point.workload)
            pace.prefill_s, pace.full_s = _second_batch_s(prefill), _second_batch_s(served)
        else:
            schedule = self._plan.schedules[point.point_id]
            served, pace.capacity_requests_per_s = measure_capacity(
                self._engine, schedule, point.deployment.limits.max_sequences, seed
            )
        self._pace[point.point_id] = pace
        return warmup_run(self._context, assignment, served, started_at, pace.capacity_requests_per_s or None)

    def _repetition(self, assignment: Assignment) -> RunBundle:
        # Another phase against the counters' refresh each time: periodic work can alias (rule 4).
        self._node.clock.sleep(float(self._rng.uniform(0.0, _COUNTER_PERIOD_S)))
        if isinstance(assignment.point.workload, BatchWorkload):
            return self._batch_repetition(assignment, assignment.point.workload)
        return self._replay_repetition(assignment, assignment.point.workload)

    def _batch_repetition(self, assignment: Assignment, workload: BatchWorkload) -> RunBundle:
        point_id, window_s = assignment.point.point_id, self._plan.rules.window_s
        pace = self._pace[point_id]
        seed = request_seed(point_id, assignment.repetition, assignment.attempt)
        full, pace.full_s = self._measure_batches(workload, pace.full_s, window_s, seed)
        if workload.generated_tokens == 1:
            return batch_run(self._context, assignment, full, full)
        prefill, pace.prefill_s = self._measure_batches(workload.prefill_only(), pace.prefill_s, window_s, seed + 1)
        return batch_run(self._context, assignment, prefill, full)

    def _measure_batches(
        self, workload: BatchWorkload, batch_s: float, window_s: float, seed: int
    ) -> tuple[Measured, float]:
        """A window of at least `window_s`, and how long a batch took.

        One that came out short, or whose GPU energy is not sure enough, is taken again, longer.

        Raises:
            WindowTooShort: batches vary so much that no window was long enough.
        """
        rules = self._plan.rules
        long_enough: Measured | None = None
        short = 0
        for attempt in range(_WINDOW_ATTEMPTS):
            batches = max(1, int(np.ceil(window_s * _WINDOW_MARGINS[short] / batch_s)))
            work = self._engine.prepare_batches(workload, batches, seed + attempt * _SEED_STRIDE)
            measured = measure_window(self._node, work)
            check_token_counts(measured.served, workload)
            batch_s = measured.window_s / batches
            if measured.window_s < window_s:
                short += 1
                continue
            energy = measured.energies(self._engine.gpu_uuids).gpu
            longer_s = next_window_s(energy, measured.window_s, rules.uncertainty, rules.window_limit_s)
            long_enough = measured
            if longer_s is None:
                break
            window_s = longer_s
        if long_enough is not None:
            return long_enough, batch_s
        raise WindowTooShort(f"{_WINDOW_ATTEMPTS} windows in a row ended before {window_s:g} s: batches vary too much")

    def _replay_repetition(self, assignment: Assignment, workload: ReplayWorkload) -> RunBundle:
        point: Point = assignment.point
        capacity = self._pace[point.point_id].capacity_requests_per_s
        schedule, rate_scale = resolved_schedule(workload, self._plan.schedules[point.point_id], capacity)
        seed = request_seed(point.point_id, assignment.repetition, assignment.attempt)
        measured = measure_window(self._node, lambda: self._engine.replay(schedule, workload.drain_s, seed))
        check_token_counts(measured.served, None)
        bundle = replay_run(self._context, assignment, measured, schedule, rate_scale)
        return replace(bundle, run=replace(bundle.run, capacity_requests_per_s=capacity))


def _second_batch_s(served: Served) -> float:
    """Duration of the second of two batches, its gap included; the first one pays for warming up."""
    ends_s = [float(np.max(served.requests.finished_s[served.requests.batch_index == batch])) for batch in (0, 1)]
    return ends_s[1] - ends_s[0]
