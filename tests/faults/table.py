"""The table of faults and what became of them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.faults.diary import Found


@dataclass
class Row:
    """One kind of fault.

    Attributes:
        outcomes: in words -> how often.
        runs: completed runs of all its folders, in the end.
        in_hand: runs that were complete in a process that was killed, or could not write, before they were stored.
    """

    fault: str
    times: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    in_hand: int = 0
    folders: int = 0
    resumed: int = 0
    failed: str = ""

    def happened(self, outcome: str, times: int = 1) -> None:
        self.times += times
        self.outcomes[outcome] += times

    def finished(self, found: Found) -> None:
        """A folder whose same command was run to its end, checked."""
        self.folders += 1
        self.resumed += 1
        self.runs += found.runs
        self.in_hand += found.in_hand

    def as_row(self) -> dict[str, object]:
        shown = [
            f"{outcome} ({count})" if len(self.outcomes) > 1 else outcome for outcome, count in self.outcomes.items()
        ]
        return {
            "fault": self.fault,
            "times": self.times,
            "outcome": self.failed or "; ".join(shown),
            "runs_completed": self.runs,
            "lost_in_hand": self.in_hand,
            "present_once": "NO" if self.failed else "yes",
            "resumed_to_end": f"{self.resumed} of {self.folders}",
        }


class Faults:
    """Collects rows in the order of the tests."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    @contextmanager
    def of(self, fault: str) -> Iterator[Row]:
        row = Row(fault)
        self.rows.append(row)
        try:
            yield row
        except BaseException as error:
            first = next(iter(str(error).splitlines()), "")
            row.failed = f"FAILED: {type(error).__name__}: {first}"[:200]
            raise
