"""Probes: points measured again on purpose, in launches of their own, so that launches and boards can be told apart.

Five repetitions of one launch share its start and its board; their spread says nothing of another launch
(measurement rule 22). Each probe launch takes a few repetitions of the same few points once more, and has a seed of
its own, by which a node may give it other boards.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness.points import BatchWorkload, Point
from harness.space import Candidate, Group

PROBE_REPETITIONS = 2
"""In each launch, of each point: the fewest that show the spread within it."""
_NUMBER_STRIDE = 1000
"""No point of a sweep has more repetitions than this."""
PointKey = tuple[str, str]
"""point_id and environment_id: a point as it is measured somewhere."""


@dataclass(frozen=True, slots=True)
class ProbeStanding:
    """How far the probes are: the points measured again, and their runs."""

    points: tuple[PointKey, ...]
    settled: int
    wanted: int
    given_up: int


def probe_numbers(launch: int) -> range:
    """The repetition numbers of probe launch 1, 2, ...: 1001 and 1002, 2001 and 2002, ...

    They are no sweep repetition's, so that a probe's prompts are its own, as is its key.
    """
    first = launch * _NUMBER_STRIDE + 1
    return range(first, first + PROBE_REPETITIONS)


def choose_probes(groups: Iterable[Group], points: int, fit: Callable[[Point], bool]) -> Group | None:
    """The candidates to measure again, at most `points`, all of one deployment; None where nothing is fit.

    Of the deployments with a fit batch point the one on the fewest GPUs, since a node has the most boards to
    choose from for it; of those on equally many the first, so the one nearest to the middle of the space.

    Args:
        groups: deployments of one environment, in the order to take them.
        fit: whether a point can be measured there.
    """
    chosen: Group | None = None
    for group in groups if points else ():
        if chosen is not None and group.deployment.gpus >= chosen.deployment.gpus:
            continue
        candidates = [item for item in group.candidates if _is_batch(item) and fit(item.point)][:points]
        if candidates:
            chosen = Group(group.deployment, tuple(candidates))
    return chosen


def _is_batch(candidate: Candidate) -> bool:
    return isinstance(candidate.point.workload, BatchWorkload)
