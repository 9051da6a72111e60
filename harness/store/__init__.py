"""The results folder: four tables of Parquet segments, one writer, any number of readers.

The store is the ledger: what is done is what is in it (docs/decisions/0001-store.md).
"""

from harness.store.ledger import Ledger, LedgerRow, read_ledger
from harness.store.lock import lock_owner
from harness.store.merge import MergeReport, SourceReport, merge
from harness.store.reader import read_table
from harness.store.writer import Writer

__all__ = [
    "Ledger",
    "LedgerRow",
    "MergeReport",
    "SourceReport",
    "Writer",
    "lock_owner",
    "merge",
    "read_ledger",
    "read_table",
]
