"""Reading the tables: always whole runs, also while a writer appends and compacts.

To see a run with all its details, read `runs` first: a run's details are there before it is.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.parquet as pq

from harness.errors import StoreError, UnreadableFile
from harness.schema import SCHEMA_VERSION
from harness.store.layout import (
    Header,
    Segment,
    common_source,
    file_schema,
    read_header,
    require_results,
    table_segments,
)

KEY_COLUMNS = ("point_id", "environment_id", "launch_id", "repetition", "attempt")
"""Columns of `runs` that together are `RunRecord.key`."""
_ROWS_PER_PART = {"runs": 20_000, "requests": 200_000, "iterations": 200_000, "power": 200_000}
"""Some tens of MB in memory."""
_ATTEMPTS = 20
_FORMAT = pds.ParquetFileFormat(
    default_fragment_scan_options=pds.ParquetFragmentScanOptions(page_checksum_verification=True)
)


def read_table(
    results: Path,
    table: str,
    columns: Sequence[str] | None = None,
    filter: pc.Expression | None = None,  # noqa: A002
) -> pa.Table:
    """Rows of one table: `runs`, `requests`, `iterations` or `power`.

    Args:
        columns: which columns; None: all. Columns that an older version did not have are null.
        filter: only rows for which it holds; it may use any column of the table.

    Returns:
        The rows in the order they were written; an empty table where none were.

    Raises:
        BadInput: no such folder.
        StoreRefused: written by a newer harness, or of several sources.
        UnreadableFile: naming a file that is truncated, corrupt or not a segment.
        ValueError: no such table or column (a filter's too).
    """
    require_results(results)
    schema = file_schema(table, "")
    if missing := set(columns or ()) - set(schema.names):
        raise ValueError(f"no column {', '.join(sorted(missing))} in {table}")
    names = schema.names if columns is None else list(columns)
    if filter is not None:
        schema.empty_table().filter(filter)
    for _ in range(_ATTEMPTS):
        try:
            return _read_now(results, table, names, filter)
        except FileNotFoundError:
            # A compaction took the generation away between looking it up and reading it.
            continue
    raise StoreError(f"{results / table}: its files vanish while they are read")


def _read_now(results: Path, table: str, columns: list[str], rows: pc.Expression | None) -> pa.Table:
    headers, parts = [], []
    for segment in table_segments(results, table):
        header, part = read_segment(segment, table, columns, rows)
        headers.append(header)
        parts.append(part)
    source = common_source(headers)
    empty = file_schema(table, source or "").empty_table().select(columns)
    return pa.concat_tables([part.replace_schema_metadata(empty.schema.metadata) for part in parts] or [empty])


def read_segment(
    segment: Segment, table: str, columns: list[str] | None = None, rows: pc.Expression | None = None
) -> tuple[Header, pa.Table]:
    """Header and rows of one segment, through one file handle: the newest may be replaced at any moment.

    Raises:
        UnreadableFile, StoreRefused, FileNotFoundError
    """
    with _unreadable(segment.path), pa.OSFile(str(segment.path)) as handle:
        fragment = _FORMAT.make_fragment(handle)
        header = read_header(fragment.physical_schema, segment.path)
        schema = file_schema(table, header.source)
        _check_columns(fragment, header, schema)
        return header, fragment.to_table(schema=schema, columns=columns, filter=rows)


def _check_columns(fragment: pds.ParquetFileFragment, header: Header, schema: pa.Schema) -> None:
    """Raises pa.ArrowInvalid: a segment of today's version without one of its columns, which would be read as nulls."""
    missing = set(schema.names).difference(fragment.physical_schema.names)
    if missing and header.version == SCHEMA_VERSION:
        raise pa.ArrowInvalid(f"no column {min(missing)}, so it is damaged")


@contextlib.contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableFile(f"{path}: {first_line}; move it out of the results folder") from error


def headers(segments: Iterable[Segment]) -> list[Header]:
    """What each segment says of itself, from its footer.

    Raises:
        UnreadableFile, StoreRefused, FileNotFoundError
    """
    found = []
    for segment in segments:
        with _unreadable(segment.path):
            schema = pq.read_schema(segment.path)
        found.append(read_header(schema, segment.path))
    return found


def row_count(segment: Segment) -> int:
    """Rows of a segment, from its footer."""
    with _unreadable(segment.path):
        return int(pq.read_metadata(segment.path).num_rows)


def stream(segments: Iterable[Segment], table: str, source: str) -> Iterator[pa.Table]:
    """Rows of segments in today's schema, joined into parts that fit in memory, whatever the table's size.

    Raises:
        UnreadableFile, FileNotFoundError
    """
    schema = file_schema(table, source)
    waiting: list[pa.Table] = []
    for segment in segments:
        with _unreadable(segment.path), pa.OSFile(str(segment.path)) as handle:
            fragment = _FORMAT.make_fragment(handle)
            _check_columns(fragment, read_header(fragment.physical_schema, segment.path), schema)
            for group in fragment.split_by_row_group():
                waiting.append(group.to_table(schema=schema).replace_schema_metadata(schema.metadata))
                if sum(part.num_rows for part in waiting) >= _ROWS_PER_PART[table]:
                    yield pa.concat_tables(waiting)
                    waiting = []
    yield pa.concat_tables([schema.empty_table(), *waiting])


def run_ids(runs: pa.Table) -> pa.Array:
    """`RunRecord.run_id` of each row of `runs`, from its key columns."""
    parts = [pc.cast(runs[name], pa.string()) for name in KEY_COLUMNS]
    return pc.binary_join_element_wise(*parts, ".").combine_chunks()
