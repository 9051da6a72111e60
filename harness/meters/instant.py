"""What a counter that is refreshed on its own schedule had counted at an instant, and how sure that is.

**Slow counters** (NVML, about 100 ms). Their refreshes, the *edges*, are placed by `harness.meters.edges`.

Quiet ends: over a quiet side, from the nearest edge e that lies wholly on it,
    E(t) = C(e) + P (t - e)          P: mean power between edges wholly on the quiet side
It is exact for a constant quiet power, whatever the load does on the other side. 95%: the quadrature of
    the edge's half-width (reading period and latency) x P,
    the scatter of the quiet power (Student's t, as a prediction for one more interval) x |t - e|,
    one count,
and as a bound 4 D f (1 - f) R, with D: by how much instantaneous readings of the quiet power differ from P
(structure inside the intervals), f = |t - e| / R. Unless the caller knows that the quiet ends just there (*gated*),
it is also checked against what follows: the energy left for the rest of the interval must lie between P and the
mean power of the interval after it; what is too much or too little is added to the bound, for then the load began
before the instant.

Inside an interval [a, b] of edges, `harness.meters.interior` gives E from the powers around it.

The end takes the estimate with the smaller uncertainty. An end's *random* part differs from counter to counter and
combines in quadrature; its *bound* may have the same sign at every end and counter and adds up linearly.

**Fast counters** (RAPL, about 1 ms; also GPUs whose refresh is found to be that short) are interpolated between the
readings next to each end. Random part: (latency / 2 + refresh) x power, one count; bound: power swing x f (1 - f) x
distance of the readings.
"""

import math

from scipy import special

from harness.errors import CounterLost, MeasurementError, WindowTooShort
from harness.meters.base import PowerTrace, Series
from harness.meters.counter import cumulative_j
from harness.meters.edges import Edges, edges_of
from harness.meters.interior import HIDDEN, Instant, Shown, between_edges, power_range_w, shown_powers
from harness.points import FloatArray

FAST_REFRESH_S = 0.010
QUIET_EDGES = 4
"""Sampler.settle shows so many edges of each slow counter."""
_STUDENT_95 = {freedom: float(special.stdtrit(freedom, 0.975)) for freedom in range(1, QUIET_EDGES - 1)}


def window_ends(
    series: Series, start_s: float, end_s: float, gated: bool = False, power: PowerTrace | None = None
) -> tuple[Instant, Instant]:
    """The counter at the start and at the end of a window.

    Args:
        gated: nothing ran before the start and after the end.
        power: instantaneous power of the same GPU, if there is any.

    Raises:
        CounterWentBack: the counter was reset.
        CounterLost: it stopped answering too early.
        WindowTooShort: no refresh (slow) or reading (fast) on both sides of an end.
    """
    if end_s <= start_s:
        raise WindowTooShort(f"{series.channel.device}: window from {start_s} to {end_s} s has no length")
    if series.channel.refresh_s <= FAST_REFRESH_S:
        cumulative = cumulative_j(series)
        refresh_s = series.channel.refresh_s
        return (
            _between_readings(series, cumulative, refresh_s, start_s),
            _between_readings(series, cumulative, refresh_s, end_s),
        )
    edges = edges_of(series)
    return slow_ends(series, edges, start_s, end_s, gated, shown_powers(edges, power))


def slow_ends(
    series: Series, edges: Edges, start_s: float, end_s: float, gated: bool, shown: Shown
) -> tuple[Instant, Instant]:
    """`window_ends` of a slow counter whose edges, and powers shown at them, are known."""
    if edges.refresh_s <= FAST_REFRESH_S:
        cumulative = cumulative_j(series)
        return (
            _between_readings(series, cumulative, edges.refresh_s, start_s),
            _between_readings(series, cumulative, edges.refresh_s, end_s),
        )
    start_sides, end_sides = ((-1,), (+1,)) if gated else ((-1, +1), (-1, +1))
    return (
        _slow_instant(series, edges, shown, start_s, start_sides, gated),
        _slow_instant(series, edges, shown, end_s, end_sides, gated),
    )


def _slow_instant(
    series: Series, edges: Edges, shown: Shown, time_s: float, sides: tuple[int, ...], gated: bool
) -> Instant:
    """The best of all estimates; the quiet may be before the instant (side -1) or after it (+1)."""
    count_j = series.channel.joules_per_count
    found = [_from_quiet(edges, shown, time_s, side, gated, count_j) for side in sides]
    found.append(between_edges(edges, shown, time_s, count_j))
    instants = [instant for instant in found if instant is not None]
    if not instants:
        raise not_covered(series, time_s, "update of the counter")
    return min(instants, key=lambda instant: instant.random_j + instant.bound_j)


def _from_quiet(edges: Edges, shown: Shown, time_s: float, side: int, gated: bool, count_j: float) -> Instant | None:
    """Extrapolated over the quiet side, or None when that was not read densely next to the instant."""
    refresh_s = edges.refresh_s
    # Nearest first: edges that lie wholly on the quiet side, as far as they follow one another sharply.
    if side < 0:
        end = int(edges.before_s.searchsorted(time_s, side="right"))
        begin = max(end - QUIET_EDGES, 0)
    else:
        begin = int(edges.after_s.searchsorted(time_s))
        end = min(begin + QUIET_EDGES, len(edges.energy_j))
    dense = edges.dense[begin:end].tolist()[::side]
    n = len(dense) if all(dense) else dense.index(False)
    if n < 3:
        return None
    begin, end = (end - n, end) if side < 0 else (begin, begin + n)
    nearest = end - 1 if side < 0 else begin
    edge_s, energy_j = edges.time_s[begin:end].tolist()[::side], edges.energy_j[begin:end].tolist()[::side]
    power_w: float = (energy_j[-1] - energy_j[0]) / (edge_s[-1] - edge_s[0])
    each_w = [(energy_j[i + 1] - energy_j[i]) / (edge_s[i + 1] - edge_s[i]) for i in range(n - 1)]
    mean_w = sum(each_w) / (n - 1)
    scatter_w = math.sqrt(sum((w - mean_w) * (w - mean_w) for w in each_w) / (n - 2))
    power_uncertainty_w = _STUDENT_95[n - 2] * scatter_w * math.sqrt(1 + 1 / (n - 1))
    reach_s = abs(time_s - edge_s[0])
    # Part of an interval scatters more than the whole of it, as the square root of its share.
    random_j = math.hypot(
        float(edges.half_width_s[nearest]) * power_w,
        power_uncertainty_w * reach_s * max(1.0, math.sqrt(refresh_s / max(reach_s, 1e-6))),
        count_j,
    )
    share = min(reach_s / refresh_s, 0.5)
    # The power shown at an edge is of the time just before it.
    _, inside_w = shown.at(begin + 1, end - 1)
    apart_w = max((abs(w - power_w) for w in inside_w), default=0.0)
    bound_j = HIDDEN * apart_w * share * (1 - share) * refresh_s
    if not gated:
        bound_j += _unexplained_j(edges, nearest, power_w, time_s, side)
    return Instant(energy_j[0] + power_w * (time_s - edge_s[0]), random_j, bound_j)


def _unexplained_j(edges: Edges, nearest: int, power_w: float, time_s: float, side: int) -> float:
    """Energy of the rest of the interval that no power between the quiet and the next interval's explains."""
    inner, beyond = nearest - side, nearest - 2 * side
    if not 0 <= inner < len(edges.energy_j):
        return 0.0
    rest_s = abs(float(edges.time_s[inner]) - time_s)
    reach_s = abs(time_s - float(edges.time_s[nearest]))
    rest_j = abs(float(edges.energy_j[inner] - edges.energy_j[nearest])) - power_w * reach_s
    powers_w = [power_w]
    if 0 <= beyond < len(edges.energy_j):
        step_j = edges.energy_j[beyond] - edges.energy_j[inner]
        powers_w.append(float(step_j / (edges.time_s[beyond] - edges.time_s[inner])))
    return max(0.0, rest_j - max(powers_w) * rest_s, min(powers_w) * rest_s - rest_j)


def _between_readings(series: Series, cumulative: FloatArray, refresh_s: float, time_s: float) -> Instant:
    """A fast counter at an instant, interpolated between the readings around it."""
    reading_s, channel = series.time_s, series.channel
    b = int(reading_s.searchsorted(time_s, side="right"))
    if b == len(reading_s) and b > 0 and reading_s[-1] == time_s:
        b -= 1
    if b == 0 or b == len(reading_s):
        raise not_covered(series, time_s, "reading")
    a = b - 1
    span_s = reading_s[b] - reading_s[a]
    share = (time_s - reading_s[a]) / span_s
    low_w, high_w = power_range_w(reading_s, cumulative, time_s)
    nearest = a if share < 0.5 else b
    random_j = math.hypot((series.latency_s[nearest] / 2 + refresh_s) * high_w, channel.joules_per_count)
    bound_j = (high_w - low_w) * share * (1 - share) * span_s
    return Instant(float(cumulative[a] + share * (cumulative[b] - cumulative[a])), float(random_j), float(bound_j))


def not_covered(series: Series, time_s: float, what: str) -> MeasurementError:
    """The error for readings that do not reach far enough."""
    device = series.channel.device
    if series.lost:
        return CounterLost(f"{device}: {series.lost}")
    return WindowTooShort(f"{device}: no {what} on both sides of {time_s:.3f} s, read {len(series.time_s)} times")
