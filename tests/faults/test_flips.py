"""A bit that flips on the disk is never another value: the segment is refused by name, or reads as it was written."""

import random
from pathlib import Path

import pyarrow as pa
import pytest

from harness.errors import UnreadableFile
from harness.schema import TABLES
from harness.store import Writer, read_table
from tests.unit.store_factory import make_bundle

FLIPS = 40


@pytest.mark.parametrize("table", TABLES)
def test_a_flipped_bit_is_refused_or_harmless(table: str, tmp_path: Path) -> None:
    """Without checksums of pages, most flips in numbers would be read as other numbers."""
    with Writer(tmp_path, "simulated", "test", durable=False) as writer:
        writer.append([make_bundle(number) for number in range(10)])
    (path,) = (tmp_path / table).glob("*.parquet")
    whole, rows, dice = path.read_bytes(), read_table(tmp_path, table), random.Random(table)
    refused = 0
    for _ in range(FLIPS):
        data = bytearray(whole)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(bytes(data))
        said = complaint(tmp_path, table, rows)
        assert not said or (path.name in said and "\n" not in said), said
        refused += bool(said)
    assert refused > FLIPS / 3


def complaint(results: Path, table: str, rows: pa.Table) -> str:
    """Why the table is not read; empty where it is what it was."""
    try:
        assert read_table(results, table).equals(rows)
    except UnreadableFile as error:
        return str(error)
    return ""
