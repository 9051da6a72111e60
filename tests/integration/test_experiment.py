"""One launch on the simulated node: the order of things, what happens when they go wrong, and the truth."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from harness.clock import WallClock
from harness.engines.base import Engine, Served
from harness.errors import ClocksApart, EngineCrashed, HarnessError, Interrupted
from harness.experiment import measure_launch, measure_window
from harness.meters.base import Recording, Sampler
from harness.plan import Assignment, LaunchPlan, MeasurementRules
from harness.points import BatchWorkload, Deployment, Environment, Point
from harness.records import RunRecord
from harness.simulator.node import SimulatedNode
from tests.unit.builders import deployment, node

RULES = MeasurementRules(repetitions=2, window_s=0.5, idle_s=1.0)


def plan(item: Deployment, workloads: list[BatchWorkload], repetitions: int = 2, window_s: float = 0.5) -> LaunchPlan:
    rules = MeasurementRules(repetitions=repetitions, window_s=window_s, idle_s=1.0)
    assignments = tuple(
        Assignment(Point(item, workload), repetition, 1)
        for workload in workloads
        for repetition in range(1, repetitions + 1)
    )
    return LaunchPlan("test", item, assignments, rules, seed=7)


@dataclass
class Diary:
    """Wraps a node and writes down what is asked of it, in order."""

    inner: SimulatedNode
    entries: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def environment(self, item: Deployment) -> Environment:
        return self.inner.environment(item)

    def sampler(self) -> Sampler:
        return _DiarySampler(self.inner.sampler(), self.entries)

    def launch(self, item: Deployment, seed: int) -> Engine:
        self.entries.append("launch")
        return _DiaryEngine(self.inner.launch(item, seed), self.entries)


class _DiarySampler:
    def __init__(self, inner: Sampler, entries: list[str]) -> None:
        self._inner, self._entries = inner, entries

    def start(self) -> None:
        self._entries.append("start")
        self._inner.start()

    def settle(self) -> None:
        self._entries.append("settle")
        self._inner.settle()

    def mark(self) -> float:
        self._entries.append("mark")
        return self._inner.mark()

    def stop(self) -> Recording:
        self._entries.append("stop")
        return self._inner.stop()


class _DiaryEngine:
    def __init__(self, inner: Engine, entries: list[str]) -> None:
        self._inner, self._entries = inner, entries

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def prepare_batches(self, workload: BatchWorkload, batches: int, seed: int) -> object:
        self._entries.append(f"prepare {workload.batch_size}+{workload.generated_tokens}")
        serve = self._inner.prepare_batches(workload, batches, seed)

        def served() -> object:
            self._entries.append("serve")
            return serve()

        return served

    def stop(self) -> None:
        self._entries.append("engine stop")
        self._inner.stop()


def test_baseline_launch_baseline_warmup_then_windows_between_quiet_times() -> None:
    diary = Diary(SimulatedNode(node(), "n", 1))
    runs = [bundle.run for bundle in measure_launch(diary, plan(deployment(), [BatchWorkload(2, 64, 8)], 1))]
    idle = ["start", "settle", "mark", "mark", "settle", "stop"]
    window = ["start", "settle", "mark", "serve", "mark", "settle", "stop"]
    assert diary.entries == [
        *idle, "launch", *idle,
        "prepare 2+1", "serve", "prepare 2+8", "serve",
        "prepare 2+8", *window, "prepare 2+1", *window,
        "engine stop",
    ]  # fmt: skip
    assert [run.purpose for run in runs] == ["warmup", "sweep"]


def test_bodies_are_prepared_before_the_window_opens() -> None:
    diary = Diary(SimulatedNode(node(), "n", 1))
    list(measure_launch(diary, plan(deployment(), [BatchWorkload(2, 64, 8)], 1)))
    for index, entry in enumerate(diary.entries):
        if entry.startswith("prepare") and diary.entries[index + 1] == "start":
            assert "prepare" not in "".join(diary.entries[index + 1 : index + 8])


def test_repetitions_are_interleaved_over_the_points() -> None:
    workloads = [BatchWorkload(size, 64, 8) for size in (1, 2, 4, 8)]
    bundles = measure_launch(SimulatedNode(node(), "n", 1), plan(deployment(), workloads, 3))
    runs = [bundle.run for bundle in bundles if bundle.run.purpose == "sweep"]
    rounds = [runs[index : index + 4] for index in range(0, 12, 4)]
    for number, taken in enumerate(rounds, start=1):
        assert {run.repetition for run in taken} == {number}
        assert len({run.point_id for run in taken}) == 4
    assert len({tuple(run.batch_size for run in taken) for taken in rounds}) > 1, "each round has an order of its own"


def test_closing_the_generator_stops_the_engine() -> None:
    diary = Diary(SimulatedNode(node(), "n", 1))
    bundles = measure_launch(diary, plan(deployment(), [BatchWorkload(2, 64, 8)]))
    next(bundles)
    bundles.close()
    assert diary.entries[-1] == "engine stop"


def test_a_batch_of_one_token_is_its_own_prefill() -> None:
    bundles = list(measure_launch(SimulatedNode(node(), "n", 1), plan(deployment(), [BatchWorkload(2, 64, 1)], 1)))
    run = bundles[-1].run
    assert run.energies["gpu"] == run.energies["gpu_prefill"]
    assert run.energies["gpu_decode"].energy_j == 0.0


class Hastening:
    """Its node's engine takes less than half the time for a batch in each window that follows another."""

    def __init__(self, inner: SimulatedNode) -> None:
        self._inner, self._share = inner, 1.0

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def launch(self, item: Deployment, seed: int) -> Engine:
        engine = self._inner.launch(item, seed)
        prepare = engine.prepare_batches

        def prepare_fewer(workload: BatchWorkload, batches: int, seed: int) -> Callable[[], Served]:
            if batches > 2:  # those of the warm-up
                self._share *= 0.45
            return prepare(workload, int(np.ceil(batches * self._share)), seed)

        engine.prepare_batches = prepare_fewer  # type: ignore[method-assign]
        return engine


def test_a_window_is_long_enough_although_each_before_it_told_too_slow_a_pace() -> None:
    (run,) = [
        bundle.run
        for bundle in measure_launch(
            Hastening(SimulatedNode(node(), "n", 1)), plan(deployment(), [BatchWorkload(1, 64, 1)], 1)
        )
        if bundle.run.purpose == "sweep"
    ]
    assert (run.status, run.reason) == ("ok", "")
    assert run.window_s >= 0.5


def measured(node_: SimulatedNode, workloads: list[BatchWorkload], item: Deployment, window_s: float, count: int):  # type: ignore[no-untyped-def]
    """Runs with the truth of their full window beside each: (run, gpu truth J, cpu truth J)."""
    for bundle in measure_launch(node_, plan(item, workloads, count, window_s)):
        run: RunRecord = bundle.run
        if run.purpose != "sweep":
            continue
        assert run.window_started_s is not None
        assert run.window_s is not None
        end_s = run.window_started_s + run.window_s
        gpu_j = sum(node_.truth.energy_j("gpu", uuid, run.window_started_s, end_s) for uuid in run.gpu_uuids)
        cpu_j = node_.truth.energy_j("cpu", None, run.window_started_s, end_s)
        yield run, gpu_j, cpu_j


def test_energy_per_batch_meets_the_truth_and_the_uncertainty_covers_it() -> None:
    """Median error at most 1% for windows of 2 s or longer; coverage of the truth at least 90%."""
    errors, covered, widths = [], [], []
    cases = [(1, 1), (2, 1), (8, 1), (2, 2)]
    workloads = [BatchWorkload(1, 128, 16), BatchWorkload(8, 1024, 64), BatchWorkload(32, 256, 200)]
    for tp, pp in cases:
        for kind, gpu in (("dgx-a100", "a100"), ("dgx-h100", "h100")):
            simulated = SimulatedNode(node(kind), kind, seed=tp * 10 + pp, gain_sd=0.0)
            for run, gpu_j, _ in measured(simulated, workloads, deployment(tp=tp, pp=pp, gpu=gpu), 2.0, 5):
                assert run.status == "ok", run.reason
                assert run.window_s is not None
                assert run.window_s >= 2.0
                energy = run.energies["gpu"]
                assert energy.energy_j is not None
                assert energy.uncertainty_j is not None
                truth_j = gpu_j / run.batches_in_window
                errors.append(abs(energy.energy_j / truth_j - 1))
                covered.append(abs(energy.energy_j - truth_j) <= energy.uncertainty_j)
                widths.append(energy.uncertainty_j / truth_j)
    assert len(errors) == 120
    assert np.median(errors) <= 0.01
    assert np.mean(covered) >= 0.9
    assert np.median(widths) <= 0.02, "an uncertainty that covers everything says nothing"


def test_cpu_energy_meets_the_truth_across_a_wrap() -> None:
    simulated = SimulatedNode(node("dgx-a100"), "n", seed=3, gain_sd=0.0)
    # A package wraps at 65.5 kJ, after a quarter of an hour: enough windows to see some.
    for run, _, cpu_j in measured(simulated, [BatchWorkload(8, 128, 400)], deployment(gpu="a100"), 10.0, 90):
        energy_j = run.energies["cpu"].energy_j
        assert energy_j is not None
        assert energy_j * run.batches_in_window == pytest.approx(cpu_j, rel=0.01)


def test_board_gain_is_not_hidden_in_the_random_uncertainty() -> None:
    simulated = SimulatedNode(node(), "n", seed=5, gain_sd=0.05)
    runs = list(measured(simulated, [BatchWorkload(8, 128, 100)], deployment(), 2.0, 3))
    for run, gpu_j, _ in runs:
        assert run.gpu_gain_uncertainty == 0.05
        energy = run.energies["gpu"]
        assert energy.uncertainty_j < 0.02 * gpu_j / run.batches_in_window


class Unfit:
    """A sampler that is stopped by somebody as it starts, or whose readings cannot be believed in the end."""

    def __init__(self, starts: bool) -> None:
        self._starts, self.stops = starts, 0

    def start(self) -> None:
        if not self._starts:
            raise Interrupted("ended by SIGTERM")

    def settle(self) -> None: ...

    def mark(self) -> float:
        return 0.0

    def stop(self) -> Recording:
        self.stops += 1
        raise ClocksApart("the clock of b is known to 9 ms")


def crash() -> Served:
    raise EngineCrashed("the engine ended by signal 9")


@pytest.mark.parametrize(
    ("starts", "work", "told"),
    [(False, crash, Interrupted), (True, crash, EngineCrashed), (True, lambda: Served.nothing(0.0, 1.0), ClocksApart)],
)
def test_what_became_of_a_window_is_told_by_its_cause(
    starts: bool, work: Callable[[], Served], told: type[HarnessError]
) -> None:
    sampler = Unfit(starts)
    node = SimpleNamespace(sampler=lambda: sampler, clock=WallClock())
    with pytest.raises(told):
        measure_window(node, work)  # type: ignore[arg-type]
    assert sampler.stops == (1 if starts else 0)
