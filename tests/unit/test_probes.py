"""Probes: asked for when all else is done, exactly what is missing of them, and not for ever."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from harness.controller import Controller
from harness.node import board_group
from harness.plan import LaunchPlan, MeasurementRules, Probes
from harness.points import Environment, Point, ReplayWorkload
from harness.probes import probe_numbers
from harness.space import Candidate, Group, Space
from tests.unit.builders import batch_point, deployment
from tests.unit.test_controller import FakeHost, Run

RULES = MeasurementRules(repetitions=2, max_attempts=2, probes=Probes(points=2, launches=3))
WIDE = batch_point(4, tp=4)
REPLAY = Point(deployment(tp=2), ReplayWorkload("t", "", 0.0, 10.0, "drop", 10.0))
FIRST, SECOND, THIRD = (batch_point(size, tp=2) for size in (1, 8, 32))
SAME_SIZE = batch_point(1, pp=2)
POINTS = (WIDE, REPLAY, FIRST, SECOND, THIRD, SAME_SIZE)


def controller(rules: MeasurementRules = RULES) -> Controller:
    groups: dict[object, list[Candidate]] = {}
    for point in POINTS:
        groups.setdefault(point.deployment, []).append(Candidate(point, "trace", "w"))
    space = Space(tuple(Group(item[0].point.deployment, tuple(item)) for item in groups.values()), {})
    return Controller("s", space, rules, seed=0)


def environment_id(host: FakeHost) -> str:
    return host.environment(FIRST.deployment).environment_id


def sweep_runs(host: FakeHost, *but: Point) -> Iterator[Run]:
    for point in POINTS:
        if point not in but:
            yield from (Run(point.point_id, environment_id(host), number, 1) for number in (1, 2))


def probe_runs(host: FakeHost, plan: LaunchPlan, status: str = "ok") -> list[Run]:
    return [
        Run(item.point.point_id, environment_id(host), item.repetition, item.attempt, status, item.purpose)
        for item in plan.assignments
    ]


def taken(plan: LaunchPlan | None) -> list[tuple[Point, int, int]]:
    assert plan is not None
    assert {item.purpose for item in plan.assignments} == {"probe"}
    return [(item.point, item.repetition, item.attempt) for item in plan.assignments]


def test_probes_come_when_all_is_settled_in_launches_with_seeds_of_their_own() -> None:
    host, asked = FakeHost(), controller()
    asked.tell(sweep_runs(host, SAME_SIZE))
    sweep = asked.ask(host)
    assert sweep is not None
    assert {(item.point, item.purpose) for item in sweep.assignments} == {(SAME_SIZE, "sweep")}
    asked.tell(Run(SAME_SIZE.point_id, environment_id(host), number, 1) for number in (1, 2))
    asked.finished(sweep, host)
    seeds = []
    for launch in (1, 2, 3):
        plan = asked.ask(host)
        # Of the deployments on two GPUs the first; not its replay, and no third point.
        assert taken(plan) == [(point, number, 1) for point in (FIRST, SECOND) for number in probe_numbers(launch)]
        assert plan is not None
        assert asked.ask(host) is None, "the deployment is in flight"
        asked.tell(probe_runs(host, plan))
        asked.finished(plan, host)
        seeds.append(plan.seed)
    assert asked.ask(host) is None
    assert len(set(seeds)) == 3
    first, second, third = (board_group(seed, 8) for seed in seeds)
    assert first == second != third, "two launches on each board: the two can be told apart"


def test_a_probes_numbers_are_no_sweep_repetitions() -> None:
    numbers = [number for launch in range(1, 101) for number in probe_numbers(launch)]
    assert len(set(numbers)) == len(numbers) == 200
    assert min(numbers) > 1000, "the most repetitions that a sweep file allows"
    host, asked = FakeHost(), controller()
    told = [
        Run(FIRST.point_id, environment_id(host), number, 1, purpose="probe") for number in (1, 2, *probe_numbers(1))
    ]
    asked.tell(told)
    assert asked.standing(FIRST, host).settled == 0
    asked = controller()
    asked.tell(replace(run, purpose="sweep") for run in told)
    assert asked.probe_standing([host]).settled == 0


def test_a_new_controller_asks_only_for_the_probes_that_are_missing() -> None:
    host, asked = FakeHost(), controller()
    asked.tell(sweep_runs(host))
    plan = asked.ask(host)
    assert plan is not None
    first, *_, last = probe_runs(host, plan)
    resumed = controller()
    resumed.tell(sweep_runs(host))
    resumed.tell([first, replace(last, status="invalid")])
    assert resumed.remaining([host]) == 11
    again = resumed.ask(host)
    assert taken(again) == [(FIRST, 1002, 1), (SECOND, 1001, 1), (SECOND, 1002, 2)]
    assert again is not None
    assert again.seed != plan.seed


def test_probes_are_given_up_after_their_attempts() -> None:
    host, asked = FakeHost(), controller()
    asked.tell(sweep_runs(host))
    launches = 0
    while (plan := asked.ask(host)) is not None:
        launches += 1
        assert launches <= 6
        asked.tell(probe_runs(host, plan, "failed"))
        asked.finished(plan, host)
    assert launches == 6, "three launches, two attempts at each"
    standing = asked.probe_standing([host])
    assert (standing.settled, standing.wanted, standing.given_up) == (0, 12, 12)
    assert asked.remaining([host]) == 0
    assert asked.standing(FIRST, host).done, "its own repetitions stand"


def test_probes_count_in_what_remains_and_in_what_comes_next() -> None:
    host, twin, asked = FakeHost(), FakeHost("node-2"), controller()
    assert asked.remaining([host, twin]) == 6 * 2 + 12
    standing = asked.probe_standing([host, twin])
    assert standing.points == ((FIRST.point_id, environment_id(host)), (SECOND.point_id, environment_id(host)))
    assert standing.wanted == 12
    asked.tell(sweep_runs(host))
    preview = list(asked.preview(host, 100))
    assert [(point, count) for point, _, count in preview] == [(FIRST, 2), (SECOND, 2)] * 3
    assert all("probe" in why for _, why, _ in preview)


def test_points_that_cannot_be_measured_are_not_probed() -> None:
    host = FakeHost(obstacles={FIRST.point_id: "too big"})
    assert [key[0] for key in controller().probe_standing([host]).points] == [SECOND.point_id, THIRD.point_id]
    asked = controller()
    asked.tell(Run(SECOND.point_id, environment_id(host), number, 2, "failed") for number in (1, 2))
    assert [key[0] for key in asked.probe_standing([host]).points] == [THIRD.point_id]
    asked.tell([Run(SECOND.point_id, environment_id(host), 1, 3)])
    assert [key[0] for key in asked.probe_standing([host]).points] == [SECOND.point_id, THIRD.point_id]


def test_each_environment_has_probes_of_its_own() -> None:
    class TwoEngines(FakeHost):
        def environment(self, item: object) -> Environment:
            found = super().environment(FIRST.deployment)
            return replace(found, engine_version="2") if item == SAME_SIZE.deployment else found

    points = {key[0] for key in controller().probe_standing([TwoEngines()]).points}
    assert points == {FIRST.point_id, SECOND.point_id, SAME_SIZE.point_id}


@pytest.mark.parametrize("host", [FakeHost(), FakeHost(obstacles={point.point_id: "no" for point in POINTS})])
def test_no_probes_where_none_are_asked_for_or_possible(host: FakeHost) -> None:
    rules = RULES if host.obstacles else replace(RULES, probes=Probes(points=0))
    asked = controller(rules)
    asked.tell(sweep_runs(host))
    assert asked.ask(host) is None
    assert asked.probe_standing([host]).wanted == 0
