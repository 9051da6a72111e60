"""The controller asks for what is missing, and for nothing else."""

from dataclasses import dataclass, field, replace

from harness.controller import Controller
from harness.plan import MeasurementRules
from harness.points import Deployment, Environment, Point
from harness.records import INTERRUPTED
from harness.space import Candidate, Group, Space, spread_out
from tests.unit.builders import batch_point, deployment

RULES = MeasurementRules(repetitions=3, max_attempts=2)


@dataclass(frozen=True)
class Run:
    point_id: str
    environment_id: str
    repetition: int
    attempt: int
    status: str = "ok"
    purpose: str = "sweep"
    gpu_energy_j: float | None = 100.0
    reason: str = ""


@dataclass
class FakeHost:
    name: str = "node-1"
    gpu: str = "h100"
    driver: str = "1"
    obstacles: dict[str, str] = field(default_factory=dict)

    def hosts(self, item: Deployment) -> bool:
        return item.gpu == self.gpu

    def obstacle(self, point: Point) -> str:
        return self.obstacles.get(point.point_id, "")

    def environment(self, item: Deployment) -> Environment:
        return Environment("simulated", "dgx", item.gpu, "board", self.driver, "vllm", "1", None)


SMALL, LARGE = batch_point(1), batch_point(8)
OTHER = batch_point(1, tp=2)


def controller() -> Controller:
    groups = (
        Group(SMALL.deployment, (Candidate(SMALL, "", "w"), Candidate(LARGE, "", "w"))),
        Group(OTHER.deployment, (Candidate(OTHER, "", "w"),)),
    )
    return Controller("s", Space(groups, {}), RULES, seed=0)


def environment_id(host: FakeHost, point: Point = SMALL) -> str:
    return host.environment(point.deployment).environment_id


def runs(host: FakeHost, point: Point, *outcomes: tuple[int, int, str]) -> list[Run]:
    return [Run(point.point_id, environment_id(host, point), rep, att, status) for rep, att, status in outcomes]


def test_one_launch_holds_all_repetitions_of_a_deployment() -> None:
    asked = controller()
    plan = asked.ask(FakeHost())
    assert plan is not None
    assert len(plan.assignments) == 6
    assert {item.point for item in plan.assignments} == {SMALL, LARGE}
    second = asked.ask(FakeHost())
    assert second is not None
    assert second.deployment == OTHER.deployment
    assert asked.ask(FakeHost()) is None, "both are in flight"


def test_a_new_controller_asks_only_for_what_is_missing() -> None:
    host, asked = FakeHost(), controller()
    asked.tell(runs(host, SMALL, (1, 1, "ok"), (2, 1, "ok"), (3, 1, "ok")))
    asked.tell(runs(host, LARGE, (1, 1, "ok"), (2, 1, "invalid")))
    plan = asked.ask(host)
    assert plan is not None
    assert [(item.point, item.repetition, item.attempt) for item in plan.assignments] == [(LARGE, 2, 2), (LARGE, 3, 1)]


def test_order_of_telling_does_not_matter() -> None:
    host = FakeHost()
    told = runs(host, SMALL, (1, 1, "failed"), (1, 2, "ok"), (2, 1, "saturated"), (3, 1, "ok"))
    for order in (told, told[::-1]):
        asked = controller()
        asked.tell(order)
        assert asked.standing(SMALL, host).done


def test_a_repetition_is_given_up_after_its_attempts() -> None:
    host, asked = FakeHost(), controller()
    asked.tell(runs(host, OTHER, (1, 1, "failed"), (1, 2, "invalid"), (2, 1, "ok"), (3, 1, "ok")))
    standing = asked.standing(OTHER, host)
    assert (standing.given_up, standing.done) == (1, False)
    plans = [asked.ask(host), asked.ask(host)]
    assert plans[0] is not None
    assert plans[0].deployment == SMALL.deployment
    assert plans[1] is None


def test_warmups_and_probes_are_no_repetitions() -> None:
    host, asked = FakeHost(), controller()
    asked.tell([Run(SMALL.point_id, environment_id(host), 1, 1, purpose="warmup")])
    asked.tell([Run(SMALL.point_id, environment_id(host), 1, 1, purpose="probe")])
    assert asked.standing(SMALL, host).settled == 0


def test_another_driver_starts_anew() -> None:
    old, new, asked = FakeHost(driver="1"), FakeHost(driver="2"), controller()
    asked.tell(runs(old, OTHER, (1, 1, "ok"), (2, 1, "ok"), (3, 1, "ok")))
    asked.tell(runs(old, SMALL, (1, 1, "ok"), (2, 1, "ok"), (3, 1, "ok")))
    asked.tell(runs(old, LARGE, (1, 1, "ok"), (2, 1, "ok"), (3, 1, "ok")))
    assert asked.ask(old) is None
    assert asked.remaining([new]) == 9


def test_infeasible_points_are_reported_once_and_never_asked_for() -> None:
    host, asked = FakeHost(obstacles={SMALL.point_id: "too big"}), controller()
    reported = list(asked.infeasible(host))
    assert [(item.point, reason) for item, reason in reported] == [(SMALL, "too big")]
    asked.tell([Run(SMALL.point_id, environment_id(host), 0, 0, "infeasible")])
    assert list(asked.infeasible(host)) == []
    plan = asked.ask(host)
    assert plan is not None
    assert {item.point for item in plan.assignments} == {LARGE}


def test_repetitions_that_scatter_ask_for_more_until_the_mean_is_sure_enough() -> None:
    host = FakeHost()
    rules = replace(RULES, half_width=0.05, most_repetitions=6)
    groups = (Group(OTHER.deployment, (Candidate(OTHER, "", "w"),)),)

    def missing(*energies_j: float) -> list[int]:
        asked = Controller("s", Space(groups, {}), rules, seed=0)
        key = (OTHER.point_id, environment_id(host, OTHER))
        asked.tell([Run(*key, number, 1, gpu_energy_j=value) for number, value in enumerate(energies_j, start=1)])
        plan = asked.ask(host)
        return [] if plan is None else [item.repetition for item in plan.assignments]

    assert missing(100.0, 101.0) == [3]
    assert missing(100.0, 101.0, 99.0) == [], "half-width 2.5 of 100"
    assert missing(100.0, 120.0, 80.0) == [4, 5, 6], "never sure enough, bounded"
    # sd 3 of 100: t(4) 2.776 x 3 / sqrt(5) = 3.7, under 5; with four it would be 4.8, with three 7.5.
    assert missing(100.0, 103.0, 97.0) == [4]
    assert missing(100.0, 120.0, 80.0, 100.0, 120.0, 80.0) == []


def test_what_was_infeasible_is_asked_for_once_it_can_run() -> None:
    host, asked = FakeHost(), controller()
    asked.tell([Run(SMALL.point_id, environment_id(host), 0, 0, "infeasible")])
    plan = asked.ask(host)
    assert plan is not None
    assert SMALL in plan.points


def test_fewer_repetitions_count_only_those() -> None:
    host, asked = FakeHost(), controller()
    asked.tell(runs(host, OTHER, (1, 1, "ok"), (2, 1, "ok"), (3, 1, "ok"), (4, 1, "failed"), (4, 2, "failed")))
    standing = asked.standing(OTHER, host)
    assert (standing.given_up, standing.done) == (0, True)


def test_other_gpus_are_left_to_other_nodes() -> None:
    assert controller().ask(FakeHost(gpu="a100")) is None


def test_nodes_of_one_environment_share_repetitions() -> None:
    asked = controller()
    assert asked.remaining([FakeHost("node-1"), FakeHost("node-2")]) == 9


def test_any_prefix_of_the_deployments_is_spread_out() -> None:
    items = [deployment(model, tp=tp) for model in ("llama-2-7b", "llama-2-70b") for tp in (1, 2, 4, 8)]
    order = spread_out(tuple(items))
    assert sorted(map(repr, order)) == sorted(map(repr, items))
    assert {item.model.name for item in order[:3]} == {"llama-2-7b", "llama-2-70b"}
    assert {1, 8} <= {item.tensor_parallel for item in order[:4]}


def test_an_interrupted_run_is_no_try_at_its_repetition() -> None:
    host, asked = FakeHost(), controller()
    for _ in range(RULES.max_attempts + 1):
        asked.tell([Run(SMALL.point_id, environment_id(host), 1, 1, "failed", reason=INTERRUPTED)])
    plan = asked.ask(host)
    assert plan is not None
    assert [(item.repetition, item.attempt) for item in plan.assignments if item.point == SMALL] == [
        (1, 1), (2, 1), (3, 1),
    ]  # fmt: skip


@dataclass
class ChangingHost(FakeHost):
    """One host over time: its driver may change, and it counts how often it is asked about a point."""

    asked: int = 0

    def obstacle(self, point: Point) -> str:
        self.asked += 1
        return super().obstacle(point)


def test_a_driver_that_changes_while_a_sweep_runs_starts_anew() -> None:
    """What is remembered of a host must not outlive its environment."""
    host, asked = ChangingHost(), controller()
    for point in (SMALL, LARGE, OTHER):
        asked.tell(runs(host, point, (1, 1, "ok"), (2, 1, "ok"), (3, 1, "ok")))
    assert asked.ask(host) is None
    host.driver = "2"
    plan = asked.ask(host)
    assert plan is not None
    assert len(plan.assignments) == 6
    host.driver = "1"
    assert asked.ask(host) is None


def test_points_that_are_done_are_not_looked_at_for_every_launch() -> None:
    """Otherwise the work for a sweep grows with the square of its points."""
    host, asked = ChangingHost(), controller()
    for point in (SMALL, LARGE, OTHER):
        asked.tell(runs(host, point, (1, 1, "ok"), (2, 1, "ok"), (3, 1, "ok")))
    assert asked.ask(host) is None
    looks = host.asked
    assert looks >= 3
    for _ in range(5):
        assert asked.ask(host) is None
        assert asked.probe_standing([host]).wanted == 0
    assert host.asked == looks


def test_a_point_that_was_done_is_looked_at_again_when_a_run_makes_its_mean_less_sure() -> None:
    host = FakeHost()
    groups = (Group(OTHER.deployment, (Candidate(OTHER, "", "w"),)),)
    asked = Controller("s", Space(groups, {}), replace(RULES, half_width=0.05, most_repetitions=6), seed=0)
    key = (OTHER.point_id, environment_id(host, OTHER))
    asked.tell([Run(*key, number, 1, gpu_energy_j=value) for number, value in enumerate((100.0, 101.0, 99.0), 1)])
    assert asked.ask(host) is None
    asked.tell([Run(*key, 4, 1, gpu_energy_j=130.0)])
    plan = asked.ask(host)
    assert plan is not None
    assert [item.repetition for item in plan.assignments] == [5, 6]
