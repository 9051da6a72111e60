"""A report's table as texts, ready for a page or a terminal."""

from dataclasses import dataclass

from harness.report.columns import COLUMNS, is_text, printable, text_of
from harness.report.sections import ReportTable

_FEW_ROWS = 4


@dataclass(frozen=True, slots=True)
class Cells:
    """What is shown of a table.

    Attributes:
        headings, meanings, left: of each column; whether it is aligned to the left.
        rows: texts.
        note: the table's, what all rows have in common, and how many rows there are where not all are shown.
    """

    headings: tuple[str, ...]
    meanings: tuple[str, ...]
    left: tuple[bool, ...]
    rows: list[tuple[str, ...]]
    note: str


def cells(table: ReportTable, most_rows: int, elsewhere: str) -> Cells:
    """The first rows of a table; a wide table of few rows is turned on its side.

    Args:
        elsewhere: where the other rows are, for the note.
    """
    frame, notes = table.frame, [table.note]
    if "replay" in frame and frame["replay"].nunique() == 1:
        notes.append(f"Replay: {frame['replay'].iloc[0]}.")
        frame = frame.drop(columns="replay")
    if len(frame) > most_rows:
        notes.append(f"The first {most_rows} of {len(frame):,} rows; {elsewhere}.")
    columns = [COLUMNS[str(name)] for name in frame]
    shown = frame.iloc[:most_rows].astype(object).itertuples(index=False, name=None)
    rows = [tuple(map(text_of, row)) for row in shown]
    headings, meanings = tuple(column.heading for column in columns), tuple(column.meaning for column in columns)
    left = tuple(is_text(frame[name]) for name in frame)
    note = printable(" ".join(filter(None, notes)))
    if not table.wide or len(rows) > _FEW_ROWS:
        return Cells(headings, meanings, left, rows, note)
    turned = [(heading, *values) for heading, *values in zip(headings, *rows, strict=True)]
    return Cells(("", *("" for _ in rows)), ("", *("" for _ in rows)), (True,) * (len(rows) + 1), turned, note)
