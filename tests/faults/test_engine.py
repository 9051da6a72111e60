"""Real engine processes that are killed or hang, and a sweep that is killed above one."""

import contextlib
import random
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.faults.amounts import dice, kills, times
from tests.faults.real import RealTrial, server_of
from tests.faults.table import Faults
from tests.faults.test_together import entries, told
from tests.faults.trial import Child, Nursery, killed_in_the_end
from tests.fixtures.processes import writers

pytestmark = pytest.mark.faults
HANG_LIMIT_S = 2.0


@pytest.fixture(autouse=True)
def _with_a_driver(library: Path | None) -> None:
    if library is None:
        pytest.skip("no C compiler for the stand-in of NVML")


def failures(trial: RealTrial) -> pd.DataFrame:
    runs = pd.read_parquet(trial.results / "runs")
    return runs[runs["status"] == "failed"]


def test_an_engine_killed_at_any_moment(faults: Faults, nursery: Nursery, tmp_path: Path) -> None:
    """Its server, or the keeper above it; while it loads, serves, or is just up."""
    rng, wanted = dice("engine"), kills("engine")
    with faults.of("kill -9 of a real engine at any moment") as row:
        number = 0
        while row.times < wanted:
            number += 1
            assert number <= 10 * wanted, "the sweep ends before its engine can be killed"
            trial, killed = RealTrial(tmp_path / str(number), nursery), []
            with killed_in_the_end(trial.start()) as child:
                while row.times + len(killed) < wanted and (log := strike(trial, child, rng, set(killed))) is not None:
                    killed.append(log)
                ended = child.whole()
            assert ended.code == 0, ended
            assert trial.engines_gone()
            reasons = failures(trial)["reason"]
            for log in killed:
                mine = reasons[reasons.str.contains(str(log), regex=False)]
                kind = mine.iloc[0].removeprefix("warm-up: ").partition(":")[0] if len(mine) else ""
                assert kind in ("", "EngineCrashed", "LaunchFailed"), mine.iloc[0]
                row.happened(f"the repetition is failed: {kind}; exit 0" if kind else "it had served; exit 0")
            row.finished(trial.complete())


def strike(trial: RealTrial, child: Child, rng: random.Random, known: set[Path]) -> Path | None:
    """Kill the next engine, a while after its start; its log, or None if it ended before."""
    if (log := trial.engine(child, known)) is None:
        return None
    time.sleep(rng.uniform(0.0, 6.0))
    pids = writers(log)
    if not pids:
        return strike(trial, child, rng, known | {log})
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(rng.choice(pids)).kill()
    return log


def test_a_sweep_killed_above_its_engine(faults: Faults, nursery: Nursery, tmp_path: Path) -> None:
    """The engine ends with it, at whatever moment."""
    rng = dice("above")
    with faults.of("kill -9 of a sweep with a real engine up") as row:
        trial = RealTrial(tmp_path, nursery)
        for _ in range(times(5)):
            with killed_in_the_end(trial.start()) as child:
                if trial.engine(child, set(trial.logs())) is None:
                    break
                time.sleep(rng.uniform(0.0, 5.0))
                child.kill()
                child.process.communicate()
            assert trial.engines_gone(), "an engine outlived its sweep"
            trial.may_lose(child)
            trial.check()
            row.happened("killed, without a word; the engine ends with it; the same command goes on")
        row.finished(trial.resume())


def test_sigterm_above_an_engine(faults: Faults, nursery: Nursery, tmp_path: Path) -> None:
    rng = dice("sigterm above")
    with faults.of("SIGTERM of a sweep with a real engine up") as row:
        trial = RealTrial(tmp_path, nursery)
        for _ in range(times(3)):
            with killed_in_the_end(trial.start()) as child:
                if trial.engine(child, set(trial.logs())) is None:
                    break
                time.sleep(rng.uniform(0.0, 5.0))
                told(trial.stop(child))
            assert trial.engines_gone()
            trial.check()
            row.happened("exit 130: ended by SIGTERM; run the same command again to resume; the engine is ended")
        row.finished(trial.resume())


def test_a_hung_engine(faults: Faults, nursery: Nursery, tmp_path: Path) -> None:
    """Stopped while it serves: the watchdog ends it, and the repetition is taken again."""
    rng = dice("hung")
    with faults.of(f"engine hung (SIGSTOP; limit {HANG_LIMIT_S:g} s here)") as row:
        for number in range(times(3)):
            trial = RealTrial(tmp_path / str(number), nursery, hang_limit_s=HANG_LIMIT_S)
            with killed_in_the_end(trial.start()) as child:
                before, limit = entries(trial), rng.randint(1, 4)
                while entries(trial) < before + limit:
                    assert child.ended(0.01) is None
                while (server := server_of(trial.logs()[-1])) is None:
                    assert child.ended(0.01) is None, "it ended before its engine could hang"
                server.suspend()
                ended = child.whole()
            assert ended.code == 0, ended
            assert trial.engines_gone()
            failed = failures(trial)
            assert len(failed) >= 1
            (reason,) = {reason.removeprefix("warm-up: ").partition(";")[0] for reason in failed["reason"]}
            assert reason.startswith("EngineHung: no "), reason
            assert failed["reason"].str.contains("it was killed").all()
            row.happened(f"the repetition is failed: {reason}; it was killed; exit 0")
            row.finished(trial.complete())
