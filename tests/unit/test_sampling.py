"""Targeted sampling: what is picked is new, within the budget, the same again, and where traffic and error are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.sampling.acquisition import PER_LAUNCH, choose
from harness.sampling.base import Candidates, Knowledge


def made(seed: int, n: int, launches: int) -> tuple[Candidates, Knowledge]:
    random = np.random.default_rng(seed)
    candidates = Candidates(
        launch=random.integers(launches, size=n),
        prevalence=random.exponential(size=n),
        gpu_s=random.uniform(100, 900, n),
        launch_gpu_s=random.uniform(300, 1200, launches),
        measured=random.random(n) < 0.3,
    )
    return candidates, Knowledge(random.lognormal(-3, 1, n), random.lognormal(-5, 1, n), random.normal(size=(n, 3)))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 1000),
    st.integers(1, 120),
    st.integers(1, 12),
    st.integers(0, 60),
    st.floats(0, 60_000),
    st.booleans(),
)
def test_picks_are_new_distinct_and_within_budget(
    seed: int, n: int, launches: int, points: int, gpu_s: float, knows: bool
) -> None:
    candidates, knowledge = made(seed, n, launches)
    picks = choose(candidates, knowledge if knows else None, points, gpu_s, seed)
    chosen = picks.position
    assert len(set(chosen.tolist())) == len(chosen) == len(picks.why) <= points
    assert not candidates.measured[chosen].any()
    started = np.unique(candidates.launch[chosen])
    spent_s = candidates.gpu_s[chosen].sum() + candidates.launch_gpu_s[started].sum()
    assert picks.gpu_s == pytest.approx(spent_s)
    assert spent_s <= gpu_s + 1e-6
    # Points of a launch follow one another: no launch is started twice.
    changes = 1 + int((np.diff(candidates.launch[chosen]) != 0).sum()) if len(chosen) else 0
    assert changes == len(started)
    again = choose(candidates, knowledge if knows else None, points, gpu_s, seed)
    np.testing.assert_array_equal(again.position, chosen)


def test_all_that_is_left_is_taken_in_the_end() -> None:
    candidates, knowledge = made(1, 100, 7)
    picks = choose(candidates, knowledge, 1000)
    assert sorted(picks.position.tolist()) == np.flatnonzero(~candidates.measured).tolist()


def uniform(launches: int, each: int) -> tuple[Candidates, Knowledge]:
    """Launches that differ in nothing, on a line of `each` places."""
    n = launches * each
    candidates = Candidates(
        np.repeat(np.arange(launches), each), np.ones(n), np.full(n, 400.0), np.full(launches, 600.0), np.zeros(n, bool)
    )
    place = np.tile(np.arange(each) / each, launches)[:, None]
    return candidates, Knowledge(np.full(n, 0.05), np.zeros(n), place)


@pytest.mark.parametrize(("field", "factor"), [("prevalence", 10.0), ("gpu_s", 0.1)])
def test_traffic_and_cost_decide_between_equal_errors(field: str, factor: float) -> None:
    candidates, knowledge = uniform(10, 20)
    getattr(candidates, field)[candidates.launch == 6] *= factor
    assert candidates.launch[choose(candidates, knowledge, 3).position[0]] == 6


def test_what_repetitions_scatter_by_is_left() -> None:
    """An error of 30% whose repetitions scatter by 30% is not the predictor's; one of 10% that do not is."""
    candidates, knowledge = uniform(10, 20)
    for launch, error, noise in ((6, 0.3, 0.3), (3, 0.1, 0.0)):
        knowledge.error[candidates.launch == launch] = error
        knowledge.noise[candidates.launch == launch] = noise
    picked = candidates.launch[choose(candidates, knowledge, 150).position]
    assert picked[0] == 3
    assert 6 not in picked


def test_a_launch_takes_several_points_and_not_all() -> None:
    """A launch costs more than a point, and the tenth point of a deployment teaches less than another's first."""
    candidates, knowledge = uniform(40, 20)
    counts = np.bincount(candidates.launch[choose(candidates, knowledge, 100).position])
    assert (counts[counts > 0] >= 4).all()
    assert counts.max() <= 8
    assert (counts > 0).sum() <= 100 / 5, "launches are a fifth of the points at most"


def test_launches_are_as_large_as_is_asked_for() -> None:
    candidates, knowledge = uniform(40, 20)
    for per_launch in (2, 10):
        counts = np.bincount(candidates.launch[choose(candidates, knowledge, 100, per_launch=per_launch).position])
        assert counts[counts > 0].min() >= per_launch
        assert counts.max() <= per_launch + 2


def test_a_first_look_is_drawn_and_not_the_cheapest_alone() -> None:
    """Without knowledge the dearer half is met too, less often, and no deployment is taken deep before others."""
    candidates, _ = uniform(200, 20)
    candidates.gpu_s[candidates.launch >= 100] *= 2
    first = candidates.launch[choose(candidates, None, 100, seed=1).position]
    dear = len(np.unique(first[first >= 100])) / len(np.unique(first))
    assert 0.15 < dear < 0.5
    assert np.bincount(first).max() <= PER_LAUNCH
    other = candidates.launch[choose(candidates, None, 100, seed=2).position]
    assert set(first.tolist()) != set(other.tolist())


def test_a_share_is_drawn_whatever_is_expected() -> None:
    """A predictor that takes itself for sure in most places would never hear that it is wrong there."""
    candidates, knowledge = uniform(200, 20)
    knowledge.error[candidates.launch >= 50] = 1e-4
    picks = choose(candidates, knowledge, 240, seed=1)
    sure = np.unique(candidates.launch[picks.position][candidates.launch[picks.position] >= 50])
    assert 1 <= len(sure) <= 0.1 * 240 / PER_LAUNCH + 1
    assert sum(why.startswith("drawn") for why in picks.why) >= PER_LAUNCH * len(sure)


def test_points_of_a_launch_differ() -> None:
    """Of 20 places on a line four are taken that leave none far from all of them."""
    candidates, knowledge = uniform(1, 20)
    place = knowledge.coordinates[choose(candidates, knowledge, 4).position, 0]
    farthest = np.abs(knowledge.coordinates[:, :1] - place).min(axis=1).max()
    assert farthest <= 0.2


def test_arrays_must_fit() -> None:
    candidates, knowledge = uniform(2, 3)
    with pytest.raises(ValueError, match="each candidate"):
        choose(candidates, Knowledge(np.ones(2), np.ones(2), np.ones((2, 1))), 1)
    with pytest.raises(ValueError, match="finite"):
        Knowledge(np.full(2, np.nan), np.ones(2), np.ones((2, 1)))
    with pytest.raises(ValueError, match="numbered from 0"):
        Candidates(np.array([3]), np.ones(1), np.ones(1), np.ones(2), np.zeros(1, bool))
    with pytest.raises(ValueError, match="prevalence"):
        Candidates(np.zeros(1, int), -np.ones(1), np.ones(1), np.ones(2), np.zeros(1, bool))
    assert knowledge.error.shape == (6,)
