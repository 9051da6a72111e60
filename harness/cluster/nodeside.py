"""The half of a remote agent that lives on the node: it carries out launches in a thread and keeps runs until fetched.

It knows nothing of what carries it (a Ray actor, or a test). Every call is short but for `look`; what it takes and
returns are frozen records.
"""

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from harness import __version__
from harness.agent import Agent
from harness.clock import WallClock
from harness.cluster.follower import FollowerLine, FollowerSide, answered
from harness.cluster.local import joint_agent, open_agent
from harness.deployment.sweepfile import Sweep
from harness.errors import AgentLost, HarnessError
from harness.plan import Assignment, LaunchPlan
from harness.points import Deployment, Environment, NodeSpec, Source
from harness.records import RunBundle

if TYPE_CHECKING:
    from harness.machine_node import MachineNode

_MOST_KEPT = 50
"""Runs; with so many that were not fetched, no further one is begun."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node says of itself; a `harness.node.NodeIdentity` on the clock of whoever reads it."""

    name: str
    spec: NodeSpec
    source: Source
    processor: str
    harness_version: str
    address: str

    @property
    def clock(self) -> WallClock:
        return WallClock()


@dataclass(frozen=True, slots=True)
class Look:
    """Why a node is not free (empty where it is), and what each deployment that it hosts would run in."""

    reasons: tuple[str, ...]
    environments: Mapping[Deployment, Environment]


@dataclass(frozen=True, slots=True, eq=False)
class Fetched:
    """Runs that are complete, in order; the repetition begun after them; whether the launch is over, and its error."""

    bundles: tuple[RunBundle, ...]
    in_hand: Assignment | None
    ended: bool
    error: HarnessError | None = None


@dataclass(frozen=True, slots=True)
class NodeOrder:
    """What to be: which sweep's agent, with the kind and the name of the node that is simulated, if one is.

    Attributes:
        results: of the sweep; engines leave their logs under the same path on the node.
        flag: put on every run; empty: none.
        address: of the node, at which others of an engine over several reach it.
    """

    sweep: Sweep
    seed: int
    results: Path
    kind: str = ""
    name: str = ""
    flag: str = ""
    address: str = "127.0.0.1"


class NodeSide:
    """Carries out one launch at a time.

    Raises:
        BadInput: this machine is none of the sweep's kinds of node, or MIG is enabled on a GPU.
        EngineUnavailable: none of the sweep's engines is installed here.
    """

    def __init__(self, order: NodeOrder) -> None:
        self._order = order
        self._open = ExitStack()
        self._agent: Agent = self._open.enter_context(
            open_agent(order.sweep, order.seed, order.results, order.kind, order.name)
        )
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="launch")
        self._changed = threading.Condition()
        self._bundles: list[RunBundle] = []
        self._in_hand: Assignment | None = None
        self._told: Assignment | None = None
        self._stopping = False
        self._launch: Future[None] | None = None
        self._following: FollowerSide | None = None

    def describe(self) -> NodeFacts:
        identity = self._agent.identity
        address = self._order.address
        return NodeFacts(identity.name, identity.spec, identity.source, identity.processor, __version__, address)

    def environments(self) -> dict[Deployment, Environment]:
        """Of each deployment of the sweep that the node hosts, alone or with others."""
        same: dict[Environment, Environment] = {}
        kind = self._agent.spec.gpu_kind
        hosted = [deployment for deployment in self._order.sweep.deployments if deployment.gpu == kind]
        found = {deployment: self._agent.environment(deployment) for deployment in hosted}
        return {deployment: same.setdefault(one, one) for deployment, one in found.items()}

    def look(self) -> Look:
        """Whether the node is free; takes up to half a minute where it is not."""
        reasons = self._agent.wait_until_free()
        return Look(reasons, self.environments())

    def begin(self, plan: LaunchPlan, followers: tuple[FollowerLine, ...] = ()) -> None:
        """Begin a launch, together with followers if there are any; `fetch` says how it goes.

        Raises:
            RuntimeError: another one is not over.
        """
        with self._changed:
            if self._launch is not None:
                raise RuntimeError("a launch is not over yet")
            self._stopping = False
            agent = joint_agent(self._agent.node, self._order.address, followers) if followers else self._agent
            self._launch = self._pool.submit(self._measure, agent, plan)
        self._launch.add_done_callback(self._tell)

    def fetch(self, wait_s: float) -> Fetched:
        """What there is, as soon as there is anything new, or what there is after `wait_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._bundles or self._is_over or self._in_hand is not self._told, wait_s)
            bundles, self._bundles = tuple(self._bundles), []
            self._told = self._in_hand
            ended, error = self._is_over, None
            if ended and self._launch is not None:
                launch, self._launch = self._launch, None
                error = launch.exception()
            self._changed.notify_all()
        if error is not None and not isinstance(error, HarnessError):
            raise error
        return Fetched(bundles, self._told, ended, error)

    def stop(self, wait_s: float) -> bool:
        """End the launch after the repetition in hand; whether it is over, after `wait_s` at most."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            over = self._changed.wait_for(lambda: self._is_over, wait_s)
            if over:
                self._launch, self._bundles = None, []
        return over

    def as_follower(self, method: str, given: tuple[object, ...]) -> tuple[HarnessError | None, object]:
        """What a leader asks of us; a method of `FollowerSide`, and its arguments."""
        return answered(self._follower, method, given)

    def release(self) -> bool:
        """End what we run for a leader; whether it is over."""
        error, _ = answered(self._follower, "unfollow", ())
        return error is None

    @property
    def _follower(self) -> FollowerSide:
        if self._following is None:
            # A simulated one is asked for nothing but its end.
            self._following = FollowerSide(cast("MachineNode", self._agent.node))
        return self._following

    def close(self) -> None:
        """Let go of the meters, once no launch is under way."""
        self._pool.shutdown()
        self._open.close()

    @property
    def _is_over(self) -> bool:
        return self._launch is None or self._launch.done()

    def _tell(self, _: Future[None]) -> None:
        with self._changed:
            self._changed.notify_all()

    def _begins(self, assignment: Assignment) -> None:
        with self._changed:
            self._in_hand = assignment
            self._changed.notify_all()

    def _measure(self, agent: Agent, plan: LaunchPlan) -> None:
        bundles = agent.measure(plan, self._begins)
        try:
            for bundle in bundles:
                with self._changed:
                    self._bundles.append(self._flagged(bundle))
                    self._in_hand = None
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: len(self._bundles) < _MOST_KEPT or self._stopping)
                    if self._stopping:
                        break
        except AgentLost as error:
            raise AgentLost(str(error), self._in_hand, error.node) from error
        finally:
            self._in_hand = None
            bundles.close()

    def _flagged(self, bundle: RunBundle) -> RunBundle:
        flag = self._order.flag
        return replace(bundle, run=replace(bundle.run, flags=(*bundle.run.flags, flag))) if flag else bundle
