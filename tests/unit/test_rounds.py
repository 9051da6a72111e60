"""Rounds of a sweep: what is picked is new, can run, and is the same again; what was begun is finished first."""

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import trainer as trainers
from harness.agent import Agent
from harness.cli.app import cli
from harness.clock import WallClock
from harness.deployment.samplingspec import SamplingRules
from harness.deployment.sweepfile import Sweep, load_sweep
from harness.errors import BadInput, Interrupted, UnreadableFile
from harness.feasibility import node_obstacle
from harness.points import BatchWorkload, BoolArray, Deployment, Point
from harness.roundfiles import DRAWN, SPREAD, TARGETED, Pick, Round, begin, point_ids, read_rounds
from harness.rounds import Learner, Rounds, RoundsOutcome
from harness.sampling.base import Knowledge
from harness.sampling.candidates import Cost, candidates_of, shares
from harness.simulator.node import SimulatedNode
from harness.space import Space, build_space, in_looks
from harness.spending import LAUNCH_S, costs, gpu_hours, spending
from harness.store import read_ledger
from harness.sweep import SweepOrder, SweepOutcome, can_run, run_sweep
from harness.targeting import drawn, question_of, targeted
from harness.trainer import (
    GROUP,
    Accuracy,
    Answers,
    Condition,
    ErrorRegion,
    Provenance,
    Question,
    Regions,
    Scored,
    ScoreOrder,
    Trained,
    Trainer,
    TrainOrder,
    Watch,
)
from harness.workload.library import find_trace
from tests.unit.builders import batch_point, deployment, write_sweep

WIDE = (
    ("[dgx-h100]", "[dgx-a100, dgx-h100]"),
    ("[llama-2-7b]", "[llama-2-7b, llama-2-70b]"),
    ("[{tp: 1}, {tp: 2}]", "[{tp: 1}, {tp: 2}, {tp: 4}, {tp: 2, pp: 2}]"),
    ("[1, 8]", "[1, 2, 8, 32]"),
    ("prompt_tokens: [128], generated_tokens: [16]", "prompt_tokens: [128, 700], generated_tokens: [16, 60]"),
)
"""224 points of which some cannot run: a 70B fits no single GPU, and not two."""


@dataclass
class StandIn:
    """A trainer that learns nothing: errors are as given, every fifth prompt length and batch tests.

    Attributes:
        accuracies: what each training in turn finds; the last one goes on.
        orders: what it was asked to learn from.
    """

    accuracies: list[float] = field(default_factory=lambda: [20.0, 10.0, 5.0])
    error: float = 0.1
    noise: float = 0.01
    too_few: bool = False
    orders: list[TrainOrder] = field(default_factory=list)

    def train(self, order: TrainOrder, watch: Watch) -> Trained:
        self.orders.append(order)
        if self.too_few:
            raise BadInput("--results", "7 points", "at least 40", "measure more points")
        order.predictor.parent.mkdir(exist_ok=True)
        order.predictor.with_name(f"{order.predictor.name}.json").write_text("{}")
        mape = self.accuracies[min(len(self.orders), len(self.accuracies)) - 1]
        found = Accuracy(40, mape, mape - 1, mape + 1, 100 - mape, 99 - mape, 100.0)
        return Trained(("simulated",), 100, 40, 10, None, 1.0, (), found)

    def regions(self, predictor: Path) -> Regions:
        region = ErrorRegion(f"70B after {len(self.orders)}", (Condition("tp", high=2.0),), 21, 23.4, 0.5, 3.1)
        return Regions(Provenance(("simulated",), 100, "2026-11-01"), 100, 4.5, "the measured points", (region,))

    def score(self, order: ScoreOrder, watch: Watch) -> Scored:
        raise AssertionError("rounds do not ask for it")

    def predict(self, predictor: Path, questions: tuple[Question, ...]) -> Answers:
        raise AssertionError("rounds do not ask for it")

    def teaches(self, questions: Sequence[Question]) -> BoolArray:
        return np.array([not is_test(question) for question in questions], np.bool_)

    def knowledge(self, predictor: Path, questions: Sequence[Question]) -> Knowledge:
        lengths = [[question.batch_size, question.prompt_tokens, question.generated_tokens] for question in questions]
        n = len(questions)
        return Knowledge(np.full(n, self.error), np.full(n, self.noise), np.log2(np.array(lengths, np.float64)) / 2)


def is_test(question: Question) -> bool:
    return (question.batch_size, question.prompt_tokens) in ((2, 700), (32, 128))


class Silent:
    """Progress that nobody sees; somebody may ask to stop when a certain launch begins."""

    def __init__(self, stop_at_launch: int | None = None) -> None:
        self.stop_at_launch, self.launches = stop_at_launch, 0

    def planned(self, runs: int) -> None: ...

    def launching(self, *_: object) -> None:
        self.launches += 1
        if self.launches == self.stop_at_launch:
            raise Interrupted("stop")

    def skipped(self, *_: object) -> None: ...

    def measured(self, *_: object) -> None: ...


def agents_of(sweep: Sweep) -> list[Agent]:
    return [Agent(SimulatedNode(spec, f"sim-{spec.kind}", 0)) for spec in sweep.nodes]


def space_of(sweep: Sweep) -> Space:
    return build_space(sweep, lambda name: pytest.fail(f"no trace {name} is needed"), 0)


def rounds_of(
    sweep: Sweep, results: Path, trainer: Trainer | None, points: int, rounds: int, said: list[str] | None = None
) -> Rounds:
    order = SweepOrder(sweep, results, 0, points, rounds)
    learner = Learner(trainer, "" if trainer else "no trainer is installed", lambda *_: None)
    told = [] if said is None else said
    return Rounds(order, space_of(sweep), agents_of(sweep), lambda: learner, told.append, WallClock())


def measured(
    sweep: Sweep, results: Path, trainer: Trainer | None, points: int, rounds: int, stop_at_launch: int | None = None
) -> tuple[SweepOutcome, RoundsOutcome]:
    """A sweep in rounds on simulated nodes."""
    in_rounds = rounds_of(sweep, results, trainer, points, rounds)
    order, progress = SweepOrder(sweep, results, 0, points, rounds), Silent(stop_at_launch)
    done = run_sweep(order, space_of(sweep), agents_of(sweep), progress, WallClock(), "test", in_rounds.stages)
    return done, in_rounds.outcome()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return load_sweep(write_sweep(tmp_path_factory.mktemp("wide"), *WIDE))


@pytest.fixture
def small(tmp_path: Path) -> Sweep:
    """16 points of four deployments, one repetition each."""
    return load_sweep(
        write_sweep(
            tmp_path,
            ("[{tp: 1}, {tp: 2}]", "[{tp: 1}, {tp: 2}, {tp: 4}, {tp: 1, pp: 2}]"),
            ("[1, 8]", "[1, 2, 8, 32]"),
            ("repetitions: 2", "repetitions: 1"),
        )
    )


# What is picked


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 40), st.integers(2, 6), st.floats(0, 0.5), st.booleans())
def test_rounds_never_repeat_a_point_nor_take_one_that_cannot_run(
    wide: Sweep, tmp_path_factory: pytest.TempPathFactory, points: int, rounds: int, error: float, learns: bool
) -> None:
    """Nothing is measured here: a round counts as done, as if all its runs had failed for good."""
    nodes = {node.gpu_kind: node for node in wide.nodes}
    by_id = {item.point.point_id: item.point for group in space_of(wide).groups for item in group.candidates}
    made: list[tuple[Round, ...]] = []
    for _ in range(2):
        results = tmp_path_factory.mktemp("out")
        stand_in = StandIn(error=error, noise=0.2) if learns else None
        for stage in rounds_of(wide, results, stand_in, points, rounds).stages():
            assert len(stage.space) == len(point_ids(read_rounds(results, "small")))
        made.append(read_rounds(results, "small"))
    assert made[0] == made[1], "the same store and seed give the same picks"
    picks = [pick.point_id for one in made[0] for pick in one.picks]
    assert len(set(picks)) == len(picks)
    for one in made[0]:
        chosen = [by_id[pick.point_id] for pick in one.picks]
        feasible = [point for point in chosen if not node_obstacle(point, nodes[point.deployment.gpu])]
        assert len(feasible) <= points
        if one.kind in (DRAWN, TARGETED):
            assert len(feasible) == len(chosen)
            assert len({point.deployment for point in chosen}) == launches(chosen), "no launch twice in a round"
        if one.kind == TARGETED:
            assert not any(is_test(question_of(point)) for point in chosen), "what tests never teaches"
    assert (made[0][0].kind, made[0][0].number) == (DRAWN if learns else SPREAD, 1)


def launches(chosen: list[Point]) -> int:
    """How often the deployment changes."""
    return 1 + sum(one.deployment != two.deployment for one, two in pairwise(chosen))


@settings(deadline=None, max_examples=25)
@given(st.floats(0, 20_000), st.integers(1, 60), st.integers(0, 5))
def test_picks_keep_to_the_gpu_seconds(wide: Sweep, gpu_s: float, points: int, seed: int) -> None:
    space, feasible = space_of(wide), can_run(agents_of(wide))
    cost = {"a100": Cost(600.0, 80.0), "h100": Cost(400.0, 60.0)}
    arguments = (space, feasible, frozenset[str](), StandIn(), Path("none"), cost, points, SamplingRules(), gpu_s)
    picks, expected_s = targeted(*arguments, seed=seed)  # type: ignore[arg-type]
    assert expected_s <= gpu_s + 1e-6
    assert len(picks) <= points
    by_id = {item.point.point_id: item.point for group in space.groups for item in group.candidates}
    chosen = [by_id[pick.point_id] for pick in picks]
    started_s = sum(cost[one.gpu].launch_gpu_s for one in {point.deployment for point in chosen})
    assert expected_s == pytest.approx(started_s + sum(cost[point.deployment.gpu].point_gpu_s for point in chosen))


def test_a_first_round_is_over_many_deployments(wide: Sweep) -> None:
    """16 batches of one deployment would tell nothing of the others."""
    looked = in_looks(space_of(wide))
    assert len(looked) == len(space_of(wide))
    first = looked.first(30, can_run(agents_of(wide)))
    feasible = [group for group in first.groups if any(can_run(agents_of(wide))(c.point) for c in group.candidates)]
    assert len({group.deployment for group in feasible}) >= 6


def test_a_drawn_round_takes_the_replays_of_its_deployments(tmp_path: Path) -> None:
    """They share the launch; and all together are no more points than a round has."""
    replays = "replays: [{trace: day.csv, duration: 4s}]"
    (tmp_path / "day.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + "".join(f"2023-11-16 18:00:0{second}.0000000,100,20\n" for second in range(9))
    )
    sweep = load_sweep(write_sweep(tmp_path, ("measurement:", f"{replays}\nmeasurement:")))
    space = build_space(sweep, lambda name: find_trace(str(tmp_path / name), 0), 0)
    by_id = {item.point.point_id: item.point for group in space.groups for item in group.candidates}
    picks = [
        by_id[pick.point_id]
        for pick in drawn(space, can_run(agents_of(sweep)), costs({}, sweep.nodes, 2), 5, sweep.sampling)
    ]
    kinds = [isinstance(point.workload, BatchWorkload) for point in picks]
    assert kinds == [True, True, False, True, True]
    assert launches(picks) == 2


# Traffic and cost


def test_traffic_prefers_the_fewest_gpus_that_fit_and_is_equal_over_models_and_gpus() -> None:
    made = [
        deployment("llama-2-7b", tp=1), deployment("llama-2-7b", tp=4), deployment("llama-2-7b", pp=2),
        deployment("llama-2-70b", tp=4), deployment("llama-2-7b", tp=2, gpu="a100"),
    ]  # fmt: skip
    found = shares(made, "usual")
    of_7b = np.array([1, 1 / 4, 1 / 2 * 1 / 2]) / 1.5
    np.testing.assert_allclose(found, [*(of_7b / 4), 1 / 4, 1 / 2])
    np.testing.assert_allclose(shares(made, "uniform"), 1 / 5)


def test_batches_of_a_deployment_share_its_traffic_equally() -> None:
    points = [batch_point(1), batch_point(8), batch_point(1, tp=2)]
    made = candidates_of(points, np.zeros(3, np.bool_), {"h100": Cost(600.0, 80.0)}, "uniform")
    np.testing.assert_allclose(made.prevalence, [1 / 4, 1 / 4, 1 / 2])
    assert made.launch.tolist() == [0, 0, 1]
    assert (made.gpu_s.tolist(), made.launch_gpu_s.tolist()) == ([80.0] * 3, [600.0] * 2)


def test_costs_are_those_of_the_runs_there_are(small: Sweep, tmp_path: Path) -> None:
    """Rather than a rule of thumb; on the simulated node's clock, on which a launch takes more than a minute."""
    results = tmp_path / "out"
    order = SweepOrder(small, results, 0)
    agents = agents_of(small)
    run_sweep(order, space_of(small), agents, Silent(), WallClock(), "test")
    spent = spending(results, small.name, small.rules)
    assert spent["dgx-h100"].launches == 4
    took_s = agents[0].node.clock.monotonic_s()
    assert spent["dgx-h100"].node_s == pytest.approx(took_s, rel=0.05)
    assert gpu_hours(spent, small.nodes) == pytest.approx(took_s * 8 / 3600, rel=0.05)
    found = costs(spent, small.nodes, repetitions=5)["h100"]
    assert 4 * found.launch_gpu_s + 16 / 5 * found.point_gpu_s == pytest.approx(8 * took_s, rel=0.05)
    assert costs({}, small.nodes, 5)["h100"].launch_gpu_s == 8 * LAUNCH_S


# From round to round


def test_a_sweep_in_rounds_learns_between_them_and_says_how_good_it_is(small: Sweep, tmp_path: Path) -> None:
    stand_in = StandIn()
    done, outcome = measured(small, tmp_path / "out", stand_in, 4, 3)
    assert (done.points_done, done.runs_left) == (12, 0)
    assert [(one.kind, one.points) for one in outcome.scored] == [(DRAWN, 4), (TARGETED, 8), (TARGETED, 12)]
    assert [one.accuracy.mape_pct for one in outcome.scored if one.accuracy] == [20.0, 10.0, 5.0]
    hours = [one.gpu_hours for one in outcome.scored]
    assert 0 < hours[0] < hours[1] < hours[2]
    assert outcome.scored[0].worst == ("70B after 1: MAPE 23.4% on 21 points",)
    assert outcome.stopped == "all 3 rounds are done"
    weights = stand_in.orders[0].traffic
    assert weights is not None
    assert (len(weights), sum(weights.values())) == (16, pytest.approx(1))
    assert max(weights.values()) == pytest.approx(4 * min(weights.values())), "one GPU, and four or a pipeline of two"
    again, same = measured(small, tmp_path / "out", stand_in, 4, 3)
    assert (again.runs_taken, same) == (0, outcome)
    assert len(stand_in.orders) == 3, "what was learnt from the same runs is not learnt again"


def test_a_round_that_was_cut_short_is_finished_first(small: Sweep, tmp_path: Path) -> None:
    """With the points that it was begun with, before anything is learnt from half of it."""
    results, stand_in = tmp_path / "out", StandIn()
    with pytest.raises(Interrupted):
        measured(small, results, stand_in, 5, 3, stop_at_launch=4)
    first, second = read_rounds(results, small.name)
    settled = taken(results)
    missing = point_ids([second]) - set(settled)
    assert point_ids([first]) < set(settled), "the second round was begun"
    assert missing, "and not finished"
    begun = rounds_of(small, results, stand_in, 5, 3).unfinished()
    assert begun is not None
    assert len(begun) == 10
    done, _ = measured(small, results, stand_in, 5, 3)
    assert done.runs_left == 0
    assert set(taken(results)[len(settled) :][: len(missing)]) == missing
    assert read_rounds(results, small.name)[:2] == (first, second)
    assert len(stand_in.orders) == 3


def test_what_a_sweep_writes_is_not_for_everyone_to_change(small: Sweep, tmp_path: Path) -> None:
    """Whatever the umask; what the stand-in writes as its predictor is its own."""
    before = os.umask(0)
    try:
        measured(small, tmp_path / "out", StandIn(), 4, 2)
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "out").rglob("*") if not path.is_symlink() and "predictor" not in path.parts]
    assert {path.name for path in files} >= {"small-0001.json", "small-0001.scored.json", "plan-small.json"}
    assert not [path for path in files if path.stat().st_mode & stat.S_IWOTH]


class InUse(Agent):
    """An agent whose node others use."""

    def wait_until_free(self) -> tuple[str, ...]:
        return ("in use by others",)


def test_with_its_nodes_in_use_a_sweep_begins_no_further_round(small: Sweep, tmp_path: Path) -> None:
    """It would be chosen without what this round is to teach."""
    (tmp_path / "out").mkdir()
    in_rounds, order = rounds_of(small, tmp_path / "out", StandIn(), 4, 3), SweepOrder(small, tmp_path / "out", 0, 4, 3)
    agents = [InUse(agent.node) for agent in agents_of(small)]
    done = run_sweep(order, space_of(small), agents, Silent(None), WallClock(), "test", in_rounds.stages)
    assert done.skipped
    assert done.runs_left == 4
    assert len(read_rounds(tmp_path / "out", small.name)) == 1
    assert in_rounds.outcome().stopped == "the last round is not finished"


def taken(results: Path) -> list[str]:
    """Points with a settled repetition, in the order in which they were measured."""
    return [row.point_id for row in read_ledger(results) if row.purpose == "sweep" and row.status == "ok"]


def test_who_begins_a_round_second_takes_that_of_the_first(tmp_path: Path) -> None:
    one = Round("s", 1, SPREAD, 0, (Pick("a", "why"),), "")
    assert begin(tmp_path, one) == one
    assert begin(tmp_path, replace(one, picks=(Pick("b", "why"),))) == one
    assert read_rounds(tmp_path, "s") == (one,)
    assert [path.name for path in (tmp_path / "rounds").iterdir()] == ["s-0001.json"]


def test_a_damaged_round_is_named(small: Sweep, tmp_path: Path) -> None:
    begin(tmp_path, Round("small", 1, SPREAD, 0, (), ""))
    (tmp_path / "rounds" / "small-0001.json").write_text(json.dumps({"sweep": "small"}))
    with pytest.raises(UnreadableFile, match="small-0001"):
        rounds_of(small, tmp_path, None, 4, 2).begun()


def test_rounds_of_another_space_are_refused(small: Sweep, tmp_path: Path) -> None:
    """The file was changed between two nights: nothing would be measured, and nobody would know."""
    begin(tmp_path, Round("small", 1, SPREAD, 0, (Pick("of a model that was taken out", ""),), ""))
    with pytest.raises(BadInput, match=r"this sweep has none of them; fix: give the changed sweep another name"):
        rounds_of(small, tmp_path, None, 4, 2).begun()


def test_another_seed_is_refused(small: Sweep, tmp_path: Path) -> None:
    """It has other lengths, so the points of the rounds would not be found."""
    begin(tmp_path, Round("small", 1, SPREAD, 7, (), ""))
    with pytest.raises(BadInput, match="accepted: 7"):
        rounds_of(small, tmp_path, None, 4, 2).begun()


# Without knowledge


@pytest.mark.parametrize("stand_in", [None, StandIn(too_few=True)], ids=["no trainer", "too few points"])
def test_where_nothing_can_be_learnt_rounds_fill_the_space(
    stand_in: StandIn | None, small: Sweep, tmp_path: Path
) -> None:
    said: list[str] = []
    (tmp_path / "out").mkdir()
    in_rounds = rounds_of(small, tmp_path / "out", stand_in, 6, 9, said)
    sizes = [len(stage.space) for stage in in_rounds.stages()]
    assert sizes == [6, 12, 16, 16]
    first, *others = read_rounds(tmp_path / "out", "small")
    assert first.kind == (SPREAD if stand_in is None else DRAWN), "a trainer that has learnt nothing yet"
    assert {one.kind for one in others} == {SPREAD}
    outcome = in_rounds.outcome()
    assert outcome.stopped == "every point that can run is measured"
    why = "no trainer is installed" if stand_in is None else "at least 40"
    assert sum("fills the space" in line and why in line for line in said) == 1
    assert all(one.accuracy is None and why in one.note for one in outcome.scored)


def test_where_nothing_can_run_that_is_recorded(tmp_path: Path) -> None:
    """As it is without rounds; and there is an end."""
    file = write_sweep(tmp_path, ("[llama-2-7b]", "[llama-2-70b]"), ("[{tp: 1}, {tp: 2}]", "[{tp: 1}]"))
    done, outcome = measured(load_sweep(file), tmp_path / "out", StandIn(too_few=True), 2, 9)
    assert (done.points_infeasible, done.points_done) == (2, 0)
    assert outcome.stopped == "every point that can run is measured"


# When to stop


@pytest.mark.parametrize(
    ("rules", "trainings"),
    [
        (SamplingRules(target_mape_pct=11.5), 2),
        (SamplingRules(target_mape_pct=10.5), 3),
        (SamplingRules(target_mape_pct=11.5, target_eba10_pct=93.0), 3),
        (SamplingRules(), 4),
    ],
    ids=["reached", "not by the interval", "not both", "no target"],
)
def test_a_reached_target_ends_the_rounds(rules: SamplingRules, trainings: int, small: Sweep, tmp_path: Path) -> None:
    """MAPE is 20, 10, then 5%, each with an interval of 1 to both sides; EBA10 80, 90, 95%, at least 1 less."""
    (tmp_path / "out").mkdir()
    stand_in = StandIn()
    in_rounds = rounds_of(replace(small, sampling=rules), tmp_path / "out", stand_in, 2, 4)
    assert len(list(in_rounds.stages())) == trainings + 1
    assert len(stand_in.orders) == trainings
    stopped = in_rounds.outcome().stopped
    assert stopped.startswith("the target is reached" if rules != SamplingRules() else "all 4 rounds")


def test_errors_no_larger_than_the_noise_end_the_rounds(small: Sweep, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    in_rounds = rounds_of(small, tmp_path / "out", StandIn(error=0.02, noise=0.02), 4, 9)
    assert len(list(in_rounds.stages())) == 2
    assert in_rounds.outcome().stopped.startswith("no gain is expected")


def test_what_teaches_runs_out(small: Sweep, tmp_path: Path) -> None:
    """The points that test are never picked for want of others."""
    (tmp_path / "out").mkdir()
    in_rounds = rounds_of(small, tmp_path / "out", StandIn(), 4, 99)
    *_, last = in_rounds.stages()
    taken = [item.point for group in last.space.groups for item in group.candidates]
    assert 12 <= len(taken) < 16
    assert in_rounds.outcome().stopped.startswith("no gain is expected")


# What comes next


def test_next_shows_what_a_further_round_would_take(small: Sweep, tmp_path: Path) -> None:
    """Without writing a file for it; after the open round, whose picks carry their reasons."""
    results, stand_in = tmp_path / "out", StandIn()
    measured(small, results, stand_in, 4, 2)
    in_rounds = rounds_of(small, results, stand_in, 3, 3)
    upcoming = in_rounds.upcoming()
    ids = {item.point.point_id for group in upcoming.groups for item in group.candidates}
    assert len(ids) == 3
    assert not ids & point_ids(read_rounds(results, "small"))
    assert all("of the traffic's expected error" in item.why for group in upcoming.groups for item in group.candidates)
    assert len(read_rounds(results, "small")) == 2
    begun = in_rounds.unfinished()
    assert begun is not None
    assert {item.why for item in begun.groups[-1].candidates} == {
        pick.why for pick in read_rounds(results, "small")[1].picks[-1:]
    }


def test_a_question_is_the_point(small: Sweep) -> None:
    point = batch_point(8, 128, 16, tp=2)
    asked = question_of(point)
    assert isinstance(point.workload, BatchWorkload)
    assert isinstance(point.deployment, Deployment)
    assert (asked.gpu, asked.tp, asked.pp, asked.bits, asked.batch_size) == ("h100", 2, 1, 16, 8)
    assert (asked.prompt_tokens, asked.generated_tokens, asked.engine, asked.token_budget) == (128, 16, "vllm", 8192)


# The commands


def said(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str, trainer_too: bool = True) -> Result:
    """What the command line says, with the stand-in as the installed trainer, or with none."""
    entry = EntryPoint("stand-in", f"{__name__}:StandIn", GROUP)
    monkeypatch.setattr(trainers, "entry_points", lambda group: (entry,) if trainer_too else ())
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_the_command_closes_with_the_learning_curve(
    small: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("sweep", small.path, "--results", "out", "--points", "4", "--rounds", "2")
    done = said(monkeypatch, tmp_path, *asked)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:3] for line in lines if line[1:2] in ([DRAWN], [TARGETED])] == [
        ["1", DRAWN, "4"],
        ["2", TARGETED, "8"],
    ]
    assert "MAPE 20.0% (19.0 to 21.0), EBA10 80% (79 to 100) on 40 test points" in done.stderr
    for line in ("worst after the first round: 70B after 1", "Rounds ended: all 2 rounds are done."):
        assert line in done.stdout
    found = json.loads(said(monkeypatch, tmp_path, *asked, "--json").stdout)["rounds"]
    assert [(one["kind"], one["points"], one["accuracy"]["mape_pct"]) for one in found["scored"]] == [
        (DRAWN, 4, 20.0), (TARGETED, 8, 10.0),
    ]  # fmt: skip
    assert found["stopped"] == "all 2 rounds are done"
    picks = said(monkeypatch, tmp_path, "next", small.path, "--results", "out", "--points", "2").stdout.splitlines()
    assert len(picks) == 2
    assert all("of the traffic's expected error" in line for line in picks)


def test_without_a_trainer_one_line_says_that_rounds_fill_the_space(
    small: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("sweep", small.path, "--results", "out", "--points", "4", "--rounds", "3")
    done = said(monkeypatch, tmp_path, *asked, trainer_too=False)
    (line,) = [line for line in done.stderr.splitlines() if "fills the space" in line]
    assert "pip install 'llm-energy-harness[analysis]'" in line
    assert "Points: 12 done" in done.stdout


@pytest.mark.parametrize(
    ("given", "accepted"), [("5", "text"), ("'5'", "such as 5%"), ("0%", "over 0%"), ("101%", "100%")]
)
def test_a_target_that_is_no_percentage_is_refused(given: str, accepted: str, tmp_path: Path) -> None:
    file = write_sweep(tmp_path, ("measurement:", f"sampling: {{target_mape: {given}}}\nmeasurement:"))
    with pytest.raises(BadInput, match=accepted) as caught:
        load_sweep(file)
    assert "sampling.target_mape" in str(caught.value)


def test_targets_and_traffic_are_read(tmp_path: Path) -> None:
    words = "sampling: {target_mape: 5%, target_eba10: 92.5%, traffic: uniform, per_launch: 2}\nmeasurement:"
    assert load_sweep(write_sweep(tmp_path, ("measurement:", words))).sampling == SamplingRules("uniform", 5.0, 92.5, 2)
