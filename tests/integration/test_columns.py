"""Each figure of a run against what it must follow from: the details beside it, and the simulated node's truth."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from harness.clock import Clock
from harness.engines.base import Engine, Served
from harness.experiment import measure_launch
from harness.plan import Assignment, LaunchPlan, MeasurementRules
from harness.points import BatchWorkload, Deployment, Point, ReplayWorkload, Schedule
from harness.records import RunBundle
from harness.simulator.node import SimulatedNode
from tests.unit.builders import deployment, node

RULES = MeasurementRules(repetitions=3, window_s=0.5, idle_s=1.0)


@dataclass
class Watch:
    """A node that keeps everything its engine served, and the seeds that it was asked for."""

    inner: SimulatedNode

    def __post_init__(self) -> None:
        self.served: list[Served] = []
        self.seeds: list[int] = []
        self.begun_s: list[float] = []
        self.clock = _WatchedClock(self.inner.clock)

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def launch(self, item: Deployment, seed: int) -> Engine:
        return _WatchedEngine(self.inner.launch(item, seed), self)


class _WatchedClock:
    """The node's clock, with a note of every sleep that the experiment asks for."""

    def __init__(self, inner: Clock) -> None:
        self._inner = inner
        self.slept_s: list[float] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        self._inner.sleep(duration_s)


class _WatchedEngine:
    def __init__(self, inner: Engine, watch: Watch) -> None:
        self._inner, self._watch = inner, watch

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def prepare_batches(self, workload: BatchWorkload, batches: int, seed: int) -> Callable[[], Served]:
        self._watch.seeds.append(seed)
        serve = self._inner.prepare_batches(workload, batches, seed)
        return lambda: self._keep(serve())

    def replay(self, schedule: Schedule, drain_s: float, seed: int) -> Served:
        self._watch.seeds.append(seed)
        return self._keep(self._inner.replay(schedule, drain_s, seed))

    def _keep(self, served: Served) -> Served:
        self._watch.served.append(served)
        self._watch.begun_s.append(served.start_s)
        return served


def measured(watch: Watch, item: Deployment, workload: object, schedule: Schedule | None = None,
             rules: MeasurementRules = RULES) -> Iterator[RunBundle]:  # fmt: skip
    point = Point(item, workload)
    assignments = tuple(Assignment(point, repetition, 1) for repetition in range(1, rules.repetitions + 1))
    schedules = {} if schedule is None else {point.point_id: schedule}
    return measure_launch(watch, LaunchPlan("t", item, assignments, rules, 3, schedules))


def truth_j(watch: Watch, uuids: tuple[str, ...], start_s: float, end_s: float) -> float:
    return sum(watch.inner.truth.energy_j("gpu", uuid, start_s, end_s) for uuid in uuids)


def test_batch_columns_follow_from_steps_requests_and_truth() -> None:
    watch = Watch(SimulatedNode(node(), "n", seed=2, gain_sd=0.0))
    for bundle in measured(watch, deployment(tp=2), BatchWorkload(8, 512, 32)):
        run = bundle.run
        if run.purpose == "warmup":
            continue
        full, prefill = watch.served[-2], watch.served[-1]
        end_s = run.window_started_s + run.window_s
        prefill_end_s = run.prefill_window_started_s + run.prefill_window_s
        assert run.window_s >= RULES.window_s
        assert run.prefill_window_s >= RULES.window_s
        assert (run.batches_in_window, run.prefill_batches_in_window) == (full.batches, prefill.batches)
        assert run.duration_s == pytest.approx(run.window_s / full.batches)
        assert run.prefill_s == pytest.approx(run.prefill_window_s / prefill.batches)
        # Energies per batch.
        span, prefill_span = (run.window_started_s, end_s), (run.prefill_window_started_s, prefill_end_s)
        assert run.energies["gpu"].energy_j == pytest.approx(
            truth_j(watch, run.gpu_uuids, *span) / full.batches, rel=0.01
        )
        prefill_j = truth_j(watch, run.gpu_uuids, *prefill_span) / prefill.batches
        assert run.energies["gpu_prefill"].energy_j == pytest.approx(prefill_j, rel=0.01)
        others = tuple(uuid for uuid in watch.inner.gpu_uuids if uuid not in run.gpu_uuids)
        assert len(others) == 6
        assert run.energies["idle_gpus"].energy_j == pytest.approx(
            truth_j(watch, others, *span) / full.batches, rel=0.02
        )
        # Power readings see 25 of each 100 ms, and prefill and decode differ.
        assert run.gpu_power_integral_j == pytest.approx(run.energies["gpu"].energy_j, rel=0.25)
        net_j = run.energies["gpu"].energy_j - run.gpu_loaded_idle_w * run.duration_s
        assert run.gpu_net_energy_j == pytest.approx(net_j)
        for domain in ("gpu", "cpu", "dram"):
            decode = run.energies[f"{domain}_decode"]
            whole, part = run.energies[domain], run.energies[f"{domain}_prefill"]
            assert decode.energy_j == pytest.approx(whole.energy_j - part.energy_j)
            assert decode.uncertainty_j == pytest.approx(np.hypot(whole.uncertainty_j, part.uncertainty_j))
        # What really happened.
        steps = full.steps
        decoding = steps.decode_requests[steps.decode_requests > 0]
        assert run.decode_batch_mean == pytest.approx(decoding.mean())
        assert run.mixed_step_fraction == 0.0
        assert run.gap_fraction == pytest.approx(1 - steps.duration_s.sum() / run.window_s, abs=0.01)
        assert 0.01 < run.gap_fraction < run.prefill_gap_fraction < 1
        assert run.tokens_generated == full.batches * 8 * 32 == full.requests.generated_tokens.sum()
        assert run.requests == full.batches * 8
        first_s = full.requests.first_token_s - full.requests.scheduled_s
        assert run.ttft_mean_s == pytest.approx(first_s.mean())
        after_s = (full.requests.finished_s - full.requests.first_token_s) / 31
        assert run.tpot_mean_s == pytest.approx(after_s.mean())


def test_no_two_windows_have_the_same_prompts_and_each_waits_another_phase() -> None:
    watch = Watch(SimulatedNode(node(), "n", seed=2))
    list(measured(watch, deployment(), BatchWorkload(2, 64, 8)))
    assert len(set(watch.seeds)) == len(watch.seeds) == 2 + 2 * 3
    # Counters refresh every 0.1 s: a wait of its own, up to that long, comes before each repetition.
    *baselines_s, first_s, second_s, third_s = watch.clock.slept_s
    assert baselines_s == [RULES.idle_s, RULES.spin_s, RULES.idle_s]
    assert len({first_s, second_s, third_s}) == 3
    assert all(0 <= wait_s <= 0.1 for wait_s in (first_s, second_s, third_s))


def replay_case(rate_per_s: float, duration_s: float, generated: int, capacity_share: float | None = None,
                drain_s: float = 100.0) -> tuple[ReplayWorkload, Schedule]:  # fmt: skip
    count = int(rate_per_s * duration_s)
    schedule = Schedule(
        arrival_s=np.sort(np.random.default_rng(5).uniform(0, duration_s, count)),
        prompt_tokens=np.full(count, 300),
        generated_tokens=np.full(count, generated),
        duration_s=duration_s,
    )
    workload = ReplayWorkload(
        "t", "0", 0.0, duration_s, "drop", drain_s, None if capacity_share else 1.0, capacity_share
    )
    return workload, schedule


def test_replay_columns_follow_from_requests_steps_and_truth() -> None:
    watch = Watch(SimulatedNode(node(), "n", seed=2, gain_sd=0.0))
    workload, schedule = replay_case(4.0, 20.0, 60)
    for bundle in measured(watch, deployment(), workload, schedule):
        run, served = bundle.run, watch.served[-1]
        if run.purpose == "warmup":
            continue
        assert run.status == "ok"
        assert run.requests == len(schedule) == 80
        assert run.tokens_generated == 80 * 60
        assert (run.prompt_tokens, run.generated_tokens) == (300, 60)
        gpu_j = truth_j(watch, run.gpu_uuids, run.window_started_s, run.window_started_s + run.window_s)
        assert run.energies["gpu"].energy_j == pytest.approx(gpu_j, rel=0.01)
        assert run.duration_s == run.window_s
        assert run.formation_mean_s == pytest.approx((served.requests.admitted_s - served.requests.scheduled_s).mean())
        assert run.latency_mean_s == pytest.approx((served.requests.finished_s - served.requests.scheduled_s).mean())
        decoding = served.steps.decode_requests[served.steps.decode_requests > 0]
        assert run.decode_batch_mean == pytest.approx(decoding.mean())
        arrivals_s = served.requests.scheduled_s - served.requests.scheduled_s[0]
        assert arrivals_s == pytest.approx(schedule.arrival_s - schedule.arrival_s[0])


def test_a_share_of_capacity_is_a_share_of_what_the_deployment_completes_when_full() -> None:
    watch = Watch(SimulatedNode(node(), "n", seed=2))
    workload, schedule = replay_case(2.0, 30.0, 200, capacity_share=0.5)
    runs = [bundle.run for bundle in measured(watch, deployment(), workload, schedule)]
    probe = watch.served[0]
    order = np.sort(probe.requests.finished_s)
    tenth = len(order) // 10
    completed_per_s = (len(order) - 2 * tenth - 1) / (order[-tenth - 1] - order[tenth])
    for run in runs[1:]:
        assert run.capacity_requests_per_s == pytest.approx(completed_per_s)
        assert run.rate_scale == pytest.approx(0.5 * completed_per_s / 2.0)
    replayed = watch.served[-1].requests.scheduled_s
    assert len(replayed) / np.ptp(replayed) == pytest.approx(0.5 * completed_per_s, rel=0.1)


def test_a_saturated_replay_is_measured_in_its_steady_state() -> None:
    watch = Watch(SimulatedNode(node(), "n", seed=2, gain_sd=0.0))
    item = replace(deployment(), limits=replace(deployment().limits, max_sequences=16))
    workload, schedule = replay_case(20.0, 60.0, 200, drain_s=200.0)
    (run,) = (
        bundle.run
        for bundle in measured(watch, item, workload, schedule, replace(RULES, repetitions=1))
        if bundle.run.purpose == "sweep"
    )
    served = watch.served[-1]
    assert run.status == "saturated"
    assert "steady_state_window" in run.flags
    first_s, done_s = np.sort(served.requests.first_token_s), np.sort(served.requests.finished_s)
    end_s = run.window_started_s + run.window_s
    assert run.window_started_s == first_s[15]
    assert end_s == done_s[len(done_s) - 17]
    inside = (served.requests.finished_s >= run.window_started_s) & (served.requests.finished_s <= end_s)
    assert run.requests == inside.sum() < len(schedule)
    assert run.latency_mean_s == pytest.approx(
        (served.requests.finished_s - served.requests.scheduled_s)[inside].mean()
    )
    assert 0 <= run.gap_fraction < 0.2
    assert run.decode_batch_mean == pytest.approx(16, abs=0.5)
    gpu_j = truth_j(watch, run.gpu_uuids, run.window_started_s, end_s)
    energy = run.energies["gpu"]
    assert abs(energy.energy_j - gpu_j) <= energy.uncertainty_j
    moved_s = run.window_started_s - watch.begun_s[-1]
    began = watch.inner.clock.utc().timestamp() - watch.inner.clock.monotonic_s()
    assert run.started_at.timestamp() - began == pytest.approx(run.window_started_s, abs=0.01)
    assert moved_s > 0.1
