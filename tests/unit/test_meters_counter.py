"""Wraps are counted exactly, and a decrease that is no wrap is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import CounterWentBack, MeasurementError
from harness.meters.base import Channel, Series
from harness.meters.counter import cumulative_j, unwrap

PACKAGE_WRAP = 262_143_328_850


@settings(max_examples=200)
@given(
    wrap=st.integers(1000, PACKAGE_WRAP),
    start=st.floats(0, 1, exclude_max=True),
    shares=st.lists(st.floats(0, 1, exclude_max=True), max_size=30),
)
def test_any_samples_with_at_most_one_wrap_between_two_are_exact(wrap: int, start: float, shares: list[float]) -> None:
    steps = np.array([int(share * wrap) for share in shares], np.int64)
    truth = np.concatenate(([0], np.cumsum(steps)))
    np.testing.assert_array_equal(unwrap((int(start * wrap) + truth) % wrap, wrap), truth)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
def test_without_a_wrap_every_decrease_is_refused(values: list[int]) -> None:
    counts = np.array(values, np.int64)
    if (np.diff(counts) < 0).any():
        with pytest.raises(CounterWentBack, match="fell from"):
            unwrap(counts, None)
    else:
        np.testing.assert_array_equal(unwrap(counts, None), counts - counts[0])


def package(time_s: list[float], counts: list[int]) -> Series:
    channel = Channel("cpu", "package-0", 1e-6, PACKAGE_WRAP, 0.001, "measured")
    return Series(channel, np.array(time_s), np.full(len(time_s), 1e-5), np.array(counts, np.int64))


def test_a_wrap_at_a_plausible_power_counts_and_a_reset_of_the_zone_does_not() -> None:
    joules = cumulative_j(package([0.0, 0.1], [PACKAGE_WRAP - 10_000_000, 20_000_000]))
    assert joules[-1] == pytest.approx(30.0)
    with pytest.raises(CounterWentBack, match=f"fell from {PACKAGE_WRAP // 2} to 0; a wrap would mean"):
        cumulative_j(package([0.0, 0.1], [PACKAGE_WRAP // 2, 0]))


def test_readings_too_far_apart_to_count_wraps_are_refused() -> None:
    with pytest.raises(MeasurementError, match="a wrap may go unseen"):
        cumulative_j(package([0.0, 600.0], [0, 1]))


def test_no_reading_and_one_reading_are_no_error() -> None:
    assert unwrap(np.zeros(0, np.int64), None).tolist() == []
    assert unwrap(np.array([5]), 10).tolist() == [0]
