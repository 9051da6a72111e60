"""The power cap: by how much the clock of a GPU falls in a step that would draw too much, and what that costs in time.

At a relative clock r the clocked part of a step takes 1/r as long, and its energy falls with the square of the
voltage, which near the top of the range follows the clock; a share of it is static. Memory has a clock of its own.
"""

import numpy as np

from harness.points import FloatArray

_LOWEST_CLOCK = 0.25
_HALVINGS = 16


def capped_one(
    step_s: float, clocked_s: float, other_j: float, clocked_j: float, limit_w: float, static_share: float
) -> float:
    """Duration of one step that would draw more than `limit_w` at the full clock, s."""
    low, high = _LOWEST_CLOCK, 1.0
    for _ in range(_HALVINGS):
        clock = (low + high) / 2
        energy_j = other_j + clocked_j * (static_share + (1 - static_share) * clock * clock)
        if energy_j > limit_w * (step_s + clocked_s * (1 / clock - 1)):
            high = clock
        else:
            low = clock
    energy_j = other_j + clocked_j * (static_share + (1 - static_share) * low * low)
    # Where the lowest clock does not suffice, the hardware skips beats.
    return max(step_s + clocked_s * (1 / low - 1), energy_j / limit_w)


def capped(
    step_s: FloatArray,
    clocked_s: FloatArray,
    other_j: FloatArray,
    clocked_j: FloatArray,
    limit_w: float,
    static_share: float,
) -> tuple[FloatArray, FloatArray]:
    """Durations, s, and relative clocks of (n,) steps; those below the limit keep theirs.

    Args:
        step_s, clocked_s: (n,) time at the full clock, and what of it follows the clock.
        other_j, clocked_j: (n,) energy at the full clock above `limit_w`'s zero, without and with the clock's part.
    """
    over = other_j + clocked_j > limit_w * step_s
    duration_s, clock = step_s.copy(), np.ones(len(step_s))
    if not over.any():
        return duration_s, clock
    step_s, clocked_s, other_j, clocked_j = step_s[over], clocked_s[over], other_j[over], clocked_j[over]
    low, high = np.full(len(step_s), _LOWEST_CLOCK), np.ones(len(step_s))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        energy_j = other_j + clocked_j * (static_share + (1 - static_share) * middle * middle)
        above = energy_j > limit_w * (step_s + clocked_s * (1 / middle - 1))
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    energy_j = other_j + clocked_j * (static_share + (1 - static_share) * low * low)
    duration_s[over] = np.maximum(step_s + clocked_s * (1 / low - 1), energy_j / limit_w)
    clock[over] = low
    return duration_s, clock
