"""Known answers from books and by hand, and simulated data whose variances are known."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.statistics import (
    OUTLIERS_BY_CHANCE,
    Estimate,
    by_point,
    decode_cross_check,
    decode_energy,
    describe,
    difference,
    fit_lengths,
    mark_outliers,
    mean_of,
    outliers,
    relative_components,
    repeated_runs,
    repetitions_needed,
    variance_components,
    z_score,
)

FIVE = [10.0, 11.0, 12.0, 13.0, 14.0]


def test_five_repetitions_have_an_interval_of_2_776_standard_errors() -> None:
    summary = describe(FIVE)
    assert (summary.n, summary.mean) == (5, 12.0)
    assert summary.sd == pytest.approx(math.sqrt(2.5))
    assert summary.half_width == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=1e-3)
    assert summary.cv == pytest.approx(math.sqrt(2.5) / 12)


def test_one_repetition_has_a_mean_and_no_spread() -> None:
    summary = describe([7.0])
    assert (summary.n, summary.mean) == (1, 7.0)
    assert math.isnan(summary.sd)
    assert math.isnan(summary.half_width)
    assert math.isnan(summary.cv)


def test_the_interval_covers_the_mean_in_95_percent_of_samples() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(2000):
        summary = describe(rng.normal(50, 4, 5))
        hits += abs(summary.mean - 50) <= summary.half_width
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)


def test_an_outlier_is_marked_by_the_modified_z_score() -> None:
    # Median 12, MAD 1: a distance of 5.19 scores 3.5.
    assert outliers([*FIVE, 12.0, 17.1]).tolist() == [False] * 7
    assert outliers([*FIVE, 12.0, 17.3]).tolist() == [False] * 6 + [True]
    assert describe([*FIVE, 12.0, 17.3]).outliers == 1
    assert describe([*FIVE, 12.0, 17.3]).n == 7


def test_equal_values_and_few_values_are_no_outliers_and_one_among_equals_is() -> None:
    assert not outliers([5.0] * 6).any()
    assert not outliers([5.0, 5.0, 9.0]).any()
    assert outliers([5.0] * 9 + [6.0]).tolist() == [False] * 9 + [True]


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=12), st.floats(0.01, 100), st.floats(-1e3, 1e3))
@settings(max_examples=50, deadline=None)
def test_outliers_do_not_depend_on_unit_or_origin(values: list[float], factor: float, shift: float) -> None:
    x = np.round(values, 1)
    scores = np.abs(x - np.median(x)) / (np.median(np.abs(x - np.median(x))) or np.inf)
    if (np.abs(0.6745 * scores - 3.5) > 1e-3).all() and scores.any():
        assert (outliers(x * factor + shift) == outliers(x)).all()


def test_repetitions_are_asked_for_until_the_interval_would_be_narrow_enough() -> None:
    # sd 1.5811 at mean 12: t sd / sqrt(n) falls to 0.05 x 12 = 0.6 between 29 (0.6014) and 30 (0.5904).
    assert repetitions_needed(FIVE, 0.05, most=100) == 25
    assert repetitions_needed(FIVE, 0.05, most=10) == 5
    assert repetitions_needed(FIVE, 0.05, most=3) == 0
    assert repetitions_needed(FIVE, 0.17, most=100) == 0
    assert repetitions_needed([12.0], 0.05, most=100) == 2
    assert repetitions_needed([12.0, 12.0], 0.05, most=2) == 0
    assert repetitions_needed([12.0] * 3, 0.001, most=100) == 0


@given(st.lists(st.floats(1, 100), min_size=3, max_size=8), st.floats(0.005, 0.5))
@settings(max_examples=50, deadline=None)
def test_the_number_asked_for_is_the_smallest_that_would_do(values: list[float], target: float) -> None:
    more, n = repetitions_needed(values, target, most=60), len(values)
    spread = describe(values)

    def half_width(count: int) -> float:
        return float(describe(np.arange(count)).half_width / describe(np.arange(count)).sd) * spread.sd

    assert n + more == 60 or half_width(n + more) <= target * spread.mean * (1 + 1e-9)
    assert more == 0 or half_width(n + more - 1) > target * spread.mean * (1 - 1e-9)


def test_decode_energy_carries_both_variances_with_welch_degrees_of_freedom() -> None:
    # Variances of the means 0.5 and 2: Satterthwaite df = 2.5^2 / (0.5^2 / 4 + 2^2 / 4) = 5.882.
    estimate = decode_energy([value + 88 for value in FIVE], [28 + 2 * value - 24 for value in FIVE])
    assert estimate.value == pytest.approx(100 - 28)
    assert estimate.variance == pytest.approx(2.5)
    assert estimate.df == pytest.approx(5.882, abs=1e-3)
    assert estimate.half_width == pytest.approx(2.4587 * math.sqrt(2.5), rel=1e-3)


def test_a_difference_of_figures_without_scatter_has_no_width() -> None:
    assert difference(mean_of([5.0, 5.0]), mean_of([2.0, 2.0])) == Estimate(3.0, 0.0, 1)
    assert difference(mean_of([5.0, 5.0]), mean_of([2.0, 2.0])).half_width == 0.0


# Montgomery, Design and Analysis of Experiments, the purity of batches from three suppliers.
PURITY = [
    [[1, -1, 0], [-2, -3, -4], [-2, 0, 1], [1, 4, 0]],
    [[1, -2, -3], [0, 4, 2], [-1, 0, -2], [0, 3, 2]],
    [[2, 4, 0], [-2, 0, 2], [1, -1, 2], [3, 2, 1]],
]


def nested(data: list[list[list[float]]], point: str = "p") -> tuple[list[float], list[str], list[int], list[str]]:
    rows = [(y, point, i, f"{i}.{j}") for i, a in enumerate(data) for j, b in enumerate(a) for y in b]
    return ([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows], [r[3] for r in rows])


def test_a_nested_design_from_a_book_with_its_negative_estimate() -> None:
    repetition, launch, board = variance_components(*nested(PURITY))
    assert (repetition.df, launch.df, board.df) == (24, 9, 2)
    assert repetition.variance == pytest.approx(63.33 / 24, abs=0.01)
    assert launch.variance == pytest.approx((69.92 / 9 - 63.33 / 24) / 3, abs=0.01)
    assert board.variance == pytest.approx((15.06 / 2 - 69.92 / 9) / 12, abs=0.01)
    assert board.variance is not None
    assert board.variance < 0


def test_what_was_not_repeated_has_no_estimate() -> None:
    one_launch = variance_components([1, 2, 4], ["p"] * 3, ["b"] * 3, ["l"] * 3)
    assert [(c.df, c.variance) for c in one_launch] == [(2, pytest.approx(7 / 3)), (0, None), (0, None)]
    single_repetitions = variance_components([1, 2, 4], ["p"] * 3, ["b"] * 3, ["l1", "l2", "l3"])
    assert [(c.df, c.variance) for c in single_repetitions] == [(0, None), (2, pytest.approx(7 / 3)), (0, None)]
    # One launch on each of two boards: what lies between them is the boards' and the launches' together.
    boards = variance_components([1, 3, 11, 13], ["p"] * 4, ["a", "a", "b", "b"], ["l1", "l1", "l2", "l2"])
    assert [(c.df, c.variance) for c in boards] == [(2, 2.0), (0, None), (1, pytest.approx((100 - 2) / 2))]


def test_components_of_unbalanced_launches_and_boards_are_recovered_over_points() -> None:
    rng = np.random.default_rng(11)
    truth, found = np.array([1.0, 4.0, 9.0]), []
    for _ in range(300):
        values, points, boards, launches = [], [], [], []
        for point in range(3):
            for board in range(4):
                a = rng.normal(100 * point, 3)
                for launch in range(1 + (board + point) % 3):
                    b = a + rng.normal(0, 2)
                    for _ in range(2 + (launch + board) % 4):
                        values.append(b + rng.normal())
                        points.append(point)
                        boards.append(board)
                        launches.append(f"{board}.{launch}")
        found.append([component.variance for component in variance_components(values, points, boards, launches)])
    mean = np.mean(found, axis=0)
    standard_error = np.std(found, axis=0) / math.sqrt(len(found))
    assert (np.abs(mean - truth) < 4 * standard_error).all()
    assert (standard_error < 0.08 * truth).all()


def test_a_fit_agrees_with_least_squares_elsewhere() -> None:
    g, sd = np.array([64.0, 128, 256, 512, 1024]), np.array([1.0, 1, 2, 3, 5])
    energy_j = 30 + 0.8 * g + 1e-4 * g**2 + np.array([0.5, -0.7, 1.1, -2, 3])
    for quadratic, degree in ((False, 1), (True, 2)):
        fit = fit_lengths(g, energy_j, sd, quadratic)
        expected, covariance = np.polyfit(g, energy_j, degree, w=1 / sd, cov="unscaled")
        assert fit.parameters == pytest.approx(expected[::-1])
        widened = max(1.0, fit.chi2 / fit.df)
        assert fit.covariance == pytest.approx(covariance[::-1, ::-1] * widened, rel=1e-6)
    assert widened == 1.0
    assert fit_lengths(g, energy_j, sd).chi2 > fit_lengths(g, energy_j, sd, True).chi2


def test_decode_energy_by_the_fit_meets_the_difference_and_its_errors_are_right() -> None:
    rng = np.random.default_rng(5)
    g, scores, truth_j = np.array([64.0, 128, 256, 512]), [], 0.8 * 511 + 1e-4 * (512**2 - 1)
    for _ in range(400):
        energy_j = 30 + 0.8 * g + 1e-4 * g**2 + rng.normal(0, 2, 4)
        by_fit = fit_lengths(g, energy_j, np.full(4, 2.0), growing_context=True).between(1, 512)
        by_difference = Estimate(truth_j + rng.normal(0, 1), 1.0, 8)
        scores.append(z_score(by_fit, by_difference))
    assert np.mean(scores) == pytest.approx(0, abs=0.2)
    assert 0.8 < np.std(scores) < 1.05  # widened by chi2 where that is over 1, so a little under 1


def test_a_gap_that_only_one_method_charges_shows_as_a_z_score() -> None:
    g = np.array([64.0, 128, 256, 512])
    by_fit = fit_lengths(g, 30 + 0.8 * g, np.full(4, 0.5)).between(1, 512)
    assert abs(z_score(by_fit, Estimate(0.8 * 511, 0.25, 8))) < 1e-6
    assert z_score(by_fit, Estimate(0.8 * 511 + 10, 0.25, 8)) < -5


def test_a_fit_needs_as_many_lengths_as_parameters() -> None:
    with pytest.raises(ValueError, match="3 parameters"):
        fit_lengths([64, 64, 128], [1, 2, 3], [1, 1, 1], growing_context=True)


def runs() -> pd.DataFrame:
    """Two points, two launches each on a board of its own; a warm-up and an invalid run that do not count."""
    rows: list[dict[str, Any]] = []
    for point, base in (("p", 100.0), ("q", 1000.0)):
        for launch, board in (("l1", "GPU-a"), ("l2", "GPU-b")):
            for repetition in range(1, 4):
                value = base * (1 + 0.01 * repetition + (0.1 if board == "GPU-b" else 0.0))
                rows.append({"point_id": point, "launch_id": launch, "gpu_uuids": [board], "gpu_energy_j": value})
    rows[1]["gpu_energy_j"] = 900.0
    frame = pd.DataFrame(rows).assign(environment_id="e", purpose="sweep", status="ok", started_at=datetime.now(UTC))
    frame.loc[2, "status"] = "invalid"
    frame.loc[3, "purpose"] = "warmup"
    return frame


def test_points_are_summarised_with_their_launches_and_boards() -> None:
    table = by_point(runs(), "gpu_energy_j").set_index("point_id")
    assert table.loc["q", ["n", "launches", "boards"]].tolist() == [6, 2, 2]
    assert table.loc["q", "mean"] == pytest.approx(1070)
    assert table.loc["p", ["n", "outliers"]].tolist() == [4, 0], "of three in a launch none is marked"
    assert by_point(runs().iloc[:0], "gpu_energy_j").empty


def test_marks_stand_beside_the_runs_and_drop_none() -> None:
    frame = pd.concat([runs().query("point_id == 'q'")] * 2, ignore_index=True).sample(frac=1, random_state=0)
    frame["gpu_energy_j"] += np.arange(len(frame)) * 1e-3
    odd = frame.index[3]
    frame.loc[odd, "gpu_energy_j"] = 900.0
    marks = mark_outliers(frame, "gpu_energy_j")
    assert marks.index.equals(frame.index)
    assert marks[marks].index.tolist() == [odd]
    frame.loc[odd, "status"] = "invalid"
    assert not mark_outliers(frame, "gpu_energy_j").any()
    assert by_point(frame.assign(status="ok"), "gpu_energy_j")["outliers"].tolist() == [1]


def test_only_points_of_several_launches_are_repeated() -> None:
    frame = runs()
    frame.loc[frame["point_id"] == "p", "launch_id"] = "l1"
    assert set(repeated_runs(frame, "gpu_energy_j")["point_id"]) == {"q"}


def test_another_board_is_no_outlier_among_repetitions() -> None:
    frame = pd.DataFrame(
        [
            {"point_id": "p", "launch_id": launch, "gpu_energy_j": base + step}
            for launch, base, count in (("l1", 100.0, 5), ("l2", 110.0, 2))
            for step in np.linspace(0, 1, count)
        ]
    ).assign(environment_id="e", purpose="sweep", status="ok")
    assert not mark_outliers(frame, "gpu_energy_j").any()
    assert outliers(frame["gpu_energy_j"]).any(), "they would be, if launches were thrown together"


def test_the_share_marked_by_chance_is_what_is_said() -> None:
    rng = np.random.default_rng(0)
    assert np.mean([outliers(rng.normal(size=5)).mean() for _ in range(4000)]) == pytest.approx(
        OUTLIERS_BY_CHANCE, abs=0.006
    )


def lengths(rng: np.random.Generator, launches: int = 1, generated: Sequence[int] = (32, 64, 128, 256)) -> pd.DataFrame:
    """Batches alike but for their length: each launch scales its energies by a few percent, repetitions by 0.3%."""
    rows = []
    for launch in range(launches):
        scale = rng.normal(1, 0.02)
        for length, _ in product(generated, range(5)):
            prefill_j = 30.0
            full_j = prefill_j + 3.0 * (length - 1) + 1e-4 * (length**2 - 1)
            rows.append(
                {
                    "launch_id": f"l{launch}",
                    "generated_tokens": float(length),
                    "gpu_energy_j": full_j * scale * rng.normal(1, 0.003),
                    "gpu_prefill_energy_j": prefill_j * scale * rng.normal(1, 0.003),
                }
            )
    return pd.DataFrame(rows).assign(
        environment_id="e", purpose="sweep", status="ok", workload="batch", batch_size=8, prompt_tokens=512.0
    )


def test_both_ways_to_decode_energy_agree_where_nothing_is_wrong() -> None:
    checked = decode_cross_check(lengths(np.random.default_rng(1), launches=200))
    assert len(checked) == 200 * 4
    assert checked["agrees"].mean() == pytest.approx(0.954, abs=0.03)
    assert checked["z"].std() == pytest.approx(1.0, abs=0.15)
    assert (checked["n"] == 5).all()
    assert (checked["apart_j"] - (checked["by_difference_j"] - checked["by_fit_j"])).abs().max() < 1e-9
    exact_j = 3.0 * 255 + 1e-4 * (256**2 - 1)
    longest = checked[checked["generated_tokens"] == 256]
    assert longest["by_difference_j"].mean() == pytest.approx(exact_j, rel=0.005)
    assert longest["by_fit_j"].mean() == pytest.approx(exact_j, rel=0.005)


def test_a_prefill_energy_that_is_biased_makes_both_ways_disagree() -> None:
    frame = lengths(np.random.default_rng(2), launches=50)
    frame["gpu_prefill_energy_j"] *= 1.10
    checked = decode_cross_check(frame)
    # 3 J too much of prefill is 3 J too little of decoding, whatever the length.
    assert checked["apart_j"].mean() == pytest.approx(-3.0, abs=0.3)
    assert checked["agrees"].mean() < 0.1
    assert (checked["z"] < -2).mean() > 0.9


def test_what_cannot_be_compared_has_no_row() -> None:
    rng = np.random.default_rng(3)
    assert decode_cross_check(lengths(rng, generated=(1, 64, 128))).empty, "two lengths, and one token has no decoding"
    assert len(decode_cross_check(lengths(rng, generated=(1, 32, 64, 128)))) == 3
    assert decode_cross_check(lengths(rng).iloc[::5]).empty, "one repetition of each"
    two = lengths(rng, launches=2)
    one_each = (two["launch_id"] == "l0") == (two["generated_tokens"] <= 64)
    assert decode_cross_check(two[one_each]).empty, "two lengths in each launch, which differ as launches do"
    assert decode_cross_check(two.assign(workload="replay")).empty
    assert decode_cross_check(two.assign(status="invalid")).empty
    assert decode_cross_check(two.assign(gpu_prefill_energy_j=math.nan)).empty
    mixed = two.assign(prompt_tokens=two["generated_tokens"])
    assert decode_cross_check(mixed).empty, "prompts differ"
    columns = decode_cross_check(lengths(rng)).columns
    assert decode_cross_check(mixed).columns.equals(columns)


def test_relative_components_see_boards_alike_at_points_of_any_size() -> None:
    frame = runs()
    frame.loc[[1, 2, 3], "gpu_energy_j"] = [102.0, 103.0, 111.0]
    frame[["status", "purpose"]] = ["ok", "sweep"]
    repetition, launch, board = relative_components(frame, "gpu_energy_j")
    assert (repetition.df, launch.df, board.df) == (8, 0, 2)
    assert repetition.variance == pytest.approx((0.01 / 1.07) ** 2)
    assert board.variance == pytest.approx(((0.1 / 1.07) ** 2 / 2) - (0.01 / 1.07) ** 2 / 3)
