"""Energy up to an instant inside an interval [a, b] of two edges, from the powers around it.

Only the mean power M of the interval is known, and those of its neighbours, L2 L1 [M] R1 R2, each between two
edges; where there is an instantaneous power (a mean of 25 ms before each refresh, arXiv 2312.02741), also what it
was just before each edge. With x = t - a, f = x / (b - a):

    trend      E = C(a) + M x - g x (b - t) / 2             g: slope of the line through the means
    one step   E = C(a) + L1 min(x, s) + R1 max(0, x - s)   s = (b - a) (R1 - M) / (R1 - L1), if M is between
    even       E = C(a) + M x

The trend's 95% is (Student's t x scatter of the means around the line + 4 D) x f (1 - f) (b - a), D: by how much
the instantaneous powers are off the line. Where that exceeds half the swing, power jumps, and the swing bounds the
error better:
    1.1 (highest - lowest of L1 M R1 and what is shown at a and b, + 4 H) x f (1 - f) (b - a)
with H: how far any power shown leaves the range of the means on both sides of it. Then the estimate is one step
where M lies between its neighbours and that is the better fit, and even otherwise; where the powers shown at a and
b agree with those that the estimate assumes there, to within m in sum, 0.3 swing + 3 m is enough. To this comes
P (1 - f) x half-width of a and P f x half-width of b: at random for sharp edges, else as a bound.

Only a handful of powers is looked at, on which plain numbers are several times faster than arrays.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import special

from harness.meters.base import PowerTrace
from harness.meters.edges import SHARP_SHARE, Edges
from harness.points import FloatArray, IntArray

SENSOR_WINDOW_S = 0.025
_NOISE_SHARE = 0.15
"""Neighbours whose mean power is less sure than this, because their edges are, say nothing of a trend."""
_TOGETHER_SHARE = 0.1
HIDDEN = 4.0
"""A power shown that is off by this much less than the swing behind it: 25 ms may hold both high and low."""
_SWING_MARGIN = 1.1
"""A load that ends just there is off by the whole bound, and its powers are not known exactly either."""
_FITTED_SHARE, _MISFIT = 0.3, 3.0
_TREND_SHARE = 0.5
"""Scatter of more than half the swing is no scatter around a trend but a jump."""
_SWING_GRID_S = np.arange(-3, 4) * 0.1
_STUDENT_95 = {freedom: float(special.stdtrit(freedom, 0.975)) for freedom in (1, 2, 3)}
"""Of at most five mean powers around a line."""


@dataclass(frozen=True, slots=True)
class Instant:
    """Joules counted up to an instant.

    Attributes:
        random_j: 95% half-width of what differs from counter to counter; combines in quadrature.
        bound_j: bound of what may have the same sign at every end and counter; adds up linearly.
    """

    energy_j: float
    random_j: float
    bound_j: float


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """(n,) instantaneous powers, and the edge at which each was refreshed, not decreasing."""

    edge: IntArray
    power_w: FloatArray

    def at(self, first: int, last: int) -> tuple[list[int], list[float]]:
        """Edges and powers of what was refreshed at edges `first` to `last`."""
        low, high = self.edge.searchsorted(first), self.edge.searchsorted(last, side="right")
        return self.edge[low:high].tolist(), self.power_w[low:high].tolist()


def shown_powers(edges: Edges, power: PowerTrace | None) -> Shown:
    """Of each power reading, which edge it belongs to; readings too close to the next one are left out."""
    if power is None or not power.instant or len(edges.energy_j) == 0:
        return Shown(np.zeros(0, np.int64), np.zeros(0))
    edge = np.searchsorted(edges.before_s, power.time_s, side="right") - 1
    # Counter and power are read together, so a wide bracket begins just before the power is read.
    width_s = edges.before_s - edges.after_s
    sooner_s = edges.after_s + np.where(width_s > 2 * SHARP_SHARE * edges.refresh_s, _TOGETHER_SHARE * width_s, 0.0)
    next_s = np.append(sooner_s, edges.before_s[-1] + edges.refresh_s)[edge + 1]
    clear = (edge >= 0) & (power.time_s < next_s)
    return Shown(edge[clear].astype(np.int64), power.power_w[clear])


def between_edges(edges: Edges, shown: Shown, time_s: float, count_j: float) -> Instant | None:
    """The instant within its interval, or None when an edge on one side is missing."""
    edge_s, half_s = edges.time_s, edges.half_width_s
    b = int(edge_s.searchsorted(time_s, side="right"))
    if b == 0 or b == len(edge_s):
        return None
    a = b - 1
    span_s = float(edge_s[b] - edge_s[a])
    x_s = time_s - float(edge_s[a])
    share = x_s / span_s
    mean_w = float(edges.energy_j[b] - edges.energy_j[a]) / span_s
    around = _Around.of(edges, shown, a)
    low_w, high_w = power_range_w(edge_s, edges.energy_j, time_s)
    powers_w = [low_w, high_w, *around.near_w()]
    swing_w = max(powers_w) - min(powers_w) + HIDDEN * around.hidden_w()
    bend_w, trend_95_w = around.slope, around.trend_95_w()
    if trend_95_w <= _TREND_SHARE * swing_w or swing_w == 0.0:
        used_j, off_w = mean_w * x_s - bend_w * x_s * (span_s - x_s) / 2, trend_95_w
    else:
        used_j, misfit_w = around.jump(x_s, span_s, bend_w)
        off_w = min(_SWING_MARGIN * swing_w, _FITTED_SHARE * swing_w + _MISFIT * misfit_w)
    early_j, late_j = mean_w * (1 - share) * float(half_s[a]), mean_w * share * float(half_s[b])
    random_j, bound_j = count_j, off_w * share * (1 - share) * span_s
    for edge, edge_j in ((a, early_j), (b, late_j)):
        if half_s[edge] <= SHARP_SHARE * edges.refresh_s:
            random_j = math.hypot(random_j, edge_j)
        else:
            bound_j += edge_j
    return Instant(float(edges.energy_j[a]) + used_j, random_j, bound_j)


@dataclass(frozen=True, slots=True, eq=False)
class _Around:
    """Mean powers of the interval and its neighbours, over the time from the interval's middle; and what was shown.

    Attributes:
        own: which of the mean powers is the interval's own.
        slope, level_w: the line through the means, W/s and W; both zero with fewer than three of them.
    """

    own: int
    time_s: list[float]
    mean_w: list[float]
    shown_s: list[float]
    shown_w: list[float]
    shown_edge: list[int]
    slope: float
    level_w: float

    @classmethod
    def of(cls, edges: Edges, shown: Shown, a: int) -> "_Around":
        low, high = max(a - 2, 0), min(a + 3, len(edges.energy_j) - 1)
        edge_s, half_s = edges.time_s[low : high + 1].tolist(), edges.half_width_s[low : high + 1].tolist()
        energy_j = edges.energy_j[low : high + 1].tolist()
        own = a - low

        def sure(interval: int) -> bool:
            span_s: float = edge_s[interval + 1] - edge_s[interval]
            return math.hypot(half_s[interval + 1], half_s[interval]) <= _NOISE_SHARE * span_s

        first, last = own, own
        while first > 0 and sure(first - 1):
            first -= 1
        while last < high - low - 1 and sure(last + 1):
            last += 1
        kept = range(first, last + 1)
        mean_w = [(energy_j[i + 1] - energy_j[i]) / (edge_s[i + 1] - edge_s[i]) for i in kept]
        middle_s = (edge_s[own + 1] + edge_s[own]) / 2
        time_s = [(edge_s[i + 1] + edge_s[i]) / 2 - middle_s for i in kept]
        # Shown at an edge: just before it, that is in the interval that it ends.
        ticks, shown_w = shown.at(low + first + 1, low + last + 1)
        shown_s = [edge_s[tick - low] - SENSOR_WINDOW_S / 2 - middle_s for tick in ticks]
        shown_edge = [tick - a for tick in ticks]
        return cls(own - first, time_s, mean_w, shown_s, shown_w, shown_edge, *_line(time_s, mean_w))

    def near_w(self) -> list[float]:
        """Powers next to the instant: of the interval, its neighbours, and shown at its ends."""
        ends_w = [w for edge, w in zip(self.shown_edge, self.shown_w, strict=True) if edge in (0, 1)]
        return [*self.mean_w[max(self.own - 1, 0) : self.own + 2], *ends_w]

    def hidden_w(self) -> float:
        """By how much a power shown at an edge leaves the range of the mean powers on both sides of it."""
        hidden_w = 0.0
        for edge, shown_w in zip(self.shown_edge, self.shown_w, strict=True):
            # In the interval's own numbering: shown at edge k is between means k - 1 and k.
            right = edge + self.own
            if 0 < right < len(self.mean_w):
                left_w, right_w = self.mean_w[right - 1], self.mean_w[right]
                hidden_w = max(hidden_w, shown_w - max(left_w, right_w), min(left_w, right_w) - shown_w)
        return hidden_w

    def trend_95_w(self) -> float:
        """By how much the power may be off the line (95%), W."""
        n = len(self.mean_w)
        if n < 3:
            return math.inf
        scatter_w = math.sqrt(sum(off_w * off_w for off_w in self._means_off_w()) / (n - 2))
        apart_95_w = HIDDEN * max((abs(off_w) for off_w in self._shown_off_w()), default=0.0)
        return _STUDENT_95[n - 2] * scatter_w + apart_95_w

    def _means_off_w(self) -> list[float]:
        level_w, slope = self.level_w, self.slope
        return [w - level_w - slope * t for t, w in zip(self.time_s, self.mean_w, strict=True)]

    def _shown_off_w(self) -> list[float]:
        level_w, slope = self.level_w, self.slope
        return [w - level_w - slope * t for t, w in zip(self.shown_s, self.shown_w, strict=True)]

    def jump(self, x_s: float, span_s: float, slope: float) -> tuple[float, float]:
        """Energy of the first `x_s` of the interval where the power is unsteady, J.

        And by how much the powers shown at its two ends differ from those assumed there, W; infinite where one of
        them is not known.
        """
        own = self.own
        mean_w = self.mean_w[own]
        even = mean_w * x_s, self._end_misfit_w(mean_w, mean_w)
        if not 0 < own < len(self.mean_w) - 1:
            return even
        left_w, right_w = self.mean_w[own - 1], self.mean_w[own + 1]
        if not min(left_w, right_w) < mean_w < max(left_w, right_w):
            return even
        if self._trend_misfit_w() < self._step_misfit_w(left_w, right_w):
            return mean_w * x_s - slope * x_s * (span_s - x_s) / 2, math.inf
        step_s = span_s * (right_w - mean_w) / (right_w - left_w)
        used_j = left_w * min(x_s, step_s) + right_w * max(0.0, x_s - step_s)
        return used_j, self._end_misfit_w(left_w, right_w)

    def _end_misfit_w(self, left_w: float, right_w: float) -> float:
        at_left_w, at_right_w = (
            [abs(w - end_w) for at, w in zip(self.shown_edge, self.shown_w, strict=True) if at == edge]
            for edge, end_w in ((0, left_w), (1, right_w))
        )
        if not at_left_w or not at_right_w:
            return math.inf
        return max(at_left_w) + max(at_right_w)

    def _trend_misfit_w(self) -> float:
        return sum(map(abs, self._means_off_w())) + sum(map(abs, self._shown_off_w()))

    def _step_misfit_w(self, left_w: float, right_w: float) -> float:
        means_w = sum(abs(w - left_w) for w in self.mean_w[: self.own])
        means_w += sum(abs(w - right_w) for w in self.mean_w[self.own + 1 :])
        shown = zip(self.shown_edge, self.shown_w, strict=True)
        return means_w + sum(abs(w - (left_w if edge <= 0 else right_w)) for edge, w in shown)


def _line(time_s: list[float], mean_w: list[float]) -> tuple[float, float]:
    """Slope in W/s and level in W of the line through three points or more; flat where there are fewer."""
    n = len(mean_w)
    if n < 3:
        return 0.0, 0.0
    middle_s = sum(time_s) / n
    away_s = [t - middle_s for t in time_s]
    slope = sum(t * w for t, w in zip(away_s, mean_w, strict=True)) / sum(t * t for t in away_s)
    return slope, sum(mean_w) / n - slope * middle_s


def power_range_w(time_s: FloatArray, energy_j: FloatArray, at_s: float) -> tuple[float, float]:
    """Lowest and highest mean power of the steps of 0.1 s around an instant."""
    grid = at_s + _SWING_GRID_S
    if grid[0] < time_s[0] or grid[-1] > time_s[-1]:
        grid = np.unique(np.clip(grid, time_s[0], time_s[-1]))
    steps = zip(pairwise(np.interp(grid, time_s, energy_j).tolist()), pairwise(grid.tolist()), strict=True)
    power_w = [(after_j - before_j) / (after_s - before_s) for (before_j, after_j), (before_s, after_s) in steps]
    return min(power_w), max(power_w)
