"""Several agents on one deployment: put together when they are free, freed however it ends."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.cluster.joint import JointAgent, Teams
from harness.cluster.nodeside import Look, NodeOrder, NodeSide
from harness.cluster.remote import RemoteAgent
from harness.deployment.sweepfile import Sweep, load_sweep
from harness.desk import Desk
from harness.errors import AgentLost, BadInput
from harness.order import Stage
from harness.plan import LaunchPlan
from harness.records import RunBundle
from harness.space import build_space
from harness.sweep import SweepOrder
from tests.unit.builders import write_sweep
from tests.unit.test_cluster_crew import DirectLine, Nodes, assert_once, in_launch, never, runs_of, swept

OVER_TWO = ("[{tp: 1}, {tp: 2}]", "[{tp: 2}, {tp: 8, pp: 2, nodes: 2}]")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return load_sweep(write_sweep(tmp_path, OVER_TWO))


def test_what_spans_two_nodes_is_measured_by_two_that_are_free(sweep: Sweep, tmp_path: Path) -> None:
    nodes = Nodes(sweep, tmp_path)
    for name in "abc":
        nodes.add("dgx-h100", name)
    assert swept(nodes, sweep, tmp_path).runs_left == 0
    runs = runs_of(tmp_path)
    assert_once(runs)
    over_two = runs[runs["n_nodes"] == 2]
    (pair,) = set(over_two["node"])
    assert pair in {"a+b", "b+c"}
    assert set(over_two["n_gpus"]) == {16}
    sides = [NodeSide(NodeOrder(sweep, 0, tmp_path, "dgx-h100", name)) for name in pair.split("+")]
    theirs = [uuid for side in sides for uuid in side._agent.node.gpu_uuids]  # type: ignore[attr-defined]
    assert all(list(uuids) == theirs for uuids in over_two["gpu_uuids"]), "the boards of the two, and no others"
    alone = runs[runs["n_nodes"] == 1]
    assert set(alone["node"]) <= set("abc")
    assert set(alone["environment_id"]) == set(over_two["environment_id"])


def test_one_node_alone_leaves_it(sweep: Sweep, tmp_path: Path) -> None:
    nodes = Nodes(sweep, tmp_path)
    nodes.add("dgx-h100", "a")
    swept(nodes, sweep, tmp_path)
    assert set(runs_of(tmp_path)["n_nodes"]) == {1}
    nodes.add("dgx-h100", "b")
    assert swept(nodes, sweep, tmp_path).runs_left == 0
    assert_once(runs_of(tmp_path))


def test_nodes_that_are_not_alike_are_not_put_together(tmp_path: Path) -> None:
    kinds = ("[dgx-h100]", "[dgx-a100, dgx-h100]")
    sweep = load_sweep(write_sweep(tmp_path, OVER_TWO, kinds))
    nodes = Nodes(sweep, tmp_path)
    for kind, name in (("dgx-h100", "a"), ("dgx-a100", "b"), ("dgx-h100", "c"), ("dgx-h100", "d")):
        nodes.add(kind, name)
    assert [team.name for team in nodes.teams(nodes.present())] == ["a+c"]
    assert nodes.teams(nodes.present())[0] is nodes.teams(nodes.present())[0]
    assert not Teams([1]).among(list(nodes.present()))


@pytest.mark.parametrize("mortal", ["a", "b"])
def test_a_lost_part_is_replaced_and_the_other_goes_on(mortal: str, tmp_path: Path) -> None:
    """`a` leads. It dies in its launch together with `b`; `b` dies when it is let go of after one, before another."""
    over_two = "[{tp: 8, pp: 2, nodes: 2}, {tp: 4, pp: 4, nodes: 2}]"
    sweep = load_sweep(write_sweep(tmp_path, ("[{tp: 1}, {tp: 2}]", over_two)))
    nodes = Nodes(sweep, tmp_path)

    def dies(method: str, answer: object) -> bool:
        if mortal == "b":
            return method == "release"
        return in_launch(method, answer) and "begun" in together

    together: set[str] = set()
    for name in "ab":
        nodes.add("dgx-h100", name, dies if name == mortal else never)
    begin = nodes.lines["a"].side.begin

    def noted(plan: LaunchPlan, followers: tuple[object, ...]) -> None:
        together.update(["begun"] * len(followers))
        begin(plan, followers)  # type: ignore[arg-type]

    nodes.lines["a"].side.begin = noted  # type: ignore[method-assign,assignment]
    nodes.coming = [lambda: nodes.add("dgx-h100", "c")]
    outcome = swept(nodes, sweep, tmp_path)
    assert outcome.runs_left == 0
    runs = runs_of(tmp_path)
    assert_once(runs)
    failed = runs[runs["status"] == "failed"]
    assert [name for name, _ in outcome.lost] == ["a+b"]
    assert set(runs["node"]) - {"a+b"} == ({"b+c"} if mortal == "a" else {"a+c"})
    assert all("its power was cut" in reason for reason in failed["reason"])
    if mortal == "b":
        assert failed.empty, "it was lost between two launches"


class Leader(RemoteAgent):
    """Loses a follower in mid-launch, or does not answer itself."""

    lost = "b"

    def measure(self, plan: LaunchPlan, followers: object = ()) -> Generator[RunBundle]:
        raise AgentLost("no answer within 30 s", "what was in hand", self.lost)
        yield


@pytest.mark.parametrize(("lost_node", "named"), [("b", "b"), ("", "a")])
def test_the_one_that_was_lost_is_named_and_the_others_are_let_go_of(
    lost_node: str, named: str, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that does not answer is ended first: it might ask the followers for more."""
    monkeypatch.setattr(Leader, "lost", lost_node)
    lines = {}
    parts: list[RemoteAgent] = []
    for name, kind in (("a", Leader), ("b", RemoteAgent), ("c", RemoteAgent)):
        side = NodeSide(NodeOrder(sweep, 0, tmp_path, "dgx-h100", name))
        lines[name] = DirectLine(side, never)
        parts.append(kind(side.describe(), side.environments(), lines[name]))
    released: list[str] = []
    for name in "bc":
        lines[name].side.release = lambda name=name: released.append(name) is None  # type: ignore[method-assign]
    team = JointAgent(parts)
    with pytest.raises(AgentLost) as lost:
        list(team.measure(SimpleNamespace()))  # type: ignore[arg-type]
    assert (lost.value.node, lost.value.in_hand) == (named, "what was in hand")
    assert lines["a"].dead == (named == "a")
    assert sorted(released) == ["b", "c"]
    assert (team.name, team.nodes) == ("a+b+c", 3)


def test_a_node_in_use_leaves_its_neighbours_free_for_one_another(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, ("[{tp: 1}, {tp: 2}]", "[{tp: 8, pp: 2, nodes: 2}]")))
    nodes = Nodes(sweep, tmp_path)
    for name in "abc":
        nodes.add("dgx-h100", name)
    side = nodes.lines["b"].side
    side.look = lambda: Look(("somebody's",), side.environments())  # type: ignore[method-assign]
    assert swept(nodes, sweep, tmp_path).runs_left == 0
    assert set(runs_of(tmp_path)["node"]) == {"a+c"}


def test_nodes_found_unlike_at_the_look_do_not_measure_together(sweep: Sweep, tmp_path: Path) -> None:
    nodes = Nodes(sweep, tmp_path)
    for name in "ab":
        nodes.add("dgx-h100", name)
    side = nodes.lines["b"].side
    cooler = {item: replace(one, power_limit_w=400.0) for item, one in side.environments().items()}
    side.look = lambda: Look((), cooler)  # type: ignore[method-assign]
    (team,) = nodes.teams(nodes.present())
    assert "not alike any more" in team.wait_until_free()[0]
    assert team.in_use == ()
    assert nodes.teams(nodes.present()) == []


def test_a_call_waits_for_a_second_node_only_where_there_is_work_for_two(sweep: Sweep, tmp_path: Path) -> None:
    nodes = Nodes(sweep, tmp_path)
    for name in "ab":
        nodes.add("dgx-h100", name)
    swept(nodes, sweep, tmp_path)
    stage = Stage(build_space(sweep, lambda name: pytest.fail(name), 0), probing=True)

    def waits(folder: str, present: int) -> bool:
        order = SweepOrder(sweep, tmp_path / folder, seed=0)
        desk = Desk(order, stage, 0, nodes.present(), None, None, None)  # type: ignore[arg-type]
        return desk.waits_for_more(nodes.present()[:present])

    (tmp_path / "new").mkdir()
    assert waits("new", 1)
    assert not waits("new", 2)
    assert not waits("out", 1)


def test_a_call_does_not_wait_for_a_node_with_which_nothing_could_run(tmp_path: Path) -> None:
    too_long = ("max_context_tokens: 4096", "max_context_tokens: 64")
    sweep = load_sweep(write_sweep(tmp_path, OVER_TWO, too_long))
    nodes = Nodes(sweep, tmp_path)
    nodes.add("dgx-h100", "a")
    (tmp_path / "out").mkdir()
    stage = Stage(build_space(sweep, lambda name: pytest.fail(name), 0), probing=True)
    desk = Desk(SweepOrder(sweep, tmp_path / "out", seed=0), stage, 0, nodes.present(), None, None, None)  # type: ignore[arg-type]
    assert not desk.waits_for_more(nodes.present())


def test_this_machine_alone_says_that_it_cannot(tmp_path: Path) -> None:
    from harness.cluster.local import local_agents

    sweep = load_sweep(write_sweep(tmp_path, OVER_TWO, ("simulate: true", "simulate: false")))
    with pytest.raises(BadInput) as told, local_agents(sweep, 0, tmp_path):
        pass
    assert "parallelism: nodes: 2; accepted: 1 on this machine alone; fix: --cluster ray or slurm" in str(told.value)
