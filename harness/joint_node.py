"""Several machines as one node: an engine over all of them, and their counters on the clock of the first.

    leader      the engine's first part, which is asked for tokens; its own counters; everything that is decided
    followers   a later part each, and their counters, over a line (`Follower`)

The leader looks every two seconds whether the followers' parts still run. Where one does not, it ends its own: an
engine over several machines waits for ever for one that is gone.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol, TypeVar

from harness.clock import Clock
from harness.engines.base import Served
from harness.engines.launching import free_port
from harness.engines.process import EngineProcess
from harness.engines.recipe import Part
from harness.errors import AgentLost, EngineCrashed, EngineError, EngineHung, HarnessError, LaunchFailed
from harness.machine_node import MachineNode, RealEngine
from harness.meters.joint import JointSampler, PeerSampler
from harness.points import BatchWorkload, Deployment, Environment, NodeSpec, Schedule, Source

_LOOK_EVERY_S = 2.0
_T = TypeVar("_T")


class Follower(Protocol):
    """Another machine with a later part of the engine. Every call may raise `AgentLost`."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str:
        """In the network in which the machines reach one another."""
        ...

    def sampler(self) -> PeerSampler:
        """A new one over its counters."""
        ...

    def follow(self, deployment: Deployment, seed: int, part: Part) -> tuple[tuple[str, ...], Mapping[str, object]]:
        """Start its part: UUIDs of the GPUs that it holds, and how it was started.

        Raises:
            EngineError: it cannot be started.
        """
        ...

    def ready(self) -> None:
        """The engine is up: what runs on these GPUs now is its part."""
        ...

    def ended(self) -> str:
        """How its part ended; "" while it runs."""
        ...

    def unfollow(self) -> None:
        """End its part; may be called again."""
        ...


class JointNode:
    """A `harness.node.Node` over this machine and followers of the same kind.

    Args:
        address: of this machine, in the network in which the machines reach one another.
    """

    def __init__(self, own: MachineNode, address: str, followers: Sequence[Follower]) -> None:
        self._own, self._address, self._followers = own, address, tuple(followers)
        self._name = "+".join((own.name, *(follower.name for follower in followers)))

    @property
    def name(self) -> str:
        return self._name

    @property
    def machines(self) -> int:
        return 1 + len(self._followers)

    @property
    def spec(self) -> NodeSpec:
        return self._own.spec

    @property
    def source(self) -> Source:
        return self._own.source

    @property
    def clock(self) -> Clock:
        return self._own.clock

    @property
    def processor(self) -> str:
        return self._own.processor

    def busy(self) -> tuple[str, ...]:
        """Of this machine; the others are looked at by whoever put them together."""
        return self._own.busy()

    def environment(self, deployment: Deployment) -> Environment:
        """The same on all of them, or they would not have been put together."""
        return self._own.environment(deployment)

    def sampler(self) -> JointSampler:
        others = [follower.sampler() for follower in self._followers]
        return JointSampler(self._own.name, self._own.sampler(), self._own.clock, others)

    def launch(self, deployment: Deployment, seed: int) -> "JointEngine":
        """As of a node; followers first, since each waits for the leader."""
        try:
            port = free_port(self._address)
        except OSError as error:
            raise LaunchFailed(f"nothing can listen at {self._address}, this node's address: {error}") from error
        watch = _Watch(self._followers)
        with ExitStack() as undo:
            held: list[tuple[str, ...]] = []
            started: dict[str, object] = {}
            for rank, follower in enumerate(self._followers, 1):
                undo.callback(follower.unfollow)
                part = Part(rank, follower.address, self._address, port)
                uuids, started[follower.name] = follower.follow(deployment, seed, part)
                held.append(uuids)
            undo.callback(watch.stop)
            part = Part(0, self._address, self._address, port)
            try:
                engine = self._own.lead(deployment, seed, part, watch.begin)
            except LaunchFailed as error:
                raise watch.explained(error) from error
            undo.callback(engine.stop)
            undo.callback(watch.stop)
            for follower in self._followers:
                follower.ready()
            undo.pop_all()
        return JointEngine(engine, self._followers, watch, held, started)


class JointEngine:
    """A `harness.engines.base.Engine` whose later parts are on other machines."""

    def __init__(
        self,
        own: RealEngine,
        followers: Sequence[Follower],
        watch: "_Watch",
        held: Sequence[tuple[str, ...]],
        started: Mapping[str, object],
    ) -> None:
        self._own, self._followers, self._watch = own, tuple(followers), watch
        self._gpu_uuids = own.gpu_uuids + tuple(uuid for uuids in held for uuid in uuids)
        self._launched = {**own.launched, "followers": dict(started)}

    @property
    def gpu_uuids(self) -> tuple[str, ...]:
        return self._gpu_uuids

    @property
    def version(self) -> str:
        return self._own.version

    @property
    def load_s(self) -> float:
        return self._own.load_s

    @property
    def launched(self) -> Mapping[str, object]:
        return self._launched

    def prepare_batches(self, workload: BatchWorkload, batches: int, seed: int) -> Callable[[], Served]:
        work = self._explained(lambda: self._own.prepare_batches(workload, batches, seed))
        return lambda: self._explained(work)

    def replay(self, schedule: Schedule, drain_s: float, seed: int) -> Served:
        return self._explained(lambda: self._own.replay(schedule, drain_s, seed))

    def stop(self) -> None:
        """End all parts.

        Raises:
            EngineError: some processes would not end; all parts were told to.
            AgentLost: a follower does not answer; the others were told to.
        """
        with ExitStack() as ends:
            for follower in self._followers:
                ends.callback(follower.unfollow)
            ends.callback(self._own.stop)
            ends.callback(self._watch.stop)

    def _explained(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except (EngineCrashed, EngineHung) as error:
            raise self._watch.explained(error) from error


class _Watch:
    """Ends the leader's part when a follower's has ended, or does not answer."""

    def __init__(self, followers: Sequence[Follower]) -> None:
        self._followers = tuple(followers)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost: AgentLost | None = None
        self._ended = ""

    def begin(self, process: EngineProcess) -> None:
        self._thread = threading.Thread(target=self._look, args=(process,), name="followers watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def explained(self, error: EngineError) -> HarnessError:
        """The error with what became of a follower: who was first is not known where both ended within a look.

        The engine is over; nobody looks any more.
        """
        self.stop()
        if self._lost is None and not self._ended:
            self._see()
        if self._lost is not None:
            return self._lost
        if not self._ended:
            return error
        return type(error)(f"{error}; {self._ended}", error.log_tail, error.log_path, error.partial)

    def _look(self, process: EngineProcess) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            self._see()
            if self._lost is not None or self._ended:
                process.kill()
                return

    def _see(self) -> None:
        """Whether any of the followers' parts has ended, or does not answer."""
        for follower in self._followers:
            try:
                how = follower.ended()
            except AgentLost as error:
                self._lost = error
                return
            if how:
                self._ended = f"its part on {follower.name} {how}"
                return
