"""Agents on the nodes of a Ray cluster: one actor for each, pinned to it, which has the node to itself.

A node measures if it was started with the resource `harness-node`; of simulated sweeps its label `harness-kind` says
which kind of node it simulates. The node on which the controller runs never measures. docs/cluster.md is for people.
"""

import threading
import time
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import __version__
from harness.agent import MeasuringAgent
from harness.cluster.joint import Teams
from harness.cluster.nodeside import NodeFacts, NodeOrder
from harness.cluster.rayconnect import check_guarded, connected, in_a_line
from harness.cluster.raynode import RayNodeSide
from harness.cluster.remote import RemoteAgent
from harness.deployment.sweepfile import Sweep
from harness.errors import AgentLost, BadInput, ClusterError, HarnessError, Interrupted

RESOURCE = "harness-node"
KIND_LABEL = "harness-kind"
FLAG = "ray_running"
"""Put on every run: Ray's processes ran on the node, also while its idle baselines were measured."""
START_LIMIT_S = 180.0
"""For an actor to start and say what it is: imports, meters, engines asked for their versions."""
WAIT_FOR_LOST_S = 120.0
_MOST_STARTS = 3
"""Of the actor of one node, while none comes up; tries at its guard count as well."""
_PAUSE_S = 2.0
"""Before a guard that did not answer is tried again."""


class RayLine:
    """A way to a node-side half in an actor."""

    def __init__(self, ray: Any, actor: Any, name: str) -> None:
        self._ray, self._actor, self._name = ray, actor, name

    def ask(self, method: str, *given: object, limit_s: float, unless: threading.Event | None = None) -> Any:
        until_s = time.monotonic() + limit_s
        try:
            answer = getattr(self._actor, method).remote(*given)
            # In pieces, so that waiting can be given up.
            while not self._ray.wait([answer], timeout=min(1.0, limit_s))[0]:
                if unless is not None and unless.is_set():
                    raise Interrupted
                if time.monotonic() > until_s:
                    raise AgentLost(f"{self._name} did not answer within {limit_s:g} s")
            return self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            raise AgentLost(f"{self._name}: {in_a_line(error)}") from error

    def cut(self) -> None:
        self._ray.kill(self._actor)


@dataclass(slots=True)
class _Member:
    """A node of the cluster, from when its actor is asked for."""

    node_id: str
    order: NodeOrder
    actor: Any
    facts: Any
    environments: Any
    asked_s: float
    agent: RemoteAgent | None = None


class RayFleet:
    """The measuring nodes of a cluster that this process is connected to.

    Attributes:
        refused: by the id of a node that says it measures, why it does not.
    """

    def __init__(self, ray: Any, sweep: Sweep, seed: int, results: Path, patience_s: float = WAIT_FOR_LOST_S) -> None:
        self._ray, self._sweep, self._seed, self._results = ray, sweep, seed, results.absolute()
        self._patience_s = patience_s
        self._own_node = ray.get_runtime_context().get_node_id()
        self._members: dict[str, _Member] = {}
        self._starts: Counter[str] = Counter()
        self._not_before_s: dict[str, float] = {}
        self._beside: dict[str, str] = {}
        self._teams = Teams([deployment.nodes for deployment in sweep.deployments])
        self.refused: dict[str, HarnessError] = {}

    @property
    def patience_s(self) -> float:
        return self._patience_s

    def present(self) -> Sequence[RemoteAgent]:
        """Looks for nodes that came, begins to start their agents, and takes up those that are ready."""
        measuring = {node["NodeID"]: node for node in self.measuring()}
        self._forget_gone(measuring)
        for node_id, node in measuring.items():
            if node_id not in self._members and node_id not in self.refused:
                self._start(node)
        for member in list(self._members.values()):
            if member.agent is None:
                self._take_up(member)
        return [member.agent for member in self._members.values() if member.agent is not None]

    def measuring(self) -> Sequence[Mapping[str, Any]]:
        """What Ray says of the nodes that are up and were started to measure."""
        return [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get(RESOURCE)]

    def teams(self, agents: Sequence[MeasuringAgent]) -> Sequence[MeasuringAgent]:
        # Of a machine that came back, the agent that died with its Ray may still be among them.
        now = {member.agent.name: member.agent for member in self._members.values() if member.agent is not None}
        remote = [agent for agent in agents if isinstance(agent, RemoteAgent)]
        return self._teams.among([agent for agent in remote if now.get(agent.name, agent) is agent])

    def lost(self, agent: MeasuringAgent) -> None:
        for member in list(self._members.values()):
            if member.agent is agent:
                self._drop(member)

    def wait(self, limit_s: float) -> Sequence[RemoteAgent]:
        """Wait until every measuring node that is there now has an agent, or was refused.

        Raises:
            ClusterError: none has.
            BadInput, EngineUnavailable: that is why none has.
        """
        until_s = time.monotonic() + limit_s
        agents = self.present()
        while self._are_coming() and time.monotonic() < until_s:
            time.sleep(0.1)
            agents = self.present()
        if not agents:
            for error in self.refused.values():
                raise error
            started = f"ray start --address=HEAD:PORT --resources='{{\"{RESOURCE}\": 1}}'"
            raise ClusterError(f"no node of the Ray cluster measures; start one with: {started}")
        return agents

    def _are_coming(self) -> bool:
        """Whether a node that measures has neither an agent nor been refused yet."""
        found = (self._members.get(node["NodeID"]) for node in self.measuring() if node["NodeID"] not in self.refused)
        return any(member is None or member.agent is None for member in found)

    def close(self) -> None:
        """End all agents."""
        for member in list(self._members.values()):
            self._drop(member)

    def _forget_gone(self, measuring: Container[str]) -> None:
        """Drop members whose node is gone, and refusals for their sake: a machine's Ray comes back as another node.

        One that was ended from here is dropped as well, so that another one is started in its place.
        """
        for member in list(self._members.values()):
            if member.node_id not in measuring or (member.agent is not None and member.agent.is_cut):
                self._drop(member)
        for node_id, other in list(self._beside.items()):
            if other not in measuring:
                del self._beside[node_id], self.refused[node_id]

    def _drop(self, member: _Member) -> None:
        del self._members[member.node_id]
        self._ray.kill(member.actor)

    def _start(self, node: Mapping[str, Any]) -> None:
        """Ask for an actor that has the node to itself; Ray starts it when nothing else uses the node."""
        node_id = node["NodeID"]
        if time.monotonic() < self._not_before_s.get(node_id, 0.0):
            return
        try:
            order = self._order(node)
        except ClusterError as error:
            # Its guard is busy, or not up yet.
            self._starts[node_id] += 1
            self._not_before_s[node_id] = time.monotonic() + _PAUSE_S
            if self._starts[node_id] >= _MOST_STARTS:
                self.refused[node_id] = error
            return
        except HarnessError as error:
            self.refused[node_id] = error
            return
        resources = node["Resources"]
        actor = (
            self._ray.remote(RayNodeSide)
            .options(
                num_cpus=resources.get("CPU", 0),
                num_gpus=resources.get("GPU", 0),
                resources={RESOURCE: resources[RESOURCE]},
                scheduling_strategy=self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                    node_id, soft=False
                ),
                max_restarts=0,
                max_task_retries=0,
            )
            .remote(order)
        )
        self._starts[node_id] += 1
        self._members[node_id] = _Member(
            node_id, order, actor, actor.describe.remote(), actor.environments.remote(), time.monotonic()
        )

    def _order(self, node: Mapping[str, Any]) -> NodeOrder:
        """What a node is to be.

        Raises:
            BadInput: it cannot measure for this sweep.
            ClusterError: it does not answer.
        """
        where = f"Ray node {node['NodeManagerHostname']} ({node['NodeID'][:8]})"
        if node["NodeID"] == self._own_node:
            raise BadInput(
                where, "the controller's own node", "nodes that do nothing but measure",
                f"start this node without the resource {RESOURCE}, and another with it",
            )  # fmt: skip
        check_guarded(where, node["NodeManagerAddress"], node["RuntimeEnvAgentPort"])
        address = node["NodeManagerAddress"]
        if not self._sweep.simulate:
            return NodeOrder(self._sweep, self._seed, self._results, flag=FLAG, address=address)
        kinds = [spec.kind for spec in self._sweep.nodes]
        kind = node["Labels"].get(KIND_LABEL, kinds[0] if len(kinds) == 1 else "")
        if kind not in kinds:
            raise BadInput(f"{where}: label {KIND_LABEL}", kind, ", ".join(kinds), f"--labels={KIND_LABEL}={kinds[0]}")
        taken = {member.order.name for member in self._members.values()}
        names = (f"sim-{kind}" if number == 1 else f"sim-{kind}-{number}" for number in range(1, len(taken) + 2))
        name = next(name for name in names if name not in taken)
        return NodeOrder(self._sweep, self._seed, self._results, kind, name, FLAG, address)

    def _take_up(self, member: _Member) -> None:
        """Make an agent of a member whose actor has answered, and refuse one that cannot be used."""
        ready, _ = self._ray.wait([member.facts, member.environments], num_returns=2, timeout=0)
        if len(ready) < 2 and time.monotonic() - member.asked_s < START_LIMIT_S:
            return
        try:
            facts: NodeFacts = self._ray.get(member.facts, timeout=0)
            environments = self._ray.get(member.environments, timeout=0)
            self._check(member, facts)
        except self._ray.exceptions.GetTimeoutError:
            self._refuse(member, ClusterError(f"it did not answer within {START_LIMIT_S:g} s, or is in use by others"))
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, HarnessError) else ClusterError(in_a_line(error))
            self._refuse(member, cause)
        except self._ray.exceptions.RayError as error:
            # It died as it started, or could not start; where its node did not die, it is started again.
            if self._starts[member.node_id] < _MOST_STARTS:
                self._drop(member)
            else:
                self._refuse(member, ClusterError(in_a_line(error)))
        except HarnessError as error:
            self._refuse(member, error)
        else:
            self._starts.pop(member.node_id)
            member.agent = RemoteAgent(facts, environments, RayLine(self._ray, member.actor, facts.name))

    def _check(self, member: _Member, facts: NodeFacts) -> None:
        if facts.harness_version != __version__:
            raise BadInput(
                f"harness on {facts.name}", facts.harness_version, __version__, "the same version everywhere"
            )
        for other in self._members.values():
            if other.agent is not None and other.agent.name == facts.name:
                self._beside[member.node_id] = other.node_id
                raise BadInput("Ray nodes", facts.name, "one measuring Ray node on each machine", "stop one of them")

    def _refuse(self, member: _Member, error: HarnessError) -> None:
        self.refused[member.node_id] = error
        self._drop(member)


@contextmanager
def ray_fleet(
    sweep: Sweep, seed: int, results: Path, address: str, option: str, patience_s: float = WAIT_FOR_LOST_S
) -> Iterator[RayFleet]:
    """Connect to a cluster; its agents end with the context.

    Args:
        address: HOST:PORT of its head, or empty: that of RAY_ADDRESS, or of the cluster of this machine.
        option: as it was written, for complaints.

    Raises:
        BadInput: Ray is not installed, there is no token or another one.
        ClusterError: no cluster answers there.
    """
    with connected(address, option) as ray:
        fleet = RayFleet(ray, sweep, seed, results, patience_s)
        try:
            yield fleet
        finally:
            fleet.close()
