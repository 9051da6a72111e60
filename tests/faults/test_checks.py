"""The suite's own checks find what they are for: a run that is lost, doubled, torn, or invented."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.store import Writer
from tests.faults.diary import Diary, check
from tests.unit.store_factory import make_bundle


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, Path]:
    """A diary and a folder that agree: five runs."""
    diary, results = tmp_path / "diary", tmp_path / "out"
    notes = Diary(diary)
    with Writer(results, "simulated", "test", durable=False) as writer:
        for number in range(5):
            bundle = make_bundle(number)
            notes.note("completed", [bundle])
            notes.note("storing", [bundle])
            writer.append([bundle])
            notes.note("stored", [bundle])
    return diary, results


def rewrite(results: Path, table: str, *rows: slice) -> None:
    (path,) = (results / table).glob("*.parquet")
    whole = pq.read_table(path)
    parts = [whole.slice(one.start or 0, None if one.stop is None else one.stop - (one.start or 0)) for one in rows]
    pq.write_table(pa.concat_tables(parts), path)


def test_a_folder_that_agrees(kept: tuple[Path, Path]) -> None:
    assert check(*kept).runs == 5


def test_a_lost_run(kept: tuple[Path, Path]) -> None:
    rewrite(kept[1], "runs", slice(0, 4))
    with pytest.raises(AssertionError, match="1 stored runs are gone"):
        check(*kept)


def test_a_doubled_run(kept: tuple[Path, Path]) -> None:
    rewrite(kept[1], "runs", slice(0, 5), slice(4, 5))
    with pytest.raises(AssertionError, match="a run is there twice"):
        check(*kept)


@pytest.mark.parametrize("table", ["requests", "iterations", "power"])
def test_a_torn_run(table: str, kept: tuple[Path, Path]) -> None:
    rewrite(kept[1], table, slice(1, None))
    with pytest.raises(AssertionError, match=f"{table}: other rows than were stored"):
        check(*kept)


def test_a_run_that_nobody_stored(kept: tuple[Path, Path]) -> None:
    lines = kept[0].read_text().splitlines(keepends=True)
    kept[0].write_text("".join(lines[:-3]))
    with pytest.raises(AssertionError, match="1 runs that nobody stored"):
        check(*kept)


def test_a_completed_run_that_a_living_process_dropped(kept: tuple[Path, Path]) -> None:
    Diary(kept[0]).note("completed", [make_bundle(7)])
    with pytest.raises(AssertionError, match="a process that was not killed lost completed runs"):
        check(*kept)


def test_a_killed_process_may_lose_the_last_run_only(kept: tuple[Path, Path]) -> None:

    notes = Diary(kept[0])
    notes.note("completed", [make_bundle(7)])
    assert check(*kept, losers=[os.getpid()]).in_hand == 1
    notes.note("completed", [make_bundle(8)])
    with pytest.raises(AssertionError, match="2 completed runs are gone, not the last one alone"):
        check(*kept, losers=[os.getpid()])
