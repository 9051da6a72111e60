"""Where things lie in a results folder, and what each segment says of itself.

    DIR/.lock                           held by the writer
    DIR/runs -> .generations/runs-000007    what readers follow; so for each of the four tables
    DIR/.generations/runs-000007/
        000001-000033.parquet           segments joined by a compaction
        000034.parquet                  a segment
        000035.parquet                  the newest: replaced by itself + new rows, until it is full

A segment's name is the range of its number(s); two segments with one name hold the same rows, except the
newest, which only grows. Names that start with a dot or an underscore are nobody's business but the writer's.
"""

import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from harness.errors import BadInput, StoreRefused, UnreadableFile
from harness.schema import SCHEMA_VERSION, SCHEMAS, TABLES

GENERATIONS = ".generations"
LOCK = ".lock"
VERSION_KEY = b"harness.schema_version"
SOURCE_KEY = b"harness.source"
_SEGMENT = re.compile(r"(\d{6})(?:-(\d{6}))?\.parquet")
_GENERATION = re.compile(r"([a-z]+)-(\d{6})")
_MOVE_AWAY = "move it out of the results folder"


@dataclass(frozen=True, slots=True)
class Segment:
    """One Parquet file of a table: the rows of segments `first` to `last`."""

    path: Path
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment says of itself in its schema's metadata."""

    path: Path
    version: int
    source: str


def segment_name(first: int, last: int) -> str:
    return f"{first:06d}.parquet" if first == last else f"{first:06d}-{last:06d}.parquet"


def generation_name(table: str, number: int) -> str:
    return f"{table}-{number:06d}"


def generation_number(name: str) -> int:
    """The number in a generation's name; 0 for a folder that is not named like one."""
    match = _GENERATION.fullmatch(name)
    return int(match[2]) if match else 0


def generations(results: Path, table: str) -> list[Path]:
    """Complete generations of a table, oldest first."""
    folder = results / GENERATIONS
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if (match := _GENERATION.fullmatch(path.name)) and match[1] == table)


def current_generation(results: Path, table: str) -> Path | None:
    """The folder that holds a table's segments now; None where the table was never written.

    A table may also be a plain folder (copied by something that follows links), and where the link is lost
    (copied by something that leaves links out) the newest complete generation stands for it.

    Raises:
        UnreadableFile: a link that leads nowhere, and no generation to stand for it.
    """
    place = results / table
    try:
        return place.resolve(strict=True)
    except FileNotFoundError:
        complete = generations(results, table)
        if not complete and place.is_symlink():
            raise UnreadableFile(f"{place}: leads nowhere; copy {GENERATIONS} along with it, or remove it") from None
        return complete[-1] if complete else None
    except (OSError, RuntimeError):
        # pathlib has an error of its own for a link that leads to itself.
        raise UnreadableFile(f"{place}: cannot be followed; {_MOVE_AWAY}") from None


def list_segments(folder: Path) -> list[Segment]:
    """Segments of a generation, in the order of their numbers.

    Raises:
        FileNotFoundError: a compaction has taken the generation away; look up the current one again.
        UnreadableFile: something that is not a segment lies in the folder.
    """
    segments = []
    try:
        paths = sorted(folder.iterdir())
    except NotADirectoryError:
        raise UnreadableFile(f"{folder}: a file where a table's folder should be; {_MOVE_AWAY}") from None
    for path in paths:
        if path.name.startswith((".", "_")):
            continue
        match = _SEGMENT.fullmatch(path.name)
        # A pipe would be waited for without end.
        if match is None or not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableFile(f"{path}: not one of the harness's segments; {_MOVE_AWAY}")
        segments.append(Segment(path, int(match[1]), int(match[2] or match[1])))
    # A generation is renamed before its files go, so a listing that ends with the folder in place is whole.
    folder.stat()
    return segments


def require_results(results: Path) -> None:
    """Raises BadInput where there is no such folder."""
    if not results.is_dir():
        raise BadInput("results", str(results), "a results folder", "run a sweep into it, or check the path")


def file_schema(table: str, source: str) -> pa.Schema:
    """The schema of today's segments: that of the table, all nullable (rows of older versions lack columns).

    Raises:
        ValueError: no such table.
    """
    if table not in TABLES:
        raise ValueError(f"no table {table!r}; there are {', '.join(TABLES)}")
    schema = SCHEMAS[table]
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode(), SOURCE_KEY: source.encode()}
    return pa.schema([item.with_nullable(True) for item in schema], metadata)


def read_header(schema: pa.Schema, path: Path) -> Header:
    """Version and source of the segment whose schema this is.

    Raises:
        UnreadableFile: a Parquet file of something else.
        StoreRefused: written by a newer harness.
    """
    metadata = schema.metadata or {}
    try:
        header = Header(path, int(metadata[VERSION_KEY]), metadata[SOURCE_KEY].decode())
    except (KeyError, ValueError):
        raise UnreadableFile(f"{path}: Parquet, but not written by the harness; {_MOVE_AWAY}") from None
    if header.version > SCHEMA_VERSION:
        raise StoreRefused(
            "results",
            str(path),
            f"schema versions up to {SCHEMA_VERSION}; this file has version {header.version}",
            "upgrade the harness",
        )
    return header


def common_source(headers: Iterable[Header]) -> str | None:
    """The one source of all segments, or None where there are none.

    Raises:
        StoreRefused: measured and simulated segments lie together.
    """
    by_source = {header.source: header.path for header in headers}
    if len(by_source) > 1:
        example = ", ".join(f"{path} is {source}" for source, path in sorted(by_source.items()))
        raise StoreRefused("results", example, "segments of one source in a folder", "keep them in two folders")
    return next(iter(by_source), None)


def table_segments(results: Path, table: str) -> list[Segment]:
    """Segments of a table as it is now; none where it was never written.

    Raises:
        FileNotFoundError, UnreadableFile: as `list_segments`.
    """
    folder = current_generation(results, table)
    return [] if folder is None else list_segments(folder)
