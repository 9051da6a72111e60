"""The node-side facade: a plain synchronous class over frozen records, so that any cluster can carry it."""

from collections.abc import Generator

from harness.experiment import measure_launch
from harness.feasibility import node_obstacle
from harness.node import Node
from harness.plan import LaunchPlan
from harness.points import Deployment, Environment, NodeSpec, Point, Source
from harness.records import RunBundle

_LOOKS = 3
_LOOK_EVERY_S = 15.0
"""A driver gives memory back some seconds after an engine has ended; who stays longer is busy with something else."""


class Agent:
    """Measures on one node. It writes no shared state: runs come back as records."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def node(self) -> Node:
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

    def hosts(self, deployment: Deployment) -> bool:
        """Whether the deployment asks for this node's kind of GPU."""
        return deployment.gpu == self.spec.gpu_kind

    def obstacle(self, point: Point) -> str:
        """Why the point cannot run here, or ""."""
        return node_obstacle(point, self.spec)

    def environment(self, deployment: Deployment) -> Environment:
        return self._node.environment(deployment)

    def wait_until_free(self) -> tuple[str, ...]:
        """Look whether others use the node, three times over half a minute at most; why it is not free, or ()."""
        for look in range(_LOOKS):
            if look:
                self._node.clock.sleep(_LOOK_EVERY_S)
            reasons = self._node.busy()
            if not reasons:
                return ()
        return reasons

    def measure(self, plan: LaunchPlan) -> Generator[RunBundle]:
        """Carry out one launch; yields each run as soon as it is complete. Closing it stops the engine."""
        return measure_launch(self._node, plan)
