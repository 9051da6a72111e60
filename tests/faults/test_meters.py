"""NVML that loses its GPUs, and a wall clock that is set while runs are measured."""

from pathlib import Path

import pandas as pd
import pytest

from tests.faults.amounts import dice, times
from tests.faults.real import RealTrial
from tests.faults.table import Faults
from tests.faults.test_together import COLLECT, finish
from tests.faults.trial import Nursery, Trial
from tests.integration.machine import IDLE_W

pytestmark = pytest.mark.faults
DAY_S = 86_400.0


@pytest.fixture
def driver(library: Path | None) -> None:
    if library is None:
        pytest.skip("no C compiler for the stand-in of NVML")


def invalid(trial: RealTrial) -> pd.Series:
    runs = pd.read_parquet(trial.results / "runs")
    return runs[runs["status"] == "invalid"]["reason"]


@pytest.mark.usefixtures("driver")
def test_nvml_lost_for_good(faults: Faults, nursery: Nursery, tmp_path: Path) -> None:
    """What was in hand is invalid, the node is skipped; with the driver back the same command goes on."""
    rng = dice("lost")
    with faults.of("NVML lost for good (until the next command)") as row:
        for number in range(times(3)):
            trial = RealTrial(tmp_path / str(number), nursery)
            ended = trial.start(lose_gpus_after=rng.randint(2, 6)).whole()
            assert ended.code == 3, ended
            assert "was skipped: " in ended.line
            assert "NVML says" in ended.line
            assert invalid(trial).str.contains("NVML").any()
            trial.check()
            row.happened("invalid: NVML says GPU is lost; exit 3: NODE was skipped, run the same command again later")
            row.finished(trial.resume())


@pytest.mark.usefixtures("driver")
def test_nvml_lost_for_a_while(faults: Faults, nursery: Nursery, tmp_path: Path) -> None:
    rng = dice("back")
    with faults.of("NVML lost for some seconds") as row:
        for number in range(times(3)):
            trial = RealTrial(tmp_path / str(number), nursery, looks_s=20.0)
            ended = trial.start(lose_gpus_after=rng.randint(2, 6), gpus_back_s=8.0).whole()
            assert ended.code == 0, ended
            assert invalid(trial).str.contains("NVML").any()
            row.happened("invalid: NVML says GPU is lost; taken again in a new launch; exit 0")
            row.finished(trial.complete())


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("direction", ["back", "forward"])
def test_a_wall_clock_that_is_set(direction: str, faults: Faults, nursery: Nursery, tmp_path: Path) -> None:
    """Windows and energies are of the monotonic clock, and so is the budget; only the stamps of runs follow."""
    off_s = DAY_S if direction == "forward" else -DAY_S
    with faults.of(f"wall clock set {direction} by a day in mid-sweep") as row:
        for number in range(times(3)):
            trial = RealTrial(tmp_path / str(number), nursery, command=("sweep", "sweep.yaml", "--results", "out",
                              "--max-attempts", "1000", "--budget", "1h"))  # fmt: skip
            ended = trial.start(clock=[[4, off_s]]).whole()
            assert ended.code == 0, ended
            runs = pd.read_parquet(trial.results / "runs").query("purpose == 'sweep' and status == 'ok'")
            runs = runs.sort_values("window_started_s")
            stamp_s = (runs["started_at"] - pd.Timestamp(0, tz="UTC")).dt.total_seconds() - runs["window_started_s"]
            steps = stamp_s.diff().iloc[1:].round(-2)
            assert sorted(steps[steps != 0]) == [off_s], "one step, at one run, and all others stamped alike"
            assert (runs["window_started_s"].diff().iloc[1:] > runs["window_s"].iloc[:-1].to_numpy()).all()
            assert runs["window_s"].between(0.4, 60.0).all()
            power_w = runs["gpu_energy_j"] / runs["duration_s"]
            away = [min(abs(one / idle_w - 1.0) for idle_w in IDLE_W) for one in power_w]
            assert max(away) < 0.05, "energies and durations are of one clock"
            row.happened("exit 0: windows, energies and budget as before; started_at shows the new time")
            row.finished(trial.complete())


def test_a_wall_clock_set_back_between_nights(faults: Faults, nursery: Nursery, tmp_path: Path) -> None:
    with faults.of("wall clock set back by a day in mid-night (collect)") as row:
        trial = Trial(tmp_path, nursery, command=COLLECT)
        for clock in ([[20, -DAY_S]], [[0.5, -DAY_S]], []):
            ended = trial.start(clock=clock).whole()
            assert ended.code == 0, ended
            assert len(ended.out.splitlines()) == 1
        assert len(list((trial.results / "reports").glob("*.json"))) == 3
        row.happened("exit 0, each night has its record")
        row.finished(finish(trial))
