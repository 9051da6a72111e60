"""`harness merge`: folders of several nodes into one."""

from pathlib import Path

import click

from harness.errors import BadInput
from harness.store import merge as merge_folders
from harness.texts import printable


@click.command(short_help="bring folders of several nodes into one")
@click.argument("sources", metavar="DIR...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--results", "target", required=True, type=click.Path(path_type=Path), help="folder to merge into")
def merge(sources: tuple[Path, ...], target: Path) -> None:
    """Bring the runs of several results folders into one, each run once; the sources stay as they are.

    \b
    Example:
        harness merge node-1/results node-2/results --results results/measured/lab
    """
    if not sources:
        raise BadInput("DIR", "(none given)", "one or more results folders")
    report = merge_folders(sources, target)
    for source in report.sources:
        folder = printable(str(source.path))
        click.echo(f"{folder}: {source.added} runs added, {source.already_there} already there")
    click.echo(f"{printable(str(target))}: {report.added} runs added")
