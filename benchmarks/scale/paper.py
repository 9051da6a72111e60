"""A year of nights of 64 nodes, reckoned from what was measured: nothing here is measured itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.spending import LAUNCH_S, REPETITION_S
from scale.lab import AGENTS

NIGHT_S = 6 * 3600.0
POINTS_PER_LAUNCH, REPETITIONS, WARMUPS = 5, 5, 1
SPANS: Mapping[str, int] = {"a night": 1, "a week": 7, "a month": 30, "a quarter": 91, "a year": 365}


@dataclass(frozen=True, slots=True)
class Growth:
    """A measure at two numbers of stored runs, the larger last; a value is a measure's, of any unit."""

    small_runs: int
    small: float
    large_runs: int
    large: float

    def at(self, runs: float) -> float:
        """By the straight line through both, since what was measured last grows in proportion."""
        slope = (self.large - self.small) / (self.large_runs - self.small_runs)
        return max(self.large + slope * (runs - self.large_runs), 0.0)


def runs_per_node_night() -> float:
    """Rows of `runs`: a launch takes five points, each with a warm-up and five repetitions."""
    launch_s = LAUNCH_S + POINTS_PER_LAUNCH * REPETITIONS * REPETITION_S
    return NIGHT_S / launch_s * POINTS_PER_LAUNCH * (REPETITIONS + WARMUPS)


def rows_and_bytes(weights: Sequence[Mapping[str, object]], nodes: int = AGENTS) -> Iterator[dict[str, object]]:
    """A line for each span: rows of each table, in millions, and gigabytes of all, joined.

    Args:
        weights: as of `stored.bytes_per_run`.
    """
    for span, nights in SPANS.items():
        runs = runs_per_node_night() * nodes * nights
        rows = {f"{one['table']}, M": float(str(one["rows_per_run"])) * runs / 1e6 for one in weights}
        total = sum(float(str(one["bytes_per_run_joined"])) for one in weights) * runs
        yield {"after": span, **rows, "GB": total / 1e9}


def times(measures: Mapping[str, Growth], nodes: int = AGENTS) -> Iterator[dict[str, object]]:
    """A line for each span: each measure at the runs that there are by then."""
    for span, nights in SPANS.items():
        runs = runs_per_node_night() * nodes * nights
        yield {"after": span, "runs, M": runs / 1e6, **{name: growth.at(runs) for name, growth in measures.items()}}
