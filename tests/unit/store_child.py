"""A process of its own that writes a results folder, to be killed or to run out of space.

python -m tests.unit.store_child append DIR FIRST DIE_AT     one run after another, a line for each that is stored
python -m tests.unit.store_child fill DIR                    until the disk is full; prints what it had stored
"""

import os
import signal
import sys
from pathlib import Path

from harness.errors import StoreFull
from harness.store import Writer, compact, writer
from tests.unit.store_factory import make_bundle

_CHANGES = ("os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir")


def small_segments() -> None:
    """Segments and compactions of a few runs, so that all of it happens within a second."""
    writer.ROWS_PER_SEGMENT.update(runs=3, requests=40, iterations=50, power=500)
    compact.MOST_SEGMENTS = 3


def die_at(count: int) -> None:
    """End by SIGKILL just before the `count`-th change of names on the disk."""
    changes = 0

    def hook(event: str, arguments: object) -> None:
        nonlocal changes
        if event in _CHANGES:
            changes += 1
            if changes == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def append(results: Path, first: int, at: int) -> None:
    small_segments()
    sys.stdin.readline()
    if at:
        die_at(at)
    with Writer(results, "simulated", "child", durable=False) as out:
        print("open", flush=True)
        for number in range(first, first + 10_000):
            bundle = make_bundle(number, details=number % 4 != 0)
            out.append([bundle])
            print(bundle.run.run_id, flush=True)
            if number % 3 == 0:
                out.compact()


def fill(results: Path) -> None:
    with Writer(results, "simulated", "child", durable=True) as out:
        try:
            for number in range(10_000):
                out.append([make_bundle(number)])
        except StoreFull as error:
            print(number, error)


if __name__ == "__main__":
    if sys.argv[1] == "append":
        append(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        fill(Path(sys.argv[2]))
