"""Between the machines of one engine: what a follower does on its node, and the leader's way to it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.clock import WallClock
from harness.cluster.line import Line
from harness.engines.recipe import Part
from harness.errors import AgentLost, EngineError, HarnessError
from harness.meters.base import Recording, Sampler
from harness.points import Deployment

if TYPE_CHECKING:
    # With its engines and clients, which no simulated sweep needs.
    from harness.engines.launching import Following
    from harness.machine_node import MachineNode

CALL_S = 30.0
"""A follower that does not answer a small call for so long is lost."""
_START_S = 300.0
"""Its meters, its engine's folder, a version to ask for."""
_END_S = 180.0
"""An engine has half a minute to end, and is killed then."""


class FollowerSide:
    """On the follower: its part of an engine, and one sampler at a time. Calls come one by one.

    A leader that is lost asks no more; whoever put the machines together then has this end its part (`unfollow`).
    """

    def __init__(self, node: "MachineNode") -> None:
        self._node = node
        self._clock = WallClock()
        self._part: Following | None = None
        self._sampler: Sampler | None = None
        self._stuck: EngineError | None = None

    def clock_s(self) -> float:
        return self._clock.monotonic_s()

    def follow(self, deployment: Deployment, seed: int, part: Part) -> tuple[tuple[str, ...], Mapping[str, object]]:
        """Raises EngineError."""
        self.unfollow()
        self._part = self._node.follow(deployment, seed, part)
        return self._part.gpu_uuids, self._part.launched

    def ready(self) -> None:
        """Raises MeasurementError: a GPU does not answer."""
        if self._part is not None:
            self._node.adopt(self._part, self._part.gpu_uuids)

    def ended(self) -> str:
        return "was never started" if self._part is None else self._part.ended

    def unfollow(self) -> None:
        """Raises EngineError: some processes would not end; it says so again when it is asked again."""
        try:
            if self._sampler is not None:
                self.stop()
        finally:
            if self._stuck is not None:
                raise self._stuck
            if self._part is not None:
                try:
                    self._part.stop()
                except EngineError as error:
                    self._stuck = error
                    raise
                self._part = None

    def start(self) -> None:
        if self._sampler is not None:
            # Of a window that its leader gave up.
            self.stop()
        self._sampler = self._node.sampler()
        self._sampler.start()

    def settle(self) -> None:
        self._opened.settle()

    def mark(self) -> None:
        self._opened.mark()

    def stop(self) -> Recording:
        sampler, self._sampler = self._opened, None
        return sampler.stop()

    @property
    def _opened(self) -> Sampler:
        assert self._sampler is not None
        return self._sampler


class FollowerLine:
    """On the leader: a `harness.joint_node.Follower`, and its sampler, at the other end of a line."""

    def __init__(self, name: str, address: str, line: Line) -> None:
        self._name, self._address, self._line = name, address, line

    @property
    def name(self) -> str:
        return self._name

    @property
    def address(self) -> str:
        return self._address

    def sampler(self) -> "FollowerLine":
        return self

    def follow(self, deployment: Deployment, seed: int, part: Part) -> tuple[tuple[str, ...], Mapping[str, object]]:
        uuids, launched = self._ask("follow", deployment, seed, part, limit_s=_START_S)
        return uuids, launched

    def ready(self) -> None:
        self._ask("ready")

    def ended(self) -> str:
        return str(self._ask("ended"))

    def unfollow(self) -> None:
        self._ask("unfollow", limit_s=_END_S)

    def clock_s(self) -> float:
        return float(self._ask("clock_s"))

    def start(self) -> None:
        self._ask("start")

    def settle(self) -> None:
        self._ask("settle")

    def mark(self) -> None:
        self._ask("mark")

    def stop(self) -> Recording:
        recording: Recording = self._ask("stop")
        return recording

    def _ask(self, method: str, *given: object, limit_s: float = CALL_S) -> Any:
        """Raises AgentLost, naming the follower; and what the follower's own call raised."""
        try:
            error, answer = self._line.ask("as_follower", method, given, limit_s=limit_s)
        except AgentLost as lost:
            raise AgentLost(str(lost), node=self._name) from lost
        if error is not None:
            raise error
        return answer


def answered(side: FollowerSide, method: str, given: tuple[object, ...]) -> tuple[HarnessError | None, object]:
    """A call of a follower's, with the error that it raised: a line tells errors that are foreseen from lost nodes."""
    try:
        return None, getattr(side, method)(*given)
    except HarnessError as error:
        return error, None
