"""Folders that are refused, files that cannot be read, and what the messages say."""

import os
import shutil
import stat
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import StoreRefused, UnreadableFile
from harness.schema import SCHEMA_VERSION, TABLES
from harness.store import Writer, lock_owner, read_ledger, read_table
from harness.store.layout import SOURCE_KEY, VERSION_KEY
from tests.unit.store_factory import make_bundle


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    with Writer(folder, "simulated", "harness sweep a.yaml", durable=False) as out:
        out.append([make_bundle(number) for number in range(3)])
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_second_writer_is_refused_and_told_who_holds_the_folder(results: Path) -> None:
    assert lock_owner(results) == ""
    with Writer(results, "simulated", "harness sweep a.yaml", durable=False):
        assert lock_owner(results).startswith(f"pid {os.getpid()} on ")
        assert lock_owner(results).endswith(": harness sweep a.yaml")
        with pytest.raises(StoreRefused, match=rf"held by pid {os.getpid()} on .*harness sweep a\.yaml") as refusal:
            Writer(results, "simulated", "harness sweep b.yaml", durable=False)
        assert refusal.value.exit_code == 2
        assert len(read_ledger(results)) == 3
    Writer(results, "simulated", "harness sweep b.yaml", durable=False).close()


def test_a_refused_writer_lets_the_folder_go(results: Path) -> None:
    with pytest.raises(StoreRefused):
        Writer(results, "measured", "test")
    assert lock_owner(results) == ""


def test_measured_and_simulated_runs_never_share_a_folder(results: Path) -> None:
    before = contents(results)
    with pytest.raises(StoreRefused, match="holds simulated runs"):
        Writer(results, "measured", "test")
    assert contents(results) == before
    with (
        Writer(results, "simulated", "test", durable=False) as out,
        pytest.raises(ValueError, match="not simulated"),
    ):
        out.append([make_bundle(9, source="measured")])


def test_a_run_is_refused_twice_across_appends_reopenings_and_within_one_append(results: Path) -> None:
    with Writer(results, "simulated", "test", durable=False) as out:
        with pytest.raises(ValueError, match=f"there already: {make_bundle(2).run.run_id}"):
            out.append([make_bundle(3), make_bundle(2)])
        with pytest.raises(ValueError, match="twice in one append"):
            out.append([make_bundle(3), make_bundle(3)])
        out.append([make_bundle(2, attempt=2)])
    assert len(read_ledger(results)) == 4
    with pytest.raises(ValueError, match="closed"):
        out.append([make_bundle(5)])


def test_a_null_where_none_may_be_is_refused(results: Path) -> None:
    with Writer(results, "simulated", "test", durable=False) as out, pytest.raises(ValueError, match="without engine"):
        out.append([make_bundle(9, engine=None)])
    assert len(read_ledger(results)) == 3


def rewrite(path: Path, **metadata: str) -> None:
    """Write a segment again with other metadata."""
    rows = pq.read_table(path)
    pq.write_table(rows.replace_schema_metadata({f"harness.{key}": value for key, value in metadata.items()}), path)


def test_a_newer_schema_is_refused_by_readers_and_writers_and_left_untouched(results: Path) -> None:
    rewrite(results / "requests" / "000001.parquet", schema_version=str(SCHEMA_VERSION + 1), source="simulated")
    before = contents(results)
    message = rf"up to {SCHEMA_VERSION}; this file has version {SCHEMA_VERSION + 1}; fix: upgrade"
    with pytest.raises(StoreRefused, match=message):
        Writer(results, "simulated", "test")
    with pytest.raises(StoreRefused, match=message):
        read_table(results, "requests")
    assert read_table(results, "runs").num_rows == 3
    assert contents(results) == before


def test_segments_of_two_sources_in_one_table_are_refused(results: Path) -> None:
    shutil.copy(results / "runs" / "000001.parquet", results / "runs" / "000002.parquet")
    rewrite(results / "runs" / "000002.parquet", schema_version=str(SCHEMA_VERSION), source="measured")
    with pytest.raises(StoreRefused, match="one source"):
        read_table(results, "runs")


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbled", "foreign", "misnamed", "folder"])
def test_a_file_that_cannot_be_read_is_named_with_what_to_do(results: Path, damage: str) -> None:
    path = results / "runs" / ("notes.txt" if damage == "misnamed" else "000002.parquet")
    whole = (results / "runs" / "000001.parquet").read_bytes()
    if damage == "foreign":
        pq.write_table(pa.table({"a": [1]}), path)
    elif damage == "folder":
        path.mkdir()
    else:
        content = {"truncated": whole[:-100], "empty": b"", "garbled": whole[:4] + b"\xff" * 2000 + whole[2004:]}
        path.write_bytes(content.get(damage, b"measured on Tuesday"))
    with pytest.raises(UnreadableFile, match=rf"{path.name}.*move it out") as error:
        read_table(results, "runs")
    assert "\n" not in str(error.value)
    with pytest.raises(UnreadableFile, match=path.name):
        Writer(results, "simulated", "test")
    assert lock_owner(results) == ""
    shutil.rmtree(path) if damage == "folder" else path.unlink()
    assert read_table(results, "runs").num_rows == 3


def test_hidden_and_temporary_files_are_ignored(results: Path) -> None:
    for name in (".000002.parquet.tmp", ".nfs0001", "_SUCCESS"):
        (results / "runs" / name).write_bytes(b"half a fi")
    assert read_table(results, "runs").num_rows == 3
    assert len(pd.read_parquet(results / "runs")) == 3
    with Writer(results, "simulated", "test", durable=False) as out:
        out.append([make_bundle(3)])
    assert not (results / "runs" / ".000002.parquet.tmp").exists()


def test_links_without_their_generations_are_not_taken_for_an_empty_folder(results: Path) -> None:
    shutil.rmtree(results / ".generations")
    with pytest.raises(UnreadableFile, match=r"copy \.generations"):
        read_table(results, "runs")
    with pytest.raises(UnreadableFile, match=r"copy \.generations"):
        Writer(results, "simulated", "test")


@pytest.mark.parametrize("where", ["results", "results/below"])
def test_a_file_in_the_way_is_refused(tmp_path: Path, where: str) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(StoreRefused, match="can be written to") as refusal:
        Writer(tmp_path / where, "simulated", "test")
    assert refusal.value.exit_code == 2


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, which nobody can write to")
def test_a_folder_that_even_root_cannot_write_to_is_refused() -> None:
    with pytest.raises(StoreRefused, match="can be written to"):
        Writer(Path("/proc/self"), "simulated", "test")
    with pytest.raises(StoreRefused, match="can be written to"):
        Writer(Path("/proc/self/results"), "simulated", "test")


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_honour_the_umask_and_nothing_is_writable_by_everyone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with Writer(tmp_path / "a" / "results", "simulated", "test", durable=False) as out:
            out.append([make_bundle(0)])
    finally:
        os.umask(before)
    paths = [tmp_path / "a", *(path for path in (tmp_path / "a").rglob("*") if not path.is_symlink())]
    assert len(paths) > 2 + len(TABLES) * 2
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o775 if path.is_dir() else 0o664) & ~umask, path


def test_metadata_of_every_segment_says_version_and_source(results: Path) -> None:
    for table in TABLES:
        metadata = pq.read_schema(results / table / "000001.parquet").metadata
        assert metadata[VERSION_KEY] == str(SCHEMA_VERSION).encode()
        assert metadata[SOURCE_KEY] == b"simulated"
