"""Ways to choose the next points of a pool."""

from collections.abc import Callable

import numpy as np

from harness.points import FloatArray, IntArray
from harness.sampling.acquisition import PER_LAUNCH, choose
from harness.sampling.base import Candidates, Knowledge
from sampling.pools import Pool, drawn

Strategy = Callable[[Pool, IntArray, int, FloatArray | None, int], IntArray]
"""(pool, measured positions, how many more, expected errors or None, seed) -> positions, launch by launch."""
NOISE = 0.003
"""Relative standard error that five repetitions are taken to leave."""


def targeted(prior: str, per_launch: int = PER_LAUNCH) -> Strategy:
    """What the harness does, told that traffic is as this prior says."""

    def pick(pool: Pool, have: IntArray, more: int, error: FloatArray | None, seed: int) -> IntArray:
        picks = choose(candidates(pool, prior, have), knowledge(pool, error), more, seed=seed, per_launch=per_launch)
        return picks.position

    return pick


def candidates(pool: Pool, prior: str, have: IntArray) -> Candidates:
    """Where no cost is known, every point costs the same and a launch nothing."""
    gpu_s = np.ones(len(pool)) if pool.gpu_s is None else pool.gpu_s
    launch_gpu_s = np.zeros(pool.launch.max() + 1) if pool.launch_gpu_s is None else pool.launch_gpu_s
    return Candidates(pool.launch, pool.traffic[prior], gpu_s, launch_gpu_s, drawn(pool, have))


def knowledge(pool: Pool, error: FloatArray | None) -> Knowledge | None:
    return None if error is None else Knowledge(error, np.full(len(pool), NOISE), pool.place)


def random(pool: Pool, have: IntArray, more: int, error: FloatArray | None, seed: int) -> IntArray:
    """Each candidate as likely as another."""
    return np.random.default_rng(seed).permutation(_free(pool, have))[:more]


def by_prevalence(pool: Pool, have: IntArray, more: int, error: FloatArray | None, seed: int) -> IntArray:
    """Random, each candidate as likely as its traffic."""
    free, share = _free(pool, have), pool.traffic["usual"]
    return np.random.default_rng(seed).choice(free, more, replace=False, p=share[free] / share[free].sum())


def space_filling(pool: Pool, have: IntArray, more: int, error: FloatArray | None, seed: int) -> IntArray:
    """Farthest first: each point is as far as can be from all before it."""
    free = _free(pool, have)
    at = pool.whole[free]
    start = int(np.random.default_rng(seed).integers(len(free)))
    known = pool.whole[have] if len(have) else at[[start]]
    nearest = np.full(len(free), np.inf)
    for one in known:
        nearest = np.minimum(nearest, ((at - one) ** 2).sum(axis=1))
    found: list[int] = []
    for _ in range(more):
        found.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((at - at[found[-1]]) ** 2).sum(axis=1))
        nearest[found] = -1.0
    return free[found]


def uncertainty_only(pool: Pool, have: IntArray, more: int, error: FloatArray | None, seed: int) -> IntArray:
    """Those with the largest expected errors; random while nothing is known."""
    if error is None:
        return random(pool, have, more, error, seed)
    free = _free(pool, have)
    return free[np.argsort(-error[free], kind="stable")[:more]]


def _free(pool: Pool, have: IntArray) -> IntArray:
    return np.flatnonzero(~drawn(pool, have))
