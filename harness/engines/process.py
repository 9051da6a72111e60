"""An engine's process: below a keeper that ends the whole tree, whatever becomes of the harness; log to a file."""

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.engines.kit import INSIDE
from harness.errors import DiskTooSmall, EngineError, EngineUnavailable

TERM_LIMIT_S = 30.0
"""An engine that was asked to end has so long."""
KILL_LIMIT_S = 15.0
"""The kernel has so long to end what was killed (drivers give GPU memory back then)."""
KEEPER_MARGIN_S = 5.0
TAIL_LINES, TAIL_BYTES = 40, 16384
_STARTED_LIMIT_S = 10.0


class EngineProcess:
    """A running program and everything that it started.

    Args:
        words: program and arguments.
        cpus: that it may use; None: all.

    Raises:
        EngineUnavailable: there is no such program.
        DiskTooSmall: the log cannot be opened.
    """

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        log_path: Path,
        cpus: frozenset[int] | None = None,
        term_limit_s: float = TERM_LIMIT_S,
    ) -> None:
        self.words, self.log_path = tuple(words), log_path
        self._term_limit_s = term_limit_s
        self._said = b""
        self._lock, self._control_lock = threading.Lock(), threading.Lock()
        self._code: int | None = None
        self._left: tuple[int, ...] = ()
        control_read, self._control = os.pipe()
        self._status, status_write = os.pipe()
        limits = (str(term_limit_s), str(KILL_LIMIT_S), ",".join(map(str, sorted(cpus))) if cpus else "-")
        keeper = [sys.executable, "-I", "-S", str(INSIDE / "keeper.py"), str(control_read), str(status_write), *limits]
        try:
            with log_path.open("ab") as log:
                self._keeper = subprocess.Popen(  # noqa: S603 - the words are the user's own command
                    [*keeper, "--", *words],
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(control_read, status_write),
                    start_new_session=True,
                )
        except OSError as error:
            os.close(self._control)
            os.close(self._status)
            raise DiskTooSmall(f"{log_path}: {error}") from error
        finally:
            os.close(control_read)
            os.close(status_write)
        self.started_s = time.monotonic()
        self._wait_started()

    def _wait_started(self) -> None:
        until_s = time.monotonic() + _STARTED_LIMIT_S
        while b"\n" not in self._said and time.monotonic() < until_s:
            self._listen(0.2)
            if self._keeper.poll() is not None:
                self._listen(0.0)
                break
        first = self._said.partition(b"\n")[0].decode("utf-8", "replace")
        if not first.startswith("started "):
            self.stop()
            raise EngineUnavailable(f"cannot start {self.words[0]}: {first.removeprefix('missing ') or 'no answer'}")
        self.pid = int(first.split()[1])

    @property
    def keeper_pid(self) -> int:
        """The root of the tree."""
        return self._keeper.pid

    @property
    def exit_code(self) -> int | None:
        """Of the engine itself, negative for a signal; None while it runs."""
        if self._code is None:
            self._listen(0.0)
            if self._code is None and self._keeper.poll() is not None:
                self._code = -9  # the keeper was killed, and the engine with it
        return self._code

    @property
    def how_it_ended(self) -> str:
        """For messages."""
        code = self.exit_code
        if code is None:
            return "still running"
        return f"ended by signal {-code}" if code < 0 else f"exited with status {code}"

    def tail(self) -> str:
        """The last lines of the log."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def kill(self) -> None:
        """SIGKILL to the whole tree, without waiting for it; `stop` has to be called all the same."""
        with self._control_lock:
            if self._control >= 0:
                with contextlib.suppress(BrokenPipeError):  # the keeper is done
                    os.write(self._control, b"K")

    def stop(self) -> None:
        """End the tree and wait until it is gone; may be called again.

        Raises:
            EngineError: some processes would not end.
        """
        with self._control_lock:
            if self._control < 0:
                return
            os.close(self._control)
            self._control = -1
        try:
            self._keeper.wait(self._term_limit_s + 2 * KILL_LIMIT_S + KEEPER_MARGIN_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        self._listen(0.0)
        os.close(self._status)
        self._status = -1
        if self._code is None:
            self._code = -9
        if self._left:
            raise EngineError(f"processes of the engine would not end: {self._left}", self.tail(), str(self.log_path))

    def _listen(self, limit_s: float) -> None:
        """Take in what the keeper says."""
        with self._lock:
            while self._status >= 0 and select.select((self._status,), (), (), limit_s)[0]:
                data = os.read(self._status, 4096)
                if not data:
                    break
                self._said += data
                limit_s = 0.0
            for line in self._said.decode("utf-8", "replace").splitlines():
                word, _, rest = line.partition(" ")
                if word == "ended" and rest:
                    self._code = int(rest)
                elif word == "left":
                    self._left = tuple(int(pid) for pid in rest.split())
