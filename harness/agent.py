"""The node-side facade: a plain synchronous class over frozen records, so that any cluster can carry it."""

from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from harness.experiment import measure_launch, unheard
from harness.feasibility import node_obstacle
from harness.node import Node, NodeIdentity
from harness.plan import Assignment, LaunchPlan
from harness.points import Deployment, Environment, NodeSpec, Point, Source
from harness.records import RunBundle

_LOOKS = 3
_LOOK_EVERY_S = 15.0
"""A driver gives memory back some seconds after an engine has ended; who stays longer is busy with something else."""


class MeasuringAgent(Protocol):
    """What measures on one node, wherever that is; of another machine, looking and measuring raise `AgentLost`."""

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> NodeSpec: ...

    @property
    def source(self) -> Source: ...

    @property
    def parts(self) -> "tuple[MeasuringAgent, ...]":
        """Agents that it is made of; itself where it is one."""
        ...

    @property
    def nodes(self) -> int:
        """How many nodes it measures on; those of its deployments."""
        ...

    @property
    def in_use(self) -> "tuple[MeasuringAgent, ...]":
        """Of its parts, those that others use, where the last look found it not free."""
        ...

    @property
    def identity(self) -> NodeIdentity:
        """For records of what was not measured."""
        ...

    def hosts(self, deployment: Deployment) -> bool:
        """Whether the deployment asks for this kind of GPU, on as many nodes."""
        ...

    def obstacle(self, point: Point) -> str:
        """Why the point cannot run here, or ""."""
        ...

    def environment(self, deployment: Deployment) -> Environment:
        """What the deployment runs in here, as of the last look; quick."""
        ...

    def wait_until_free(self) -> tuple[str, ...]:
        """Look whether others use the node, for a while; why it is not free, or ()."""
        ...

    def measure(self, plan: LaunchPlan) -> Generator[RunBundle]:
        """Carry out one launch; yields each run as soon as it is complete. Closing it stops the engine."""
        ...

    def interrupt(self) -> None:
        """End soon what another thread has this agent do: its call returns early, its generator ends."""
        ...


class Fleet(Protocol):
    """Agents on machines of their own: they come, are lost, and come back."""

    @property
    def patience_s(self) -> float:
        """So long it is worth waiting for a lost node where no other can do its work."""
        ...

    def present(self) -> Sequence[MeasuringAgent]:
        """Those there now; quick. A node that came back has another agent than before."""
        ...

    def lost(self, agent: MeasuringAgent) -> None:
        """This one did not answer; it is present no more."""
        ...

    def teams(self, agents: Sequence[MeasuringAgent]) -> Sequence[MeasuringAgent]:
        """Agents that are each made of several of these; the same ones for the same parts."""
        ...


class Agent:
    """Measures on one node. It writes no shared state: runs come back as records."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def node(self) -> Node:
        return self._node

    @property
    def identity(self) -> NodeIdentity:
        return self._node

    @property
    def name(self) -> str:
        return self._node.name

    @property
    def spec(self) -> NodeSpec:
        return self._node.spec

    @property
    def source(self) -> Source:
        return self._node.source

    @property
    def parts(self) -> tuple[MeasuringAgent, ...]:
        return (self,)

    @property
    def nodes(self) -> int:
        return self._node.machines

    @property
    def in_use(self) -> tuple[MeasuringAgent, ...]:
        return (self,)

    def hosts(self, deployment: Deployment) -> bool:
        return deployment.gpu == self.spec.gpu_kind and deployment.nodes == self.nodes

    def obstacle(self, point: Point) -> str:
        return node_obstacle(point, self.spec)

    def environment(self, deployment: Deployment) -> Environment:
        return self._node.environment(deployment)

    def wait_until_free(self) -> tuple[str, ...]:
        """Three looks over half a minute at most."""
        for look in range(_LOOKS):
            if look:
                self._node.clock.sleep(_LOOK_EVERY_S)
            reasons = self._node.busy()
            if not reasons:
                return ()
        return reasons

    def measure(self, plan: LaunchPlan, begins: Callable[[Assignment], None] = unheard) -> Generator[RunBundle]:
        """Carry out one launch; `begins` is told of each repetition before it begins."""
        return measure_launch(self._node, plan, begins)

    def interrupt(self) -> None:
        """Nothing: here a launch ends when its generator is closed, after the repetition in hand."""
