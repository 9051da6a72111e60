"""The controller's half of a remote agent: asks the node-side half over a line, and notices when it is lost."""

import contextlib
import threading
from collections.abc import Generator, Mapping, Sequence

from harness.agent import MeasuringAgent
from harness.cluster.follower import FollowerLine
from harness.cluster.line import Line
from harness.cluster.nodeside import Fetched, Look, NodeFacts
from harness.errors import AgentLost, Interrupted
from harness.feasibility import node_obstacle
from harness.node import NodeIdentity
from harness.plan import Assignment, LaunchPlan
from harness.points import Deployment, Environment, NodeSpec, Point, Source
from harness.records import RunBundle

ANSWER_LIMIT_S = 60.0
"""A node that does not answer for so long is lost; what takes longer by its nature has so much more."""
FETCH_S = 1.0
LOOK_S = 120.0
"""Three looks over half a minute, and a driver or an engine to ask for its version."""
RELEASE_S = 180.0
"""For a repetition in hand and its engine to end; then the engine is ended with the agent."""
STOP_S = 5.0
"""The same where a person waits."""


class RemoteAgent:
    """An agent whose node is another machine."""

    def __init__(self, facts: NodeFacts, environments: Mapping[Deployment, Environment], line: Line) -> None:
        self._facts, self._environments, self._line = facts, environments, line
        self._interrupted = threading.Event()
        self.is_cut = False
        """Whether it was ended from here; another one may take its place."""

    @property
    def name(self) -> str:
        return self._facts.name

    @property
    def spec(self) -> NodeSpec:
        return self._facts.spec

    @property
    def source(self) -> Source:
        return self._facts.source

    @property
    def parts(self) -> tuple[MeasuringAgent, ...]:
        return (self,)

    @property
    def nodes(self) -> int:
        return 1

    @property
    def in_use(self) -> tuple[MeasuringAgent, ...]:
        return (self,)

    @property
    def facts(self) -> NodeFacts:
        return self._facts

    @property
    def environments(self) -> frozenset[Environment]:
        """That anything would run in there."""
        return frozenset(self._environments.values())

    @property
    def identity(self) -> NodeIdentity:
        return self._facts

    def hosts(self, deployment: Deployment) -> bool:
        return deployment.gpu == self.spec.gpu_kind and deployment.nodes == self.nodes

    def obstacle(self, point: Point) -> str:
        return node_obstacle(point, self.spec)

    def environment(self, deployment: Deployment) -> Environment:
        return self._environments[deployment]

    def wait_until_free(self) -> tuple[str, ...]:
        """Raises AgentLost."""
        try:
            look: Look = self._line.ask("look", limit_s=ANSWER_LIMIT_S + LOOK_S, unless=self._interrupted)
        except Interrupted:
            return ("it was interrupted",)
        # Whoever reads it has the old ones or the new ones.
        self._environments = look.environments
        return look.reasons

    def measure(self, plan: LaunchPlan, followers: "Sequence[RemoteAgent]" = ()) -> Generator[RunBundle]:
        """As of any agent.

        Args:
            followers: with which it measures one deployment together.

        Raises:
            AgentLost: with the repetition that was in hand.
        """
        lines = tuple(FollowerLine(one.name, one.facts.address, one._line) for one in followers)
        in_hand: Assignment | None = None
        over = False
        try:
            self._line.ask("begin", plan, lines, limit_s=ANSWER_LIMIT_S)
            while not self._interrupted.is_set():
                fetched: Fetched = self._line.ask("fetch", FETCH_S, limit_s=ANSWER_LIMIT_S + FETCH_S)
                over = fetched.ended
                yield from fetched.bundles
                in_hand = fetched.in_hand
                if over:
                    if fetched.error is not None:
                        raise fetched.error
                    return
        except AgentLost as error:
            # A follower's loss is told by the leader, which says what was in hand.
            over = True
            raise AgentLost(str(error), error.in_hand or in_hand, error.node) from error
        finally:
            if not over:
                self._stop()

    def release(self) -> None:
        """End what it runs for a leader; an agent that does not, or does not answer, is ended with its engine."""
        limit_s = STOP_S + ANSWER_LIMIT_S / 4 if self._interrupted.is_set() else RELEASE_S
        released = False
        with contextlib.suppress(AgentLost):
            released = self._line.ask("release", limit_s=limit_s)
        if not released:
            self.cut()

    def cut(self) -> None:
        """End the agent, and with it its engine."""
        self.is_cut = True
        self._line.cut()

    def interrupt(self) -> None:
        self._interrupted.set()

    def _stop(self) -> None:
        """Let the repetition in hand end if that is soon; else the agent goes, and its engine with it.

        The node is needed after a budget's end: the probes of a night come then.
        """
        wait_s = STOP_S if self._interrupted.is_set() else RELEASE_S
        stopped = False
        with contextlib.suppress(AgentLost, Interrupted):
            unless = None if self._interrupted.is_set() else self._interrupted
            stopped = self._line.ask("stop", wait_s, limit_s=wait_s + ANSWER_LIMIT_S / 4, unless=unless)
        if not stopped:
            self.cut()
