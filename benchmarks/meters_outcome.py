"""What one tool said of one kind of window, against the truth: errors, and what its stated uncertainty covers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Window = dict[str, Any]
"""One window of a worker's output."""
TruthOf = Callable[[Window, float], float]
"""Joules of a window that begins at the given time."""
BOOTSTRAPS = 2000


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one tool said of one kind of window; (n,) each, NaN where it failed."""

    load: str
    gpus: int
    window_s: float
    tool: str
    energy_j: NDArray[np.float64]
    uncertainty_j: NDArray[np.float64]
    sampling_bound_j: NDArray[np.float64]
    truth_j: NDArray[np.float64]
    errors: tuple[str, ...]

    @property
    def error_pct(self) -> NDArray[np.float64]:
        return np.asarray(100 * np.abs(self.energy_j / self.truth_j - 1))

    @property
    def coverage_pct(self) -> float | None:
        """Share of windows whose truth lies within all that is stated; None where nothing is."""
        return self._covered_pct(np.nan_to_num(self.sampling_bound_j))

    @property
    def random_coverage_pct(self) -> float | None:
        """The same within the random uncertainty alone."""
        return self._covered_pct(np.zeros(len(self.truth_j)))

    def _covered_pct(self, more_j: NDArray[np.float64]) -> float | None:
        stated = np.isfinite(self.uncertainty_j)
        if not stated.any():
            return None
        inside = np.abs(self.energy_j - self.truth_j) <= self.uncertainty_j + more_j
        return float(100 * np.mean(inside[stated]))

    @property
    def width_pct(self) -> float | None:
        """Median stated random uncertainty, of the truth."""
        return _median_pct(self.uncertainty_j, self.truth_j)

    @property
    def bound_pct(self) -> float | None:
        """Median sampling bound, of the truth; None where none is stated."""
        return _median_pct(self.sampling_bound_j, self.truth_j)


def _median_pct(stated_j: NDArray[np.float64], truth_j: NDArray[np.float64]) -> float | None:
    stated = np.isfinite(stated_j)
    return float(100 * np.median(stated_j[stated] / truth_j[stated])) if stated.any() else None


def ratio_upper(ours: Outcome, peer: Outcome) -> float:
    """Upper end (95%) of the ratio of median errors, by a bootstrap that draws the same windows of both."""
    picks = np.random.default_rng(0).integers(0, len(ours.truth_j), (BOOTSTRAPS, len(ours.truth_j)))
    with np.errstate(divide="ignore"):
        ratios = np.nanmedian(ours.error_pct[picks], axis=1) / np.nanmedian(peer.error_pct[picks], axis=1)
    return float(np.quantile(ratios, 0.95))


def outcome(key: tuple[str, int, float, str], windows: Sequence[Window], truth_j: TruthOf) -> Outcome:
    """What a worker wrote, against the truth of the interval that was asked for.

    It ends where the tool's end is entered. It begins where the call that bounds it is entered; for a peer also where
    that call returns is tried, and the beginning that gives it the lower median error counts.
    """

    def since(moment: str) -> Outcome:
        return Outcome(
            *key,
            np.array([window.get("energy_j", np.nan) for window in windows], np.float64),
            np.array([window.get("uncertainty_j", np.nan) for window in windows], np.float64),
            np.array([window.get("sampling_bound_j", np.nan) for window in windows], np.float64),
            np.array([truth_j(window, window[moment]) for window in windows], np.float64),
            tuple(str(window["error"]) for window in windows if "error" in window),
        )

    called = since("called_s")
    if key[3].startswith("harness") or np.isnan(called.error_pct).all():
        return called
    return min(called, since("returned_s"), key=lambda one: float(np.nanmedian(one.error_pct)))
