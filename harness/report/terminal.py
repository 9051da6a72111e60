"""A report as tables on a terminal, and as JSON."""

from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from harness import __version__
from harness.report.cells import cells
from harness.report.columns import COLUMNS, printable
from harness.report.data import Results
from harness.report.sections import ReportTable, headline, sections

REPORT_VERSION = 1
"""Of the JSON; a key that changes its meaning, or goes, makes another version."""


def print_report(results: Results, out: Console) -> None:
    """Print every table that is for a terminal."""
    out.print(headline(results), style="bold")
    out.print(printable(str(results.folder)), style="dim")
    for section in sections(results):
        out.print()
        out.rule(section.title, align="left")
        for text in section.text:
            out.print(printable(text), style="dim")
        for table in section.tables:
            if len(table.frame) and table.brief:
                _print_table(table, out)


def _print_table(table: ReportTable, out: Console) -> None:
    shown = cells(table, table.brief, "all of them: --json, or a page with --out")
    grid = Table(
        box=None, pad_edge=False, header_style="bold", title=table.title, title_justify="left",
        show_header=any(shown.headings),
    )  # fmt: skip
    for heading, left in zip(shown.headings, shown.left, strict=True):
        grid.add_column(heading, justify="left" if left else "right", no_wrap=not left)
    for row in shown.rows:
        grid.add_row(*row)
    out.print()
    out.print(grid)
    if shown.note:
        out.print(f"  {shown.note}", style="dim")


def as_json(results: Results) -> dict[str, Any]:
    """The whole report: report_version, folder, sources, headline, and `tables` by name.

    Each table has section, title, note, columns (name -> heading and meaning) and rows (a list of objects); what is
    not known is null, times are ISO 8601.
    """
    tables = {
        table.name: {
            "section": section.anchor,
            "title": table.title,
            "note": table.note,
            "columns": {
                str(name): {"heading": COLUMNS[str(name)].heading, "meaning": COLUMNS[str(name)].meaning}
                for name in table.frame
            },
            "rows": _json_rows(table.frame),
        }
        for section in sections(results)
        for table in section.tables
    }
    return {
        "report_version": REPORT_VERSION,
        "harness_version": __version__,
        "folder": str(results.folder),
        "sources": list(results.sources),
        "headline": headline(results),
        "tables": tables,
    }


def _json_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    times = {str(name): frame[name].map(lambda time: time.isoformat()) for name in frame.select_dtypes("datetimetz")}
    rows = frame.assign(**times).astype(object)
    names = [str(name) for name in rows]
    return [
        dict(zip(names, row, strict=True)) for row in rows.where(rows.notna(), None).itertuples(index=False, name=None)
    ]
