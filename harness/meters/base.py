"""What every meter offers: cumulative counters, read over and over into a recording.

A `Sampler` reads; `harness.meters.window` turns a recording into energies. The machine's sampler polls
real counters from a thread, the simulator's computes what such a thread would have read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from harness.points import FloatArray, IntArray, Source

Domain = Literal["gpu", "cpu", "dram"]


@dataclass(frozen=True, slots=True)
class Channel:
    """One cumulative energy counter.

    Attributes:
        domain: what it measures.
        device: GPU UUID, or powercap zone such as `package-0`.
        joules_per_count: size of one count (NVML 1e-3, powercap 1e-6).
        wrap_counts: the counter starts again at zero after this many counts; None: it never wraps.
        refresh_s: nominal time between updates (NVML about 0.1, RAPL about 0.001).
        source: measured or simulated.
        seen_share: of each refresh, how much the sensor behind it sees; 1: all of it; None: not known.
    """

    domain: Domain
    device: str
    joules_per_count: float
    wrap_counts: int | None
    refresh_s: float
    source: Source
    seen_share: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Readings of one channel, in order.

    Attributes:
        time_s: (n,) monotonic time in the middle of each reading.
        latency_s: (n,) how long each reading took.
        counts: (n,) raw counter values, as read (wraps included).
        lost: why the channel stopped answering, or "".
        clock_uncertainty_s: all times may be off by as much, together, where another machine's clock stamped them.
    """

    channel: Channel
    time_s: FloatArray
    latency_s: FloatArray
    counts: IntArray
    lost: str = ""
    clock_uncertainty_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class PowerTrace:
    """Power of one GPU: (n,) times and watts; `instant`: of the last tens of milliseconds, no longer average."""

    device: str
    time_s: FloatArray
    power_w: FloatArray
    instant: bool = True


@dataclass(frozen=True, slots=True)
class GpuState:
    """What else decides whether a window can be believed, at one moment.

    `event_reasons` are NVML's names of the active clock event reasons (`sw_power_cap`, `hw_slowdown`,
    `sw_thermal_slowdown`, `hw_thermal_slowdown`, `hw_power_brake_slowdown`, ...); idle is left out.
    `foreign_pids` are processes on the GPU that are not the engine's; `unseen_pids` those that our /proc does
    not show (another PID namespace, or gone since). `ecc_uncorrected` counts since the driver was loaded.
    """

    device: str
    time_s: float
    temperature_c: float | None
    sm_clock_mhz: float | None
    power_limit_w: float | None
    event_reasons: frozenset[str] = frozenset()
    foreign_pids: tuple[int, ...] = ()
    unseen_pids: tuple[int, ...] = ()
    processes_readable: bool = True
    ecc_uncorrected: int | None = None
    memory_used_bytes: int | None = None
    persistence: bool | None = None


@dataclass(frozen=True, slots=True)
class HostState:
    """What the processors did up to one moment.

    Attributes:
        busy_s: CPU seconds, summed over all processors, in which they were not idle, since boot.
        own_s: CPU seconds of the harness's and the engine's process trees; falls when one of them is gone.
        governors: frequency governors in force; empty where the kernel shows none.
    """

    time_s: float
    busy_s: float
    own_s: float
    governors: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """All that was read between a sampler's start and stop.

    Attributes:
        absent: for each domain that has no channel, the reason why.
        doubts: for each domain whose readings are suspect although they are plausible counts, why.
        node_power: of the whole node, by its management controller; None: nothing read it.
        node_power_lost: why the node's power ends early, or was not read; "": it was not asked for.
        memory_gib: of the machine; None: not known. DRAM may be estimated by it.
        other_hosts: as `hosts`, of each further machine that took part.
        clock_uncertainty_s: how well the times of further machines are known; None: there are none.
    """

    series: tuple[Series, ...]
    power: tuple[PowerTrace, ...] = ()
    states: tuple[GpuState, ...] = ()
    absent: Mapping[Domain, str] = field(default_factory=dict)
    hosts: tuple[HostState, ...] = ()
    doubts: Mapping[Domain, str] = field(default_factory=dict)
    node_power: PowerTrace | None = None
    node_power_lost: str = ""
    memory_gib: float | None = None
    other_hosts: tuple[tuple[HostState, ...], ...] = ()
    clock_uncertainty_s: float | None = None


class Sampler(Protocol):
    """Reads every channel of a node; one life from `start` to `stop`.

    The order of calls around a window:
        start, settle, mark, <the work>, mark, settle, stop
    """

    def start(self) -> None:
        """Begin to read."""
        ...

    def settle(self) -> None:
        """While nothing runs, read densely until every slow counter has shown four update edges.

        It gives the quiet power beside the window and places the edges next to it. It takes about
        0.4 s with NVML's 100 ms, and gives up after a bounded time.
        """
        ...

    def mark(self) -> float:
        """Read everything once, now; returns the monotonic time that bounds the window."""
        ...

    def stop(self) -> Recording:
        """End reading and return what was read."""
        ...
