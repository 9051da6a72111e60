"""Files that appear whole or not at all, and disk errors in plain words."""

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import StoreError, StoreFull, StoreRefused

_FILE_MODE, _FOLDER_MODE = 0o664, 0o775
"""Before the umask: never writable by everyone."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while writing `path` into a StoreFull or a StoreError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(f"{path}: {error.strerror}; earlier runs are intact, free some space and resume") from error
        raise StoreError(f"{path}: {error.strerror or error}") from error


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until this is over: they would drop the completed runs that are being written.

    Their handlers are those of the main thread; in another one nothing is interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = {number: handler for number, handler in handlers.items() if handler is not None}
    try:
        for number in ours:
            signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises:
        StoreRefused: something is in the way.
    """
    try:
        for path in reversed([folder, *folder.parents]):
            if not path.exists():
                path.mkdir(_FOLDER_MODE, exist_ok=True)
        next(folder.iterdir(), None)
    except OSError as error:
        raise _not_writable(folder, error) from error


def check_writable(folder: Path) -> None:
    """Write a byte to be sure: permission bits say nothing to root, nor on a read-only mount.

    Raises:
        StoreRefused, StoreFull
    """
    probe = folder / ".probe"
    try:
        with open_new(probe) as handle:
            handle.write(b"\n")
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(f"{folder}: {error.strerror}") from error
        raise _not_writable(folder, error) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _not_writable(folder: Path, error: OSError) -> StoreRefused:
    detail = f"{folder} ({error.strerror})"
    return StoreRefused("results", detail, "a folder that can be written to", "choose another with --results")


def open_new(path: Path) -> BinaryIO:
    """Open a file for writing, empty."""
    return open(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, _FILE_MODE), "wb")  # noqa: PTH123


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file that is there whole or not at all, on the disk when this returns.

    Raises:
        StoreFull, StoreError: it cannot be written; what was there before is.
    """
    make_folder(path.parent)
    waiting = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            with open_new(waiting) as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            waiting.replace(path)
            sync_folder(path.parent)
        finally:
            waiting.unlink(missing_ok=True)


def write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table], small: bool, durable: bool) -> None:
    """Write a Parquet file, one row group per table, and put it in the place of `path` in one step.

    Its pages have checksums: of numbers, most damaged bytes would be read as other numbers.

    Args:
        small: a segment that will be written again soon: quick to encode rather than compact.
        durable: it is on the disk when this returns, not only in the page cache.

    Raises:
        StoreFull, StoreError: `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    # Numbers hardly ever repeat, so a dictionary of them only costs time.
    words = [item.name for item in schema if pa.types.is_string(item.type)]
    codec = {"compression": "snappy"} if small else {"compression": "zstd", "compression_level": 3}
    with disk_errors(path):
        try:
            with open_new(temporary) as handle:
                with pq.ParquetWriter(
                    handle, schema, use_dictionary=words, write_statistics=not small, write_page_checksum=True, **codec
                ) as out:
                    for table in tables:
                        if table.num_rows:
                            out.write_table(table)
                if durable:
                    handle.flush()
                    os.fsync(handle.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if durable:
            sync_folder(path.parent)
