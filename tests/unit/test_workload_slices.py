"""Slices, context policies, rates and sampled lengths."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from harness.errors import BadInput
from harness.workload.azure import Trace, load_trace
from harness.workload.slices import choose_slice, clip_lengths, make_schedule, parse_rate, pick_lengths, scale_lengths


def trace_of(arrival_s: list[float], lengths: list[tuple[int, int]] | None = None) -> Trace:
    pairs = np.array(lengths or [(10, 5)] * len(arrival_s))
    start = datetime(2024, 1, 1, tzinfo=UTC)
    return Trace("t", "0" * 64, start, np.array(arrival_s), pairs[:, 0].copy(), pairs[:, 1].copy())


@pytest.fixture(scope="module")
def code(data_dir: Path) -> Trace:
    return load_trace(data_dir / "azure" / "AzureLLMInferenceTrace_code.csv", "code")


# Windows of 4 s start at 0, 1, ..., 5; they hold 3, 2, 1, 0, 1, 4 requests.
BURSTS = trace_of([0.0, 1.0, 2.0, 7.5, 8.1, 8.2, 8.3])


@pytest.mark.parametrize(
    ("rule", "start_s"), [("median", 1.0), ("busiest", 5.0), ("start:2.5", 2.5), (" start:.5 ", 0.5)]
)
def test_rule_chooses_its_window(rule: str, start_s: float) -> None:
    assert choose_slice(BURSTS, 4.0, rule) == start_s


def test_median_of_an_even_number_of_windows_is_the_lower() -> None:
    # Windows of 3 s start at 0 and 0.75; they hold 3 and 2 requests.
    assert choose_slice(trace_of([0.0, 0.1, 1.0, 3.5]), 3.0, "median") == 0.75


def test_median_slice_of_the_code_trace_is_neither_empty_nor_the_peak(code: Trace) -> None:
    counts = {
        rule: len(make_schedule(code, choose_slice(code, 60.0, rule), 60.0, 4096, "clip-prompt"))
        for rule in ("median", "busiest")
    }
    assert counts["busiest"] >= 632
    per_minute = np.bincount((code.arrival_s // 60).astype(int))
    assert counts["median"] == pytest.approx(np.median(per_minute[per_minute > 0]), rel=0.15)


@pytest.mark.parametrize("rule", ["", "mean", "start:", "start:-1", "start:nan", "start:1e9", "start:5.1", "median:3"])
def test_unknown_rule_or_start_outside_the_trace_is_refused(rule: str) -> None:
    with pytest.raises(BadInput):
        choose_slice(BURSTS, 4.0, rule)


@pytest.mark.parametrize("duration_s", [0.0, -1.0, 1e-9, 9.5, float("nan"), float("inf")])
def test_duration_that_does_not_fit_the_trace_is_refused(duration_s: float) -> None:
    with pytest.raises(BadInput, match="slice duration"):
        choose_slice(BURSTS, duration_s, "median")
    with pytest.raises(BadInput, match="slice duration"):
        make_schedule(BURSTS, 0.0, duration_s, 100, "drop")


def test_slice_may_reach_beyond_the_last_request_to_hold_all() -> None:
    assert choose_slice(BURSTS, 9.0, "busiest") == 0.0
    assert len(make_schedule(BURSTS, 0.0, 9.0, 100, "clip-prompt")) == len(BURSTS)


def test_schedule_holds_the_half_open_window_from_its_start() -> None:
    schedule = make_schedule(BURSTS, 1.0, 7.1, 100, "clip-prompt")
    assert schedule.arrival_s.tolist() == [0.0, 1.0, 6.5]
    assert (schedule.duration_s, schedule.clipped, schedule.dropped) == (7.1, 0, 0)


LONG = trace_of([0.0, 0.1, 0.2, 0.3], [(50, 50), (60, 50), (10, 120), (300, 99)])


def test_clip_prompt_keeps_generated_tokens_and_shortens_the_prompt() -> None:
    schedule = make_schedule(LONG, 0.0, 1.0, 100, "clip-prompt")
    assert schedule.prompt_tokens.tolist() == [50, 50, 1, 1]
    assert schedule.generated_tokens.tolist() == [50, 50, 99, 99]
    assert (schedule.clipped, schedule.dropped) == (3, 0)


def test_drop_leaves_out_what_is_over_the_context() -> None:
    schedule = make_schedule(LONG, 0.0, 1.0, 109, "drop")
    assert schedule.prompt_tokens.tolist() == [50]
    assert (schedule.clipped, schedule.dropped) == (0, 3)
    schedule = make_schedule(LONG, 0.0, 1.0, 110, "drop")
    assert (schedule.arrival_s.tolist(), schedule.dropped) == ([0.0, 0.1], 2)


def test_lengths_are_scaled_before_they_are_clipped_rounded_up_and_never_to_nothing() -> None:
    schedule = make_schedule(LONG, 0.0, 1.0, 100, "clip-prompt", 0.25)
    assert schedule.prompt_tokens.tolist() == [13, 15, 3, 75]
    assert schedule.generated_tokens.tolist() == [13, 13, 30, 25]
    assert (schedule.clipped, schedule.dropped) == (0, 0)
    tiny = make_schedule(LONG, 0.0, 1.0, 100, "drop", 0.001)
    assert set(tiny.prompt_tokens) == set(tiny.generated_tokens) == {1}
    with pytest.raises(BadInput, match="length_scale"):
        make_schedule(LONG, 0.0, 1.0, 100, "drop", 0.0)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 100_000), st.integers(1, 1000))
def test_a_scaled_length_is_the_exact_product_rounded_up(tokens: int, thousandths: int) -> None:
    scaled = scale_lengths(np.array([[tokens, tokens]]), thousandths / 1000)
    assert scaled.tolist() == [[-(-tokens * thousandths // 1000)] * 2]


@pytest.mark.parametrize(
    ("start_s", "context", "policy", "message"),
    [
        (3.0, 100, "clip-prompt", "no requests"),
        (0.0, 10, "drop", "every request is over the context"),
        (0.0, 1, "clip-prompt", "max_context_tokens"),
        (0.0, 100, "clip", "clip-prompt or drop"),
        (-1.0, 100, "drop", "slice start"),
        (8.5, 100, "drop", "slice start"),
    ],
)
def test_schedule_that_cannot_be_made_is_refused(start_s: float, context: int, policy: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_schedule(BURSTS, start_s, 1.0, context, policy)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), min_size=1), st.integers(2, 9000))
def test_clipped_lengths_always_fit_and_change_only_what_is_over(pairs: list[tuple[int, int]], context: int) -> None:
    lengths = np.array(pairs)
    clipped = clip_lengths(lengths, context)
    assert (clipped >= 1).all()
    assert (clipped.sum(axis=1) <= context).all()
    over = lengths.sum(axis=1) > context
    assert (clipped[~over] == lengths[~over]).all()
    assert (clipped[over].sum(axis=1) == context).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.5", (1.5, None)),
        ("x1.5", (1.5, None)),
        (" X2 ", (2.0, None)),
        (".5", (0.5, None)),
        ("capacity:0.8", (None, 0.8)),
        ("capacity:1", (None, 1.0)),
    ],
)
def test_rate_is_a_factor_or_a_share_of_capacity(text: str, expected: tuple[float | None, float | None]) -> None:
    assert parse_rate(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "0", "x0.00", "-1", "nan", "inf", "1e3", "1,5", "xx1", "1_0", "1001", "٣", "capacity:", "capacity:0"],
)
def test_any_other_rate_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="rate"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["capacity:80", "capacity:80%", "0.8 capacity"])
def test_percentage_or_order_of_a_share_is_not_guessed(text: str) -> None:
    with pytest.raises(BadInput, match=r"capacity:0\.8"):
        parse_rate(text)


@pytest.fixture(scope="module")
def conv(data_dir: Path) -> Trace:
    return load_trace(data_dir / "azure" / "AzureLLMInferenceTrace_conv.csv", "conv")


def test_picked_lengths_are_different_requests_of_the_trace_within_the_context(conv: Trace) -> None:
    picked = pick_lengths(conv, 400, 3, 4096)
    pairs = {(int(prompt), int(generated)) for prompt, generated in picked}
    assert len(pairs) == 400
    real = clip_lengths(np.stack([conv.prompt_tokens, conv.generated_tokens], axis=1), 4096)
    assert pairs <= {(int(prompt), int(generated)) for prompt, generated in real}
    assert picked.sum(axis=1).max() <= 4096


def test_longer_pick_begins_with_the_shorter_one_and_the_seed_decides(conv: Trace) -> None:
    long = pick_lengths(conv, 1300, 3, 4096)
    for n in (0, 1, 7, 64, 1025):
        assert (pick_lengths(conv, n, 3, 4096) == long[:n]).all()
    assert (pick_lengths(conv, 130, 4, 4096) != long[:130]).any()


def test_picked_lengths_follow_the_trace_more_closely_than_random_draws(conv: Trace) -> None:
    real = clip_lengths(np.stack([conv.prompt_tokens, conv.generated_tokens], axis=1), 4096)
    picked = pick_lengths(conv, 256, 0, 4096)
    for column in (0, 1):
        # A random sample of 256 has a distance of 0.054 in the median.
        assert ks_2samp(picked[:, column], real[:, column]).statistic < 0.03
    # Each quarter of prompts x half of generated tokens holds its 32 of 256.
    prompt_edges = np.quantile(real[:, 0], [0.25, 0.5, 0.75])
    quarter = np.searchsorted(prompt_edges, picked[:, 0])
    for index in range(4):
        inside = np.searchsorted(prompt_edges, real[:, 0]) == index
        upper = picked[quarter == index, 1] > np.median(real[inside, 1])
        assert len(upper) == pytest.approx(64, abs=4)
        assert upper.sum() == pytest.approx(32, abs=4)


def test_every_different_pair_can_be_picked_and_no_more() -> None:
    trace = trace_of([0.0] * 6, [(1, 1), (1, 1), (2, 1), (2, 2), (9, 9), (5, 3)])
    picked = pick_lengths(trace, 5, 0, 4096)
    assert sorted(map(tuple, picked.tolist())) == [(1, 1), (2, 1), (2, 2), (5, 3), (9, 9)]
    with pytest.raises(BadInput, match="number of lengths"):
        pick_lengths(trace, 6, 0, 4096)
