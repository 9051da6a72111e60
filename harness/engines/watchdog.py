"""Sees that an engine has stopped working while there is work, and ends it."""

import threading
import time
from types import TracebackType

import numpy as np

from harness.engines.process import EngineProcess
from harness.engines.steps import StepTail
from harness.points import FloatArray


class Watchdog:
    """While it is entered, a thread that looks about once a second, at next to no cost.

    An engine hangs when, for `limit_s`, its step log has not grown although a request that was due before then is not
    over. It is then killed, so that the connections of whoever waits for it end.

    Args:
        tail: of its step log, at the place where the window begins.
    """

    def __init__(self, process: EngineProcess, tail: StepTail, limit_s: float) -> None:
        self._process, self._tail, self._limit_s = process, tail, limit_s
        self._due_s = np.zeros(0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="engine watchdog", daemon=True)
        self.hung = False
        self.dead = False

    def expect(self, due_s: FloatArray) -> None:
        """Further requests are to be sent at these instants (monotonic), none before those expected already."""
        self._due_s = np.concatenate((self._due_s, np.sort(due_s)))

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        answered, progress_s = 0, time.monotonic()
        while not self._over.wait(min(1.0, self._limit_s / 4)):
            if self._process.exit_code is not None:
                self.dead = True
                return
            now_s = time.monotonic()
            records = self._tail.look()
            if len(records):
                answered, progress_s = answered + len(records.requests), now_s
            due = int(np.searchsorted(self._due_s, now_s - self._limit_s))
            if now_s - progress_s > self._limit_s and answered < due:
                self.hung = self.dead = True
                self._process.kill()
                return
