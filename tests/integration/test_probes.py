"""Probes in a whole sweep: launches and boards told apart, interrupted and resumed, counted before and after."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.agent import Agent
from harness.clock import WallClock
from harness.deployment.sweepfile import load_sweep
from harness.simulator.engine import LAUNCH_SD
from harness.simulator.faults import NO_FAULTS, Faults
from harness.simulator.node import SimulatedNode
from harness.simulator.seeds import factor, generator
from harness.space import build_space
from harness.standing import folder_standing
from harness.statistics import decode_cross_check, relative_components, repeated_runs
from harness.sweep import SweepOrder, SweepOutcome, run_sweep
from tests.integration.support import harness, outcome_json, read, write_sweep

PROBES = ("idle: 1s", "idle: 1s, probes: {points: 2, launches: 3}")


class Silent:
    """Progress that nobody sees."""

    def planned(self, runs: int) -> None: ...

    def launching(self, *_: object) -> None: ...

    def measured(self, *_: object) -> None: ...


def sweep_in_process(
    file: Path, results: Path, gain_sd: float = 0.02, budget_s: float | None = None, faults: Faults = NO_FAULTS
) -> SweepOutcome:
    """A sweep on nodes whose boards differ by `gain_sd`."""
    sweep = load_sweep(file)
    space = build_space(sweep, lambda name: pytest.fail(f"no trace {name} is needed"), 0)
    agents = [Agent(SimulatedNode(spec, f"sim-{spec.kind}", 0, gain_sd=gain_sd, faults=faults)) for spec in sweep.nodes]
    order = SweepOrder(sweep, results, 0, budget_s=budget_s)
    return run_sweep(order, space, agents, Silent(), WallClock(), "test")


def test_a_sweep_ends_with_probes_over_launches_and_boards(tmp_path: Path) -> None:
    write_sweep(tmp_path, PROBES)
    done = harness("sweep", "sweep.yaml", "--results", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = read(tmp_path / "out")
    probes = runs.query("purpose == 'probe'")
    assert set(probes["status"]) == {"ok"}
    assert probes["point_id"].nunique() == 2
    assert set(probes["tp"]) == {1}, "the most boards to choose from"
    assert probes.groupby(["point_id", "launch_id"])["repetition"].nunique().tolist() == [2] * 6
    assert probes["launch_id"].nunique() == 3
    assert probes["gpu_uuids"].map(tuple).nunique() >= 2
    assert probes["started_at"].min() > runs.query("purpose == 'sweep'")["started_at"].max()
    assert not set(probes["launch_id"]) & set(runs.query("purpose == 'sweep'")["launch_id"])
    keys = ["point_id", "environment_id", "launch_id", "repetition", "attempt"]
    assert not runs[runs["purpose"] != "warmup"].duplicated(keys).any()
    assert len(runs.query("purpose == 'sweep'")) == 8, "the sweep's own repetitions are as many as without"
    text = " ".join(done.stdout.split())
    assert "Probes: 12 of 12 runs." in text
    assert "between boards" in text
    assert "from 2 points in 4 launches" in text


def test_interrupted_probes_go_on_where_they_were(tmp_path: Path) -> None:
    file, results = write_sweep(tmp_path, PROBES), tmp_path / "out"
    for calls in range(1, 21):
        outcome = sweep_in_process(file, results, budget_s=1e-9)
        assert (outcome.runs_taken, outcome.runs_left) == (1, 20 - calls)
        (standing,) = folder_standing(results)
        assert standing.progress == pytest.approx(calls / 20)
        assert (standing.probe_runs_planned, standing.probe_runs_done) == (12, max(0, calls - 8))
        assert outcome.probes.settled == standing.probe_runs_done
    probes = read(results).query("purpose == 'probe'")
    assert len(probes) == 12
    assert not probes.duplicated(["point_id", "repetition"]).any()
    again = sweep_in_process(file, results)
    assert (again.runs_taken, again.runs_left, again.points_done) == (0, 0, 4)


def test_probes_that_fail_are_given_up_and_said_so(tmp_path: Path) -> None:
    file, results = write_sweep(tmp_path, PROBES), tmp_path / "out"
    sweep = load_sweep(file)
    done = sweep_in_process(write_sweep(tmp_path), results)
    assert (done.probes.wanted, done.points_done) == (0, 4)
    write_sweep(tmp_path, PROBES)
    faults = Faults(failing_deployments=frozenset(item.deployment_id for item in sweep.deployments))
    outcome = sweep_in_process(file, results, faults=faults)
    assert (outcome.probes.settled, outcome.probes.given_up, outcome.runs_left) == (0, 12, 0)
    assert (outcome.points_done, outcome.points_given_up) == (4, 0), "the points stand"
    assert len(read(results).query("purpose == 'probe' and status == 'failed'")) == 12 * 3
    done_again = harness("sweep", file, "--results", results, cwd=tmp_path)
    assert done_again.returncode == 3
    assert "12 runs of probes were given up" in done_again.stdout
    (standing,) = folder_standing(results)
    assert (standing.probe_runs_given_up, standing.points_given_up) == (12, 0)


def test_a_dry_run_and_next_count_the_probes(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    without = outcome_json(harness("sweep", "sweep.yaml", "--dry-run", "--json", cwd=tmp_path))
    write_sweep(tmp_path, PROBES)
    plan = outcome_json(harness("sweep", "sweep.yaml", "--dry-run", "--json", cwd=tmp_path))
    assert (plan["points"], plan["runs"], plan["launches"]) == (4, 8 + 12, 2 + 3)
    assert plan["by_launch"][-1]["purpose"] == "probe"
    assert plan["node_s"] == pytest.approx(without["node_s"] + plan["by_launch"][-1]["node_s"])
    assert plan["gpu_hours"] == pytest.approx(plan["node_s"] * 8 / 3600)
    assert "probes: 3 launches" in harness("sweep", "sweep.yaml", "--dry-run", cwd=tmp_path).stdout
    picks = json.loads(harness("next", "sweep.yaml", "--json", "--points", 100, cwd=tmp_path).stdout)
    assert sum(pick["runs"] for pick in picks) == 20


def test_probes_wait_for_the_last_round(tmp_path: Path) -> None:
    write_sweep(tmp_path, PROBES)
    done = harness(
        "sweep", "sweep.yaml", "--results", "out", "--points", 1, "--rounds", 4, "--json", cwd=tmp_path
    )  # fmt: skip
    assert outcome_json(done)["runs_taken"] == 20
    probes = read(tmp_path / "out").query("purpose == 'probe'")
    assert probes["launch_id"].nunique() == 3


def test_variances_between_launches_and_boards_are_those_of_the_node(tmp_path: Path) -> None:
    gain_sd = 0.08
    file = write_sweep(
        tmp_path,
        ("[{tp: 1}, {tp: 2}]", "[{tp: 1}]"),
        ("idle: 1s", "idle: 1s, probes: {points: 2, launches: 40}"),
        ("window: 500ms", "window: 2s"),
    )
    outcome = sweep_in_process(file, tmp_path / "out", gain_sd)
    assert outcome.probes.settled == outcome.probes.wanted == 160
    runs = repeated_runs(read(tmp_path / "out"), "gpu_energy_j")
    uuids = sorted({uuid for held in runs["gpu_uuids"] for uuid in held})
    assert len(uuids) == 8, "launches go round the boards"
    repetition, launch, board = relative_components(runs, "gpu_energy_j")
    assert board.variance is not None
    assert launch.variance is not None
    assert repetition.variance is not None
    # Each board's gain, as the node drew it; the rest of a board (its leakage, its process) adds 2% or so.
    gains = np.array([factor(generator("board", uuid, 0), gain_sd) for uuid in uuids])
    assert np.sqrt(board.variance) == pytest.approx(gains.std(ddof=1) / gains.mean(), rel=0.25)
    # A launch has a factor on its steps' time and one on its dynamic power, LAUNCH_SD each.
    assert 0.7 * LAUNCH_SD < np.sqrt(launch.variance) < 1.7 * LAUNCH_SD
    assert np.sqrt(repetition.variance) < LAUNCH_SD
    means = runs.assign(board=runs["gpu_uuids"].map(tuple)).groupby(["point_id", "board"])["gpu_energy_j"].mean()
    order = [(uuid,) for uuid in uuids]
    for _, energies in means.groupby("point_id"):
        assert np.corrcoef(energies.droplevel("point_id")[order], gains)[0, 1] > 0.9


@pytest.fixture(scope="module")
def lengths(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Runs of a sweep of its own over four generated lengths, and the closing text of its status."""
    folder = tmp_path_factory.mktemp("lengths")
    write_sweep(
        folder,
        ("prompt_tokens: [128], generated_tokens: [16]", "prompt_tokens: [512], generated_tokens: [32, 64, 128, 256]"),
        ("repetitions: 2, window: 500ms", "repetitions: 5, window: 2s"),
        ("sweep: small", "sweep: lengths"),
    )
    done = harness("sweep", "sweep.yaml", "--results", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Decode energy by difference agrees" in " ".join(done.stdout.split())
    return read(folder / "out")


def test_decode_energy_by_difference_meets_the_fit_over_lengths(lengths: pd.DataFrame) -> None:
    checked = decode_cross_check(lengths)
    assert len(checked) == 2 * 2 * 4, "two deployments, two batch sizes, four lengths"
    assert checked["agrees"].mean() >= 0.75
    assert (checked["apart_j"].abs() / checked["by_fit_j"]).max() < 0.05


def test_a_biased_prefill_only_energy_is_found_out(lengths: pd.DataFrame) -> None:
    biased = lengths.assign(gpu_prefill_energy_j=lengths["gpu_prefill_energy_j"] * 1.3)
    checked = decode_cross_check(biased)
    assert len(checked) == 16
    assert checked["agrees"].mean() <= 0.25
    assert (checked["apart_j"] < 0).all()
