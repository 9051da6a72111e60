"""Generations: how a table's folder is replaced as a whole, in one step.

A new generation is built aside, out of hard links and rewritten segments, and then the table's link is moved to
it. The one before stays until the next time, for readers that have just looked it up.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.schema import SCHEMA_VERSION
from harness.store.files import disk_errors, make_folder, sync_folder, write_parquet
from harness.store.layout import (
    GENERATIONS,
    Segment,
    current_generation,
    file_schema,
    generation_name,
    generation_number,
    generations,
    list_segments,
    segment_name,
    table_segments,
)
from harness.store.reader import headers, stream

MOST_SEGMENTS = 32
"""More small segments than this are worth joining."""
SMALL_BYTES = 32 << 20
_ASIDE = "."
"""What a generation's name begins with while it is being built or taken away."""


def prepare_table(results: Path, table: str, source: str, durable: bool) -> None:
    """Bring a table into the shape the writer works on, whatever a kill or a copy left behind.

    Afterwards the table is a link to its only or second generation, which has at least one segment (perhaps
    without rows, so that there are columns to read), all of today's schema.

    Raises:
        StoreFull, StoreError, UnreadableFile
    """
    make_folder(results / GENERATIONS)
    place = results / table
    with disk_errors(place):
        complete = generations(results, table)
        if place.is_dir() and not place.is_symlink():
            newest = generation_number(complete[-1].name) if complete else 0
            place.rename(results / GENERATIONS / generation_name(table, newest + 1))
        current = current_generation(results, table)
        if current is None:
            current = results / GENERATIONS / generation_name(table, 1)
            make_folder(current)
        if not place.exists():
            _point(results, table, current, durable)
        _clear(results, table, current)
        for left in (*current.glob(".*.tmp"), _new_link(results, table)):
            left.unlink(missing_ok=True)
    segments = list_segments(current)
    if not segments:
        schema = file_schema(table, source)
        write_parquet(current / segment_name(1, 1), schema, [schema.empty_table()], small=True, durable=durable)
    older = [header.path for header in headers(segments) if header.version < SCHEMA_VERSION]
    if older:
        _rebuild(results, table, source, [[segment] for segment in segments], older, durable)


def compact_table(results: Path, table: str, source: str, first_open: int, durable: bool) -> bool:
    """Join small segments once there are many; those numbered `first_open` and later stay as they are.

    Returns:
        Whether there was something to do.

    Raises:
        StoreFull, StoreError, UnreadableFile: the table is as it was.
    """
    groups = _groups(table_segments(results, table), first_open)
    joins = any(len(group) > 1 for group in groups)
    if joins:
        _rebuild(results, table, source, groups, (), durable)
    return joins


def _groups(segments: Sequence[Segment], first_open: int) -> list[list[Segment]]:
    """Neighbours to be joined; all alone while there are few small ones."""
    sizes = [segment.path.stat().st_size for segment in segments]
    small = [size < SMALL_BYTES and segment.last < first_open for segment, size in zip(segments, sizes, strict=True)]
    if sum(small) <= MOST_SEGMENTS:
        return [[segment] for segment in segments]
    groups: list[list[Segment]] = []
    room = 0
    for segment, size, joinable in zip(segments, sizes, small, strict=True):
        if joinable and room > 0:
            groups[-1].append(segment)
        else:
            groups.append([segment])
            room = SMALL_BYTES
        room = room - size if joinable else 0
    return groups


def _rebuild(
    results: Path, table: str, source: str, groups: Sequence[Sequence[Segment]], older: Sequence[Path], durable: bool
) -> None:
    """Put a new generation in place: one segment per group, written anew where it joins several or is older."""
    current = current_generation(results, table)
    assert current is not None
    number = generation_number(current.name) + 1
    aside = results / GENERATIONS / f"{_ASIDE}{generation_name(table, number)}"
    complete = results / GENERATIONS / generation_name(table, number)
    with disk_errors(complete):
        try:
            _clear(results, table, current)
            make_folder(aside)
            for group in groups:
                target = aside / segment_name(group[0].first, group[-1].last)
                if len(group) == 1 and group[0].path not in older:
                    _link(group[0].path, target, durable)
                else:
                    parts = stream(group, table, source)
                    write_parquet(target, file_schema(table, source), parts, small=False, durable=durable)
            if durable:
                sync_folder(aside)
            for older_generation in generations(results, table):
                if older_generation.name < current.name:
                    _discard(older_generation)
            aside.rename(complete)
            _point(results, table, complete, durable)
        finally:
            # Nothing is left of it when it went well.
            shutil.rmtree(aside, ignore_errors=True)


def _link(path: Path, target: Path, durable: bool) -> None:
    try:
        target.hardlink_to(path)
    except OSError:
        # Some cluster file systems have no hard links.
        shutil.copy2(path, target)
        if durable:
            with target.open("rb") as copy:
                os.fsync(copy.fileno())


def _point(results: Path, table: str, generation: Path, durable: bool) -> None:
    """Let the table be `generation` from now on; one rename."""
    temporary = _new_link(results, table)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path(GENERATIONS) / generation.name)
    temporary.replace(results / table)
    if durable:
        sync_folder(results / GENERATIONS)
        sync_folder(results)


def _new_link(results: Path, table: str) -> Path:
    return results / f".{table}.tmp"


def _clear(results: Path, table: str, current: Path) -> None:
    """Take away what a kill left: generations half built, half removed, or complete but never pointed to."""
    for path in (results / GENERATIONS).glob(f"{_ASIDE}{table}-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in generations(results, table):
        if path.name > current.name:
            _discard(path)


def _discard(generation: Path) -> None:
    """Rename first, so that no reader lists a folder that is losing its files. NFS may keep a remnant for a while."""
    aside = generation.with_name(f"{_ASIDE}{generation.name}-old")
    generation.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
