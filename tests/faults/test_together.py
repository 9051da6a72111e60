"""Two at once in one folder, and a request to end within the budget."""

from pathlib import Path

import pytest

from tests.faults.amounts import dice, times
from tests.faults.diary import Found
from tests.faults.table import Faults, Row
from tests.faults.trial import Ended, Nursery, Trial

pytestmark = pytest.mark.faults
SWEEP = ("sweep", "sweep.yaml", "--results", "out", "--budget", "1h")
COLLECT = ("collect", "sweep.yaml", "--results", "out", "--budget", "1h")


@pytest.mark.parametrize(
    ("first", "second"),
    [(SWEEP, SWEEP), (COLLECT, COLLECT), (COLLECT, SWEEP)],
    ids=["sweeps", "collects", "one of each"],
)
def test_two_at_once(
    first: tuple[str, ...], second: tuple[str, ...], faults: Faults, nursery: Nursery, tmp_path: Path
) -> None:
    """One of them works, the other one is refused and names it; or they come one after the other."""
    with faults.of(f"two at once: {first[0]} and {second[0]}") as row:
        for number in range(times(5)):
            # A night of simulated nodes stores simulated runs.
            trial = Trial(tmp_path / str(number), nursery, command=first, measured=COLLECT not in (first, second))
            children = [trial.start(), trial.start(command=second)]
            ends = [child.whole() for child in children]
            pids = {child.pid for child in children}
            for child, ended in zip(children, ends, strict=True):
                if ended.code == 2:
                    (other,) = pids - {child.pid}
                    assert f"this one is held by pid {other} on " in ended.line
            codes = sorted(ended.code for ended in ends)
            # A collect that finds a sweep between two of its steps goes on, and says so.
            assert codes in ([0, 2], [0, 0], [0, 3]), ends
            named = {2: "one works, the other one is refused and names it, exit 2", 0: "one after the other, exit 0"}
            row.happened(named.get(codes[1], "one works, the other one says what it left out, exit 3"))
            row.finished(finish(trial))


def finish(trial: Trial) -> Found:
    """With a sweep: nights take probes each time."""
    ended = trial.start(command=SWEEP).whole()
    assert ended.code == 0, ended
    return trial.complete()


@pytest.mark.parametrize("kind", ["measured", "simulated"])
def test_sigterm_within_the_budget(kind: str, faults: Faults, nursery: Nursery, tmp_path: Path) -> None:
    """Nothing that was complete is lost, held back or not."""
    rng = dice(f"sigterm {kind}")
    with faults.of(f"SIGTERM within the budget, {kind}") as row:
        trial = Trial(tmp_path / "sweep", nursery, command=SWEEP, measured=kind == "measured")
        for _ in range(times(10)):
            if end_early(trial, SWEEP, rng.randint(1, 40), rng.uniform(0.0, 0.3), row) == 0:
                row.finished(trial.complete())
                trial = Trial(tmp_path / f"sweep-{row.times}", nursery, command=SWEEP, measured=kind == "measured")
        row.finished(trial.resume())


def test_sigterm_of_a_night(faults: Faults, nursery: Nursery, tmp_path: Path) -> None:
    rng = dice("sigterm collect")
    with faults.of("SIGTERM of collect") as row:
        trial = Trial(tmp_path / "night", nursery, command=COLLECT)
        for _ in range(times(5)):
            if end_early(trial, COLLECT, rng.randint(1, 60), rng.uniform(0.0, 0.3), row) == 0:
                break
        row.finished(finish(trial))


def end_early(trial: Trial, command: tuple[str, ...], runs: int, more_s: float, row: Row) -> int:
    """SIGTERM a moment after so many runs were noted; its exit code."""
    before = entries(trial)
    child = trial.start(command=command)
    while entries(trial) < before + runs and child.ended(0.01) is None:
        pass
    if (ended := child.ended(more_s)) is None:
        ended = trial.stop(child)
    if ended.code == 0:
        return 0
    told(ended)
    trial.check()
    row.happened("exit 130: ended by SIGTERM; run the same command again to resume")
    return ended.code


def told(ended: Ended) -> None:
    assert (ended.code, ended.line) == (130, "ended by SIGTERM; run the same command again to resume"), ended


def entries(trial: Trial) -> int:
    return trial.diary.read_bytes().count(b'"stored"') if trial.diary.exists() else 0
