"""What is done: the key columns of `runs`, for resuming and for planning."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from harness.store.reader import read_table


class LedgerRow(NamedTuple):
    """One run, by what a controller needs of it; the fields are columns of `runs`."""

    sweep: str
    point_id: str
    environment_id: str
    launch_id: str
    repetition: int
    attempt: int
    purpose: str
    status: str
    reason: str
    gpu_energy_j: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """Runs in the order they were written. `table` has the fields of `LedgerRow` as columns."""

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[LedgerRow]:
        columns = (self.table[name].to_pylist() for name in LedgerRow._fields)
        return map(LedgerRow._make, zip(*columns, strict=True))


def read_ledger(results: Path) -> Ledger:
    """The ledger of a results folder; of one that was never written to, an empty one.

    Raises:
        As `read_table`.
    """
    return Ledger(read_table(results, "runs", LedgerRow._fields))
