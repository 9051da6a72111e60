"""How good the estimates at the ends of windows are, for every load, window, board and reading pattern.

Counters and readings come from a model (tests/fixtures/counter_model.py), so the truth is known and thousands of
windows take a minute. Plain readings of the same counter at both ends stand beside: that is what a meter does which
reads the counter before and after. `WINDOWS=40` makes it quick.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import report

from harness.meters.base import Recording, Series
from harness.meters.window import window_energies

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.fixtures import counter_model as model

WINDOWS = int(os.environ.get("WINDOWS", "200"))
RUNNING: dict[str, model.Load] = {
    "steady": model.steady,
    "ramp": model.running_ramp,
    "long ramp": model.long_ramp,
    "bursts": model.bursts,
    "bursts 500 ms": model.periodic(0.5, 0.6),
    "bursts 700 ms": model.periodic(0.7, 0.4),
    "steps": model.steps,
    "square 80 ms": model.periodic(0.08, 0.5),
    "square 100 ms": model.periodic(0.1, 0.5),
    "square 120 ms": model.periodic(0.12, 0.5),
}
GATED: dict[str, model.Load] = {
    "steady": model.steady,
    "ramp": model.ramp,
    "steps": model.steps,
    "square": model.square,
}
BOARDS = {
    "integral": model.Board(),
    "jitter 4 ms": model.Board(jitter_s=0.004),
    "5% missed": model.Board(missed=0.05),
    "25 of 100 ms": model.Board(seen_s=0.025),
    "refresh 20 ms": model.Board(refresh_s=0.02, jitter_s=0.0005),
}


@dataclass
class Tally:
    """Relative errors, and whether the truth was covered."""

    ours: list[float]
    plain: list[float]
    covered: list[bool]
    widths: list[float]


def plain_difference_j(series: Series, start_s: float, end_s: float) -> float:
    """Difference of the readings next to the ends."""
    first, last = (int(np.abs(series.time_s - at_s).argmin()) for at_s in (start_s, end_s))
    return float(series.counts[last] - series.counts[first]) * series.channel.joules_per_count


def tally(load: model.Load, gated: bool, told: bool, board: model.Board, gpus: int, window_s: float) -> Tally:
    rng = np.random.default_rng(11)
    found = Tally([], [], [], [])
    uuids = [f"GPU-{i}" for i in range(gpus)]
    for _ in range(WINDOWS if gpus == 1 else max(WINDOWS // 4, 10)):
        length_s = window_s * float(rng.uniform(0.9, 1.1))
        curve = model.power_curve(load, length_s, rng, gated=gated)
        times_s = model.reading_times(curve, rng, dense=True)
        readings = [model.gpu_readings(curve, times_s, rng, uuid, board) for uuid in uuids]
        recording = Recording(tuple(one for one, _ in readings), tuple(trace for _, trace in readings))
        energy = window_energies(recording, curve.start_s, curve.end_s, uuids, gated=told).gpu
        assert energy.energy_j is not None
        assert energy.uncertainty_j is not None
        truth_j = gpus * curve.window_j
        plain_j = sum(plain_difference_j(one, curve.start_s, curve.end_s) for one in recording.series)
        found.ours.append(abs(energy.energy_j / truth_j - 1))
        found.plain.append(abs(plain_j / truth_j - 1))
        found.covered.append(abs(energy.energy_j - truth_j) <= energy.uncertainty_j)
        found.widths.append(energy.uncertainty_j / truth_j)
    return found


def row(
    name: str, load: model.Load, gated: bool, told: bool, board: str, gpus: int, window_s: float
) -> dict[str, object]:
    found = tally(load, gated, told, BOARDS[board], gpus, window_s)
    return {
        "load": name,
        "board": board,
        "gpus": gpus,
        "window_s": window_s,
        "median_pct": 100 * float(np.median(found.ours)),
        "p90_pct": 100 * float(np.quantile(found.ours, 0.9)),
        "plain_median_pct": 100 * float(np.median(found.plain)),
        "coverage_pct": 100 * float(np.mean(found.covered)),
        "width_median_pct": 100 * float(np.median(found.widths)),
        "width_p90_pct": 100 * float(np.quantile(found.widths, 0.9)),
    }


def rows() -> list[dict[str, object]]:
    found = []
    for board in BOARDS:
        for window_s in (0.5, 2.0):
            for gpus in (1, 8) if board in ("integral", "25 of 100 ms") else (1,):
                for name, load in RUNNING.items():
                    found.append(row(f"{name}, running", load, False, False, board, gpus, window_s))
                for name, load in GATED.items():
                    found.append(row(f"{name}, gated", load, True, True, board, gpus, window_s))
                    if gpus == 1:
                        found.append(row(f"{name}, gated, not told", load, True, False, board, gpus, window_s))
    return found


if __name__ == "__main__":
    report(
        "estimators", f"Windows on a model of counters, {WINDOWS} windows each (8 GPUs: a quarter)", rows(), ["numpy"]
    )
