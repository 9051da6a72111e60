"""One results folder in which things go wrong: the command that fills it, the processes it ran in, what must hold."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import REPOSITORY
from tests.faults.child import Orders
from tests.faults.diary import Found, check, check_complete
from tests.integration.support import environment
from tests.unit.builders import write_sweep

LONGEST_S = 600.0
"""On a machine that is busy with other things; nothing is expected to take long."""
SWEEP = (
    ("[dgx-h100]", "[dgx-h100, dgx-a100]"),
    ("sizes: [1, 8]", "sizes: [1, 8, 16]"),
    ("prompt_tokens: [128]", "prompt_tokens: [64, 128]"),
    ("repetitions: 2", "repetitions: 5"),
)
RUNS = 2 * 2 * 6 * 5
"""Kinds of node x parallelisms x batches x repetitions."""


class Ended:
    """How a process ended: its exit code (negative: a signal), and what it said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in err, err

    @property
    def line(self) -> str:
        """The one line on standard error that says what was wrong."""
        said = [line for line in self.err.splitlines() if line.startswith("harness: ")]
        assert len(said) == 1, f"{self.code}: {self.out}\n{self.err}"
        return said[0].removeprefix("harness: ")

    def __repr__(self) -> str:
        return f"{self.code}: {self.err[-2000:]}"


class Child:
    """A process that has imported everything and waits for its orders."""

    def __init__(self, library: Path | None) -> None:
        more = {} if library is None else {"LD_LIBRARY_PATH": str(library.parent)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.child"], cwd=REPOSITORY, env=environment(**more), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    def begin(self, orders: Orders) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()[1]
        self.process.stdin.write(json.dumps(asdict(orders)) + "\n")
        self.process.stdin.flush()

    def ended(self, after_s: float = LONGEST_S) -> Ended | None:
        """How it ended; None where it still runs after so long."""
        try:
            out, err = self.process.communicate(timeout=after_s)
        except subprocess.TimeoutExpired:
            return None
        return Ended(self.process.returncode, out, err)

    def whole(self) -> Ended:
        ended = self.ended()
        assert ended is not None, f"still running after {LONGEST_S:g} s"
        return ended

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def relatives(self) -> list[psutil.Process]:
        """What it has started and left; it must have ended."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.pid:
                    found.append(process)
            except OSError:
                continue
        return found


class Nursery:
    """Keeps processes ready, since they take a second to import what they need."""

    def __init__(self, library: Path | None, ahead: int = 2) -> None:
        self._library = library
        self._waiting = [Child(library) for _ in range(ahead)]
        self._given: list[Child] = []

    def take(self) -> Child:
        self._waiting.append(Child(self._library))
        self._given.append(self._waiting.pop(0))
        return self._given[-1]

    def close(self) -> None:
        for child in (*self._waiting, *self._given):
            if child.process.poll() is None:
                child.kill()
                child.process.communicate()


class Trial:
    """A folder with a sweep file, its results, and the diary of all processes that wrote there.

    Args:
        text: another sweep file than that of simulated nodes.
        expected: runs of the whole sweep.
        command: the command line, always the same.
        orders: what all of its processes have in common.
    """

    def __init__(
        self,
        folder: Path,
        nursery: Nursery,
        *changes: tuple[str, str],
        text: str = "",
        expected: int = RUNS,
        command: tuple[str, ...] = ("sweep", "sweep.yaml", "--results", "out"),
        **orders: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if text:
            write_sweep(folder, *changes, text=text)
        else:
            write_sweep(folder, *SWEEP, *changes)
        self.folder, self.results, self.diary = folder, folder / "out", folder / "diary"
        self.expected, self._nursery, self._command = expected, nursery, command
        self._orders = {"cwd": str(folder), "diary": str(self.diary), **orders}
        self._losers: set[int] = set()
        self._stopped: set[int] = set()
        self.lives = 0

    @property
    def held(self) -> bool:
        """Simulated runs are held back for a moment."""
        return not self._orders.get("measured", False)

    def start(self, *more: str, command: tuple[str, ...] = (), **orders: Any) -> Child:
        child = self._nursery.take()
        child.begin(Orders(**{"argv": [*(command or self._command), *more], **self._orders, **orders}))
        self.lives += 1
        return child

    def may_lose(self, child: Child) -> None:
        """The run in hand, since it was killed or could not write."""
        self._losers.add(child.pid)

    def stop(self, child: Child) -> Ended:
        """Ask it to end."""
        self._stopped.add(child.pid)
        child.kill(signal.SIGTERM)
        return child.whole()

    def kill(self, child: Child) -> Found:
        child.kill()
        child.process.communicate()
        return self.died(child)

    def died(self, child: Child) -> Found:
        assert child.process.returncode == -signal.SIGKILL, child.process.returncode
        assert not child.relatives(), "it left a process behind"
        self.may_lose(child)
        return self.check()

    def check(self, reopened: bool = False) -> Found:
        return check(self.diary, self.results, self._losers, self.held, reopened, self._stopped)

    def resume(self, *more: str, code: int = 0) -> Found:
        """The same command to its end: complete, and nothing twice."""
        ended = self.start(*more).whole()
        assert ended.code == code, ended
        return self.complete()

    def complete(self) -> Found:
        check_complete(self.results, self.expected)
        return self.check(reopened=True)


@contextmanager
def killed_in_the_end(child: Child) -> Iterator[Child]:
    """So that a test that fails leaves nothing running."""
    try:
        yield child
    finally:
        if child.process.poll() is None:
            child.kill()
            child.process.communicate()
