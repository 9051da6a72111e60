"""An engine over several machines: started in order, ended whole, and its losses told apart."""

import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from harness import joint_node
from harness.cluster.follower import FollowerSide, answered
from harness.engines.base import Served
from harness.engines.recipe import Part
from harness.errors import AgentLost, EngineCrashed, EngineError, KvCacheOutOfMemory, LaunchFailed
from harness.joint_node import JointNode
from harness.meters.base import Recording

DEPLOYMENT: Any = SimpleNamespace(nodes=3)


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_node, "_LOOK_EVERY_S", 0.01)


class Process:
    """Killed by whoever watches it."""

    def __init__(self) -> None:
        self.killed = threading.Event()

    def kill(self) -> None:
        self.killed.set()


class Own:
    """This machine; its engine ends when it is killed."""

    name, gpu_uuids, version, load_s, launched = "a", ("GPU-a",), "1", 3.0, {"argv": ["vllm"]}

    def __init__(self, log: list[str], fails: bool = False, waits: bool = False) -> None:
        self._log, self._fails, self._waits, self.process = log, fails, waits, Process()
        self.part: Part | None = None

    def lead(self, deployment: object, seed: int, part: Part, started: Callable[[Process], None]) -> "Own":
        self._log.append("a leads")
        self.part = part
        started(self.process)
        if self._waits:
            assert self.process.killed.wait(10)
        if self._fails or self._waits:
            raise LaunchFailed("the engine was not ready", "a tail", "/log")
        return self

    def replay(self, schedule: object, drain_s: float, seed: int) -> Served:
        assert self.process.killed.wait(10)
        raise EngineCrashed("the engine ended by signal 9", "a tail", "/log", "what was served")

    def stop(self) -> None:
        self._log.append("a stops")


class Other:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.address, self._log = name, f"10.0.0.{ord(name)}", log
        self.how: str | AgentLost = ""
        self.part: Part | None = None

    def follow(self, deployment: object, seed: int, part: Part) -> tuple[tuple[str, ...], Mapping[str, object]]:
        self._log.append(f"{self.name} follows")
        self.part = part
        return (f"GPU-{self.name}",), {"argv": [self.name]}

    def ready(self) -> None:
        self._log.append(f"{self.name} ready")

    def ended(self) -> str:
        if isinstance(self.how, AgentLost):
            raise self.how
        return self.how

    def unfollow(self) -> None:
        self._log.append(f"{self.name} stops")


def made(**own: bool) -> tuple[JointNode, Own, list[Other], list[str]]:
    log: list[str] = []
    leader, others = Own(log, **own), [Other("b", log), Other("c", log)]
    return JointNode(leader, "127.0.0.1", others), leader, others, log  # type: ignore[arg-type]


def test_followers_start_first_and_all_end() -> None:
    node, own, others, log = made()
    engine = node.launch(DEPLOYMENT, 4)
    assert log == ["b follows", "c follows", "a leads", "b ready", "c ready"]
    assert own.part is not None
    assert [other.part for other in others] == [
        Part(rank, other.address, "127.0.0.1", own.part.port) for rank, other in enumerate(others, 1)
    ]
    assert own.part.rank == 0
    assert engine.gpu_uuids == ("GPU-a", "GPU-b", "GPU-c")
    assert engine.launched["followers"] == {"b": {"argv": ["b"]}, "c": {"argv": ["c"]}}
    assert (node.name, node.machines) == ("a+b+c", 3)
    engine.stop()
    assert log[5:] == ["a stops", "c stops", "b stops"]


def test_a_leader_that_does_not_start_leaves_no_follower() -> None:
    node, _, _, log = made(fails=True)
    with pytest.raises(LaunchFailed, match="the engine was not ready"):
        node.launch(DEPLOYMENT, 4)
    assert log[3:] == ["c stops", "b stops"]


def test_a_follower_that_ends_while_all_start_is_the_reason() -> None:
    node, own, (_, c), log = made(waits=True)
    c.how = "exited with status 1 (log: /c)"
    with pytest.raises(LaunchFailed) as told:
        node.launch(DEPLOYMENT, 4)
    assert str(told.value) == "the engine was not ready; its part on c exited with status 1 (log: /c)"
    assert (told.value.log_tail, own.process.killed.is_set()) == ("a tail", True)
    assert log[3:] == ["c stops", "b stops"]


def test_a_follower_that_ends_while_it_serves_is_a_crash_with_what_was_served() -> None:
    node, _, (b, _), _ = made()
    engine = node.launch(DEPLOYMENT, 4)
    b.how = "ended by signal 9"
    with pytest.raises(EngineCrashed) as told:
        engine.replay(None, 1.0, 0)  # type: ignore[arg-type]
    assert str(told.value) == "the engine ended by signal 9; its part on b ended by signal 9"
    assert told.value.partial == "what was served"
    engine.stop()


def test_a_leader_that_ends_first_keeps_its_own_kind_of_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The follower ends because of it, before or after anybody looks."""
    monkeypatch.setattr(joint_node, "_LOOK_EVERY_S", 1000.0)
    node, own, (b, _), _ = made()

    def out_of_memory(*_: object) -> Own:
        b.how = "exited with status 1"
        raise KvCacheOutOfMemory("no room for one sequence", "a tail", "/log")

    own.lead = out_of_memory  # type: ignore[assignment,method-assign]
    with pytest.raises(KvCacheOutOfMemory) as told:
        node.launch(DEPLOYMENT, 4)
    assert str(told.value) == "no room for one sequence; its part on b exited with status 1"


def test_an_address_that_is_not_of_this_node_is_a_failed_launch() -> None:
    _, own, others, log = made()
    away = JointNode(own, "203.0.113.9", others)  # type: ignore[arg-type]
    with pytest.raises(LaunchFailed, match="nothing can listen at 203"):
        away.launch(DEPLOYMENT, 4)
    assert log == []


def test_a_follower_that_is_lost_is_a_lost_node() -> None:
    node, _, (_, c), _ = made()
    engine = node.launch(DEPLOYMENT, 4)
    c.how = AgentLost("c did not answer", node="c")
    with pytest.raises(AgentLost) as told:
        engine.replay(None, 1.0, 0)  # type: ignore[arg-type]
    assert told.value.node == "c"


def test_one_that_does_not_end_keeps_no_other_from_ending() -> None:
    node, _, (_, c), log = made()
    engine = node.launch(DEPLOYMENT, 4)

    def stuck() -> None:
        raise EngineError("processes of the engine would not end: (7,)")

    c.unfollow = stuck  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="would not end"):
        engine.stop()
    assert log[5:] == ["a stops", "b stops"]


class Ending:
    def __init__(self, stuck: bool = False) -> None:
        self.stops, self._stuck = 0, stuck

    def stop(self) -> None:
        self.stops += 1
        # As a process that was stopped before, it says nothing the second time.
        if self._stuck and self.stops == 1:
            raise EngineError("processes of the engine would not end: (7,)")


class Counters:
    def __init__(self, log: list[str]) -> None:
        self._log = log

    def start(self) -> None:
        self._log.append("start")

    def stop(self) -> Recording:
        self._log.append("stop")
        return Recording(())


def test_a_follower_ends_what_its_leader_gave_up() -> None:
    log: list[str] = []
    side = FollowerSide(SimpleNamespace(sampler=lambda: Counters(log)))  # type: ignore[arg-type]
    side.start()
    side.start()
    assert log == ["start", "stop", "start"]
    part = side._part = Ending()  # type: ignore[assignment]
    side.unfollow()
    side.unfollow()
    assert (log[3:], part.stops) == (["stop"], 1)


def test_a_part_that_does_not_end_is_never_said_to_have_ended() -> None:
    side = FollowerSide(SimpleNamespace())  # type: ignore[arg-type]
    side._part = Ending(stuck=True)  # type: ignore[assignment]
    for _ in range(2):
        error, _answer = answered(side, "unfollow", ())
        assert "would not end" in str(error)
