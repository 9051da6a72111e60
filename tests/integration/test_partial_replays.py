"""A replay that is cut short leaves what was served of it: the requests, the steps and why it ended."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pytest

from harness.engines.base import Engine, Requests, Served
from harness.errors import EngineCrashed, EngineError, HarnessError, Interrupted
from harness.experiment import measure_launch
from harness.plan import Assignment, LaunchPlan, MeasurementRules
from harness.points import Deployment, Point, ReplayWorkload, Schedule
from harness.records import INTERRUPTED, RunBundle
from harness.simulator.node import SimulatedNode
from tests.unit.builders import deployment, node

RULES = MeasurementRules(repetitions=2, window_s=0.5, idle_s=1.0)
REQUESTS = 40
SCHEDULE = Schedule(np.arange(REQUESTS) * 0.2, np.full(REQUESTS, 128), np.full(REQUESTS, 16), REQUESTS * 0.2)
WORKLOAD = ReplayWorkload("t", "0" * 64, 0.0, REQUESTS * 0.2, "clip-prompt", 30.0)


@dataclass
class Cut:
    """A node whose engine's second replay (the first is the capacity probe) ends in an error after some requests."""

    inner: SimulatedNode
    error: type[HarnessError]

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def launch(self, item: Deployment, seed: int) -> Engine:
        return _CutEngine(self.inner.launch(item, seed), self.error)


class _CutEngine:
    def __init__(self, inner: Engine, error: type[HarnessError]) -> None:
        self._inner, self._error, self._replays = inner, error, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def replay(self, schedule: Schedule, drain_s: float, seed: int) -> Served:
        served = self._inner.replay(schedule, drain_s, seed)
        self._replays += 1
        if self._replays != 2:
            return served
        requests = served.requests
        lost = np.arange(len(requests)) >= len(requests) // 2
        kept = replace(
            requests,
            finished_s=np.where(lost, np.nan, requests.finished_s),
            outcome=np.where(lost, "lost", requests.outcome),
        )
        partial = replace(served, requests=Requests(**{n: getattr(kept, n) for n in Requests.__dataclass_fields__}))
        if issubclass(self._error, EngineError):
            raise self._error("the server died", "last words", partial=partial)
        raise self._error("ended by SIGTERM", partial=partial)


def runs_until(error: type[HarnessError]) -> tuple[list[RunBundle], HarnessError | None]:
    point = Point(deployment(), WORKLOAD)
    assignments = tuple(Assignment(point, repetition, 1) for repetition in (1, 2))
    watched = Cut(SimulatedNode(node(), "n", seed=1, start_utc=datetime(2026, 1, 1, tzinfo=UTC)), error)
    plan = LaunchPlan("t", point.deployment, assignments, RULES, 3, {point.point_id: SCHEDULE})
    bundles: list[RunBundle] = []
    try:
        for bundle in measure_launch(watched, plan):
            bundles.append(bundle)
    except HarnessError as raised:
        return bundles, raised
    return bundles, None


@pytest.mark.parametrize(("error", "reason"), [(EngineCrashed, "EngineCrashed: the server died"),
                                               (Interrupted, INTERRUPTED)])  # fmt: skip
def test_what_was_served_before_the_end_is_kept(error: type[HarnessError], reason: str) -> None:
    bundles, raised = runs_until(error)
    assert (raised is not None) == (error is Interrupted)
    (cut,) = [bundle for bundle in bundles if bundle.run.purpose == "sweep"]
    assert (cut.run.status, cut.run.reason.splitlines()[0]) == ("failed", reason)
    assert (cut.run.requests, cut.run.requests_unfinished) == (REQUESTS // 2, REQUESTS // 2)
    assert cut.run.energies["gpu"].energy_j is None
    assert cut.run.ttft_mean_s is not None
    (detail,) = cut.details
    assert detail.window == "replay"
    assert detail.requests.outcome.tolist() == ["finished"] * (REQUESTS // 2) + ["lost"] * (REQUESTS // 2)
    assert len(detail.steps) > 0


def test_the_wall_clock_of_a_cut_replay_is_that_of_its_start() -> None:
    bundles, _ = runs_until(EngineCrashed)
    warmup, cut = (bundle.run for bundle in bundles)
    assert cut.window_started_s is not None
    assert (cut.started_at - warmup.started_at).total_seconds() == pytest.approx(warmup.window_s, abs=1.0)
