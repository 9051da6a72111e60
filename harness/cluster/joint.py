"""Several remote agents that measure one deployment together: the first leads, the others follow."""

import contextlib
from collections import defaultdict
from collections.abc import Generator, Hashable, Sequence
from dataclasses import replace

from harness.agent import MeasuringAgent
from harness.cluster.remote import RemoteAgent
from harness.errors import AgentLost
from harness.feasibility import node_obstacle
from harness.node import NodeIdentity
from harness.plan import LaunchPlan
from harness.points import Deployment, Environment, NodeSpec, Point, Source
from harness.records import RunBundle


class JointAgent:
    """Agents on machines that are alike, as one; it has them for as long as it measures."""

    def __init__(self, parts: Sequence[RemoteAgent]) -> None:
        self._parts = tuple(parts)
        self._name = "+".join(part.name for part in parts)

    @property
    def name(self) -> str:
        return self._name

    @property
    def parts(self) -> tuple[MeasuringAgent, ...]:
        return self._parts

    @property
    def nodes(self) -> int:
        return len(self._parts)

    @property
    def spec(self) -> NodeSpec:
        """Of each of them."""
        return self._parts[0].spec

    @property
    def source(self) -> Source:
        return self._parts[0].source

    @property
    def identity(self) -> NodeIdentity:
        return replace(self._parts[0].facts, name=self._name)

    def hosts(self, deployment: Deployment) -> bool:
        return deployment.gpu == self.spec.gpu_kind and deployment.nodes == self.nodes

    def obstacle(self, point: Point) -> str:
        return node_obstacle(point, self.spec)

    def environment(self, deployment: Deployment) -> Environment:
        return self._parts[0].environment(deployment)

    def wait_until_free(self) -> tuple[str, ...]:
        """Raises AgentLost."""
        reasons: list[str] = []
        for part in self._parts:
            try:
                reasons += [f"{part.name}: {reason}" for reason in part.wait_until_free()]
            except AgentLost as error:
                raise AgentLost(str(error), error.in_hand, part.name) from error
        return tuple(reasons)

    def measure(self, plan: LaunchPlan) -> Generator[RunBundle]:
        """Raises AgentLost, naming the one that was lost, with the repetition that was in hand."""
        leader, *followers = self._parts
        try:
            yield from leader.measure(plan, followers)
        except AgentLost as error:
            raise AgentLost(str(error), error.in_hand, error.node or leader.name) from error
        finally:
            for follower in followers:
                # One that is lost is noticed by whoever asks it next.
                with contextlib.suppress(AgentLost):
                    follower.release()

    def interrupt(self) -> None:
        for part in self._parts:
            part.interrupt()


class Teams:
    """Joint agents over those of a fleet, made once each.

    Args:
        sizes: how many nodes the deployments of a sweep span, one being none of them.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sorted(set(sizes) - {1})
        self._made: dict[tuple[int, ...], JointAgent] = {}

    def among(self, agents: Sequence[RemoteAgent]) -> list[JointAgent]:
        """Teams of neighbours by name, of the same kind and environments; an agent may be in several."""
        alike: dict[Hashable, list[RemoteAgent]] = defaultdict(list)
        if not self._sizes:
            return []
        for agent in sorted(agents, key=lambda agent: agent.name):
            alike[agent.spec, agent.environments].append(agent)
        return [
            self._team(found[begin : begin + size])
            for size in self._sizes
            for found in alike.values()
            for begin in range(0, len(found) - size + 1, size)
        ]

    def _team(self, parts: Sequence[RemoteAgent]) -> JointAgent:
        # It holds its parts, so that no other gets the id of one.
        return self._made.setdefault(tuple(map(id, parts)), JointAgent(parts))
