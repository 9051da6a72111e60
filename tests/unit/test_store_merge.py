"""Folders of several nodes become one, each run once, its details along."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BadInput, StoreRefused
from harness.schema import TABLES
from harness.store import Writer, merge, read_ledger, read_table, writer
from harness.store.reader import run_ids
from tests.unit.store_factory import ROWS_PER_BUNDLE, make_bundle

BARE: dict[str, Any] = {
    "details": False, "energies": {}, "requests": None, "gap_fraction": None, "gpu_power_integral_j": None,
}  # fmt: skip


def fill(folder: Path, numbers: range, source: str = "simulated", **changes: Any) -> Path:
    with Writer(folder, source, "test", durable=False) as out:  # type: ignore[arg-type]
        for number in numbers:
            out.append([make_bundle(number, source=source, **changes)])
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_runs_and_details_of_all_folders_come_together_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "ROWS_PER_SEGMENT", {"runs": 4, "requests": 50, "iterations": 90, "power": 500})
    a, b = fill(tmp_path / "a", range(12)), fill(tmp_path / "b", range(9, 20))
    before = contents(a) | contents(b)
    target = fill(tmp_path / "target", range(10, 14))
    report = merge([a, b], target)
    assert [(part.path, part.added, part.already_there) for part in report.sources] == [(a, 10, 2), (b, 6, 5)]
    assert (report.added, report.already_there) == (16, 7)
    assert contents(a) | contents(b) == before
    ids = run_ids(read_table(target, "runs")).to_pylist()
    assert sorted(ids) == sorted(make_bundle(number).run.run_id for number in range(20))
    for table in TABLES:
        together = read_table(target, table)
        assert together.num_rows == 20 * ROWS_PER_BUNDLE[table]
        apart = read_table(fill(tmp_path / f"whole-{table}", range(20)), table)
        order = [(name, "ascending") for name in together.column_names if name not in ("flags", "gpu_uuids")]
        order = [item for item in order if item[0] != "gpu_energy_by_gpu_j"]
        assert together.sort_by(order).equals(apart.sort_by(order))


def test_merging_again_adds_nothing_and_the_target_stays_a_folder_to_write_to(tmp_path: Path) -> None:
    a = fill(tmp_path / "a", range(5))
    assert merge([a, a], tmp_path / "new" / "target").added == 5
    report = merge([a], tmp_path / "new" / "target")
    assert (report.added, report.already_there) == (0, 5)
    fill(tmp_path / "new" / "target", range(5, 7))
    assert len(read_ledger(tmp_path / "new" / "target")) == 7


def test_runs_without_values_are_the_same_run_in_both_folders(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "energies": {},
        "gpu_energy_by_gpu_j": (),
        "window_s": float("nan"),
        "reason": "no\x00thing",
    }
    a, b = fill(tmp_path / "a", range(3), **changes), fill(tmp_path / "b", range(3), **changes)
    assert merge([a, b], tmp_path / "c").already_there == 3


@pytest.mark.parametrize(
    "changes",
    [{"status": "invalid"}, {"window_s": 2.0}, {"flags": ("throttled",)}, {"gpu_energy_by_gpu_j": (1.0, 2.0)}],
)
def test_one_run_with_two_contents_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    a, b = fill(tmp_path / "a", range(3)), fill(tmp_path / "b", range(2, 5), **changes)
    target = fill(tmp_path / "c", range(20, 21))
    with pytest.raises(StoreRefused, match=rf"{make_bundle(2).run.run_id} \(in {a} and {b}\)"):
        merge([a, b], target)
    assert len(read_ledger(target)) == 1
    assert read_table(target, "power").num_rows == ROWS_PER_BUNDLE["power"]


def test_measured_and_simulated_folders_are_not_merged(tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a", range(2)), fill(tmp_path / "b", range(2, 4), source="measured")
    with pytest.raises(StoreRefused, match="merge each kind apart"):
        merge([a, b], tmp_path / "c")
    with pytest.raises(StoreRefused, match="holds simulated runs"):
        merge([b], a)


def test_sources_that_are_no_results_are_bad_input(tmp_path: Path) -> None:
    a = fill(tmp_path / "a", range(2))
    (tmp_path / "bare").mkdir()
    for sources, field in (([tmp_path / "nowhere"], "results"), ([tmp_path / "bare"], "DIR"), ([], "DIR")):
        with pytest.raises(BadInput) as error:
            merge(sources, tmp_path / "c")
        assert error.value.field == field
    with pytest.raises(BadInput, match="not one of the sources"):
        merge([a], a)
    assert not (tmp_path / "c").exists()


def test_a_merge_that_broke_off_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = fill(tmp_path / "a", range(6))
    real = writer.write_parquet

    def failing(path: Path, *arguments: object, **named: object) -> None:
        # The rows of `runs`, not the empty segment of a new folder.
        if path.parent.name == "runs":
            raise KeyboardInterrupt
        real(path, *arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as broken:
        broken.setattr(writer, "write_parquet", failing)
        with pytest.raises(KeyboardInterrupt):
            merge([a], tmp_path / "c")
    assert read_table(tmp_path / "c", "requests").num_rows > 0
    assert merge([a], tmp_path / "c").added == 6
    assert {table: read_table(tmp_path / "c", table).num_rows for table in TABLES} == {
        table: 6 * rows for table, rows in ROWS_PER_BUNDLE.items()
    }


def test_what_alike_nodes_both_say_cannot_run_is_one_run(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"launch_id": "", "repetition": 0, "attempt": 0, "status": "infeasible"} | BARE
    a, b = (
        fill(tmp_path / "a", range(1), node="sim-1", **changes),
        fill(tmp_path / "b", range(1), node="sim-2", **changes),
    )
    report = merge([a, b], tmp_path / "lab")
    assert [(one.added, one.already_there) for one in report.sources] == [(1, 0), (0, 1)]
    assert merge([b], tmp_path / "lab").added == 0


@pytest.mark.parametrize("late", ["requests", "iterations", "power"])
def test_a_run_without_its_details_waits_for_a_copy_that_has_them(tmp_path: Path, late: str) -> None:
    node = fill(tmp_path / "node", range(3))
    copy = shutil.copytree(node, tmp_path / "copy", symlinks=True)
    fill(node, range(3, 5))
    for table in set(TABLES) - {late}:
        for segment in (node / table).glob("*.parquet"):
            shutil.copy2(segment, copy / table / segment.name)
    (report,) = merge([copy], tmp_path / "lab").sources
    assert (report.added, report.left_out) == (3, 2)
    assert [one.added for one in merge([copy, node], tmp_path / "other").sources] == [3, 2]
    (report,) = merge([node], tmp_path / "lab").sources
    assert (report.added, report.already_there, report.left_out) == (2, 3, 0)
    for table in TABLES:
        assert read_table(tmp_path / "lab", table).num_rows == 5 * ROWS_PER_BUNDLE[table]


def test_runs_that_have_no_details_are_whole(tmp_path: Path) -> None:
    failed = fill(tmp_path / "failed", range(2), status="failed", **BARE)
    warmups = fill(tmp_path / "warmups", range(2, 4), purpose="warmup", **BARE | {"requests": 16})
    assert merge([failed, warmups], tmp_path / "lab").added == 4


def test_a_folder_without_runs_does_not_keep_the_others_away(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    report = merge([tmp_path / "new", fill(tmp_path / "a", range(2))], tmp_path / "lab")
    assert [(one.path.name, one.added, one.empty) for one in report.sources] == [("new", 0, True), ("a", 2, False)]
    with pytest.raises(BadInput, match="this one has no runs"):
        merge([tmp_path / "new"], tmp_path / "lab")
