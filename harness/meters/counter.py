"""Turns raw counter readings into counts that only grow, or refuses them.

A wrap is counted on the readings themselves: polling a wrapping counter in any other way either loses
the energy of a wrap or, on a plain difference, returns about -262 kJ on an Intel package.
"""

from collections.abc import Mapping

import numpy as np

from harness.errors import CounterWentBack, MeasurementError
from harness.meters.base import Domain, Series
from harness.points import FloatArray, IntArray

CEILING_W: Mapping[Domain, float] = {"gpu": 5000.0, "cpu": 1500.0, "dram": 500.0}
"""More than one device can draw: the largest sockets are rated 500 W, one socket's DRAM below 150 W.

A decrease that would mean more than this is no wrap but a counter that was reset.
"""


def unwrap(counts: IntArray, wrap_counts: int | None, max_increase: FloatArray | None = None) -> IntArray:
    """Cumulative counts since the first reading, never decreasing; nothing is clamped.

    Args:
        counts: (n,) raw readings in order.
        wrap_counts: the counter starts again at zero after so many counts; None: it never wraps.
        max_increase: (n - 1,) counts that may plausibly pass between two readings; None: any number.

    Returns:
        (n,) int64, starting at 0. Exact while at most one wrap lies between two readings.

    Raises:
        CounterWentBack: a decrease that is no wrap.
    """
    steps = counts[1:] - counts[:-1]
    back = steps < 0
    if wrap_counts is not None:
        steps[back] += wrap_counts
        limit = np.full(len(steps), np.inf) if max_increase is None else max_increase
        back &= (steps < 0) | (steps > limit)
    if back.any():
        i = int(np.flatnonzero(back)[0])
        after = f"; a wrap would mean {int(steps[i])} counts at once" if wrap_counts is not None else ""
        raise CounterWentBack(f"counter fell from {int(counts[i])} to {int(counts[i + 1])}{after}")
    return np.concatenate((np.zeros(min(1, len(counts)), np.int64), np.cumsum(steps, dtype=np.int64)))


def cumulative_j(series: Series) -> FloatArray:
    """(n,) joules since the first reading of a series.

    A wrap is accepted while the power it implies stays under `CEILING_W`; the time between two readings
    is taken generously, by their latencies and two refresh periods.

    Raises:
        CounterWentBack: a driver reload or a reset of the zone.
        MeasurementError: two readings so far apart that a wrap between them could have gone unseen.
    """
    channel = series.channel
    if channel.wrap_counts is None:
        return np.asarray(unwrap(series.counts, None) * channel.joules_per_count, np.float64)
    gap_s = np.diff(series.time_s)
    ceiling_w = CEILING_W[channel.domain]
    blind_s = channel.wrap_counts * channel.joules_per_count / ceiling_w
    if gap_s.size and gap_s.max() > blind_s:
        raise MeasurementError(
            f"{channel.device}: {gap_s.max():.0f} s between two readings, a wrap may go unseen after {blind_s:.0f} s"
        )
    latency_s = (series.latency_s[1:] + series.latency_s[:-1]) / 2
    max_increase = (gap_s + latency_s + 2 * channel.refresh_s) * ceiling_w / channel.joules_per_count
    counts = unwrap(series.counts, channel.wrap_counts, max_increase)
    return np.asarray(counts * channel.joules_per_count, np.float64)
