"""How long a window must be for its energy to be as sure as was asked for."""

from harness.records import Energy

_MARGIN = 1.1
_LONGEST_STEP = 20.0


def next_window_s(energy: Energy, window_s: float, target: float, limit_s: float) -> float | None:
    """How long the next window must be, from the random uncertainty of one that was measured.

    What is uncertain lies at the ends, so its joules stay and its share falls as the window grows:
        next = window x (uncertainty / energy) / target, and a tenth more, since the ends differ from time to time.
    Where part of it grows with the window (a sampled counter), the next window falls short and the answer to it is
    longer again; each step is at most twenty times the window before.

    Args:
        energy: of the window, with its random uncertainty (95% half-width).
        window_s: its length.
        target: greatest relative uncertainty, such as 0.01.
        limit_s: longest window allowed.

    Returns:
        Seconds, more than `window_s` and at most `limit_s`; None when this window meets the target, cannot be
        judged (no energy in it, or none measured), or is as long as is allowed.

    Raises:
        ValueError: target or lengths are not above zero.
    """
    if min(target, window_s, limit_s) <= 0:
        raise ValueError(f"target {target}, window {window_s} s and limit {limit_s} s must be above zero")
    if not energy.energy_j or energy.uncertainty_j is None or energy.energy_j < 0:
        return None
    excess = energy.uncertainty_j / energy.energy_j / target
    if excess <= 1 or window_s >= limit_s:
        return None
    return min(window_s * min(excess * _MARGIN, _LONGEST_STEP), limit_s)
