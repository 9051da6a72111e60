"""One writer, and one nightly job, per results folder: advisory locks that free themselves when their owner dies."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import StoreRefused
from harness.store.files import disk_errors
from harness.store.layout import LOCK

_FILE_MODE = 0o664
_PATIENCE_S, _PAUSE_S = 0.2, 0.02
"""A reader that asks for the owner holds the lock for an instant, so the first refusal is not the last word."""
_HELD = (errno.EWOULDBLOCK, errno.EACCES)


@contextlib.contextmanager
def hold_lock(results: Path, command: str, name: str = LOCK) -> Iterator[None]:
    """Hold a lock of the folder, by default the writer's; its file names this process and `command`.

    The lock is flock(2): the kernel drops it when the process ends, however it ends. The file stays.

    Args:
        name: of the lock's file in the folder.

    Raises:
        StoreRefused: another process holds it, or the file system has no locks.
        StoreFull, StoreError: the owner's name could not be written.
    """
    path = results / name
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, _FILE_MODE)
    try:
        _take(descriptor, path)
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": command,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with disk_errors(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (json.dumps(owner) + "\n").encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _HELD:
                fix = "choose --results on a local disk or an NFS mount with locks"
                raise StoreRefused(
                    "results", f"{path} ({error.strerror})", "a file system with file locks", fix
                ) from error
            if time.monotonic() > deadline_s:
                raise _in_use(path.parent, _describe(path)) from None
            time.sleep(_PAUSE_S)
        else:
            return


def check_free(results: Path) -> None:
    """Refuse a folder that somebody is writing to, before anything is begun for it.

    Raises:
        StoreRefused: naming by whom.
    """
    if owner := lock_owner(results):
        raise _in_use(results, owner)


def _in_use(results: Path, owner: str) -> StoreRefused:
    accepted = f"a folder that nobody else is writing to; this one is held by {owner}"
    return StoreRefused("results", str(results), accepted, "wait for it to end, or choose another with --results")


def lock_owner(results: Path) -> str:
    """Who is writing to a folder, in words (`pid 17 on node-1 since ...: harness sweep ...`), or ""."""
    path = results / LOCK
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return _describe(path) if error.errno in _HELD else ""
    finally:
        os.close(descriptor)
    return ""


def _describe(path: Path) -> str:
    try:
        owner = json.loads(path.read_text("utf-8"))
        return f"pid {owner['pid']} on {owner['host']} since {owner['since']}: {owner['command']}"
    except (OSError, ValueError, KeyError, TypeError):
        # Between taking the lock and writing its name.
        return "another process"
