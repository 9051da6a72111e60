"""Folders of several nodes into one, each run once."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from harness.errors import BadInput, StoreError, StoreRefused
from harness.points import Source
from harness.schema import TABLES
from harness.store.layout import common_source, require_results, table_segments
from harness.store.reader import headers, run_ids, stream
from harness.store.writer import Writer

_SHOWN = 3
_TELLS_OF = {"requests": "requests", "iterations": "gap_fraction", "power": "gpu_power_integral_j"}
"""By table of details, the column of `runs` that has a value, other than 0, only where the run has rows there."""


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What one folder gave.

    Attributes:
        added: runs that were new.
        already_there: runs that the target had.
        left_out: runs without the details that they tell of: the folder was copied while they were written.
        empty: it has no runs.
    """

    path: Path
    added: int = 0
    already_there: int = 0
    left_out: int = 0
    empty: bool = False


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did, folder by folder."""

    target: Path
    sources: tuple[SourceReport, ...]

    @property
    def added(self) -> int:
        return sum(source.added for source in self.sources)

    @property
    def already_there(self) -> int:
        return sum(source.already_there for source in self.sources)


def merge(sources: Sequence[Path], target: Path) -> MergeReport:
    """Bring the runs of several folders, with their details, into `target`; the sources stay as they are.

    A run that is there already with the same row is skipped, so a merge that was interrupted is simply run
    again. All folders are compared before anything is written. A folder without runs, such as that of a new node, is
    left out as long as another has some.

    Args:
        target: a results folder, or a folder to be made.

    Raises:
        BadInput: a source that is no results folder, or is the target; none of them has runs.
        StoreRefused: measured and simulated runs; one run with two contents; or as `Writer`.
        StoreFull, StoreError, UnreadableFile: folders that were finished before are in the target.
    """
    found = {folder: _kind(folder) for folder in sources}
    kinds = {folder: kind for folder, kind in found.items() if kind is not None}
    if found and not kinds:
        shown = ", ".join(map(str, found))
        raise BadInput("DIR", shown, "a results folder; this one has no runs", "check the path")
    if len(set(kinds.values())) > 1:
        shown = ", ".join(f"{folder}: {kind}" for folder, kind in kinds.items())
        raise StoreRefused("DIR", shown, "folders that are all measured or all simulated", "merge each kind apart")
    for folder in sources:
        if target.exists() and folder.samefile(target):
            raise BadInput("--results", str(target), "a folder that is not one of the sources", "name another")
    source = next(iter(kinds.values()), None)
    if source is None:
        raise BadInput("DIR", "(none given)", "one or more results folders")
    with Writer(target, source, f"merge of {len(sources)} folders", durable=source == "measured") as writer:
        try:
            reports = [SourceReport(folder, empty=True) for folder in found if folder not in kinds]
            plan = _compare([folder for folder in sources if folder in kinds], target, source)
            for folder, new_ids, old, left_out in plan:
                if new_ids:
                    wanted = pa.array(new_ids, pa.string())
                    writer.append_parts(new_ids, {table: _rows(folder, table, source, wanted) for table in TABLES})
                reports.append(SourceReport(folder, len(new_ids), old, left_out))
        except FileNotFoundError as error:
            raise StoreError(f"{error.filename}: compacted while being merged; run the merge again") from error
        writer.compact()
    return MergeReport(target, tuple(reports))


def _kind(folder: Path) -> Source | None:
    require_results(folder)
    return cast(Source | None, common_source(headers(table_segments(folder, "runs"))))


def _without_details(folder: Path, source: str, new_ids: Sequence[str]) -> set[str]:
    """Of these runs, those without rows that they should have in another table.

    A writer writes a run's details before its row, but a copy made meanwhile may take the tables in another order. A
    run that is there is never looked at again, so it must not be there without them.
    """
    if not new_ids:
        return set()
    wanted = pa.array(new_ids, pa.string())
    there: dict[str, set[str]] = {table: set() for table in _TELLS_OF}
    for table, ids in there.items():
        for part in _rows(folder, table, source, wanted):
            ids.update(pc.unique(part["run_id"]).to_pylist())
    missing: set[str] = set()
    for part in _rows(folder, "runs", source, wanted):
        # Warm-ups are counted, and have no details.
        metered = part.filter(pc.not_equal(part["purpose"], "warmup"))
        for table, column in _TELLS_OF.items():
            told = metered.filter(pc.not_equal(metered[column], 0))
            missing.update(run_id for run_id in run_ids(told).to_pylist() if run_id not in there[table])
    return missing


def _compare(sources: Sequence[Path], target: Path, source: str) -> list[tuple[Path, list[str], int, int]]:
    """For each folder, the ids that are new, how many are not, and how many of the new ones are left out.

    Raises:
        StoreRefused: naming runs that differ from one folder to another.
    """
    known = {run_id: (target, digest) for run_id, digest in _digests(target, source)}
    plan: list[tuple[Path, list[str], int, int]] = []
    for folder in sources:
        new_ids, old, differing = [], 0, []
        for run_id, digest in _digests(folder, source):
            if run_id not in known:
                known[run_id] = (folder, digest)
                new_ids.append(run_id)
            elif known[run_id][1] == digest:
                old += 1
            else:
                differing.append(f"{run_id} (in {known[run_id][0]} and {folder})")
        if differing:
            more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
            shown = "; ".join(differing[:_SHOWN]) + more
            raise StoreRefused(
                "DIR",
                f"{len(differing)} runs",
                f"the same content wherever a run is; these differ: {shown}",
                "find out which folder is right and leave the other out",
            )
        partial = _without_details(folder, source, new_ids)
        for run_id in partial:
            # The next folder may have it whole.
            del known[run_id]
        plan.append((folder, [run_id for run_id in new_ids if run_id not in partial], old, len(partial)))
    return plan


def _digests(folder: Path, source: str) -> Iterator[tuple[str, bytes]]:
    """Each run's id, and a digest of its row.

    What cannot run was not measured: alike nodes write the same, each at its own time, and any of them will do.
    """
    for part in stream(table_segments(folder, "runs"), "runs", source):
        texts = [_as_text(part[name].combine_chunks()) for name in part.column_names]
        rows = pc.binary_join_element_wise(*texts, "\x1f", null_handling="replace", null_replacement="\x00")
        rows = pc.if_else(pc.equal(part["status"], "infeasible"), "infeasible", rows)
        for run_id, row in zip(run_ids(part).to_pylist(), rows.to_pylist(), strict=True):
            yield run_id, hashlib.blake2b(row.encode(), digest_size=16).digest()


def _as_text(column: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.int64()).cast(pa.string())
    if pa.types.is_list(column.type):
        return pc.binary_join(column.cast(pa.list_(pa.string())), "\x1e")
    return column.cast(pa.string())


def _rows(folder: Path, table: str, source: str, wanted: pa.Array) -> Iterator[pa.Table]:
    """Rows of a table that belong to the wanted runs."""
    for part in stream(table_segments(folder, table), table, source):
        ids = run_ids(part) if table == "runs" else part["run_id"]
        yield part.filter(pc.is_in(ids, wanted))
