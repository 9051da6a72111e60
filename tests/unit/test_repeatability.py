"""What the closing paragraph says, and that it says when it does not know."""

from collections.abc import Sequence

import pandas as pd
import pytest

from harness.repeatability import COLUMNS, repeatability

Launch = tuple[str, str, Sequence[float]]
SPREAD_OUT: list[Launch] = [("l1", "A", [99, 101]), ("l2", "A", [103, 105]), ("l3", "B", [119, 121])]


def frame(launches: Sequence[Launch], point: str = "p", workload: str = "batch") -> pd.DataFrame:
    rows = [
        {"launch_id": launch, "gpu_uuids": [board], "gpu_energy_j": float(energy_j), "point_id": point}
        for launch, board, energies_j in launches
        for energy_j in energies_j
    ]
    constants = {"environment_id": "e", "purpose": "sweep", "status": "ok", "workload": workload}
    numbers = {"batch_size": 8, "prompt_tokens": 128.0, "generated_tokens": 16.0, "gpu_prefill_energy_j": 1.0}
    return pd.DataFrame(rows).assign(**constants, **numbers)


def test_repetitions_launches_and_boards_are_told_apart() -> None:
    found = repeatability(frame(SPREAD_OUT))
    assert (found.repetition.df, found.launch.df, found.board.df) == (3, 1, 1)
    # By hand, the mean being 108: repetitions (2 / 2)^(1/2); launches: ((16 - 2) / 2)^(1/2).
    assert found.repetition.sd_pct == pytest.approx(100 * 2**0.5 / 108)
    assert found.launch.sd_pct == pytest.approx(100 * 7**0.5 / 108)
    assert found.board.sd_pct is not None
    assert found.board.sd_pct > 10
    assert (found.points, found.launches, found.boards) == (1, 3, 2)
    text = found.paragraph()
    assert "1.3% between repetitions, 2.4% between launches, 12% between boards" in text
    assert "from 1 point in 3 launches on 2 boards" in text
    assert "Not known" not in text


def test_what_is_not_known_is_said_with_its_reason() -> None:
    one_launch = repeatability(frame([("l1", "A", [99, 101, 100])]))
    assert (
        "1% between repetitions. Not known: between launches and boards, since no point was" in one_launch.paragraph()
    )
    assert (one_launch.launch.sd_pct, one_launch.board.sd_pct) == (None, None)
    boards = repeatability(frame([("l1", "A", [99, 101]), ("l2", "B", [109, 111])]))
    assert "between boards (that of launches included)" in boards.paragraph()
    assert "Not known: between launches, since no two launches" in boards.paragraph()
    same_board = repeatability(frame([("l1", "A", [99, 101]), ("l2", "A", [109, 111])]))
    assert "Not known: between boards, since all launches" in same_board.paragraph()
    single = repeatability(frame([("l1", "A", [99])]))
    assert "Not known: between repetitions, since no point has two" in single.paragraph()
    assert "(standard deviation): not known." in single.paragraph()


def test_a_spread_too_small_for_the_scatter_below_it_is_no_negative_figure() -> None:
    text = repeatability(frame([("l1", "A", [90, 110]), ("l2", "A", [91, 111])])).paragraph()
    assert "too little to be seen between launches" in text


def test_only_points_of_several_launches_count_where_there_are_any() -> None:
    alone = frame([("l1", "A", [50, 150])], point="q")
    found = repeatability(pd.concat([frame(SPREAD_OUT), alone], ignore_index=True))
    assert found.repetition.df == 3
    assert found.runs == 8


def test_replays_count_only_where_nothing_else_was_measured() -> None:
    replays = frame(SPREAD_OUT, point="r", workload="replay")
    assert repeatability(replays).repetition.df == 3
    both = pd.concat([frame([("l1", "A", [99, 101])]), replays], ignore_index=True)
    assert repeatability(both).repetition.df == 1


def test_outliers_and_decoding_are_counted() -> None:
    runs = frame([("l1", "A", [100, 101, 99, 100.5, 150])])
    found = repeatability(runs)
    assert (found.runs, found.outliers, found.decode_lengths) == (5, 1, 0)
    assert "1 of 5 runs (5% by chance); kept" in found.paragraph()
    assert "Decode" not in found.paragraph()
    lengths = [
        frame([("l1", "A", [1 + 2 * g, 1.01 + 2 * g])], point=f"p{g}").assign(generated_tokens=float(g + 1))
        for g in (8, 16, 32)
    ]
    for runs, agreeing in ((pd.concat(lengths), 3), (pd.concat(lengths).assign(gpu_prefill_energy_j=3.0), 0)):
        found = repeatability(runs.reset_index(drop=True))
        assert (found.decode_lengths, found.decode_agree) == (3, agreeing)
        assert f"for {agreeing} of 3 batches" in found.paragraph()


def test_there_is_no_paragraph_about_nothing() -> None:
    assert repeatability(frame(SPREAD_OUT).assign(status="failed")).paragraph() == ""
    assert repeatability(frame(SPREAD_OUT).iloc[:0]).paragraph() == ""
    assert set(COLUMNS) == set(frame(SPREAD_OUT).columns)
