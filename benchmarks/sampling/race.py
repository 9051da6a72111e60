"""The race: each strategy chooses points round by round, and after each round its predictor is scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.points import FloatArray, IntArray
from harness.sampling.acquisition import HALVING_POINTS
from sampling.learners import Learner
from sampling.pools import Pool
from sampling.strategies import Strategy

ONE_CAMPAIGN = ("random", "random by traffic", "space-filling")
"""They need no rounds: all their points of a deployment share one launch. Others pay a launch in every round."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One strategy after one round: points with the probes, GPU-hours of all, errors by the name of the probes."""

    points: int
    launches: int
    gpu_h: float
    mape_pct: Mapping[str, float]


def curve(
    pool: Pool,
    strategy: Strategy,
    one_campaign: bool,
    make: Callable[[], Learner],
    sizes: Sequence[int],
    seed: int,
) -> tuple[list[Mark], list[IntArray]]:
    """Errors after each round, and the positions that each round chose."""
    have: IntArray = np.zeros(0, np.int64)
    error: FloatArray | None = None
    launches = 0
    marks: list[Mark] = []
    chosen: list[IntArray] = []
    for size in sizes:
        new = strategy(pool, have, size - len(have), error, 100_000 * seed + size)
        launches += len(np.unique(pool.launch[new]))
        have = np.concatenate([have, new])
        chosen.append(new)
        if one_campaign:
            launches = len(np.unique(pool.launch[have]))
        learner = make()
        learner.fit(pool.examples.take(have), seed)
        scores = {name: probes.mape_pct(learner.predict(probes.configurations)) for name, probes in pool.probes.items()}
        if not one_campaign:
            error = learner.expected_error(pool.whole[have], pool, seed)
        marks.append(Mark(size + pool.paid, launches, _gpu_h(pool, have, launches), scores))
    return marks, chosen


def _gpu_h(pool: Pool, have: IntArray, launches: int) -> float:
    if pool.gpu_s is None or pool.launch_gpu_s is None:
        return float("nan")
    # A launch costs the same everywhere.
    return pool.paid_gpu_h + float(pool.gpu_s[have].sum() + launches * pool.launch_gpu_s[0]) / 3600


def launches_one_by_one(pool: Pool, chosen: Sequence[IntArray], traffic: FloatArray) -> int:
    """Launches that the same points take in the order of their worth, as often as the deployment changes.

    Each point is worth its deployment's traffic times the fall of the error there, per GPU-second, in every round.
    """
    assert pool.gpu_s is not None
    measured = np.zeros(pool.launch.max() + 1)
    share = np.bincount(pool.launch, traffic)
    launches = 0
    for positions in chosen:
        launch = pool.launch[positions]
        worth = np.empty(len(positions))
        for number, one in enumerate(launch):
            fall = HALVING_POINTS / ((HALVING_POINTS + measured[one]) * (HALVING_POINTS + measured[one] + 1))
            worth[number] = share[one] * fall / pool.gpu_s[positions[number]]
            measured[one] += 1
        ordered = launch[np.argsort(-worth, kind="stable")]
        launches += 1 + int((np.diff(ordered) != 0).sum())
    return launches


def needed(marks: Sequence[Mark], probes: str, mape_pct: float) -> tuple[float, float]:
    """Points and GPU-hours from which on the error stays at most so large, between rounds by the logarithm of points.

    Infinite where it does not within the last round; those of the first round where it is from there on.
    """
    above = [number for number, mark in enumerate(marks) if mark.mape_pct[probes] > mape_pct]
    if not above:
        return float(marks[0].points), marks[0].gpu_h
    if above[-1] == len(marks) - 1:
        return float("inf"), float("inf")
    before, after = marks[above[-1]], marks[above[-1] + 1]
    part = (before.mape_pct[probes] - mape_pct) / (before.mape_pct[probes] - after.mape_pct[probes])
    points = float(np.exp(np.log(before.points) + part * np.log(after.points / before.points)))
    return points, before.gpu_h + (points - before.points) / (after.points - before.points) * (
        after.gpu_h - before.gpu_h
    )
