"""`kill -9` of a sweep at random moments, and of its writer in the middle of a write."""

import random
from pathlib import Path

import pytest

from tests.faults.amounts import dice, kills
from tests.faults.table import Faults, Row
from tests.faults.trial import Nursery, Trial

pytestmark = pytest.mark.faults
LIVES = 12
"""After so many the sweep may end undisturbed."""
TOUCHES = {"append": 400, "compact": 60, "open": 40}
"""Of the disk: an append makes some forty, an append of one run durably some more; a few appends are enough."""


@pytest.fixture(scope="session")
def sweep_s(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long the sweep takes on this machine, undisturbed, once it has its orders."""
    import time

    trial = Trial(tmp_path_factory.mktemp("undisturbed"), nursery, measured=True)
    child = trial.start()
    begun_s = time.monotonic()
    assert child.whole().code == 0
    trial.complete()
    return time.monotonic() - begun_s


@pytest.mark.parametrize("kind", ["measured", "simulated"])
def test_a_sweep_killed_at_any_moment(
    kind: str, faults: Faults, nursery: Nursery, sweep_s: float, tmp_path: Path
) -> None:
    """Measured runs are stored one by one; simulated ones are held back for a moment, and then may be lost."""
    rng = dice(f"sweep {kind}")
    wanted = (kills("sweep") + (kind == "measured")) // 2
    with faults.of(f"kill -9 of a sweep at any moment, {kind}") as row:

        def strike(trial: Trial) -> bool:
            child = trial.start()
            if child.ended(rng.uniform(0.0, 0.6 * sweep_s)) is not None:
                return False
            child.kill()
            child.process.communicate()
            if child.process.returncode == 0:
                return False  # it ended by itself a moment before
            trial.died(child)
            row.happened("killed, without a word; the same command goes on")
            return True

        until_done(row, wanted, tmp_path, nursery, strike, measured=kind == "measured")


@pytest.mark.parametrize("step", TOUCHES)
def test_a_writer_killed_in_mid_write(step: str, faults: Faults, nursery: Nursery, tmp_path: Path) -> None:
    """At a chosen touch of the disk: a file opened, half written, synced or renamed, a link, a folder."""
    rng = dice(f"writer {step}")
    shares = {"append": 0.5, "compact": 0.3, "open": 0.2}
    names = {"append": "in the middle of its four-table write", "compact": "in a compaction", "open": "as it opens"}
    wanted = max(1, round(kills("writer") * shares[step]))
    with faults.of(f"kill -9 of the writer {names[step]}") as row:

        def strike(trial: Trial) -> bool:
            child = trial.start(die_within=step, die_at=at(rng, step, trial))
            ended = child.whole()
            if ended.code == 0:
                return False
            trial.died(child)
            row.happened("killed, without a word; the same command goes on")
            return True

        until_done(row, wanted, tmp_path, nursery, strike, measured=True)


def at(rng: random.Random, step: str, trial: Trial) -> int:
    """Opening a folder that is there already touches little."""
    return rng.randint(1, 8 if step == "open" and trial.lives else TOUCHES[step])


def until_done(row: Row, wanted: int, folder: Path, nursery: Nursery, strike: object, measured: bool) -> None:
    """Strike at one folder after another, each in the end complete."""
    number = 0
    while row.times < wanted:
        number += 1
        assert number <= 10 * wanted, "the sweep ends before it can be killed"
        trial = Trial(folder / str(number), nursery, measured=measured)
        while row.times < wanted and trial.lives < LIVES:
            if not strike(trial):  # type: ignore[operator]
                break
        row.finished(trial.resume())
