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
"""

import math
from dataclasses import dataclass

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
    """(n,) instantaneous powers, and the edge at which each was refreshed."""

    edge: IntArray
    power_w: FloatArray


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
    b = int(np.searchsorted(edge_s, time_s, side="right"))
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
    bend_w, trend_95_w = around.trend()
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
    """Mean powers of the interval and its neighbours, over the time from the interval's middle; and what was shown."""

    own: int
    time_s: FloatArray
    mean_w: FloatArray
    shown_s: FloatArray
    shown_w: FloatArray
    shown_edge: IntArray

    @classmethod
    def of(cls, edges: Edges, shown: Shown, a: int) -> "_Around":
        low, high = max(a - 2, 0), min(a + 3, len(edges.energy_j) - 1)
        edge_s, half_s = edges.time_s[low : high + 1], edges.half_width_s[low : high + 1]
        span_s = np.diff(edge_s)
        mean_w = np.diff(edges.energy_j[low : high + 1]) / span_s
        sure = np.hypot(half_s[1:], half_s[:-1]) <= _NOISE_SHARE * span_s
        own = a - low
        first, last = own, own
        while first > 0 and sure[first - 1]:
            first -= 1
        while last < len(sure) - 1 and sure[last + 1]:
            last += 1
        middle_s = (edge_s[1:] + edge_s[:-1]) / 2
        # Shown at an edge: just before it, that is in the interval that it ends.
        of_them = (shown.edge > low + first) & (shown.edge <= low + last + 1)
        ticks = shown.edge[of_them]
        return cls(
            own - first,
            middle_s[first : last + 1] - middle_s[own],
            mean_w[first : last + 1],
            edges.time_s[ticks] - SENSOR_WINDOW_S / 2 - middle_s[own],
            shown.power_w[of_them],
            ticks - a,
        )

    def near_w(self) -> list[float]:
        """Powers next to the instant: of the interval, its neighbours, and shown at its ends."""
        ends_w = self.shown_w[(self.shown_edge == 0) | (self.shown_edge == 1)]
        return [float(w) for w in (*self.mean_w[max(self.own - 1, 0) : self.own + 2], *ends_w)]

    def hidden_w(self) -> float:
        """By how much a power shown at an edge leaves the range of the mean powers on both sides of it."""
        # In the interval's own numbering: shown at edge k is between means k - 1 and k.
        right = self.shown_edge + self.own
        inner = (right > 0) & (right < len(self.mean_w))
        if not inner.any():
            return 0.0
        left_w, right_w, shown_w = self.mean_w[right[inner] - 1], self.mean_w[right[inner]], self.shown_w[inner]
        over_w = np.maximum(shown_w - np.maximum(left_w, right_w), np.minimum(left_w, right_w) - shown_w)
        return max(0.0, float(over_w.max()))

    def trend(self) -> tuple[float, float]:
        """Slope in W/s, and by how much the power may be off the line (95%), W."""
        n = len(self.mean_w)
        if n < 3:
            return 0.0, math.inf
        slope, level_w = self._line()
        off_w = self.mean_w - level_w - slope * self.time_s
        scatter_w = math.sqrt(float(off_w @ off_w) / (n - 2))
        apart_w = self.shown_w - level_w - slope * self.shown_s
        apart_95_w = HIDDEN * float(np.abs(apart_w).max()) if len(apart_w) else 0.0
        return slope, float(special.stdtrit(n - 2, 0.975)) * scatter_w + apart_95_w

    def _line(self) -> tuple[float, float]:
        n = len(self.mean_w)
        middle_s = float(self.time_s.sum()) / n
        away_s = self.time_s - middle_s
        slope = float(away_s @ self.mean_w / (away_s @ away_s))
        return slope, float(self.mean_w.sum()) / n - slope * middle_s

    def jump(self, x_s: float, span_s: float, slope: float) -> tuple[float, float]:
        """Energy of the first `x_s` of the interval where the power is unsteady, J.

        And by how much the powers shown at its two ends differ from those assumed there, W; infinite where one of
        them is not known.
        """
        own = self.own
        mean_w = float(self.mean_w[own])
        even = mean_w * x_s, self._end_misfit_w(mean_w, mean_w)
        if not 0 < own < len(self.mean_w) - 1:
            return even
        left_w, right_w = float(self.mean_w[own - 1]), float(self.mean_w[own + 1])
        if not min(left_w, right_w) < mean_w < max(left_w, right_w):
            return even
        if self._trend_misfit_w() < self._step_misfit_w(left_w, right_w):
            return mean_w * x_s - slope * x_s * (span_s - x_s) / 2, math.inf
        step_s = span_s * (right_w - mean_w) / (right_w - left_w)
        used_j = left_w * min(x_s, step_s) + right_w * max(0.0, x_s - step_s)
        return used_j, self._end_misfit_w(left_w, right_w)

    def _end_misfit_w(self, left_w: float, right_w: float) -> float:
        at_left_w, at_right_w = (self.shown_w[self.shown_edge == edge] for edge in (0, 1))
        if not len(at_left_w) or not len(at_right_w):
            return math.inf
        return float(np.abs(at_left_w - left_w).max() + np.abs(at_right_w - right_w).max())

    def _trend_misfit_w(self) -> float:
        slope, level_w = self._line()
        means_w = np.abs(self.mean_w - level_w - slope * self.time_s).sum()
        return float(means_w + np.abs(self.shown_w - level_w - slope * self.shown_s).sum())

    def _step_misfit_w(self, left_w: float, right_w: float) -> float:
        before_w, after_w = self.mean_w[: self.own], self.mean_w[self.own + 1 :]
        means_w = np.abs(before_w - left_w).sum() + np.abs(after_w - right_w).sum()
        expected_w = np.where(self.shown_edge <= 0, left_w, right_w)
        return float(means_w + np.abs(self.shown_w - expected_w).sum())


def power_range_w(time_s: FloatArray, energy_j: FloatArray, at_s: float) -> tuple[float, float]:
    """Lowest and highest mean power of the steps of 0.1 s around an instant."""
    grid = at_s + _SWING_GRID_S
    if grid[0] < time_s[0] or grid[-1] > time_s[-1]:
        grid = np.unique(np.clip(grid, time_s[0], time_s[-1]))
    power_w = np.diff(np.interp(grid, time_s, energy_j)) / np.diff(grid)
    return float(power_w.min()), float(power_w.max())
