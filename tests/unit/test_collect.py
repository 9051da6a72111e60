"""A night in process: what is measured, probed, learnt and said, on simulated nodes that change or are in use."""

import json
from collections.abc import Callable, Generator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.agent import Agent
from harness.clock import VirtualClock
from harness.collect import CollectOrder, collect, expected_times
from harness.deployment.sweepfile import Sweep, load_sweep
from harness.drift import ENERGY
from harness.errors import AgentLost, Interrupted, StoreError, StoreFull, StoreRefused
from harness.experiment import unheard
from harness.nightprobes import FIRST_REPETITION, NightProbes
from harness.nights import Night, summary_line, with_night
from harness.plan import Assignment, LaunchPlan
from harness.records import RunBundle
from harness.retraining import regression
from harness.rounds import Learner
from harness.simulator.constants import Constants, constants_of
from harness.simulator.faults import NO_FAULTS, Faults
from harness.simulator.node import SimulatedNode
from harness.space import build_space
from harness.store.lock import hold_lock
from harness.sweep import SweepOrder, SweepOutcome, run_sweep
from harness.trainer import Accuracy, Score, Scored, ScoreOrder, Scores, Trained, TrainOrder, Watch
from tests.unit.builders import node, write_sweep
from tests.unit.test_rounds import StandIn

EVERY_BOARD = (("[{tp: 1}, {tp: 2}]", "[{tp: 8}]"),)
FIRST_NIGHT = datetime(2026, 11, 1, 22, tzinfo=UTC)
NOBODY = Learner(None, "no trainer is installed", lambda *_: None)


def more_power(share: float) -> Constants:
    """A node whose GPUs take so much more for the same work."""
    usual = constants_of(node().gpu)  # type: ignore[arg-type]
    gpu = usual.gpu
    more = {
        name: getattr(gpu, name) * (1 + share)
        for name in ("active_share", "compute_share", "memory_share", "kv_share", "attention_share")
    }
    return replace(usual, gpu=replace(gpu, **more))


@dataclass
class Lab:
    """One results folder, night after night."""

    sweep: Sweep
    results: Path
    number: int = 0
    refused: list[str] = field(default_factory=list)

    def night(
        self,
        learner: Callable[[], Learner] = lambda: NOBODY,
        constants: Constants | None = None,
        faults: Faults = NO_FAULTS,
        since: datetime | None = None,
        pages: int = 30,
        drift_pct: float = 3.0,
    ) -> Night:
        began = FIRST_NIGHT + timedelta(days=self.number)
        self.number += 1
        agents = [
            Agent(SimulatedNode(spec, f"sim-{spec.kind}", 0, start_utc=began, constants=constants, faults=faults))
            for spec in self.sweep.nodes
        ]
        space = build_space(self.sweep, lambda name: pytest.fail(f"no trace {name} is needed"), 0)
        order = CollectOrder(SweepOrder(self.sweep, self.results, 0, budget_s=3600.0), drift_pct, since, pages)
        self.results.mkdir(exist_ok=True)
        nodes = nullcontext((agents, None))
        night, record = collect(order, space, nodes, learner, VirtualClock(began), "test", self.refused)
        assert json.loads(record.read_text("utf-8")) == json.loads(json.dumps(night.as_json()))
        return night

    @property
    def runs(self) -> pd.DataFrame:
        return pd.read_parquet(self.results / "runs")


@pytest.fixture(autouse=True)
def _short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole pages take a second each; the command's tests have them."""
    monkeypatch.setattr("harness.collect.page", lambda found: f"<h1>{len(found.runs)} runs</h1><nav></nav>")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(load_sweep(write_sweep(tmp_path, *EVERY_BOARD)), tmp_path / "out")


@pytest.mark.slow
def test_ten_undisturbed_nights_raise_no_alarm_and_a_changed_node_is_named(lab: Lab) -> None:
    for _ in range(10):
        night = lab.night()
        assert night.look == ()
    assert night.probes[0].comparisons, "it was looked"
    (probes,) = lab.night(constants=more_power(0.5)).probes
    (found,) = [one for one in probes.drifts if one.quantity == ENERGY]
    probed = lab.runs.query("purpose == 'probe'").sort_values("started_at")
    by_launch = probed.groupby("launch_id", sort=False)["gpu_energy_j"].sum()
    expected_pct = 100 * (by_launch.iloc[-1] / by_launch.iloc[:-1].mean() - 1)
    assert found.shift_pct == pytest.approx(expected_pct, abs=1)
    night = lab.night(constants=more_power(0.5))
    (line,) = night.look
    assert line.startswith(f"sim-dgx-h100 drifts: GPU energy +{night.probes[0].comparisons[0].shift_pct:.1f}%")
    assert "against 10 launches" in line, "the night before is no reference"
    assert "sim-dgx-h100 DRIFTS; " in summary_line(night, Path("r.json"))
    assert "1 TO LOOK AT" in summary_line(night, Path("r.json"))
    repaired = FIRST_NIGHT + timedelta(days=10)
    assert lab.night(constants=more_power(0.5), since=repaired).look == (), "a new reference was asked for"


def test_each_night_takes_one_more_launch_of_the_same_probes(lab: Lab) -> None:
    first = lab.night()
    assert first.measured is not None
    assert (first.measured.runs_taken, first.measured.runs_left) == (4, 0)
    for _ in range(2):
        night = lab.night()
        assert night.measured is not None
        assert night.measured.runs_taken == 0
    runs = lab.runs[lab.runs["purpose"] != "warmup"]
    probes = runs[runs["repetition"] >= FIRST_REPETITION]
    assert set(probes["purpose"]) == {"probe"}
    assert probes.groupby("launch_id").size().tolist() == [4, 4, 4]
    assert probes["point_id"].nunique() == 2
    assert sorted(probes["repetition"].unique()) == [101_001, 101_002, 102_001, 102_002, 103_001, 103_002]
    assert len(runs) - len(probes) == 4, "the sweep's own repetitions are as many as without"
    assert not runs.duplicated(["point_id", "repetition"]).any()


def test_where_a_launch_holds_some_boards_nights_go_round_them(tmp_path: Path) -> None:
    lab = Lab(load_sweep(write_sweep(tmp_path)), tmp_path / "out")
    for _ in range(4):
        lab.night()
    probes = lab.runs[lab.runs["repetition"] >= FIRST_REPETITION]
    assert set(probes["tp"]) == {2}, "as many boards in a launch as can be"
    assert probes["gpu_uuids"].map(tuple).nunique() == 4


def test_a_node_in_use_is_skipped_with_its_reason_and_the_next_night_goes_on(lab: Lab) -> None:
    night = lab.night(faults=Faults(busy_until_s=1e9))
    assert night.measured is None
    assert night.probes == ()
    (line,) = night.look
    assert line.startswith("sim-dgx-h100 was skipped: GPU-")
    assert "nothing measured, in use by others" in summary_line(night, Path("r.json"))
    assert lab.runs.empty
    night = lab.night()
    assert night.measured is not None
    assert night.measured.runs_taken == 4


def test_probes_that_fail_are_said_and_measured_again_the_next_night(lab: Lab) -> None:
    lab.night()
    broken = frozenset(item.deployment_id for item in lab.sweep.deployments)
    night = lab.night(faults=Faults(failing_deployments=broken))
    (line,) = night.look
    assert "sim-dgx-h100: probes are not complete (failed: LaunchFailed" in line
    assert night.measured is not None
    assert night.measured.points_given_up == 0
    assert lab.night().look == ()


def test_a_night_that_is_cut_in_its_probes_changes_neither_the_points_nor_the_reference(lab: Lab) -> None:
    """Killed after its first probe was stored, with the other point still to come."""
    for _ in range(6):
        lab.night()
    taken = NightProbes.take

    def cut(desk: NightProbes, bundle: RunBundle) -> None:
        taken(desk, bundle)
        if bundle.run.purpose == "probe":
            raise Interrupted("ended by SIGTERM")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NightProbes, "take", cut)
        with pytest.raises(Interrupted):
            lab.night()
    (probes,) = lab.night().probes
    assert probes.points == 2
    assert {one.launches for one in probes.comparisons} == {6}


class Twins:
    """A fleet of two nodes of one kind, which measure at the same time; one of them may be lost in its probes."""

    patience_s = 0.0

    def __init__(self, agents: list[Agent]) -> None:
        self.agents, self.gone = agents, list[Agent]()

    def present(self) -> list[Agent]:
        return [agent for agent in self.agents if agent not in self.gone]

    def lost(self, agent: Agent) -> None:
        self.gone.append(agent)

    def teams(self, agents: list[Agent]) -> list[Agent]:
        return []


class Mortal(Agent):
    """It does not survive a launch of probes."""

    def measure(self, plan: LaunchPlan, begins: Callable[[Assignment], None] = unheard) -> Generator[RunBundle]:
        if plan.assignments[0].purpose == "probe":
            raise AgentLost("no answer for a minute")
        return super().measure(plan, begins)


@pytest.mark.parametrize("kind", [Agent, Mortal])
def test_nodes_of_one_kind_are_probed_at_once_each_against_itself(kind: type[Agent], lab: Lab) -> None:
    space = build_space(lab.sweep, lambda name: pytest.fail(f"no trace {name} is needed"), 0)
    for number in range(2):
        began = FIRST_NIGHT + timedelta(days=number)
        agents = [
            made(SimulatedNode(lab.sweep.nodes[0], name, 0, start_utc=began))
            for made, name in ((Agent, "one"), (kind, "two"))
        ]
        order = CollectOrder(SweepOrder(lab.sweep, lab.results, 0, budget_s=3600.0), 3.0, None, 30)
        lab.results.mkdir(exist_ok=True)
        nodes = nullcontext((agents, Twins(agents)))
        night, _ = collect(order, space, nodes, lambda: NOBODY, VirtualClock(began), "test")
    probes = lab.runs[lab.runs["repetition"] >= FIRST_REPETITION]
    if kind is Mortal:
        assert night.look == ("two: lost while it was probed: no answer for a minute",)
        assert set(probes["node"]) == {"one"}
        return
    assert night.look == ()
    assert probes.groupby("node")["launch_id"].nunique().to_dict() == {"one": 2, "two": 2}
    assert not probes.duplicated(["point_id", "repetition"]).any(), "numbers of their own"


def test_points_given_up_are_looked_at(lab: Lab) -> None:
    broken = frozenset(item.deployment_id for item in lab.sweep.deployments)
    night = lab.night(faults=Faults(failing_deployments=broken))
    assert [line.split(";")[0] for line in night.look] == ["2 points given up"]
    assert night.probes[0].note == "not probed: no batch is measured on it yet"


def test_a_sweep_that_somebody_begins_between_two_steps_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as held:

        def then_another(order: SweepOrder, *more: Any) -> SweepOutcome:
            outcome = run_sweep(order, *more)
            held.enter_context(hold_lock(order.results, "harness sweep theirs.yaml"))
            return outcome

        monkeypatch.setattr("harness.collect.run_sweep", then_another)
        night = lab.night()
    (line,) = night.look
    assert line.startswith("no probes were taken and nothing was compacted: results:")
    assert "harness sweep theirs.yaml" in line
    assert night.measured is not None
    assert (night.measured.runs_taken, night.stored.runs) == (4, 6), "warm-ups are runs, too"


def test_a_folder_in_use_is_refused_before_any_node_looks_busy(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.night()
    monkeypatch.setattr(SimulatedNode, "busy", lambda _: pytest.fail("nobody asks"))
    with hold_lock(lab.results, "harness sweep theirs.yaml"), pytest.raises(StoreRefused, match=r"sweep theirs\.yaml"):
        lab.night()


def test_a_night_that_measures_nothing_for_want_of_time_is_looked_at(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def withheld(order: SweepOrder, *more: Any) -> SweepOutcome:
        return run_sweep(replace(order, expected_s=lambda _: 86400.0), *more)

    monkeypatch.setattr("harness.collect.run_sweep", withheld)
    (line,) = lab.night().look
    assert line.startswith("nothing was measured, 4 runs are left: h100 llama-2-7b tp8 ")
    assert "its first repetition is expected after" in line


def test_nodes_that_take_no_part_are_looked_at(lab: Lab) -> None:
    lab.refused = ["A node does not measure: harness on two: '0.0.9'"]
    assert lab.night().look == tuple(lab.refused)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_clock_that_is_set_within_a_launch_changes_no_expectation(backwards: bool, lab: Lab) -> None:
    lab.night()
    before = expected_times(lab.results, lab.sweep)
    (segment,) = (lab.results / "runs").glob("*.parquet")
    table = pq.read_table(segment)
    moments = table["started_at"].to_pylist()
    step = timedelta(days=-1 if backwards else 1)
    later = [moment + step if number > len(moments) // 3 else moment for number, moment in enumerate(moments)]
    column = table.column_names.index("started_at")
    pq.write_table(
        table.set_column(column, table.schema.field(column), pa.array(later, table["started_at"].type)), segment
    )
    assert expected_times(lab.results, lab.sweep) == before


def test_the_budget_of_real_nodes_leaves_time_for_probes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what launches and repetitions took; a simulated node's hours take seconds, so its budget is left alone."""
    orders: list[SweepOrder] = []

    def kept(order: SweepOrder, *more: Any) -> SweepOutcome:
        orders.append(order)
        return run_sweep(replace(order, sweep=lab.sweep), *more)

    monkeypatch.setattr("harness.collect.run_sweep", kept)
    lab.night()
    assert (orders[0].budget_s, orders[0].expected_s) == (3600.0, None)
    ((gpu, (launch_s, repetition_s)),) = expected_times(lab.results, lab.sweep).items()
    assert gpu == "h100"
    assert launch_s > 20
    assert 1 < repetition_s < 10
    lab.sweep = replace(lab.sweep, simulate=False)
    lab.night()
    assert orders[1].budget_s == pytest.approx(3600 - launch_s - 6 * repetition_s)
    assert orders[1].expected_s is not None
    (deployment,) = lab.sweep.deployments
    plan = LaunchPlan("small", deployment, (), lab.sweep.rules, 0)
    assert orders[1].expected_s(plan) == pytest.approx(launch_s + repetition_s)


# What is learnt


class Scoring(StandIn):
    """Trains as `StandIn` does; last night's predictor has the next of `before` as its MAPE, and EBA10 95%."""

    def __init__(self, accuracies: list[float], before: list[float], too_few: bool = False) -> None:
        super().__init__(accuracies, too_few=too_few)
        self.before, self.asked = before, list[ScoreOrder]()

    def train(self, order: TrainOrder, watch: Watch) -> Trained:
        found = super().train(order, watch)
        assert found.accuracy is not None
        return replace(found, accuracy=replace(found.accuracy, eba10_pct=95.0, eba10_low_pct=90, eba10_high_pct=99))

    def score(self, order: ScoreOrder, watch: Watch) -> Scored:
        assert order.predictor is not None
        assert order.predictor.with_name("last-night.json").is_file()
        self.asked.append(order)
        # Two models of different size: as points are counted, not as models are.
        mape = self.before[len(self.asked) - 1]
        each = {"a": Score(30, mape - 1, 95.0, 100.0), "b": Score(10, mape + 3, 95.0, 100.0)}
        return Scored(("simulated",), ("simulated",), {"test": (Scores("ours", each, Score(40, 0.0, 0.0, 0.0)),)})


def more_work(lab: Lab) -> None:
    """The sweep file asks for one more repetition: tonight has runs to learn from."""
    lab.sweep = replace(lab.sweep, rules=replace(lab.sweep.rules, repetitions=lab.sweep.rules.repetitions + 1))


def test_a_worse_predictor_is_said_when_last_nights_is_beyond_the_interval(lab: Lab) -> None:
    """Tonight's MAPE is 10, 10, then 10% again, each from 9 to 11%."""
    stand_in = Scoring([10.0], before=[9.2, 8.7])
    learner = Learner(stand_in, "", lambda *_: None)
    night = lab.night(lambda: learner)
    assert night.learnt.accuracy is not None
    assert night.learnt.note == "no predictor of a night before to compare with"
    more_work(lab)
    night = lab.night(lambda: learner)
    assert night.look == ()
    assert night.learnt.last_mape_pct == pytest.approx(9.2)
    more_work(lab)
    night = lab.night(lambda: learner)
    assert night.look == (
        "the predictor is worse than last night's: MAPE 10.0% (9.0 to 11.0) on 40 test points, last night's 8.7%",
    )
    assert "on 40 test points, last night's 8.7%, WORSE" in summary_line(night, Path("r.json"))


def test_without_new_runs_nothing_is_trained_again(lab: Lab) -> None:
    stand_in = Scoring([10.0], before=[])
    learner = Learner(stand_in, "", lambda *_: None)
    first = lab.night(lambda: learner)
    second = lab.night(lambda: pytest.fail("it takes seconds to load"))
    assert second.learnt.accuracy == first.learnt.accuracy
    assert second.learnt.note == "no new runs: last night's predictor stays"
    assert "on 40 test points (no new runs" in summary_line(second, Path("r.json"))
    assert len(stand_in.orders) == 1


@pytest.mark.parametrize(
    ("learner", "note"),
    [
        (NOBODY, "not trained: no trainer is installed"),
        (Learner(Scoring([], [], too_few=True), "", lambda *_: None), "not trained: --results: '7 points'"),
    ],
    ids=["no trainer", "too few points"],
)
def test_a_night_goes_on_where_nothing_can_be_learnt(learner: Learner, note: str, lab: Lab) -> None:
    night = lab.night(lambda: learner)
    assert night.learnt.note.startswith(note)
    assert note in summary_line(night, Path("r.json"))
    assert night.look == ()


# Records and pages


def test_all_records_stay_and_the_newest_pages(lab: Lab) -> None:
    for _ in range(4):
        lab.night(pages=2)
    names = [path.name for path in sorted((lab.results / "reports").iterdir())]
    days = ["2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04"]
    assert [name for name in names if name.endswith(".json")] == [f"{day}T220000Z.json" for day in days]
    assert [name for name in names if name.endswith(".html")] == [f"{day}T220000Z.html" for day in days[2:]]
    assert len(names) == 6, "nothing else is left"


def test_a_damaged_record_does_not_stop_the_next_night(lab: Lab) -> None:
    learner = Learner(Scoring([10.0], before=[10.0]), "", lambda *_: None)
    lab.night(lambda: learner)
    (lab.results / "reports" / "2026-11-01T230000Z.json").write_text('{"sweep": "small", "learnt": 3}')
    (lab.results / "reports" / "2026-11-01T230001Z.json").write_text("{")
    night = lab.night(lambda: pytest.fail("the record before it is read"))
    assert night.learnt.note == "no new runs: last night's predictor stays"


def test_a_page_that_cannot_be_written_leaves_the_record(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object) -> None:
        raise StoreFull(f"{path.name}: No space left on device")

    monkeypatch.setattr("harness.collect.write_whole", full)
    night = lab.night()
    assert night.look == ("no page was written: 2026-11-01T220000Z.html: No space left on device",)
    assert night.page == ""


def test_what_there_is_to_look_at_is_said_although_no_record_can_be_written(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreFull("No space left on device")

    monkeypatch.setattr("harness.collect.write_night", full)
    lab.refused = ["A node does not measure"]
    with pytest.raises(StoreError, match=r"^No space left on device; A node does not measure$"):
        lab.night()


def test_the_page_begins_with_the_night_and_nothing_from_data_is_markup(lab: Lab) -> None:
    night = replace(lab.night(), look=("<script>x</script> was skipped",))
    (path,) = (lab.results / "reports").glob("*.html")
    assert "Night of 2026-11-01 22:00 UTC: 4 runs, nothing left" in path.read_text("utf-8")
    page = with_night("<h1>head</h1><nav>n</nav>", night)
    assert page.startswith('<h1>head</h1><div class="headline simulated">To look at<ul><li>&lt;script&gt;x')
    assert page.endswith("<nav>n</nav>")


def test_an_accuracy_of_few_points_is_no_regression() -> None:
    accuracy = Accuracy(19, 10.0, 9.0, 11.0, 80.0, 70.0, 90.0)
    assert regression(accuracy, 1.0, 99.0) == ""
    assert regression(replace(accuracy, n=20), 1.0, 99.0).startswith("MAPE 10.0%")
    assert regression(replace(accuracy, n=20), 9.5, 99.0) == (
        "EBA10 80% (70 to 90) on 20 test points, last night's 99%"
    )
    assert regression(replace(accuracy, n=20), 9.5, 85.0) == ""
