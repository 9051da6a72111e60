"""Several agents at once: nothing is lost or doubled, whoever is lost, comes back, or runs out of time."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest

from harness.agent import MeasuringAgent
from harness.clock import WallClock
from harness.cluster.follower import FollowerLine
from harness.cluster.joint import Teams
from harness.cluster.nodeside import Fetched, NodeFacts, NodeOrder, NodeSide
from harness.cluster.remote import RemoteAgent
from harness.deployment.sweepfile import Sweep, load_sweep
from harness.engines.base import Engine
from harness.errors import AgentLost, EngineError, Interrupted, StoreError
from harness.plan import LaunchPlan
from harness.points import Deployment
from harness.records import RunBundle, RunRecord
from harness.space import build_space
from harness.sweep import SweepOrder, SweepOutcome, run_sweep
from tests.unit.builders import write_sweep

TWO_KINDS = ("[dgx-h100]", "[dgx-a100, dgx-h100]")


class DirectLine:
    """A node-side half in this process, whose node is lost when its `dies` says so."""

    def __init__(self, side: NodeSide, dies: Callable[[str, object], bool]) -> None:
        self.side, self._dies, self.dead = side, dies, False
        self.launches = 0

    def ask(self, method: str, *given: object, limit_s: float, unless: threading.Event | None = None) -> Any:
        if self.dead:
            raise AgentLost("it does not answer")
        self.launches += method == "begin"
        answer = getattr(self.side, method)(*given)
        if self._dies(method, answer):
            self.dead = True
            raise AgentLost("its power was cut")
        return answer

    def cut(self) -> None:
        self.dead = True


def never(_: str, __: object) -> bool:
    return False


def after_runs(count: int) -> Callable[[str, object], bool]:
    """Dies when the answer with its `count`-th run (warm-ups counted) is on its way."""
    seen = 0

    def dies(_: str, answer: object) -> bool:
        nonlocal seen
        seen += len(answer.bundles) if isinstance(answer, Fetched) else 0
        return seen >= count

    return dies


def in_launch(_: str, answer: object) -> bool:
    """Dies as soon as a launch is asked for."""
    return isinstance(answer, Fetched)


class Nodes:
    """A fleet of node-side halves in this process; `coming` are there once a node was lost."""

    patience_s = 0.0

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        self._sweep, self._folder = sweep, folder
        self._teams = Teams([deployment.nodes for deployment in sweep.deployments])
        self._agents: list[RemoteAgent] = []
        self.lines: dict[str, DirectLine] = {}
        self.coming: list[Callable[[], None]] = []

    def add(self, kind: str, name: str, dies: Callable[[str, object], bool] = never) -> None:
        side = NodeSide(NodeOrder(self._sweep, 0, self._folder, kind, name, "flagged"))
        line = self.lines[name] = DirectLine(side, dies)
        self._agents.append(RemoteAgent(side.describe(), side.environments(), line))

    def present(self) -> Sequence[RemoteAgent]:
        return tuple(self._agents)

    def teams(self, agents: Sequence[MeasuringAgent]) -> Sequence[MeasuringAgent]:
        return self._teams.among([agent for agent in agents if isinstance(agent, RemoteAgent)])

    def lost(self, agent: MeasuringAgent) -> None:
        self._agents = [one for one in self._agents if one is not agent]
        coming, self.coming = self.coming, []
        for come in coming:
            come()


class Silent:
    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after, self.launched, self.skips = stop_after, Counter[str](), list[tuple[str, tuple[str, ...]]]()

    def planned(self, runs: int) -> None: ...

    def launching(self, agent: MeasuringAgent, plan: LaunchPlan) -> None:
        self.launched[agent.name] += 1

    def skipped(self, agent: MeasuringAgent, reasons: tuple[str, ...]) -> None:
        self.skips.append((agent.name, reasons))

    def measured(self, run: RunRecord) -> None:
        if self.stop_after is not None:
            self.stop_after -= 1
            if self.stop_after < 0:
                raise Interrupted("enough")


def swept(nodes: Nodes, sweep: Sweep, folder: Path, progress: Silent | None = None, **order: Any) -> SweepOutcome:
    wanted = SweepOrder(sweep, folder / "out", seed=0, **order)
    space = build_space(sweep, lambda name: pytest.fail(name), 0)
    watcher = progress or Silent()
    return run_sweep(wanted, space, nodes.present(), watcher, WallClock(), "test", fleet=nodes)


def runs_of(folder: Path) -> pd.DataFrame:
    runs = pd.read_parquet(folder / "out" / "runs")
    return runs[runs["purpose"] != "warmup"]


def assert_once(runs: pd.DataFrame, repetitions: int = 2) -> None:
    """Every repetition of every point is settled, and settled once."""
    settled = runs[runs["status"] == "ok"].groupby(["point_id", "environment_id", "repetition"]).size()
    assert set(settled) == {1}
    assert set(settled.groupby(["point_id", "environment_id"]).size()) == {repetitions}


def test_all_nodes_measure_what_their_hardware_runs_and_say_where(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, TWO_KINDS, ("{tp: 2}]", "{tp: 2}, {tp: 4}, {tp: 8}]")))
    nodes = Nodes(sweep, tmp_path)
    for kind, name in (("dgx-a100", "a"), ("dgx-h100", "b"), ("dgx-h100", "c")):
        nodes.add(kind, name)
    progress = Silent()
    outcome = swept(nodes, sweep, tmp_path, progress)
    assert (outcome.points_done, outcome.runs_taken, outcome.runs_left, outcome.lost) == (16, 32, 0, ())
    runs = runs_of(tmp_path)
    assert_once(runs)
    assert set(zip(runs["node"], runs["gpu"], strict=True)) == {("a", "a100"), ("b", "h100"), ("c", "h100")}
    assert (progress.launched["a"], progress.launched.total()) == (4, 8), "no launch twice"
    assert all("flagged" in flags for flags in runs["flags"])


def test_a_lost_nodes_repetition_failed_and_the_rest_goes_to_another(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, ("sizes: [1, 8]", "sizes: [1, 2, 4, 8]")))
    nodes = Nodes(sweep, tmp_path)
    nodes.add("dgx-h100", "weak", after_runs(3))
    nodes.add("dgx-h100", "strong")
    outcome = swept(nodes, sweep, tmp_path)
    assert [name for name, _ in outcome.lost] == ["weak"]
    assert (outcome.points_done, outcome.runs_left, outcome.withheld) == (8, 0, ())
    runs = runs_of(tmp_path)
    assert_once(runs)
    failed = runs[runs["status"] == "failed"]
    assert len(failed) <= 1
    assert set(failed["node"]) <= {"weak"}
    assert all("node lost: " in reason for reason in failed["reason"])
    # What failed was taken again, as the next try.
    for row in failed.itertuples():
        again = runs.query(f"point_id == '{row.point_id}' and repetition == {row.repetition} and status == 'ok'")
        assert list(again["attempt"]) == [row.attempt + 1]


def test_the_repetition_in_hand_is_the_one_that_failed(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, ("[{tp: 1}, {tp: 2}]", "[{tp: 1}]")))
    nodes = Nodes(sweep, tmp_path)
    hands: list[object] = []

    def dies(_: str, answer: object) -> bool:
        if isinstance(answer, Fetched) and hands:
            return True
        if isinstance(answer, Fetched) and answer.in_hand is not None:
            hands.append(answer.in_hand)
        return False

    nodes.add("dgx-h100", "weak", dies)
    outcome = swept(nodes, sweep, tmp_path)
    runs = runs_of(tmp_path)
    failed = runs[runs["status"] == "failed"]
    (hand,) = hands
    assert list(zip(failed["point_id"], failed["repetition"], failed["attempt"], strict=True)) == [
        (hand.point.point_id, hand.repetition, 1)  # type: ignore[attr-defined]
    ]
    assert outcome.runs_left == 4 - (runs["status"] == "ok").sum()


def test_a_node_that_comes_back_is_taken_up_and_finishes(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path))
    nodes = Nodes(sweep, tmp_path)
    nodes.add("dgx-h100", "only", after_runs(2))
    nodes.coming = [lambda: nodes.add("dgx-h100", "only")]
    nodes.patience_s = 60.0
    outcome = swept(nodes, sweep, tmp_path)
    assert (outcome.points_done, outcome.runs_left, [name for name, _ in outcome.lost]) == (4, 0, ["only"])
    assert_once(runs_of(tmp_path))


def test_a_deployment_that_takes_nodes_with_it_is_left_for_another_call(tmp_path: Path) -> None:
    """Three launches, as many as a repetition has tries; the other deployment is measured."""
    sweep = load_sweep(write_sweep(tmp_path))
    nodes = Nodes(sweep, tmp_path)
    nodes.patience_s = 60.0
    deadly = sweep.deployments[0]
    begun: list[LaunchPlan] = []

    class Deadly(DirectLine):
        def ask(self, method: str, *given: object, **options: Any) -> Any:
            if method == "begin" and given[0].deployment == deadly:  # type: ignore[attr-defined]
                begun.append(given[0])  # type: ignore[arg-type]
                self.dead = True
            return super().ask(method, *given, **options)

    def add(number: int) -> None:
        nodes.add("dgx-h100", f"n{number}")
        agent = nodes.present()[-1]
        agent._line = Deadly(nodes.lines[agent.name].side, never)
        nodes.coming = [lambda: add(number + 1)]

    add(1)
    outcome = swept(nodes, sweep, tmp_path)
    assert len(begun) == 3
    assert outcome.withheld == ((deadly.label, "a node was lost in 3 of its launches"),)
    assert (outcome.points_done, outcome.runs_left) == (2, 4), "what is withheld is still left"


def test_a_node_that_is_lost_again_and_again_is_not_taken_up(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, ("[{tp: 1}, {tp: 2}]", "[{tp: 1}, {tp: 2}, {tp: 4}, {tp: 8}]")))
    nodes = Nodes(sweep, tmp_path)
    nodes.patience_s = 60.0

    def add() -> None:
        nodes.add("dgx-h100", "weak", lambda method, _: method == "look")
        nodes.coming = [add]

    add()
    outcome = swept(nodes, sweep, tmp_path)
    assert [name for name, _ in outcome.lost] == ["weak"] * 3
    assert outcome.runs_left == 16


def test_an_agent_with_nothing_to_do_takes_what_a_lost_one_leaves(tmp_path: Path) -> None:
    """One launch for two nodes: the second waits while the first measures, and does not go home before it ends."""
    sweep = load_sweep(write_sweep(tmp_path, ("[{tp: 1}, {tp: 2}]", "[{tp: 1}]")))
    nodes = Nodes(sweep, tmp_path)
    waited = threading.Event()
    nodes.add("dgx-h100", "first", in_launch)
    nodes.add("dgx-h100", "second")
    first, second = nodes.lines["first"], nodes.lines["second"]
    look, begin = second.side.look, first.side.begin

    def late_look() -> object:
        waited.wait(30)
        return look()

    def noted_begin(plan: LaunchPlan, followers: tuple[FollowerLine, ...]) -> None:
        begin(plan, followers)
        waited.set()

    second.side.look, first.side.begin = late_look, noted_begin  # type: ignore[method-assign,assignment]
    outcome = swept(nodes, sweep, tmp_path)
    assert (outcome.runs_left, second.launches) == (0, 1)
    assert_once(runs_of(tmp_path))


def test_a_person_who_stops_it_gets_all_that_was_complete_and_can_go_on(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, TWO_KINDS))
    nodes = Nodes(sweep, tmp_path)
    nodes.add("dgx-a100", "a")
    nodes.add("dgx-h100", "b")
    with pytest.raises(Interrupted):
        swept(nodes, sweep, tmp_path, Silent(stop_after=2))
    taken = len(runs_of(tmp_path))
    assert 0 < taken <= 16
    assert all(not line.dead or line.side.stop(0.0) for line in nodes.lines.values()), "no launch goes on"
    again = Nodes(sweep, tmp_path)
    again.add("dgx-a100", "a")
    again.add("dgx-h100", "b")
    outcome = swept(again, sweep, tmp_path)
    assert (outcome.runs_taken, outcome.runs_left) == (16 - taken, 0)
    assert_once(runs_of(tmp_path))


def test_a_full_disk_ends_all_agents_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = load_sweep(write_sweep(tmp_path, TWO_KINDS))
    nodes = Nodes(sweep, tmp_path)
    nodes.add("dgx-a100", "a")
    nodes.add("dgx-h100", "b")

    def full(*_: object) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr("harness.store.Writer.append", full)
    with pytest.raises(StoreError, match="no space left"):
        swept(nodes, sweep, tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("agent")]


def test_an_engine_that_will_not_end_costs_its_node_and_no_other(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path))
    nodes = Nodes(sweep, tmp_path)
    nodes.add("dgx-h100", "a")
    nodes.add("dgx-h100", "b")
    node = nodes.lines["a"].side._agent.node
    launch = node.launch

    def stubborn(deployment: Deployment, seed: int) -> Engine:
        engine = launch(deployment, seed)

        def stop() -> None:
            raise EngineError("processes of the engine would not end: (4711,)")

        engine.stop = stop  # type: ignore[method-assign]
        return engine

    node.launch = stubborn  # type: ignore[method-assign]
    outcome = swept(nodes, sweep, tmp_path)
    assert outcome.lost == (("a", "processes of the engine would not end: (4711,)"),)
    assert outcome.runs_left == 0
    assert_once(runs_of(tmp_path))


class Endless:
    """A line to a node whose repetition in hand does not end."""

    def __init__(self) -> None:
        self.stops: list[object] = []
        self.is_cut = False

    def ask(self, method: str, *given: object, limit_s: float, unless: threading.Event | None = None) -> Any:
        if method == "fetch":
            return Fetched((cast(RunBundle, "a run"),), None, False, None)
        self.stops += given if method == "stop" else ()
        return None

    def cut(self) -> None:
        self.is_cut = True


@pytest.mark.parametrize(("interrupted", "wait_s"), [(False, 180.0), (True, 5.0)])
def test_what_is_in_hand_may_end_before_its_node_is_given_up(interrupted: bool, wait_s: float) -> None:
    """At a budget's end there is more time than where a person waits."""
    line = Endless()
    agent = RemoteAgent(cast(NodeFacts, None), {}, line)
    bundles = agent.measure(cast(LaunchPlan, None))
    next(bundles)
    if interrupted:
        agent.interrupt()
    assert not agent.is_cut
    bundles.close()
    assert (line.stops, line.is_cut, agent.is_cut) == ([wait_s], True, True)


def test_a_budget_ends_every_agent_after_its_repetition(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, TWO_KINDS))
    nodes = Nodes(sweep, tmp_path)
    nodes.add("dgx-a100", "a")
    nodes.add("dgx-h100", "b")
    outcome = swept(nodes, sweep, tmp_path, budget_s=1e-6)
    assert outcome.budget_spent
    assert outcome.runs_taken >= 1
    assert outcome.runs_left == 16 - outcome.runs_taken


@pytest.mark.parametrize("together", [True, False])
def test_a_launch_without_time_for_one_repetition_is_not_begun(together: bool, tmp_path: Path) -> None:
    """The launch on two GPUs is expected to take a day; that on one is begun."""
    sweep = load_sweep(write_sweep(tmp_path))
    nodes = Nodes(sweep, tmp_path)
    nodes.add("dgx-h100", "a")

    def expected_s(plan: LaunchPlan) -> float:
        return 86400.0 if plan.deployment.tensor_parallel == 2 else 1.0

    order = SweepOrder(sweep, tmp_path / "out", seed=0, budget_s=3600.0, expected_s=expected_s)
    space = build_space(sweep, lambda name: pytest.fail(name), 0)
    fleet = nodes if together else None
    outcome = run_sweep(order, space, nodes.present(), Silent(), WallClock(), "test", fleet=fleet)
    assert (outcome.budget_spent, outcome.runs_taken, outcome.runs_left) == (True, 4, 4)
    ((deployment, reason),) = outcome.withheld
    assert "tp2" in deployment
    assert "its first repetition is expected after" in reason
    unlimited = run_sweep(
        replace(order, budget_s=None), space, nodes.present(), Silent(), WallClock(), "test", fleet=fleet
    )
    assert (unlimited.runs_left, unlimited.withheld) == (0, ())
