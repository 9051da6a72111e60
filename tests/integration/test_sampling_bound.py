"""What a sampling sensor may have missed, from the window's energies to the run's column and flag."""

from dataclasses import replace
from typing import Any

import pytest

import harness.measured
from harness.experiment import measure_launch
from harness.meters.window import WindowEnergies, window_energies
from harness.plan import Assignment, LaunchPlan, MeasurementRules
from harness.points import BatchWorkload, Point
from harness.records import RunRecord
from harness.simulator.node import SimulatedNode
from tests.unit.builders import deployment, node

BOUND_J = 120.0


def one_run() -> RunRecord:
    item = deployment()
    point = Point(item, BatchWorkload(8, 256, 32))
    rules = MeasurementRules(repetitions=1, window_s=0.5, idle_s=1.0)
    plan = LaunchPlan("t", item, (Assignment(point, 1, 1),), rules, 3)
    node_in_hand = SimulatedNode(node(), "n", seed=2)
    (run,) = (bundle.run for bundle in measure_launch(node_in_hand, plan) if bundle.run.purpose == "sweep")
    assert run.status == "ok"
    return run


def told(monkeypatch: pytest.MonkeyPatch, bound_j: float | None) -> None:
    def energies(*args: Any, **kwargs: Any) -> WindowEnergies:
        return replace(window_energies(*args, **kwargs), gpu_sampling_bound_j=bound_j)

    monkeypatch.setattr(harness.measured, "window_energies", energies)


def test_the_simulated_nodes_counters_miss_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.meters.window.integrates", lambda edges, shown: False)  # known, not only seen
    run = one_run()
    assert run.gpu_sampling_bound_j == 0.0
    assert "sampling_unknown" not in run.flags


def test_the_sampling_bound_is_per_batch_as_the_energy_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, BOUND_J)
    run = one_run()
    assert run.batches_in_window is not None
    assert run.batches_in_window > 1
    assert run.gpu_sampling_bound_j == pytest.approx(BOUND_J / run.batches_in_window)
    assert "sampling_unknown" not in run.flags


def test_where_it_is_not_known_the_column_is_null_and_the_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, None)
    run = one_run()
    assert run.gpu_sampling_bound_j is None
    assert "sampling_unknown" in run.flags
