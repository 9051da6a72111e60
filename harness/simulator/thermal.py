"""Temperature of the boards: first-order heating, from true power."""

from collections import deque

import numpy as np

from harness.points import FloatArray, GpuSpec

INLET_C = 28.0
RISE_AT_TDP_C = 40.0
"""How far above the inlet a board settles at its power limit."""
WARMING_S = 25.0
_STEP_S = 2.0


class Thermal:
    """Temperatures at instants 2 s apart or closer, as far back as the timeline is kept.

    Args:
        tdp_w: power limit of a board.
        power_w: (boards,) power at which they have settled when the node begins.
    """

    def __init__(self, tdp_w: float, power_w: FloatArray) -> None:
        self._c_per_w = RISE_AT_TDP_C / tdp_w
        self._history: deque[tuple[float, FloatArray]] = deque([(0.0, INLET_C + self._c_per_w * power_w)])

    def advance(self, time_s: FloatArray, power_w: FloatArray) -> None:
        """Heat or cool from the instant that is known to `time_s[-1]`.

        Args:
            time_s: (n + 1,) bounds of stretches of constant power; the first is the instant that is known.
            power_w: (boards, n) what the boards draw in them, without what leaks for their being warm.
        """
        _, temperature_c = self._history[-1]
        start_s, end_s = float(time_s[0]), float(time_s[-1])
        energy_j = np.concatenate((np.zeros((len(power_w), 1)), np.cumsum(power_w * np.diff(time_s), axis=1)), axis=1)
        pieces = max(1, int(np.ceil((end_s - start_s) / _STEP_S)))
        bound_s = np.linspace(start_s, end_s, pieces + 1)
        bound_j = np.array([np.interp(bound_s, time_s, board_j) for board_j in energy_j])
        step_s = (end_s - start_s) / pieces
        settled_c = INLET_C + self._c_per_w * np.diff(bound_j, axis=1) / step_s
        remaining = np.exp(-step_s / WARMING_S)
        for piece in range(pieces):
            target_c = settled_c[:, piece]
            temperature_c = target_c + (temperature_c - target_c) * remaining
            self._history.append((float(bound_s[piece + 1]), temperature_c))

    def forget_before(self, time_s: float) -> None:
        """Drop what is older, but for one instant before."""
        while len(self._history) > 1 and self._history[1][0] < time_s:
            self._history.popleft()

    def at(self, time_s: FloatArray) -> FloatArray:
        """(boards, n) temperatures at (n,) times, deg C."""
        known_s = np.array([instant_s for instant_s, _ in self._history])
        known_c = np.array([temperature_c for _, temperature_c in self._history])
        return np.array([np.interp(time_s, known_s, board_c) for board_c in known_c.T])


def idle_temperature_c(gpu: GpuSpec) -> float:
    """Where a board settles that draws its idle power, deg C."""
    return INLET_C + RISE_AT_TDP_C * gpu.idle_w / gpu.tdp_w


def settled_leakage_w(gpu: GpuSpec, power_w: float, share_per_c: float) -> float:
    """What a board leaks more than an idle one, once it has settled at `power_w`, W."""
    warm_c = RISE_AT_TDP_C * (power_w - gpu.idle_w) / gpu.tdp_w
    return share_per_c * (gpu.tdp_w - gpu.idle_w) * warm_c
