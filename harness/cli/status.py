"""`harness status`: how far each sweep is, what failed, and who is measuring."""

import json
from pathlib import Path

import click
from rich.table import Table

from harness.cli.console import console
from harness.cli.folders import known_folders
from harness.errors import BadInput
from harness.standing import SweepStanding, folder_standing
from harness.texts import printable


@click.command(short_help="progress, failures and ETA of results folders")
@click.option("--results", type=click.Path(path_type=Path), help="results folder [all under results/]")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def status(results: Path | None, as_json: bool) -> None:
    """Show progress, failures and the remaining time of sweeps.

    \b
    Example:
        harness status --results results/simulated/simulated-dgx
    """
    folders = [results] if results is not None else known_folders()
    if not folders:
        raise BadInput("--results", "(none found under results/)", "a folder that a sweep wrote", "run harness sweep")
    standings = [standing for folder in folders for standing in folder_standing(folder)]
    if as_json:
        click.echo(json.dumps([standing.as_json() for standing in standings]))
        return
    out = console()
    if not standings:
        out.print(printable(f"No sweep was planned in {', '.join(map(str, folders))}."))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    left = ("folder", "sweep", "source", "state")
    for name in (*left[:3], "points", "done", "infeasible", "given up", "runs", "progress", "left", "state"):
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    for standing in standings:
        table.add_row(*map(printable, _cells(standing)))
    out.print(table)
    for standing in standings:
        name = printable(standing.sweep)
        if standing.owner:
            out.print(f"  {name}: {printable(standing.owner)}")
        for kind, reason, runs in standing.reasons:
            out.print(f"  {name}: {runs} {kind}: {printable(reason)}")
        if standing.probe_runs_planned:
            given_up = f", {standing.probe_runs_given_up} given up" if standing.probe_runs_given_up else ""
            done = f"{standing.probe_runs_done} of {standing.probe_runs_planned} runs"
            out.print(f"  {name}: probes: {done}{given_up}")
        if paragraph := standing.repeatability.paragraph():
            out.print(f"  {name}: {paragraph}")


def _cells(standing: SweepStanding) -> list[str]:
    return [
        standing.folder,
        standing.sweep,
        standing.source,
        str(standing.points_planned),
        str(standing.points_done),
        str(standing.points_infeasible),
        str(standing.points_given_up),
        ", ".join(f"{count} {kind}" for kind, count in standing.runs.items()),
        f"{standing.progress:.0%}",
        standing.left or "-",
        "running" if standing.owner else "not running",
    ]
