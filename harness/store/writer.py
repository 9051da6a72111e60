"""The one that writes a results folder: runs are appended whole, and small segments joined."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from harness.errors import StoreRefused
from harness.points import Source
from harness.records import RunBundle
from harness.schema import SCHEMAS, TABLES, tables_of
from harness.store.compact import compact_table, prepare_table
from harness.store.files import check_writable, make_folder, uninterrupted, write_parquet
from harness.store.layout import (
    GENERATIONS,
    Segment,
    common_source,
    file_schema,
    list_segments,
    segment_name,
    table_segments,
)
from harness.store.lock import hold_lock
from harness.store.reader import KEY_COLUMNS, headers, read_segment, read_table, row_count, run_ids, stream

ROWS_PER_SEGMENT = {"runs": 1_000, "requests": 20_000, "iterations": 20_000, "power": 20_000}
"""A segment with so many rows is full. An append writes the whole open segment, so its size is what a run costs."""


@dataclass(frozen=True, slots=True)
class _Open:
    """The segment that the next rows go to, with the rows it has."""

    number: int
    rows: pa.Table


class Writer:
    """Appends runs to a results folder; one per folder, used from one thread.

    Args:
        results: the folder; made if it is not there.
        source: measured or simulated; the two never share a folder.
        owner: names this process to others, such as its command line.
        durable: a run outlives a power failure once `append` has returned. Without it, a run outlives the
            process (kill -9), and what the kernel had not yet written is lost with the power.

    Raises:
        StoreRefused: the folder is in use (naming by whom), not writable, newer, or of another source.
        StoreFull, StoreError, UnreadableFile
    """

    def __init__(self, results: Path, source: Source, owner: str, durable: bool = True) -> None:
        if source not in ("measured", "simulated"):
            raise ValueError(f"a node's runs are measured or simulated, not {source}")
        self._results, self._source, self._durable = results, source, durable
        self._open: dict[str, _Open] = {}
        self._run_ids: set[str] = set()
        self._unsure = False
        self._grown = set(TABLES)
        make_folder(results)
        check_writable(results)
        with contextlib.ExitStack() as held:
            _refuse_foreign(results)
            held.enter_context(hold_lock(results, owner))
            self._check_folder()
            for table in TABLES:
                prepare_table(results, table, source, durable)
            self._recover()
            self._held = held.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the folder go. All runs are in it already."""
        self._held.close()
        self._open.clear()

    def append(self, bundles: Sequence[RunBundle]) -> None:
        """Write runs with their details; when it returns, they are there for every reader.

        Each run is written whole or not at all, all of this call's at one instant; SIGINT and SIGTERM wait until then.

        Raises:
            ValueError: a run that is there already, or of another source, or a null where none may be.
            StoreFull, StoreError: none of the runs was written.
        """
        if bundles:
            with uninterrupted():
                self._append(bundles)

    def _append(self, bundles: Sequence[RunBundle]) -> None:
        rows = tables_of(list(bundles))
        for item in SCHEMAS["runs"]:
            if not item.nullable and rows["runs"][item.name].null_count:
                raise ValueError(f"a run without {item.name}")
        if not pc.all(pc.equal(rows["runs"]["source"], self._source)).as_py():
            raise ValueError(f"a run that is not {self._source}")
        with self._writing([bundle.run.run_id for bundle in bundles]):
            grown = {table: self._grow(table, rows[table]) for table in TABLES if rows[table].num_rows}
            self._open.update(grown)

    def append_parts(self, new_run_ids: Sequence[str], parts: Mapping[str, Iterable[pa.Table]]) -> None:
        """Write many runs as one new segment per table, of any length; none of it is kept in memory.

        Args:
            parts: for each table, its rows in `file_schema`, in parts that become row groups.

        Raises:
            As `append`.
        """
        with self._writing(new_run_ids):
            for table in TABLES:
                filled = (part for part in parts[table] if part.num_rows)
                first = next(filled, None)
                if first is None:
                    continue
                last = self._open[table]
                number = last.number + (last.rows.num_rows > 0)
                self._write(table, number, _chain(first, filled), small=False)
                self._open[table] = _Open(number + 1, last.rows.schema.empty_table())
                self._grown.add(table)

    def compact(self) -> None:
        """Join small segments where there are many; at once where no segment was filled since the last time.

        Raises:
            StoreFull, StoreError, UnreadableFile: the tables are as they were.
        """
        if self._unsure:
            self._recover()
        # Looking takes longer the more segments there are, and is done after every run.
        for table in sorted(self._grown):
            compact_table(self._results, table, self._source, self._open[table].number, self._durable)
            self._grown.discard(table)

    @contextlib.contextmanager
    def _writing(self, new_run_ids: Sequence[str]) -> Iterator[None]:
        """Around a write: refuses runs twice, and after one that broke off looks first at what is on the disk."""
        if not self._open:
            raise ValueError("this writer is closed")
        if self._unsure:
            self._recover()
        known = self._run_ids.intersection(new_run_ids)
        if known or len(set(new_run_ids)) < len(new_run_ids):
            raise ValueError(f"a run that is there already: {min(known, default='twice in one append')}")
        self._unsure = True
        yield
        self._run_ids.update(new_run_ids)
        self._unsure = False

    def _grow(self, table: str, rows: pa.Table) -> _Open:
        """Replace a table's open segment by itself and `rows`; returns what is open afterwards.

        One append touches one file per table, the newest: only there can a kill leave rows without their run.
        """
        last = self._open[table]
        added = pa.Table.from_arrays(rows.columns, schema=last.rows.schema)
        grown = pa.concat_tables([last.rows, added]).combine_chunks()
        self._write(table, last.number, [grown], small=True)
        if grown.num_rows >= ROWS_PER_SEGMENT[table]:
            self._grown.add(table)
            return _Open(last.number + 1, grown.schema.empty_table())
        return _Open(last.number, grown)

    def _write(self, table: str, number: int, parts: Iterable[pa.Table], small: bool) -> None:
        path = self._results / table / segment_name(number, number)
        write_parquet(path, file_schema(table, self._source), parts, small, self._durable)

    def _check_folder(self) -> None:
        """Refuse a folder that is newer or of another source before anything in it is touched."""
        segments = [segment for table in TABLES for segment in table_segments(self._results, table)]
        source = common_source(headers(segments))
        if source not in (None, self._source):
            raise StoreRefused(
                "results",
                str(self._results),
                f"a folder of {self._source} runs; this one holds {source} runs, and the two are never mixed",
                "choose another with --results",
            )

    def _recover(self) -> None:
        """Take the state from the disk: which runs are there, what the open segments hold, no orphans."""
        self._run_ids = set(run_ids(read_table(self._results, "runs", KEY_COLUMNS)).to_pylist())
        for table in TABLES:
            newest = list_segments(self._results / table)[-1]
            if table != "runs":
                self._drop_orphans(table, newest)
            empty = file_schema(table, self._source).empty_table()
            if newest.first == newest.last and row_count(newest) < ROWS_PER_SEGMENT[table]:
                self._open[table] = _Open(newest.last, pa.concat_tables([empty, read_segment(newest, table)[1]]))
            else:
                self._open[table] = _Open(newest.last + 1, empty)
        self._unsure = False

    def _drop_orphans(self, table: str, newest: Segment) -> None:
        """Detail rows whose run was never written: a kill came between the tables."""
        _, ids = read_segment(newest, table, ["run_id"])
        orphans = set(pc.unique(ids["run_id"]).to_pylist()) - self._run_ids
        if orphans:
            gone = pa.array(orphans, pa.string())
            kept = (
                part.filter(pc.invert(pc.is_in(part["run_id"], gone))) for part in stream([newest], table, self._source)
            )
            write_parquet(newest.path, file_schema(table, self._source), kept, small=False, durable=self._durable)


def _refuse_foreign(results: Path) -> None:
    """A folder with other things in it is not one to fill with tables."""
    visible = sorted(path.name for path in results.iterdir() if not path.name.startswith("."))
    if visible and not (results / GENERATIONS).is_dir() and not set(visible) & set(TABLES):
        raise StoreRefused(
            "results", str(results), f"a new or empty folder, or one with results; this one holds {visible[0]}"
        )


def _chain(first: pa.Table, rest: Iterable[pa.Table]) -> Iterable[pa.Table]:
    yield first
    yield from rest
