"""Temperature of the boards: first-order heating, from true power."""

from collections import deque

import numpy as np

from harness.points import FloatArray
from harness.simulator.timeline import View

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

    def advance(self, view: View, end_s: float) -> None:
        """Heat or cool by the power in `view` (its first rows are the boards) until `end_s`."""
        start_s, temperature_c = self._history[-1]
        boards = len(temperature_c)
        pieces = max(1, int(np.ceil((end_s - start_s) / _STEP_S)))
        bound_s = np.linspace(start_s, end_s, pieces + 1)
        energy_j = np.array([view.at(row, bound_s) for row in range(boards)])
        step_s = (end_s - start_s) / pieces
        settled_c = INLET_C + self._c_per_w * np.diff(energy_j, axis=1) / step_s
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
