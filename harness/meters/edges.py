"""When a slow counter was refreshed, from readings of it.

A counter jumps at its refreshes to the energy used up to then. The first reading that shows a new value and the
reading before it bracket the refresh: the *edge* lies at their middle, give or take half their distance. (At a
resolution of 1 mJ a refresh always changes the value, so an unchanged value means that there was none.)

**The period** R is found from the readings: the median distance of neighbouring edges that were read densely,
otherwise the channel's nominal one. Where readings are further apart than the refreshes (a board of 20 ms polled
every 100 ms) only the last refresh counts: the bracket is cut to the last 2.25 R before its later reading, which
leaves room for one missed refresh.

**The lattice** places edges that were polled seldom. A *run* is a sequence of densely read edges, numbered by whole
periods k (a missed refresh skips one); phase = mean(t - k R), with R fitted over all runs. A refresh k' is then at
phase + k' R, give or take (95%)
    Student's t x s x sqrt(1 + 1/n + (k' - mean k)^2 / sum (k - mean k)^2),  s: scatter of the runs around the lattice.
A prediction is used where only one refresh fits into the bracket, or where counting says which it is: between two edges
that are placed, there are as many edges as periods. Otherwise the bracket stays as wide as it was. Nothing rests on a
refresh being where it should: one that was missed or late only widens.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import special

from harness.meters.base import Series
from harness.meters.counter import cumulative_j
from harness.points import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]

SHARP_SHARE = 0.2
"""An edge is sharp when its half-width is under this share of the refresh period: it was read densely."""
_LATEST_PERIODS = 2.25
_MAX_RUN = 8
_FINE_SHARE = 2.0
_READ_ERROR_S = 1e-4


# Without slots: times and widths are asked for many times, and kept once they were computed.
@dataclass(frozen=True, eq=False)
class Edges:
    """(n,) refreshes: bounds of the time, and the joules counted up to it.

    Attributes:
        dense: read densely enough to be sharp without the lattice.
        refresh_s: the period found.
    """

    after_s: FloatArray
    before_s: FloatArray
    energy_j: FloatArray
    dense: BoolArray
    refresh_s: float

    @cached_property
    def time_s(self) -> FloatArray:
        return (self.after_s + self.before_s) / 2

    @cached_property
    def half_width_s(self) -> FloatArray:
        return (self.before_s - self.after_s) / 2


@dataclass(frozen=True, slots=True)
class _Run:
    """Densely read neighbours: numbers of their periods around their middle, which is at `middle_s`."""

    numbers: FloatArray
    time_s: FloatArray
    middle_s: float


def edges_of(series: Series) -> Edges:
    """The refreshes that a slow counter's readings show.

    Raises:
        CounterWentBack: the counter was reset.
    """
    cumulative = cumulative_j(series)
    changed = np.flatnonzero(cumulative[1:] > cumulative[:-1]) + 1
    half_latency_s = series.latency_s / 2
    after_s = series.time_s[changed - 1] - half_latency_s[changed - 1]
    before_s = series.time_s[changed] + half_latency_s[changed]
    energy_j = cumulative[changed]
    refresh_s = _refresh_s(after_s, before_s, series.channel.refresh_s)
    after_s = np.maximum(after_s, before_s - _LATEST_PERIODS * refresh_s)
    dense = before_s - after_s <= 2 * SHARP_SHARE * refresh_s
    after_s, before_s = _sharpened(after_s, before_s, dense, refresh_s)
    return Edges(after_s, before_s, energy_j, dense, refresh_s)


def refresh_of(series: Series) -> float:
    """The refresh period that a counter's readings show, s; the nominal one where they were not dense."""
    if len(series.time_s) < 2:
        return series.channel.refresh_s
    return edges_of(series).refresh_s


def _refresh_s(after_s: FloatArray, before_s: FloatArray, nominal_s: float) -> float:
    """Median distance of neighbouring edges that are sharp for that distance.

    Where the counter had moved at nearly every dense reading, its period is at most theirs.
    """
    if len(after_s) < 3:
        return nominal_s
    middle_s, width_s = (after_s + before_s) / 2, before_s - after_s
    distance_s = middle_s[1:] - middle_s[:-1]
    both_s = width_s[1:] + width_s[:-1]
    sharp = both_s <= 2 * SHARP_SHARE * distance_s
    if sharp.sum() >= 2:
        return _median(distance_s[sharp])
    dense = both_s < SHARP_SHARE * nominal_s
    if dense.sum() >= 10:
        return _median(distance_s[dense])
    return nominal_s


def _median(values: FloatArray) -> float:
    """`np.median` takes ten times as long over so few."""
    ordered, half = np.sort(values), len(values) // 2
    return float(ordered[half]) if len(values) % 2 else float(ordered[half - 1] + ordered[half]) / 2


def _mean(values: FloatArray) -> float:
    return float(values.sum()) / len(values)


def _runs(middle_s: FloatArray, sharp: BoolArray, refresh_s: float) -> list[_Run]:
    """Sequences of at least three sharp edges, no more than two periods from one to the next."""
    runs = []
    at = np.flatnonzero(sharp)
    if len(at) < 3:
        return []
    time_s = middle_s[at]
    steps = np.rint((time_s[1:] - time_s[:-1]) / refresh_s)
    breaks = np.flatnonzero((at[1:] - at[:-1] > 1) | (steps > 2) | (steps < 1)) + 1
    for begin, end in pairwise([0, *breaks.tolist(), len(at)]):
        if end - begin < 3:
            continue
        # The ends of a long run, where what is beside it is placed from.
        long = end - begin > _MAX_RUN
        for first, last in ((begin, begin + _MAX_RUN), (end - _MAX_RUN, end)) if long else ((begin, end),):
            numbers = np.zeros(last - first)
            steps[first : last - 1].cumsum(out=numbers[1:])
            kept_s = time_s[first:last]
            runs.append(_Run(numbers - _mean(numbers), kept_s, _mean(kept_s)))
    return runs


def _sharpened(
    after_s: FloatArray, before_s: FloatArray, sharp: BoolArray, refresh_s: float
) -> tuple[FloatArray, FloatArray]:
    """The brackets, those polled seldom cut to where the lattice of the nearest run places the refresh."""
    middle_s, half_s = (after_s + before_s) / 2, (before_s - after_s) / 2
    if not sharp.any():
        return after_s, before_s
    # An edge that happens to be bracketed a little better than the polling period would spoil the lattice.
    fine = sharp & (half_s <= _FINE_SHARE * _median(half_s[sharp]))
    runs = _runs(middle_s, fine, refresh_s)
    wide = np.flatnonzero(~fine)
    if not runs or not len(wide):
        return after_s, before_s
    spread = sum(float(run.numbers @ run.numbers) for run in runs)
    period_s = sum(float(run.numbers @ run.time_s) for run in runs) / spread
    residuals_s = np.concatenate([run.time_s - run.middle_s - run.numbers * period_s for run in runs])
    freedom = len(residuals_s) - len(runs) - 1
    if freedom < 1:
        return after_s, before_s
    reading_s = _mean(half_s[fine]) / math.sqrt(3) + _READ_ERROR_S
    scatter_s = max(math.sqrt(float(residuals_s @ residuals_s) / freedom), reading_s)
    starts = np.array([run.middle_s for run in runs])
    counts = np.array([len(run.numbers) for run in runs])
    nearest = np.abs(middle_s[wide, None] - starts).argmin(axis=1)
    origin_s, offset = starts[nearest], _offsets(runs, nearest)
    student = float(special.stdtrit(freedom, 0.975))
    placing = 1 + 1 / counts[nearest]

    def cut(number: FloatArray, low_s: FloatArray, high_s: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Where refresh `number` is at the earliest and at the latest, within the brackets; and its half-width."""
        half_s = student * scatter_s * np.sqrt(placing + number**2 / spread)
        at_s = origin_s + number * period_s
        return np.maximum(low_s, at_s - half_s), np.minimum(high_s, at_s + half_s), half_s

    first_s, last_s = after_s[wide], before_s[wide]
    number = np.floor((last_s - origin_s) / period_s - offset) + offset
    low_s, high_s, width_s = cut(number, first_s, last_s)
    at_s = origin_s + number * period_s
    # The reading shows the last refresh before it. Where that is too close to call, the bracket must exclude one.
    later = at_s + period_s - width_s < last_s
    only_later = later & (at_s + width_s < first_s)
    only_last = ~later & ((at_s + width_s <= last_s) | (at_s - period_s + width_s < first_s))
    if only_later.any():
        low_s, high_s, _ = cut(np.where(only_later, number + 1, number), first_s, last_s)
    used = (only_later | only_last) & (low_s < high_s)
    after_s, before_s = after_s.copy(), before_s.copy()
    after_s[wide[used]], before_s[wide[used]] = low_s[used], high_s[used]
    if used.all():
        return after_s, before_s
    # Otherwise by counting: between two that are placed, as many edges as periods.
    placed = fine.copy()
    placed[wide[used]] = True
    expected_s = _counted((after_s + before_s) / 2, placed, period_s)[wide]
    number = np.rint((expected_s - origin_s) / period_s - offset) + offset
    low_s, high_s, _ = cut(number, first_s, last_s)
    used = ~placed[wide] & (low_s < high_s)
    after_s[wide[used]], before_s[wide[used]] = low_s[used], high_s[used]
    return after_s, before_s


def _counted(middle_s: FloatArray, placed: BoolArray, period_s: float) -> FloatArray:
    """For edges between two placed ones that are as many periods apart as edges: evenly between; nan for others."""
    at = np.flatnonzero(placed)
    placed_s = middle_s[at]
    edges, steps_s = at[1:] - at[:-1], placed_s[1:] - placed_s[:-1]
    whole = np.rint(steps_s / period_s) == edges
    expected_s = np.full(len(middle_s), np.nan)
    for i in np.flatnonzero(whole & (edges > 1)):
        inside = np.arange(1, edges[i])
        expected_s[at[i] + inside] = middle_s[at[i]] + inside * steps_s[i] / edges[i]
    return expected_s


def _offsets(runs: list[_Run], nearest: IntArray) -> FloatArray:
    """Where whole periods lie, seen from the middle of a run: a fraction of one."""
    fractions = np.array([run.numbers[0] % 1.0 for run in runs])
    chosen: FloatArray = fractions[nearest]
    return chosen
