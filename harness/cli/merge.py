"""`harness merge`: folders of several nodes into one."""

from pathlib import Path

import click

from harness.errors import BadInput
from harness.store import merge as merge_folders
from harness.texts import printable

_EXIT_INCOMPLETE = 3


@click.command(short_help="bring folders of several nodes into one")
@click.argument("sources", metavar="DIR...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--results", "target", required=True, type=click.Path(path_type=Path), help="folder to merge into")
def merge(sources: tuple[Path, ...], target: Path) -> None:
    """Bring the runs of several results folders into one, each run once; the sources stay as they are.

    \b
    Exit codes: 0 all of them are there, 1 failed, 2 bad input or a folder in use, 3 some are not: a folder has no runs
    yet, or was copied while a run was written (copy it again, and merge again).

    \b
    Example:
        harness merge node-1/results node-2/results --results results/measured/lab
    """
    if not sources:
        raise BadInput("DIR", "(none given)", "one or more results folders")
    report = merge_folders(sources, target)
    for source in (one for one in report.sources if not one.empty):
        click.echo(f"{printable(str(source.path))}: {source.added} runs added, {source.already_there} already there")
    click.echo(f"{printable(str(target))}: {report.added} runs added")
    for source in report.sources:
        folder = printable(str(source.path))
        if source.empty:
            click.echo(f"harness: {folder} has no runs and was left out", err=True)
        if source.left_out:
            why = "whose details are not there: it was copied while they were written; copy it again, and merge again"
            click.echo(f"harness: {folder}: {source.left_out} runs were left out, {why}", err=True)
    if any(source.empty or source.left_out for source in report.sources):
        raise click.exceptions.Exit(_EXIT_INCOMPLETE)
