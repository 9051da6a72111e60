"""Nodes of a Ray cluster come, go and come back; what stands in for Ray answers from this process."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.cluster import ray as fleets
from harness.cluster.nodeside import NodeOrder, NodeSide
from harness.cluster.ray import RESOURCE, RayFleet
from harness.cluster.rayconnect import connected
from harness.cluster.raytoken import MODE, TOKEN
from harness.deployment.sweepfile import Sweep, load_sweep
from harness.errors import BadInput, ClusterError
from tests.unit.builders import write_sweep
from tests.unit.test_cluster_teams import OVER_TWO


class RayError(Exception): ...


class RayActorError(RayError): ...


class ActorUnschedulableError(RayError):
    """As in Ray 2.60: not a RayActorError."""


class GetTimeoutError(RayError): ...


class RayTaskError(RayError): ...


class Actor:
    def __init__(self, side: NodeSide | Exception) -> None:
        self._side = side

    def __getattr__(self, method: str) -> Any:
        side = self._side
        return SimpleNamespace(remote=lambda: side if isinstance(side, Exception) else getattr(side, method)())


class Ray:
    """As far as a fleet asks it: nodes by id, each on a machine, and an actor on each; `fails` comes up instead."""

    exceptions = SimpleNamespace(
        RayError=RayError, RayActorError=RayActorError, GetTimeoutError=GetTimeoutError, RayTaskError=RayTaskError
    )
    util = SimpleNamespace(
        scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
    )

    def __init__(self, side: Callable[[str], NodeSide]) -> None:
        self._side = side
        self.machines: dict[str, str] = {}
        self.fails: Exception | None = None
        self.starts = Counter[str]()

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "of-the-controller")

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "NodeID": node, "Alive": True, "Resources": {RESOURCE: 1.0}, "Labels": {}, "NodeManagerHostname": name,
                "NodeManagerAddress": "10.0.0.2", "RuntimeEnvAgentPort": 1,
            }
            for node, name in self.machines.items()
        ]  # fmt: skip

    def remote(self, _: type) -> Any:
        return SimpleNamespace(options=lambda scheduling_strategy, **_: self._starter(scheduling_strategy))

    def _starter(self, node: str) -> Any:
        self.starts[node] += 1
        return SimpleNamespace(remote=lambda _: Actor(self.fails or self._side(self.machines[node])))

    def wait(self, asked: list[Any], **_: object) -> tuple[list[Any], list[Any]]:
        return asked, []

    def get(self, asked: Any, **_: object) -> Any:
        if isinstance(asked, Exception):
            raise asked
        return asked

    def kill(self, _: Actor) -> None: ...


@pytest.fixture
def small(tmp_path: Path) -> Sweep:
    return load_sweep(write_sweep(tmp_path, OVER_TWO))


@pytest.fixture
def ray(small: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ray:
    monkeypatch.setattr(fleets, "check_guarded", lambda *_: None)
    monkeypatch.setattr(fleets, "_PAUSE_S", 0.0)
    return Ray(lambda machine: NodeSide(NodeOrder(small, 0, tmp_path, "dgx-h100", machine)))


@pytest.fixture
def fleet(ray: Ray, small: Sweep, tmp_path: Path) -> RayFleet:
    """Of a measured sweep, whose nodes are called as their machines are."""
    return RayFleet(ray, replace(small, simulate=False), 0, tmp_path)


def test_a_machine_whose_ray_was_started_again_is_taken_up_again(ray: Ray, fleet: RayFleet) -> None:
    """Its agent had nothing to do, so that nobody asked it anything, and nobody knows that it is dead."""
    ray.machines = {"first": "dgx01"}
    (old,) = fleet.present()
    ray.machines = {"second": "dgx01"}
    (new,) = fleet.present()
    assert (old.name, new.name, new is old) == ("dgx01", "dgx01", False)
    assert not fleet.refused
    assert not fleet.teams([old, new]), "they are one machine"
    ray.machines["other"] = "dgx02"
    assert len(fleet.teams([old, *fleet.present()])) == 1


def test_in_place_of_an_agent_that_was_ended_another_is_started(ray: Ray, fleet: RayFleet) -> None:
    """What it had begun when a budget ended would not end; the probes of the night come next."""
    ray.machines = {"first": "dgx01"}
    (old,) = fleet.present()
    old.cut()
    (new,) = fleet.present()
    assert (new is old, new.name, ray.starts["first"]) == (False, "dgx01", 2)


def test_a_second_ray_of_a_machine_is_refused_for_as_long_as_the_first_is_there(ray: Ray, fleet: RayFleet) -> None:
    """A Ray that was killed still counts as alive for some seconds, when its machine is back already."""
    ray.machines = {"first": "dgx01", "second": "dgx01"}
    (old,) = fleet.present()
    assert "one measuring Ray node on each machine" in str(fleet.refused["second"])
    del ray.machines["first"]
    (new,) = fleet.present()
    assert new is not old
    assert not fleet.refused


@pytest.mark.parametrize(("failures", "tries", "present"), [(2, 3, 1), (99, 3, 0)])
def test_a_guard_that_does_not_answer_is_tried_again(
    failures: int, tries: int, present: int, ray: Ray, fleet: RayFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def guard(*asked: object) -> None:
        tried.append(asked)
        if len(tried) <= failures:
            raise ClusterError("[Errno 111] Connection refused")

    monkeypatch.setattr(fleets, "check_guarded", guard)
    ray.machines = {"first": "dgx01"}
    found = [len(fleet.present()) for _ in range(5)][-1]
    assert (len(tried), found, list(fleet.refused)) == (tries, present, [] if present else ["first"])


def test_a_guard_is_given_time_before_it_is_tried_again(
    ray: Ray, fleet: RayFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def guard(*asked: object) -> None:
        tried.append(asked)
        raise ClusterError("timed out")

    monkeypatch.setattr(fleets, "_PAUSE_S", 60.0)
    monkeypatch.setattr(fleets, "check_guarded", guard)
    ray.machines = {"first": "dgx01"}
    for _ in range(5):
        fleet.present()
    assert (len(tried), fleet.refused) == (1, {})


def test_an_actor_that_cannot_start_is_started_again_and_then_refused(ray: Ray, fleet: RayFleet) -> None:
    ray.machines = {"first": "dgx01"}
    ray.fails = ActorUnschedulableError("the node of its affinity is dead")
    assert not [agent for _ in range(5) for agent in fleet.present()]
    assert ray.starts == {"first": 3}
    assert "ActorUnschedulableError: the node of its affinity is dead" in str(fleet.refused["first"])


@pytest.mark.parametrize("address", ["10.0.0.1:abc", "10.0.0.1:65536", "10.0.0.1"])
def test_an_address_that_can_be_none_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, MODE: "token", TOKEN: "secret", "RAY_ADDRESS": address})
    refused = pytest.raises(BadInput, match=f"^RAY_ADDRESS: '{address}'; accepted: HOST:PORT, .*; fix: correct it, or")
    with refused, connected("", "--cluster ray"):
        pass
