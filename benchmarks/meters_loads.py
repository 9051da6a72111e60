"""The loads and the schedule of windows that every meter measures."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.fixtures.nvml.driver import FakeDriver, Trace, bursts, constant, ramp, square, unsteady

BOARD_SPREAD = 0.02
"""Each further GPU draws so much more than the one before: boards of one node are not equal."""
SETTLE_S = 0.55
"""Room beside each window for a tool that reads before and after it; those that do not wait as long."""
JITTER_S = 0.05
"""Windows are longer or shorter by up to so much: half a refresh, so that their ends meet every phase."""
DRIVER: dict[str, object] = {"refresh_s": 0.1, "jitter_s": 0.002, "missed": 0.01, "name": "NVIDIA stand-in"}
"""No board of this name is known to see part of the time: its coverage rests on the random uncertainty alone."""
CAPS_PCT = {
    "steady": {0.5: 2.0, 2.0: 0.7},
    "ramp": {0.5: 3.0, 2.0: 1.2},
    "bursts": {0.5: 8.0, 2.0: 2.0},
    "gated": {0.5: 0.5, 2.0: 0.15},
}
"""Most that the median of the stated random uncertainty may be, % of the energy: class of load, then length in s.

Eight GPUs under bursts set the third: at one jump of the power all of them are off to the same side, so their bounds
add up, and one of them or another is always in mid-interval.
"""


@dataclass(frozen=True)
class Load:
    """What the GPUs draw.

    Attributes:
        trace: of the first GPU; the others draw it scaled.
        gate_w: added by the measuring process itself, from just after begin until just before end.
        settings: of the driver.
        kind: key of CAPS_PCT where accuracy is claimed; empty where only the stated uncertainty must cover the truth.
    """

    trace: Callable[[np.random.Generator], Trace]
    kind: str = ""
    gate_w: float = 0.0
    settings: dict[str, object] = field(default_factory=dict)


PARTIAL = {"counter_window_s": 0.025, "name": "NVIDIA H100 80GB HBM3"}
LOADS: dict[str, Load] = {
    "steady": Load(lambda rng: unsteady(420, rng), "steady"),
    "ramp": Load(lambda _: ramp(150, 650, 10), "ramp"),
    "bursts": Load(lambda _: square(120, 600, 1.0), "bursts"),
    "bursts 0.73 s": Load(lambda _: square(120, 600, 0.73), "bursts"),
    "jittered bursts": Load(lambda rng: bursts(120, 600, (0.4, 0.6), rng), "bursts"),
    "gated": Load(lambda rng: unsteady(110, rng), "gated", gate_w=450),
    "square 80 ms": Load(lambda _: square(150, 600, 0.08)),
    "square 100 ms": Load(lambda _: square(150, 600, 0.1003)),
    "square 120 ms": Load(lambda _: square(150, 600, 0.12)),
    "jittered, partial": Load(lambda rng: bursts(120, 600, (0.4, 0.6), rng), settings=PARTIAL),
    "square 100, partial": Load(lambda _: square(150, 600, 0.1003), settings=PARTIAL),
}
"""`bursts` come each second: both ends of a window of 2 or 10 s lie at the same phase of them, which hides the errors
of plain readings; those of 0.73 s are no divisor of any window.
Steady and gated power is drawn anew every 20 ms, with a standard deviation of 1%.

"100 ms" is 100.3 ms: a refresh of 100.0 ms meets all its phases in half a minute, and one phase within a window.
`partial`: the counter sees 25 of each 100 ms (arXiv 2312.02741), and the board is named as one that does; elsewhere all
of it.
"""


@dataclass(frozen=True)
class Slot:
    """One window: begin is called at `at_s` after the schedule's start."""

    at_s: float
    length_s: float
    nominal_s: float


def node(load: Load, gpus: int, origin_s: float, seed: int) -> FakeDriver:
    """GPUs under one load, each at its own phase of the refresh."""
    rng = np.random.default_rng(seed)
    first = load.trace(rng)
    traces = [first.scaled(1 + BOARD_SPREAD * i) for i in range(gpus)]
    settings = {**DRIVER, **load.settings, "seed": seed}
    return FakeDriver(traces, origin_s, phases_s=rng.uniform(0, 0.1, gpus).tolist(), settings=settings)


def boards(gains: list[float], origin_s: float) -> FakeDriver:
    """Steady boards, each with its own gain."""
    phases_s = np.random.default_rng(0).uniform(0, 0.1, len(gains)).tolist()
    return FakeDriver([constant(420)] * len(gains), origin_s, gains, phases_s, DRIVER)


def schedule(counts: dict[float, int], seed: int) -> list[Slot]:
    """So many windows of each length, in random order."""
    rng = np.random.default_rng(seed)
    nominal_s = np.repeat(list(counts), list(counts.values()))
    rng.shuffle(nominal_s)
    slots, at_s = [], 0.0
    for nominal in nominal_s.tolist():
        length_s = nominal + float(rng.uniform(-JITTER_S, JITTER_S))
        slots.append(Slot(at_s, length_s, nominal))
        at_s += 2 * SETTLE_S + length_s + float(rng.uniform(0, 0.1))
    return slots
