"""Folders that older versions left are read; a schema does not change without its version."""

import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.schema import SCHEMA_VERSION, SCHEMAS, TABLES
from harness.store import Writer, read_ledger, read_table
from harness.store.layout import file_schema
from tests.unit.store_factory import STARTED, make_bundle

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.glob("v*"))


@pytest.mark.parametrize("table", TABLES)
def test_schema_is_the_one_kept_for_its_version(table: str) -> None:
    kept = GOLDEN / f"v{SCHEMA_VERSION}" / table / "000001.parquet"
    advice = "bump SCHEMA_VERSION, add its line to the history, and run: python tests/fixtures/make_golden.py"
    assert kept.exists(), f"no golden folder for schema version {SCHEMA_VERSION}; {advice}"
    then = [(item.name, item.type) for item in pq.read_schema(kept)]
    now = [(item.name, item.type) for item in SCHEMAS[table]]
    assert now == then, f"the schema of {table} changed within its version; {advice}"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_is_read(version: str) -> None:
    runs = read_table(GOLDEN / version, "runs")
    assert runs.schema.equals(file_schema("runs", "simulated"))
    assert runs["status"].to_pylist() == ["ok", "failed"]
    assert runs["repetition"].to_pylist() == [1, 2]
    assert runs["started_at"][0].as_py() == STARTED
    assert runs["gpu_energy_j"].to_pylist() == [make_bundle(0).run.energies["gpu"].energy_j, None]
    assert read_table(GOLDEN / version, "requests")["prompt_tokens"].to_pylist() == [512] * 32
    assert [row.reason for row in read_ledger(GOLDEN / version)] == ["", "the engine ended"]


def test_columns_that_version_0_did_not_have_are_null() -> None:
    runs = read_table(GOLDEN / "v0", "runs", ["gpu_uuids", "cpu_energy_j", "point", "node"])
    assert [runs[name].null_count for name in runs.column_names] == [2, 2, 2, 0]
    assert read_table(GOLDEN / "v0", "requests", ["asked_tokens"])["asked_tokens"].null_count == 32
    assert read_table(GOLDEN / "v0", "power").num_rows == 0


def test_a_writer_brings_version_0_up_to_date_so_that_pandas_sees_every_column(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "v0", tmp_path / "old")
    before = read_table(tmp_path / "old", "runs")
    with Writer(tmp_path / "old", "simulated", "test", durable=False) as out:
        out.append([make_bundle(7)])
    runs = pd.read_parquet(tmp_path / "old" / "runs")
    assert list(runs.columns) == SCHEMAS["runs"].names
    assert runs["point"].isna().tolist() == [True, True, False]
    after = read_table(tmp_path / "old", "runs")
    assert after.slice(0, 2).equals(before)
    assert pa.compute.sum(after["repetition"]).as_py() == 1 + 2 + 3
    assert len(pd.read_parquet(tmp_path / "old" / "requests")) == 32 + 16
