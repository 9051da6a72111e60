"""What every benchmark shares: one table for people, one JSON file for scripts."""

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent.parent / "results" / "bench"


def report(
    name: str,
    title: str,
    rows: Sequence[dict[str, object]],
    packages: Sequence[str] = (),
    unprinted: Sequence[str] = (),
) -> None:
    """Print the rows and write `results/bench/NAME.json`; all rows have the same keys.

    Columns named in `unprinted` are too wide for a table and go to the file alone.
    """
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    shown = [column for column in rows[0] if column not in unprinted]
    for column in shown:
        table.add_column(column, justify="right" if isinstance(rows[0][column], int | float) else "left")
    for row in rows:
        table.add_row(*(_shown(row[column]) for column in shown))
    Console(width=160, highlight=False).print(table)
    content = {
        "name": name,
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version(), **{package: version(package) for package in packages}},
        "rows": list(rows),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
