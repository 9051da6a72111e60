"""The node-side facade: a plain synchronous class over frozen records, so that any cluster can carry it."""

from collections.abc import Generator

from harness.experiment import measure_launch
from harness.feasibility import point_obstacle
from harness.node import Node
from harness.plan import LaunchPlan
from harness.points import Deployment, Environment, NodeSpec, Point, Source
from harness.records import RunBundle


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
        return deployment.gpu == self.spec.gpu.kind

    def obstacle(self, point: Point) -> str:
        """Why the point cannot run here, or ""."""
        return point_obstacle(point, self.spec.gpu, self.spec.gpus)

    def environment(self, deployment: Deployment) -> Environment:
        return self._node.environment(deployment)

    def measure(self, plan: LaunchPlan) -> Generator[RunBundle]:
        """Carry out one launch; yields each run as soon as it is complete. Closing it stops the engine."""
        return measure_launch(self._node, plan)
