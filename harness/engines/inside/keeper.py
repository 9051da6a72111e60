"""Runs an engine and outlives it: when the harness goes away, for whatever reason, the engine's whole tree is ended.

    python keeper.py CONTROL_FD STATUS_FD TERM_LIMIT_S KILL_LIMIT_S CPUS -- WORD...

The harness holds the other end of CONTROL_FD's pipe. That it closes means stop, as it does by itself when the harness
is killed; a byte in it means kill at once. Being a subreaper, the keeper inherits processes whose parents died, so none
escapes by leaving its group or session. Stopping: SIGTERM to the engine's group; at its limit, or once the engine is
gone, SIGTERM and then SIGKILL to everything that is left. CPUS is a comma list that the engine may use, or "-".
On STATUS_FD it writes `started PID`, then `ended CODE` (negative: the signal), or `missing ERROR` where the program
could not be started, and at last `left PID...`, those that would not end (empty: none).

Standard library only.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""From linux/prctl.h."""
LOOK_S = 0.05
STRAY_LIMIT_S = 2.0
"""What an engine leaves behind has so long after SIGTERM."""


def main(words: list[str]) -> int:
    control_fd, status_fd = int(words[0]), int(words[1])
    term_limit_s, kill_limit_s = float(words[2]), float(words[3])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # The harness decides when it is over, not the terminal or the scheduler of a cluster.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    if words[4] != "-":
        os.sched_setaffinity(0, {int(cpu) for cpu in words[4].split(",")})

    def before_exec() -> None:
        for restored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(restored, signal.SIG_DFL)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def say(line: str) -> None:
        try:
            os.write(status_fd, (line + "\n").encode())
        except OSError:
            return  # the harness is gone

    try:
        engine = subprocess.Popen(  # noqa: S603 - the words are the user's own command
            words[6:], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=before_exec
        )
    except OSError as error:
        say(f"missing {error}")
        return 1
    say(f"started {engine.pid}")
    code = _wait(engine.pid, (control_fd, wake_read), None)
    if code is None and not os.read(control_fd, 1):
        _signal_group(engine.pid, signal.SIGTERM)
        code = _wait(engine.pid, (wake_read,), time.monotonic() + term_limit_s)
    if code is not None:
        say(f"ended {code}")
        _end_all(signal.SIGTERM, STRAY_LIMIT_S)
    left = _end_all(signal.SIGKILL, kill_limit_s)
    if code is None:
        say("ended -9")
    say("left " + " ".join(str(pid) for pid in left))
    return 0


def _wait(pid: int, fds: "tuple[int, ...]", until_s: "float | None") -> "int | None":
    """The exit code of `pid` (negative: a signal); None once the first of `fds` has ended or time is up."""
    control = fds[0] if len(fds) == 2 else -1
    while True:
        code = _reap(pid)
        if code is not None:
            return code
        left_s = None if until_s is None else until_s - time.monotonic()
        if left_s is not None and left_s <= 0:
            return None
        readable, _, _ = select.select(fds, (), (), left_s)
        if control in readable:
            return None
        if fds[-1] in readable:
            os.read(fds[-1], 4096)


def _reap(wanted: int) -> "int | None":
    """Collect every dead child; the exit code of `wanted`, if it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == wanted:
            code = os.waitstatus_to_exitcode(status)


def _end_all(number: int, limit_s: float) -> list[int]:
    """Signal all descendants, also those that appear meanwhile; those that are there at the limit."""
    until_s, told = time.monotonic() + limit_s, set()
    while True:
        _reap(-1)
        alive = descendants(os.getpid())
        if not alive or time.monotonic() >= until_s:
            return alive
        for pid in alive:
            if pid not in told:
                told.add(pid)
                _signal(pid, number)
        time.sleep(LOOK_S)


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def descendants(root: int) -> list[int]:
    """All processes below `root`, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The name, in brackets, may hold anything; the parent comes second after it.
            fields = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    front = [root]
    while front:
        front = [child for pid in front for child in children.get(pid, ())]
        found += front
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
