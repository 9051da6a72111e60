"""Whether a counter integrates the power, or adds up short samples of it, and what that may cost.

Instantaneous sensors of A100 and H100 average 25 ms of each 100 ms (arXiv 2312.02741). A counter fed by such a
sensor grows at each refresh by exactly the power shown there times the time since the refresh before; one that
integrates does so only while the power is steady. So a counter whose growth differs from the power shown, by more
than the places of the edges explain, is an integral and nothing is added. With M the mean power between two edges,
S the power shown at the later one, d its change since the edge before, u the uncertainty of M, z = (M - S) / u:
    sum of z^2 > 2 n + 10,  or
    |sum of z d / u| > 4 sqrt(sum of (d / u)^2)      on a ramp S leads M by a share of d, edge after edge

Otherwise the counter is either sampled or has only seen steady power, and what samples may miss is added. With D
the changes of the power shown from one reading of it to the next, over the window and 1.5 refreshes on each side,
    random (95%)   1.2 R sqrt(sum D^2)   each jump may lie anywhere between two samples
    bound          0.4 R |sum D|         a slow rise is seen half a refresh less half a sample late
Both vanish for a steady power. Load that repeats exactly with the refresh looks steady to samples, and no window of
such a counter can tell. What it may have hidden is stated apart, as the *sampling bound*: with s the share of each
refresh R that the sensor sees, E the energy measured in a window of W,
    U = (1 - s) (W + s R)                             the most that may lie unseen, wherever the window begins
    bound = U x max(E / W - lowest, highest - E / W)  had the power been at one of its extremes all that time
"""

import numpy as np

from harness.meters.base import PowerTrace
from harness.meters.edges import Edges
from harness.meters.interior import Shown

_JUMP_SHARE = 1.2
_RISE_SHARE = 0.4
_FREE_Z2, _EACH_Z2 = 10.0, 2.0
_SURE_LEAD = 4.0
_SURE_SHARE = 0.15
_SD_PER_HALF_WIDTH = 1.7
_NOISE_W = 0.3


def integrates(edges: Edges, shown: Shown) -> bool:
    """Whether some growth of the counter, anywhere in the recording, differs from what was shown.

    False: it cannot be told. True of a counter that samples in about 2% of windows: a refresh misplaced.
    """
    later, power_w = shown.edge[shown.edge > 0], shown.power_w[shown.edge > 0]
    edge_s, half_s = edges.time_s, edges.half_width_s
    span_s = edge_s[later] - edge_s[later - 1]
    mean_w = (edges.energy_j[later] - edges.energy_j[later - 1]) / span_s
    unsure = np.hypot(half_s[later], half_s[later - 1]) / span_s
    sure = unsure < _SURE_SHARE
    unsure_w = np.hypot(unsure * np.maximum(mean_w, power_w) / _SD_PER_HALF_WIDTH, _NOISE_W)
    z = ((mean_w - power_w) / unsure_w)[sure]
    if z @ z > _EACH_Z2 * len(z) + _FREE_Z2:
        return True
    neighbours = np.flatnonzero((later[1:] - later[:-1] == 1) & sure[1:])
    change = (power_w[1:] - power_w[:-1])[neighbours] / unsure_w[neighbours + 1]
    lead = ((mean_w - power_w) / unsure_w)[neighbours + 1]
    return bool(abs(lead @ change) > _SURE_LEAD * np.sqrt(change @ change))


def sampling_error(edges: Edges, power: PowerTrace, start_s: float, end_s: float) -> tuple[float, float]:
    """Random part (95%) and bound, J, of a counter that may be a sum of samples."""
    period_s = edges.refresh_s
    near = (power.time_s > start_s - 1.5 * period_s) & (power.time_s < end_s + 1.5 * period_s)
    change_w = np.diff(power.power_w[near])
    random_j = _JUMP_SHARE * period_s * float(np.sqrt(change_w @ change_w))
    return random_j, _RISE_SHARE * period_s * abs(float(change_w.sum()))


def sampling_bound_j(
    energy_j: float, window_s: float, refresh_s: float, seen_share: float, lowest_w: float, highest_w: float
) -> float:
    """The farthest that the true energy may lie from what such a sensor's counter gave, J; 0 where it sees all.

    Args:
        energy_j, window_s: measured by one counter.
        refresh_s, seen_share: of it.
        lowest_w, highest_w: between which the power was, seen or not.
    """
    unseen_s = min(window_s, (1 - seen_share) * (window_s + seen_share * refresh_s))
    mean_w = energy_j / window_s
    return unseen_s * max(mean_w - lowest_w, highest_w - mean_w)
