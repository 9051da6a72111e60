"""What a meter offers to the sampler: counters and gauges behind handles that stay open."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from harness.meters.base import Channel, Domain, GpuState


class Counter(Protocol):
    """One or more cumulative counters that one call reads."""

    @property
    def channels(self) -> tuple[Channel, ...]: ...

    def read(self) -> tuple[int, ...]:
        """Raw values, in the order of `channels`.

        Raises:
            CounterLost: it does not answer any more.
        """
        ...


class Gauge(Protocol):
    """Power and state of one GPU."""

    @property
    def uuid(self) -> str: ...

    @property
    def power_source(self) -> str:
        """`instant`, or another name where the power is a longer average."""
        ...

    def power_w(self) -> float:
        """Power now, W. Raises CounterLost."""
        ...

    def state(self, time_s: float) -> GpuState:
        """What else decides whether a window can be believed. Raises CounterLost."""
        ...


class Meter(Protocol):
    """A source of energy counters; open until `close`.

    `absent` gives, for each domain it was to measure and cannot, the reason why; `doubts`, for each whose
    readings are suspect, why.
    """

    @property
    def counters(self) -> tuple[Counter, ...]: ...

    @property
    def gauges(self) -> tuple[Gauge, ...]: ...

    @property
    def absent(self) -> Mapping[Domain, str]: ...

    @property
    def doubts(self) -> Mapping[Domain, str]: ...

    def close(self) -> None:
        """Let go of handles and files. May be called twice."""
        ...


class NodeGauge(Protocol):
    """Power of the whole node, as its management controller tells it; slow, and averaged nobody knows how."""

    @property
    def name(self) -> str: ...

    def power_w(self) -> float:
        """Power now, W. Raises CounterLost."""
        ...


@dataclass(frozen=True)
class AbsentMeter:
    """Stands for hardware that is not there: reads nothing, and says why."""

    absent: Mapping[Domain, str]
    counters: tuple[Counter, ...] = field(default=(), init=False)
    gauges: tuple[Gauge, ...] = field(default=(), init=False)
    doubts: Mapping[Domain, str] = field(default_factory=dict)

    def close(self) -> None:
        """Nothing to let go of."""
