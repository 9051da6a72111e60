"""`harness report`: what a results folder says, as a page, on the terminal or as JSON."""

import json
import os
from pathlib import Path

import click

from harness.cli.console import console
from harness.cli.folders import known_folders
from harness.errors import BadInput
from harness.report.data import read_results
from harness.report.page import NO_PLOTS, page, plots_module
from harness.report.terminal import as_json, print_report
from harness.texts import printable


@click.command(short_help="tables and plots of a results folder")
@click.argument("results", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="write a self-contained HTML page here")
@click.option("--json", "json_wanted", is_flag=True, help="print JSON, with every row of every table")
def report(results: Path | None, out: Path | None, json_wanted: bool) -> None:
    """Report on the results folder RESULTS [the only one under results/].

    Energy by deployment, requests, batch sizes that replays formed, and how well it was measured.

    \b
    Example:
        harness report results/simulated/simulated-dgx --out report.html
    """
    if out is not None and not out.parent.is_dir():
        raise BadInput("--out", str(out), "a file in a folder that exists", f"mkdir {out.parent}")
    found = read_results(results if results is not None else _only_folder(Path("results")))
    if json_wanted:
        click.echo(json.dumps(as_json(found), allow_nan=False))
    if out is not None:
        write_whole(out, page(found))
        missing = f"; {NO_PLOTS}" if plots_module() is None else ""
        click.echo(f"{printable(str(out))}: written{missing}", err=json_wanted)
    elif not json_wanted:
        print_report(found, console())


def write_whole(path: Path, text: str) -> None:
    """A file that is being looked at is replaced at once, or not at all."""
    waiting = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        waiting.write_text(text, "utf-8")
        waiting.replace(path)
    finally:
        waiting.unlink(missing_ok=True)


def _only_folder(root: Path) -> Path:
    folders = known_folders(root)
    if len(folders) == 1:
        return folders[0]
    if not folders:
        raise BadInput("RESULTS", "(none found under results/)", "a folder that a sweep wrote", "run harness sweep")
    raise BadInput("RESULTS", "(not given)", "one results folder", f"choose one: {', '.join(map(str, folders))}")
