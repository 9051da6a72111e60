"""What is appended is what is read, by the harness and by pandas, whatever happened in between."""

import errno
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import BadInput, StoreError, StoreFull
from harness.records import RunBundle
from harness.schema import SCHEMAS, TABLES, tables_of
from harness.store import Writer, compact, read_ledger, read_table, writer
from harness.store.layout import file_schema, table_segments
from tests.unit.store_factory import ABSENT, ROWS_PER_BUNDLE, STARTED, make_bundle


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "ROWS_PER_SEGMENT", {"runs": 3, "requests": 40, "iterations": 50, "power": 500})
    monkeypatch.setattr(compact, "MOST_SEGMENTS", 3)


def fill(results: Path, numbers: range, durable: bool = False) -> None:
    with Writer(results, "simulated", "test", durable=durable) as out:
        for number in numbers:
            out.append([make_bundle(number)])


def assert_holds(results: Path, bundles: list[RunBundle]) -> None:
    """The folder holds exactly these runs, in their order, for the harness and for pandas."""
    expected = tables_of(bundles)
    for table in TABLES:
        read = read_table(results, table)
        assert read.schema.equals(file_schema(table, "simulated"), check_metadata=True)
        assert read.cast(SCHEMAS[table]).equals(expected[table]), table
        assert len(pd.read_parquet(results / table)) == len(read)


STEPS = st.lists(
    st.one_of(
        st.integers(1, 4).map(lambda runs: ("append", runs)),
        st.tuples(st.just("fail"), st.sampled_from(TABLES)),
        st.just(("compact", 0)),
        st.just(("reopen", 0)),
    ),
    max_size=14,
)


@pytest.mark.usefixtures("small_segments")
@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_folder_holds_what_was_appended_after_any_appends_failures_compactions_and_reopenings(
    steps: list[tuple[str, object]],
) -> None:
    kept: list[RunBundle] = []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        results = Path(folder) / "results"
        out = Writer(results, "simulated", "test", durable=False)
        for action, argument in steps:
            if action == "append":
                first = len(kept)
                bundles = [make_bundle(first + i, details=(first + i) % 4 != 0) for i in range(int(str(argument)))]
                out.append(bundles)
                kept += bundles
            elif action == "fail":
                with patch.context() as broken:
                    broken.setattr(writer, "write_parquet", _failing_at(str(argument)))
                    with pytest.raises(StoreError):
                        out.append([make_bundle(len(kept))])
            elif action == "compact":
                out.compact()
            else:
                out.close()
                out = Writer(results, "simulated", "test", durable=False)
        out.close()
        # A write that broke off leaves detail rows without a run until the folder is opened again.
        Writer(results, "simulated", "test", durable=False).close()
        assert_holds(results, kept)


def _failing_at(table: str):  # type: ignore[no-untyped-def]
    real = writer.write_parquet

    def write(path: Path, *arguments: object, **named: object) -> None:
        if path.parent.name == table:
            raise StoreError("the disk is gone")
        real(path, *arguments, **named)  # type: ignore[arg-type]

    return write


def test_values_survive_the_way_into_pandas(tmp_path: Path) -> None:
    with Writer(tmp_path, "simulated", "test") as out:
        out.append([make_bundle(0), make_bundle(1, status="failed", reason="lost a GPU", requests=None)])
    runs = pd.read_parquet(tmp_path / "runs")
    assert runs["gpu_energy_j"][0] == make_bundle(0).run.energies["gpu"].energy_j
    assert runs["rest_reason"][0] == ABSENT
    assert pd.isna(runs["rest_energy_j"][0])
    assert runs["started_at"][0] == pd.Timestamp(STARTED)
    assert list(runs["flags"][0]) == ["sw_power_cap"]
    assert list(runs["gpu_uuids"][1]) == list(make_bundle(1).run.gpu_uuids)
    assert runs["reason"][1] == "lost a GPU"
    assert pd.isna(runs["requests"][1])
    requests = pd.read_parquet(tmp_path / "requests")
    assert requests["finished_s"].isna().sum() == 2
    assert set(requests["run_id"]) == {make_bundle(0).run.run_id, make_bundle(1).run.run_id}


def test_all_four_tables_are_readable_before_the_first_run(tmp_path: Path) -> None:
    Writer(tmp_path, "simulated", "test").close()
    for table in TABLES:
        assert list(pd.read_parquet(tmp_path / table).columns) == SCHEMAS[table].names
        assert read_table(tmp_path, table).num_rows == 0


def test_a_run_without_details_writes_no_detail_file(tmp_path: Path) -> None:
    with Writer(tmp_path, "simulated", "test", durable=False) as out:
        before = {table: (tmp_path / table / "000001.parquet").stat().st_ino for table in TABLES}
        out.append([make_bundle(0, details=False)])
    changed = [table for table in TABLES if (tmp_path / table / "000001.parquet").stat().st_ino != before[table]]
    assert changed == ["runs"]


def test_columns_and_filters_narrow_what_is_read(tmp_path: Path) -> None:
    fill(tmp_path, range(10))
    found = read_table(tmp_path, "runs", ["status", "point_id"], pc.field("repetition") > 3)
    assert found.column_names == ["status", "point_id"]
    assert found.num_rows == 4
    with pytest.raises(ValueError, match="no column watts in runs"):
        read_table(tmp_path, "runs", ["watts"])
    with pytest.raises(ValueError, match="watts"):
        read_table(tmp_path, "runs", filter=pc.field("watts") > 3)
    with pytest.raises(ValueError, match="no table"):
        read_table(tmp_path, "joules")


def test_a_folder_never_written_to_is_empty_and_a_missing_one_is_bad_input(tmp_path: Path) -> None:
    assert read_table(tmp_path, "power").schema.names == SCHEMAS["power"].names
    assert len(read_ledger(tmp_path)) == 0
    with pytest.raises(BadInput, match="results"):
        read_table(tmp_path / "nowhere", "runs")


def test_ledger_has_one_row_per_run_with_what_resuming_needs(tmp_path: Path) -> None:
    bundles = [make_bundle(number, attempt=2, status="invalid", reason="throttled") for number in range(7)]
    with Writer(tmp_path, "simulated", "test", durable=False) as out:
        out.append(bundles)
        rows = list(read_ledger(tmp_path))
    for row, bundle in zip(rows, bundles, strict=True):
        assert (row.point_id, row.environment_id, row.launch_id, row.repetition, row.attempt) == bundle.run.key
        assert (row.purpose, row.status, row.reason) == ("sweep", "invalid", "throttled")


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("durable", [True, False])
def test_joining_leaves_few_files_one_generation_to_spare_and_every_row(tmp_path: Path, durable: bool) -> None:
    bundles = [make_bundle(number) for number in range(40)]
    with Writer(tmp_path, "simulated", "test", durable=durable) as out:
        for bundle in bundles:
            out.append([bundle])
            out.compact()
            assert all(len(table_segments(tmp_path, table)) <= compact.MOST_SEGMENTS + 1 for table in TABLES)
        assert sorted(path.name.split("-")[0] for path in (tmp_path / ".generations").iterdir()) == sorted(TABLES * 2)
    assert_holds(tmp_path, bundles)


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("step", ["write_parquet", "_link", "_point"])
def test_a_compaction_that_fails_changes_nothing_and_the_next_one_works(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    bundles = [make_bundle(number) for number in range(15)]
    with Writer(tmp_path, "simulated", "test", durable=False) as out:
        with monkeypatch.context() as patient:
            patient.setattr(compact, "MOST_SEGMENTS", 100)
            for bundle in bundles[:14]:
                out.append([bundle])
        before = len(table_segments(tmp_path, "requests"))
        with monkeypatch.context() as broken:
            broken.setattr(compact, step, fail)
            with pytest.raises(StoreFull):
                out.compact()
        assert_holds(tmp_path, bundles[:14])
        out.append([bundles[14]])
        out.compact()
        assert len(table_segments(tmp_path, "requests")) < before
    assert_holds(tmp_path, bundles)


def test_a_full_segment_is_left_alone_by_later_appends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(writer.ROWS_PER_SEGMENT, "runs", 2)
    fill(tmp_path, range(2))
    sealed = (tmp_path / "runs" / "000001.parquet").stat().st_ino
    fill(tmp_path, range(2, 5))
    assert (tmp_path / "runs" / "000001.parquet").stat().st_ino == sealed
    assert len(table_segments(tmp_path, "runs")) == 3


@pytest.mark.parametrize("durable", [True, False])
def test_nothing_of_a_run_waits_in_memory(tmp_path: Path, durable: bool) -> None:
    with Writer(tmp_path, "simulated", "test", durable=durable) as out:
        for number in range(3):
            out.append([make_bundle(number)])
            for table, rows in ROWS_PER_BUNDLE.items():
                assert len(pd.read_parquet(tmp_path / table)) == rows * (number + 1)


def test_a_folder_copied_with_its_links_followed_or_left_out_goes_on(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(3))
    followed, left_out = tmp_path / "followed", tmp_path / "left-out"
    shutil.copytree(tmp_path / "a", followed, symlinks=False, ignore=shutil.ignore_patterns(".generations"))
    shutil.copytree(tmp_path / "a", left_out, symlinks=True, ignore=shutil.ignore_patterns(*TABLES))
    for copy in (followed, left_out):
        assert read_table(copy, "runs").num_rows == 3
        fill(copy, range(3, 5))
        assert_holds(copy, [make_bundle(number) for number in range(5)])
