"""Several remote agents that measure one deployment together: the first leads, the others follow."""

from collections import defaultdict
from collections.abc import Generator, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
        self._in_use: tuple[MeasuringAgent, ...] = ()

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
    def in_use(self) -> tuple[MeasuringAgent, ...]:
        return self._in_use

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
        in_use: list[RemoteAgent] = []
        for part in self._parts:
            try:
                found = part.wait_until_free()
            except AgentLost as error:
                raise AgentLost(str(error), error.in_hand, part.name) from error
            reasons += [f"{part.name}: {reason}" for reason in found]
            in_use += [part] * bool(found)
        self._in_use = tuple(in_use)
        if not reasons and len({part.environments for part in self._parts}) > 1:
            reasons.append("they are not alike any more: another driver, power limit or version of an engine")
        return tuple(reasons)

    def measure(self, plan: LaunchPlan) -> Generator[RunBundle]:
        """Raises AgentLost, naming the one that was lost, with the repetition that was in hand."""
        leader, *followers = self._parts
        try:
            yield from leader.measure(plan, followers)
        except AgentLost as error:
            if not error.node:
                # It may only be slow, and ask followers for more after they were let go of.
                leader.cut()
            raise AgentLost(str(error), error.in_hand, error.node or leader.name) from error
        finally:
            with ThreadPoolExecutor(len(followers)) as pool:
                list(pool.map(RemoteAgent.release, followers))

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
