"""`harness doctor`: what works here, and the fix for each thing that does not."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from harness.doctor import Check, examine
from harness.texts import printable


@click.command(short_help="what works on this machine, and the fix for what does not")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"), help="Where runs would land.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def doctor(results: Path, as_json: bool) -> None:
    """Look at GPUs, counters, permissions, engines, traces and folders; nothing is changed.

    Ends with 0 whatever it finds: a machine without GPUs can still simulate.

    \b
    Example:
      harness doctor
      harness doctor --json
    """
    checks = examine(results)
    if as_json:
        click.echo(json.dumps({"checks": [asdict(check) for check in checks]}, indent=2))
    else:
        click.echo(_table(checks))


def _table(checks: list[Check]) -> str:
    name_width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:<7}  {check.name:<{name_width}}  {printable(check.detail)}")
        if check.fix:
            lines.append(f"{'':<7}  {'':<{name_width}}  fix: {printable(check.fix)}")
    counts = Counter(check.status for check in checks)
    lines.append(f"\n{counts['ok']} ok, {counts['warn']} to look at, {counts['missing']} missing")
    return "\n".join(lines)
