"""Which points to measure next: the expected fall of the traffic's error per GPU-second, launches included.

Every deployment is a stratum. A predictor's error in one falls with the points measured there as K / (K + k): the form
of credibility theory (Bühlmann 1967). So m points more in a launch are worth

    traffic x error ** TRUST x (K / (K + k) - K / (K + k + m))   per   launch + m points' GPU-seconds.

Launches are taken in the order of that ratio with m = `per_launch` points; a launch that is taken gets further points
while they are worth more than another launch. Error is what is expected above the noise of repetitions.

While nothing is known, launches are drawn instead, each as likely as its ratio: the best ones alone are all cheap and
common, and teach a predictor nothing of the others. None gets further points until all have some. A share of each later
choice (`EXPLORED`) is drawn so too, whatever the expected errors say: they are wrong where nothing was measured.

Within a launch those points are taken that leave the traffic of the deployment nearest to a measured one (a weighted
k-median, greedily), so that they differ from one another and from what is there.
"""

import heapq

import numpy as np

from harness.points import FloatArray, IntArray
from harness.sampling.base import Candidates, Knowledge, Picks

HALVING_POINTS = 2.0
"""Points in a deployment that halve the error there (K)."""
PER_LAUNCH = 6
"""Points of a launch, unless told otherwise. Two reach the same accuracies of usual traffic with about as many points,
but with launches of 0.28 instead of 0.17 of the points; where all deployments count alike, two need fewer of both."""
TRUST = 0.5
"""Power of the expected error: 0 ignores it, 1 believes that all of it can be measured away. Errors that stay large
where much was measured are those that the predictor cannot learn."""
EXPLORED = 0.1
"""Share of the points that are drawn by traffic and cost alone."""
_FAR = 3.0
"""Distance from which on a measured point says nothing."""


def choose(
    candidates: Candidates,
    knowledge: Knowledge | None,
    points: int,
    gpu_s: float = np.inf,
    seed: int = 0,
    per_launch: int = PER_LAUNCH,
) -> Picks:
    """The next `points` candidates within `gpu_s` GPU-seconds, grouped by launch; fewer where there are no more.

    Without `knowledge` nothing is known yet: traffic and cost decide alone. Equal arguments give equal picks. A launch
    gets `per_launch` points at least, where there are so many.

    Raises:
        ValueError: knowledge of other candidates.
    """
    if knowledge is not None and len(knowledge.error) != len(candidates):
        raise ValueError("knowledge has one value for each candidate")
    if knowledge is None:
        # Within a deployment, too, points are then as good as drawn.
        coordinates = np.random.default_rng(seed).random((len(candidates), 1))
    else:
        coordinates = knowledge.coordinates
    members = _members(candidates)
    value = worth(candidates, knowledge)
    measured = np.bincount(candidates.launch[candidates.measured], minlength=len(members))
    found: list[int] = []
    why: list[str] = []
    spent_s = 0.0
    counts, explored = _counts(candidates, knowledge, points, gpu_s, seed, per_launch)
    for launch, count in counts.items():
        started_s = float(candidates.launch_gpu_s[launch])
        for position in _spread(candidates, coordinates, members[launch], count):
            cost_s = started_s + float(candidates.gpu_s[position])
            # Launches were chosen by the mean cost of their points.
            if spent_s + cost_s > gpu_s:
                continue
            spent_s, started_s = spent_s + cost_s, 0.0
            found.append(position)
            share = float(value[launch] / max(value.sum(), 1e-300))
            why.append(_reason(share, None if launch in explored else int(measured[launch])))
    return Picks(np.array(found, np.int64), tuple(why), spent_s)


def _reason(share: float, measured: int | None) -> str:
    if measured is None:
        return "drawn by its traffic, whatever is known"
    known = f"{measured} points measured there" if measured else "nothing measured there"
    return f"{100 * share:.2g}% of the traffic's expected error, {known}"


def _members(candidates: Candidates) -> list[IntArray]:
    """Positions of each launch's candidates."""
    order = np.argsort(candidates.launch, kind="stable")
    counts = np.bincount(candidates.launch, minlength=len(candidates.launch_gpu_s))
    return np.split(order, np.cumsum(counts)[:-1])


def worth(candidates: Candidates, knowledge: Knowledge | None) -> FloatArray:
    """(launches,) traffic of each deployment times the error that is expected there, by `TRUST`."""
    weight = candidates.prevalence
    if knowledge is not None:
        above = np.maximum(knowledge.error**2 - knowledge.noise**2, 0)
        weight = weight * above ** (TRUST / 2)
    return np.asarray(np.bincount(candidates.launch, weight, len(candidates.launch_gpu_s)), np.float64)


def _left(measured: IntArray | FloatArray) -> FloatArray:
    """Share of the error of a deployment that is left after so many points in it."""
    return np.asarray(HALVING_POINTS / (HALVING_POINTS + measured), np.float64)


def _counts(
    candidates: Candidates, knowledge: Knowledge | None, points: int, gpu_s: float, seed: int, per_launch: int
) -> tuple[dict[int, int], frozenset[int]]:
    """How many points each launch gets, in the order in which launches were chosen; and those that were drawn."""
    launches = len(candidates.launch_gpu_s)
    measured = np.bincount(candidates.launch[candidates.measured], minlength=launches)
    free = np.bincount(candidates.launch[~candidates.measured], minlength=launches)
    total_s = np.asarray(np.bincount(candidates.launch, candidates.gpu_s, launches), np.float64)
    point_s = total_s / np.maximum(measured + free, 1)
    value = worth(candidates, knowledge)
    more = np.minimum(per_launch, free)
    fall = value * (_left(measured) - _left(measured + more))
    cost_s = np.maximum(candidates.launch_gpu_s + more * point_s, 1e-9)
    random = np.random.default_rng(seed)
    # Equals in a random order, the same for the same seed.
    tie = random.random(launches)
    # The least of exponential times of these rates: a draw without replacement, each as likely as its ratio.
    rate = worth(candidates, None) * (_left(measured) - _left(measured + more)) / cost_s
    # What repetitions scatter by is known also where little was measured.
    drawn = np.where((free > 0) & (value > 0), random.exponential(size=launches) / np.maximum(rate, 1e-300), np.inf)
    to_draw = launches if knowledge is None else int(EXPLORED * points / per_launch + random.random())
    explored = frozenset(np.argsort(drawn, kind="stable")[: min(to_draw, np.isfinite(drawn).sum())].tolist())
    heap = [
        (False, drawn[one], tie[one], one) if one in explored else (True, -fall[one] / cost_s[one], tie[one], one)
        for one in np.flatnonzero(free).tolist()
    ]
    heapq.heapify(heap)
    taken: dict[int, int] = {}
    while heap and points > 0:
        *_, launch = heapq.heappop(heap)
        count = taken.get(launch, 0)
        step = 1 if count else min(int(more[launch]), points)
        cost = step * point_s[launch] + (0.0 if count else candidates.launch_gpu_s[launch])
        if cost > gpu_s:
            continue
        gpu_s, points = gpu_s - cost, points - step
        taken[launch] = count + step
        if taken[launch] < free[launch]:
            now = measured[launch] + taken[launch]
            further = value[launch] * float(_left(now) - _left(now + 1))
            heapq.heappush(heap, (True, -further / max(point_s[launch], 1e-9), tie[launch], launch))
    if knowledge is not None:
        taken = {
            launch: taken[launch] for launch in sorted(taken, key=lambda one: (-fall[one] / cost_s[one], tie[one]))
        }
    return taken, explored


def _spread(candidates: Candidates, coordinates: FloatArray, members: IntArray, count: int) -> list[int]:
    """Positions of `count` members that are not measured: those that bring the traffic nearest to a measured one."""
    measured = candidates.measured[members]
    open_ = np.flatnonzero(~measured)
    place = coordinates[members]
    apart = np.sqrt(np.maximum(((place[:, None] - place[None, open_]) ** 2).sum(axis=2), 0))
    nearest = np.full(len(members), _FAR)
    if measured.any():
        known = place[measured]
        nearest = np.minimum(nearest, np.sqrt(((place[:, None] - known[None]) ** 2).sum(axis=2)).min(axis=1))
    # What no request asks for still parts equals.
    weight = candidates.prevalence[members] + 1e-12
    chosen: list[int] = []
    gain = weight @ np.maximum(nearest[:, None] - apart, 0)
    for _ in range(count):
        gain[chosen] = -1.0
        chosen.append(int(gain.argmax()))
        # Only of those that are nearer now does anything change.
        nearer = np.flatnonzero(apart[:, chosen[-1]] < nearest)
        before, after = nearest[nearer, None], apart[nearer, chosen[-1], None]
        fall = np.maximum(before - apart[nearer], 0) - np.maximum(after - apart[nearer], 0)
        gain -= weight[nearer] @ fall
        nearest[nearer] = after[:, 0]
    return [int(position) for position in members[open_[chosen]]]
