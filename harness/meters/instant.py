"""What a counter that is refreshed on its own schedule had counted at an instant, and how sure that is.

**Slow counters** (NVML, about 100 ms). A counter jumps at its refreshes to the energy used up to then. The
first reading that shows a new value and the reading before it bracket the refresh: the *edge* lies at
their middle, give or take half their distance. (At a resolution of 1 mJ a refresh always changes the
value, so an unchanged value means that there was none.)

    E(start) = C(e0) + P_before (start - e0)      e0: last edge before the start
    E(end)   = C(e1) - P_after  (e1 - end)        e1: first edge after the end
    energy   = E(end) - E(start)

P_before and P_after are the quiet powers, measured between edges that lie wholly outside the window. This
"quiet ends" estimate is exact for a constant quiet power, whatever the load does inside. Each end's
uncertainty (95% half-width) is the quadrature of
    the edge's half-width (reading period and latency) x quiet power,
    the scatter of the quiet power (Student's t, as a prediction for one more interval) x the time to the edge,
    one count.
Where the outside was not read densely, or was so unquiet that the other estimate is better, E is
interpolated between the edges a and b around the instant, at the share f = (t - a) / (b - a). That is off by
up to the sum (a bound, of the same sign at all counters that are read together, so it adds up linearly) of
    power swing x f (1 - f) (b - a)               unsteady power inside [a, b]
    P (1 - f) x half-width of a,  P f x half-width of b

**Fast counters** (RAPL, about 1 ms) are interpolated between the readings next to each end. Random part:
(latency / 2 + refresh) x power, one count; bound: the same swing term.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from harness.errors import CounterLost, MeasurementError, WindowTooShort
from harness.meters.base import Series
from harness.meters.counter import cumulative_j
from harness.points import FloatArray

FAST_REFRESH_S = 0.010
SHARP_SHARE = 0.2
"""An edge is sharp when its half-width is under this share of the refresh period: it was read densely."""
QUIET_EDGES = 4
"""Sampler.settle shows so many edges of each slow counter."""
SWING_STEP_S = 0.1
SWING_STEPS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """(n,) refreshes: bounds of the time, and the joules counted up to it."""

    after_s: FloatArray
    before_s: FloatArray
    energy_j: FloatArray

    @property
    def time_s(self) -> FloatArray:
        return (self.after_s + self.before_s) / 2

    @property
    def half_width_s(self) -> FloatArray:
        return (self.before_s - self.after_s) / 2


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


def window_ends(series: Series, start_s: float, end_s: float) -> tuple[Instant, Instant]:
    """The counter at the start and at the end of a window.

    Raises:
        CounterWentBack: the counter was reset.
        CounterLost: it stopped answering too early.
        WindowTooShort: no refresh (slow) or reading (fast) on both sides of an end.
    """
    if end_s <= start_s:
        raise WindowTooShort(f"{series.channel.device}: window from {start_s} to {end_s} s has no length")
    if series.channel.refresh_s <= FAST_REFRESH_S:
        cumulative = cumulative_j(series)
        return _between_readings(series, cumulative, start_s), _between_readings(series, cumulative, end_s)
    edges = edges_of(series)
    return _slow_instant(series, edges, start_s, -1), _slow_instant(series, edges, end_s, +1)


def edges_of(series: Series) -> Edges:
    """The refreshes that a slow counter's readings show."""
    cumulative = cumulative_j(series)
    changed = np.flatnonzero(np.diff(cumulative) > 0) + 1
    half_latency_s = series.latency_s / 2
    return Edges(
        series.time_s[changed - 1] - half_latency_s[changed - 1],
        series.time_s[changed] + half_latency_s[changed],
        cumulative[changed],
    )


def _slow_instant(series: Series, edges: Edges, time_s: float, side: int) -> Instant:
    """The better of both estimates; the quiet is before the instant (side -1) or after it (+1)."""
    found = [
        instant
        for instant in (_from_quiet(series, edges, time_s, side), _between_edges(series, edges, time_s))
        if instant is not None
    ]
    if not found:
        raise not_covered(series, time_s, "update of the counter")
    return min(found, key=lambda instant: instant.random_j + instant.bound_j)


def _from_quiet(series: Series, edges: Edges, time_s: float, side: int) -> Instant | None:
    """Extrapolated over the quiet side, or None when that was not read densely next to the instant."""
    refresh_s = series.channel.refresh_s
    # Nearest first: edges that lie wholly on the quiet side, as far as they follow one another sharply.
    if side < 0:
        quiet = np.flatnonzero(edges.before_s <= time_s)[: -QUIET_EDGES - 1 : -1]
    else:
        quiet = np.flatnonzero(edges.after_s >= time_s)[:QUIET_EDGES]
    sharp = edges.half_width_s[quiet] <= SHARP_SHARE * refresh_s
    quiet = quiet[: len(quiet) if sharp.all() else int(np.argmin(sharp))]
    if len(quiet) < 3:
        return None
    edge_s, energy_j = edges.time_s[quiet], edges.energy_j[quiet]
    power_w = (energy_j[-1] - energy_j[0]) / (edge_s[-1] - edge_s[0])
    each_w = np.diff(energy_j) / np.diff(edge_s)
    n = len(each_w)
    power_uncertainty_w = special.stdtrit(n - 1, 0.975) * np.std(each_w, ddof=1) * math.sqrt(1 + 1 / n)
    reach_s = abs(time_s - edge_s[0])
    # Part of an interval scatters more than the whole of it, as the square root of its share.
    random_j = math.hypot(
        edges.half_width_s[quiet[0]] * power_w,
        power_uncertainty_w * reach_s * max(1.0, math.sqrt(refresh_s / max(reach_s, 1e-6))),
        series.channel.joules_per_count,
    )
    return Instant(float(energy_j[0] + power_w * (time_s - edge_s[0])), float(random_j), 0.0)


def _between_edges(series: Series, edges: Edges, time_s: float) -> Instant | None:
    """Interpolated between the edges around the instant, or None when one is missing."""
    edge_s, half_width_s = edges.time_s, edges.half_width_s
    b = int(np.searchsorted(edge_s, time_s, side="right"))
    if b == 0 or b == len(edge_s):
        return None
    a = b - 1
    span_s = edge_s[b] - edge_s[a]
    share = (time_s - edge_s[a]) / span_s
    step_j = edges.energy_j[b] - edges.energy_j[a]
    bound_j = _swing_w(edge_s, edges.energy_j, time_s) * share * (1 - share) * span_s
    bound_j += step_j / span_s * ((1 - share) * half_width_s[a] + share * half_width_s[b])
    return Instant(float(edges.energy_j[a] + share * step_j), series.channel.joules_per_count, float(bound_j))


def _between_readings(series: Series, cumulative: FloatArray, time_s: float) -> Instant:
    """A fast counter at an instant, interpolated between the readings around it."""
    reading_s, channel = series.time_s, series.channel
    b = int(np.searchsorted(reading_s, time_s, side="right"))
    if b == len(reading_s) and b > 0 and reading_s[-1] == time_s:
        b -= 1
    if b == 0 or b == len(reading_s):
        raise not_covered(series, time_s, "reading")
    a = b - 1
    span_s = reading_s[b] - reading_s[a]
    share = (time_s - reading_s[a]) / span_s
    low_w, high_w = _power_range_w(reading_s, cumulative, time_s)
    nearest = a if share < 0.5 else b
    random_j = math.hypot((series.latency_s[nearest] / 2 + channel.refresh_s) * high_w, channel.joules_per_count)
    bound_j = (high_w - low_w) * share * (1 - share) * span_s
    return Instant(float(cumulative[a] + share * (cumulative[b] - cumulative[a])), float(random_j), float(bound_j))


def _power_range_w(time_s: FloatArray, energy_j: FloatArray, at_s: float) -> tuple[float, float]:
    """Lowest and highest mean power of the steps of `SWING_STEP_S` around an instant."""
    grid = at_s + SWING_STEP_S * np.arange(-SWING_STEPS, SWING_STEPS + 1)
    grid = np.unique(np.clip(grid, time_s[0], time_s[-1]))
    power_w = np.diff(np.interp(grid, time_s, energy_j)) / np.diff(grid)
    return float(power_w.min()), float(power_w.max())


def _swing_w(time_s: FloatArray, energy_j: FloatArray, at_s: float) -> float:
    low_w, high_w = _power_range_w(time_s, energy_j, at_s)
    return high_w - low_w


def not_covered(series: Series, time_s: float, what: str) -> MeasurementError:
    """The error for readings that do not reach far enough."""
    device = series.channel.device
    if series.lost:
        return CounterLost(f"{device}: {series.lost}")
    return WindowTooShort(f"{device}: no {what} on both sides of {time_s:.3f} s, read {len(series.time_s)} times")
