"""Drift of nodes: as many false alarms as stated, a board of eight seen, nothing said of what is not known."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from harness import drift
from harness.drift import ENERGY, REFERENCE_LAUNCHES, TIME, Comparison, apart_from, compare
from harness.points import FloatArray

START = datetime(2026, 1, 1, tzinfo=UTC)


def nights(
    energy: FloatArray, share: FloatArray | None = None, boards: list[str] | None = None, seconds: float = 2.0
) -> pd.DataFrame:
    """Two repetitions of two points a night; `energy` (nights,) multiplies, `share` (nights, gpus) divides."""
    share = np.full((len(energy), 4), 0.25) if share is None else share
    rows = []
    for night, factor in enumerate(energy):
        held = [f"GPU-{at}" for at in range(share.shape[1])] if boards is None else [boards[night]]
        for point, base_j in (("p", 100.0), ("q", 900.0)):
            for repetition in (1, 2):
                total_j = base_j * factor * (1 + 1e-4 * repetition)
                rows.append(
                    {
                        "node": "n", "environment_id": "e", "launch_id": f"l{night}", "point_id": point,
                        "purpose": "probe", "status": "ok", "repetition": 101_000 + 1000 * night + repetition,
                        "started_at": START + timedelta(days=night), "gpu_uuids": held, "gpu_energy_j": total_j,
                        "gpu_energy_by_gpu_j": [total_j] if boards else list(total_j * share[night]),
                        "duration_s": seconds * (1 + 1e-3 * (night % 3)),
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def tonight(runs: pd.DataFrame, threshold_pct: float = 3.0) -> dict[str, Comparison]:
    last = runs["launch_id"].iloc[-1]
    return {one.quantity: one for one in compare(runs, last, 2, threshold_pct)}


def scatter(n: int, sd: float = 0.01, seed: int = 1) -> FloatArray:
    return np.exp(np.random.default_rng(seed).normal(0, sd, n))


@pytest.mark.parametrize("boards", [1, 3])
def test_a_value_of_the_same_kind_is_out_as_often_as_stated(boards: int) -> None:
    """Also where the spread is pooled over boards that differ."""
    random, wanted, tries = np.random.default_rng(7), 0.05, 20_000
    each = random.normal(0, 1, (tries, boards, 4)) + random.normal(0, 9, (tries, boards, 1))
    out = 0
    for groups in each:
        # The last launch of the first board is tonight's.
        found = apart_from(groups[0, -1], groups[0, :-1].tolist(), groups[1:].tolist(), wanted)
        if boards == 1:
            assert found is None, "three launches have two degrees of freedom"
            return
        assert found is not None
        out += abs(found[0]) > found[1]
    # Three standard errors of so many tries.
    assert out / tries == pytest.approx(wanted, abs=3 * (wanted * (1 - wanted) / tries) ** 0.5)


def test_undisturbed_nights_are_called_a_drift_at_most_as_often_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole comparisons, without the threshold that would hide it: energy, time and four shares share the chance."""
    stated, tries, random = 0.2, 200, np.random.default_rng(5)
    monkeypatch.setattr(drift, "FALSE_ALARM", stated)
    alarms = 0
    for _ in range(tries):
        share = np.exp(random.normal(0, 0.002, (8, 4)))
        runs = nights(np.exp(random.normal(0, 0.01, 8)), share / share.sum(axis=1, keepdims=True))
        alarms += any(one.drifts for one in tonight(runs, threshold_pct=1e-9).values())
    # Three standard errors; below, since what is divided by Bonferroni overlaps, and the times here hardly vary.
    assert 0.05 < alarms / tries < stated + 3 * (stated * (1 - stated) / tries) ** 0.5


def test_a_node_that_draws_more_is_named_with_its_shift() -> None:
    found = tonight(nights(np.append(scatter(12), 1.09)))
    assert found[ENERGY].drifts
    assert found[ENERGY].shift_pct == pytest.approx(9, abs=1)
    assert found[ENERGY].launches == 12
    assert found[ENERGY].line.startswith(f"GPU energy +{found[ENERGY].shift_pct:.1f}% against 12 launches (a drift is ")
    assert not found[TIME].drifts
    assert not tonight(nights(scatter(13)))[ENERGY].drifts


def test_a_node_that_stays_changed_stays_named() -> None:
    """Also while its reference still grows: the changed nights are no part of it."""
    for nights_since in (2, 6, 15):
        found = tonight(nights(np.append(scatter(10), np.full(nights_since, 1.09))))[ENERGY]
        assert found.drifts
        assert found.launches == 10


def test_a_slower_node_of_the_same_energy_is_seen() -> None:
    runs = nights(scatter(13))
    slow = runs["launch_id"] == "l12"
    runs.loc[slow, "duration_s"] *= 1.05
    found = tonight(runs)
    assert found[TIME].drifts
    assert not found[ENERGY].drifts


def test_one_board_of_eight_is_seen_by_its_share() -> None:
    """It moves the sum by one percent only."""
    share = np.exp(np.random.default_rng(3).normal(0, 0.002, (13, 8)))
    share[-1, 5] *= 1.09
    found = tonight(nights(scatter(13), share / share.sum(axis=1, keepdims=True)))
    assert [one.quantity for one in found.values() if one.drifts] == ["share of GPU-5"]
    assert not found[ENERGY].drifts


def test_a_slow_drift_adds_up() -> None:
    """A quarter of a percent a night hides in the spread of a night, not against the first nights."""
    energy = scatter(80, 0.004) * np.exp(0.0025 * np.maximum(np.arange(80) - REFERENCE_LAUNCHES, 0))
    drifting = [night for night in range(8, 81, 4) if tonight(nights(energy[:night]))[ENERGY].drifts]
    assert drifting
    assert 25 < drifting[0] < 45
    assert 80 in drifting


def test_boards_are_compared_with_themselves() -> None:
    """One that always drew a tenth more is no drift; its own change is."""
    boards = [f"GPU-{night % 3}" for night in range(13)]
    gain = np.array([1.0, 1.1, 0.95])[np.arange(13) % 3]
    energy = scatter(13, 0.004) * gain
    assert not tonight(nights(energy, boards=boards))[ENERGY].drifts
    energy[-1] *= 1.07
    found = tonight(nights(energy, boards=boards))[ENERGY]
    assert found.drifts
    assert found.launches == 4


def test_below_the_threshold_nothing_is_said_however_sure() -> None:
    energy = np.append(scatter(12, 1e-5), 1.01)
    assert not tonight(nights(energy))[ENERGY].drifts
    assert tonight(nights(energy), threshold_pct=0.5)[ENERGY].drifts
    assert tonight(nights(energy))[ENERGY].seen_from_pct == pytest.approx(3.0)


def test_with_few_nights_nothing_is_said() -> None:
    assert tonight(nights(np.append(scatter(4), 2.0))) == {}
    assert tonight(nights(np.append(scatter(5), 2.0)))[ENERGY].drifts


def test_other_points_environments_nodes_and_broken_launches_are_no_reference() -> None:
    runs = nights(np.append(scatter(12), 1.09))
    for column, value in (("node", "m"), ("environment_id", "newer driver")):
        assert tonight(runs.assign(**{column: np.where(runs["launch_id"] == "l12", runs[column], value)})) == {}
    assert tonight(runs[(runs["launch_id"] == "l12") | (runs["point_id"] == "p")]) == {}
    broken = runs.drop(runs.index[runs["launch_id"].isin([f"l{night}" for night in range(8)])][::4])
    assert tonight(broken) == {}, "four whole launches are too few"
    assert tonight(runs[:-1]) == {}, "tonight's is not whole"
