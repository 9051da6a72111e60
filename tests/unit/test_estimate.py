"""What a dry run says of a sweep too large to simulate whole."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from harness import estimate
from harness.deployment.sweepfile import Sweep, load_sweep
from harness.estimate import Estimate, estimate_sweep, print_estimate
from harness.space import build_space
from tests.unit.builders import write_sweep


def estimated(sweep: Sweep) -> Estimate:
    space = build_space(sweep, lambda name: pytest.fail(f"no trace {name} is needed"), 0)
    return estimate_sweep(sweep, space, None, 1, 0)


def printed(made: Estimate) -> str:
    out = io.StringIO()
    print_estimate(made, Console(file=out, width=200), as_json=False)
    return out.getvalue()


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Eight launches of two points."""
    return load_sweep(
        write_sweep(
            tmp_path,
            ("[{tp: 1}, {tp: 2}]", "[{tp: 1}, {tp: 2}, {tp: 4}, {tp: 8}]"),
            ("[llama-2-7b]", "[llama-2-7b, llama-2-13b]"),
        )
    )


def test_of_many_launches_some_are_simulated_and_stand_for_all(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = estimated(sweep)
    assert whole.simulated_launches == len(whole.by_launch) == 8
    assert "taken to be like them" not in printed(whole)
    monkeypatch.setattr(estimate, "_MOST_SIMULATED", 4)
    part = estimated(sweep)
    assert part.simulated_launches == 4
    assert (part.points, part.runs, part.launches) == (whole.points, whole.runs, whole.launches)
    assert part.node_s == pytest.approx(whole.node_s, rel=0.3)
    assert all(launch.node_s for launch in part.by_launch)
    assert "simulation of 4 launches, the others taken to be like them" in printed(part)


def test_a_large_sweep_is_summed_up_instead_of_listed(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    made = estimated(sweep)
    assert made.listed_points[0] in printed(made)
    monkeypatch.setattr(estimate, "_MOST_LISTED", 15)
    text = printed(made)
    assert made.listed_points[0] not in text
    lines = [line.split() for line in text.splitlines()]
    assert ["h100", "16", "8"] in [line[:3] for line in lines]
    assert ["llama-2-13b", "8", "4"] in [line[:3] for line in lines]


def test_obstacles_that_differ_in_their_figures_are_one_line(sweep: Sweep) -> None:
    reasons = {"batch needs 10 tokens, 5 fit": 2, "batch needs 20 tokens, 5.5 fit": 1, "sarathi cannot": 7}
    text = printed(replace(estimated(sweep), infeasible=reasons))
    assert [line.strip() for line in text.splitlines() if "infeasible" in line] == [
        "infeasible: 7 points: sarathi cannot",
        "infeasible: 3 points: such as: batch needs 10 tokens, 5 fit",
    ]
