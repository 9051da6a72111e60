"""True power over virtual time: piecewise constant, kept as cumulative energies, only as far back as needed."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.points import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A stretch of the timeline, exact at every instant within it.

    Attributes:
        time_s: (n,) where the power changes, not decreasing.
        energy_j: (rows, n) cumulative energy of each row at these times, since the node began.
        watched_j: (rows,) cumulative energies at the watched times that have passed.
    """

    time_s: FloatArray
    energy_j: FloatArray
    watched_j: Mapping[float, FloatArray]

    def at(self, row: int, time_s: FloatArray) -> FloatArray:
        """Cumulative energy of `row` at each time, J; held constant beyond the view's ends."""
        energy_j: FloatArray = np.interp(time_s, self.time_s, self.energy_j[row])
        return energy_j


class Timeline:
    """Rows of power over time, appended at the end, forgotten at the beginning.

    Args:
        rows: how many powers there are.
        watch_s: times at which the cumulative energies are kept for good, once they have passed.
    """

    def __init__(self, rows: int, watch_s: Iterable[float] = ()) -> None:
        start = np.zeros(1)
        self._chunks: deque[tuple[FloatArray, FloatArray]] = deque([(start, np.zeros((rows, 1)))])
        self._pending_s = sorted(watch_s)
        self._watched_j: dict[float, FloatArray] = {}

    @property
    def start_s(self) -> float:
        """Nothing is known before this time."""
        return float(self._chunks[0][0][0])

    @property
    def end_s(self) -> float:
        return float(self._chunks[-1][0][-1])

    @property
    def segments(self) -> int:
        """How many constant stretches are kept."""
        return sum(len(time_s) - 1 for time_s, _ in self._chunks)

    def append(self, time_s: FloatArray, power_w: FloatArray) -> None:
        """Add (n,) segments between the (n + 1,) times; the first must be `end_s`; power is (rows, n)."""
        if time_s[0] != self.end_s:
            raise ValueError(f"segments begin at {time_s[0]}, the timeline ends at {self.end_s}")
        energy_j = np.empty((power_w.shape[0], len(time_s)))
        energy_j[:, 0] = self._chunks[-1][1][:, -1]
        np.multiply(power_w, np.diff(time_s), out=energy_j[:, 1:])
        np.cumsum(energy_j, axis=1, out=energy_j)
        self._chunks.append((time_s, energy_j))
        while self._pending_s and self._pending_s[0] <= self.end_s:
            moment_s = self._pending_s.pop(0)
            self._watched_j[moment_s] = np.array([np.interp(moment_s, time_s, row) for row in energy_j])

    def forget_before(self, time_s: float) -> None:
        """Drop what ended before `time_s`."""
        while len(self._chunks) > 1 and self._chunks[0][0][-1] < time_s:
            self._chunks.popleft()

    def view(self, since_s: float) -> View:
        """All that is known from `since_s` on (and a little before)."""
        chunks: list[tuple[FloatArray, FloatArray]] = []
        for chunk in reversed(self._chunks):
            chunks.append(chunk)
            if chunk[0][0] <= since_s:
                break
        chunks.reverse()
        # A chunk begins where the one before it ends: that instant is kept once.
        first_s, first_j = chunks[0]
        times_s = [first_s, *(time_s[1:] for time_s, _ in chunks[1:])]
        energies_j = [first_j, *(energy_j[:, 1:] for _, energy_j in chunks[1:])]
        return View(np.concatenate(times_s), np.concatenate(energies_j, axis=1), self._watched_j)
