"""A disk that fills up in mid-write, and a folder that becomes read-only under a sweep."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.amounts import dice, times
from tests.faults.table import Faults
from tests.faults.test_together import entries
from tests.faults.trial import Child, Nursery, Trial

pytestmark = pytest.mark.faults
ROOM = "earlier runs are intact, free some space and resume"


def shell(*words: object) -> None:
    subprocess.run([*map(str, words)], check=True, capture_output=True)


@pytest.mark.parametrize("kind", ["measured", "simulated"])
def test_a_disk_full_in_mid_write(kind: str, faults: Faults, nursery: Nursery, mounts: bool, tmp_path: Path) -> None:
    """On a file system of some hundred kB; where none can be mounted, with files that may not get longer."""
    rng = dice(f"full {kind}")
    how = "a small tmpfs" if mounts else "a limit on the length of files"
    with faults.of(f"disk full in mid-write, {kind} ({how})") as row:
        for number in range(times(5)):
            trial = Trial(tmp_path / str(number), nursery, measured=kind == "measured")
            trial.results.mkdir()
            size_kb = rng.randint(100, 300) if mounts else rng.randint(12, 24)
            if mounts:
                shell("mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", trial.results)
            try:
                child = trial.start(file_limit_bytes=0 if mounts else size_kb << 10)
                ended = child.whole()
                trial.may_lose(child)
                assert ended.code == 1, f"with {size_kb} kB: {ended}"
                assert ended.line.endswith(ROOM), ended.line
                cause = ended.line.removesuffix(f"; {ROOM}").rpartition(": ")[2]
                trial.check()
                if mounts:
                    shell("mount", "-o", "remount,size=500m", trial.results)
                row.happened(f"exit 1: FILE: {cause}; {ROOM}")
                row.finished(trial.resume())
            finally:
                if mounts:
                    shell("umount", trial.results)


def test_a_folder_turned_read_only_in_mid_sweep(faults: Faults, nursery: Nursery, mounts: bool, tmp_path: Path) -> None:
    """By a mount above it; for others than root, who may write everywhere, by its permissions."""
    if os.geteuid() == 0 and not mounts:
        pytest.skip("root that may not mount cannot make a folder read-only")
    rng = dice("read-only")
    with faults.of("results folder turned read-only in mid-sweep") as row:
        for number in range(times(5)):
            trial = Trial(tmp_path / str(number), nursery, measured=True)
            child = trial.start()
            wait_for(trial, child, rng.randint(1, 40))
            writable = read_only(trial.results, mounts)
            try:
                ended = child.whole()
                trial.may_lose(child)
                reason = "Read-only file system" if mounts else "Permission denied"
                assert (ended.code, ended.line.rpartition(": ")[2]) == (1, reason), ended
                trial.check()
                again = trial.start().whole()
                assert again.code == 2, again
                assert f"({reason})'; accepted: a folder that can be written to" in again.line
            finally:
                writable()
            row.happened(f"exit 1: FILE: {reason}; again: exit 2, a folder that can be written to is asked for")
            row.finished(trial.resume())


def wait_for(trial: Trial, child: Child, runs: int) -> None:
    while entries(trial) < runs:
        assert child.ended(0.01) is None, "it ended before anything went wrong"


def read_only(results: Path, mounts: bool) -> Callable[[], object]:
    """Make it so; the result undoes it."""
    if mounts:
        # Made aside and put on top: what has files open for writing, such as its lock, cannot be made read-only.
        aside = results.with_name("aside")
        aside.mkdir(exist_ok=True)
        shell("mount", "--bind", results, aside)
        shell("mount", "-o", "remount,bind,ro", aside)
        shell("mount", "--bind", aside, results)
        return lambda: (shell("umount", results), shell("umount", aside))
    folders = [results, *(path for path in results.rglob("*") if path.is_dir() and not path.is_symlink())]
    for folder in folders:
        folder.chmod(0o555)

    def undo() -> None:
        for folder in folders:
            if folder.exists():
                folder.chmod(0o755)

    return undo
