"""The power cap slows a step until it meets the limit, through the part of it that follows the clock."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.simulator.clocking import capped, capped_one

LIMIT_W = 500.0
STATIC_SHARE = 0.4


def slowed(clocked_s: float, other_j: float, clocked_j: float, limit_w: float = LIMIT_W) -> tuple[float, float]:
    """Duration and relative clock of a step of a second."""
    duration_s, clock = capped(
        np.ones(1), np.array([clocked_s]), np.array([other_j]), np.array([clocked_j]), limit_w, STATIC_SHARE
    )
    return float(duration_s[0]), float(clock[0])


def drawn_w(clocked_s: float, other_j: float, clocked_j: float) -> float:
    duration_s, clock = slowed(clocked_s, other_j, clocked_j)
    return (other_j + clocked_j * (STATIC_SHARE + (1 - STATIC_SHARE) * clock**2)) / duration_s


def test_below_the_limit_nothing_changes():
    assert slowed(0.9, 100.0, 399.0) == (1.0, 1.0)


def test_above_the_limit_the_clock_falls_until_the_limit_is_met_and_no_further():
    duration_s, clock = slowed(0.9, 100.0, 500.0)
    assert duration_s > 1
    assert 0.25 < clock < 1
    assert drawn_w(0.9, 100.0, 500.0) == pytest.approx(LIMIT_W, rel=1e-4)


def test_a_lower_voltage_saves_more_than_the_time_it_costs():
    """Without it, a step of 600 J at 500 W would last 1.2 s."""
    assert 1 < slowed(0.9, 100.0, 500.0)[0] < 1.15


def test_a_step_bound_by_memory_loses_less_time_than_one_bound_by_compute():
    """The same energies: what waits for memory anyway hides the slower multiplies."""
    (by_memory_s, _), (by_compute_s, _) = slowed(0.1, 100.0, 500.0), slowed(0.95, 100.0, 500.0)
    assert by_memory_s > 1
    assert by_memory_s - 1 < 0.5 * (by_compute_s - 1)


def test_a_lower_limit_slows_more():
    outcomes = [slowed(0.8, 100.0, 500.0, limit_w) for limit_w in (600.0, 550.0, 500.0, 400.0, 300.0)]
    times_s, clocks = zip(*outcomes, strict=True)
    assert list(times_s) == sorted(times_s)
    assert list(clocks) == sorted(clocks, reverse=True)
    assert len(set(times_s)) == len(times_s)


def test_what_the_clock_cannot_save_is_spread_over_more_time():
    """Bytes alone draw 800 W: at the lowest clock the step still lasts until its energy meets the limit."""
    duration_s, clock = slowed(0.05, 800.0, 100.0)
    assert clock == pytest.approx(0.25)
    assert duration_s > 1.6
    assert drawn_w(0.05, 800.0, 100.0) == pytest.approx(LIMIT_W)


STEPS = st.tuples(st.floats(1e-4, 1.0), st.floats(0, 1), st.floats(0, 1500), st.floats(0, 1500))


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=20), st.floats(50, 1000), st.floats(0, 1))
def test_one_by_one_and_together_agree_and_no_step_exceeds_the_limit(
    steps: list[tuple[float, float, float, float]], limit_w: float, static_share: float
):
    step_s, share, other_w, clocked_w = np.array(steps).T
    parts = (step_s, share * step_s, other_w * step_s, clocked_w * step_s)
    duration_s, clock = capped(*parts, limit_w, static_share)
    over = parts[2] + parts[3] > limit_w * step_s
    energy_j = parts[2] + parts[3] * (static_share + (1 - static_share) * clock**2)
    assert (energy_j <= limit_w * duration_s * (1 + 1e-9)).all()
    assert (duration_s >= step_s).all()
    assert ((clock < 1) == over).all()
    for index in np.flatnonzero(over):
        one_s = capped_one(*(float(part[index]) for part in parts), limit_w, static_share)
        assert one_s == pytest.approx(duration_s[index], rel=1e-12)
