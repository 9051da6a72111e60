"""`harness traces`: list, fetch and describe request traces."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from harness.texts import printable
from harness.units import format_duration
from harness.workload.describe import REFERENCE_CONTEXT_TOKENS, Description, describe
from harness.workload.library import fetch, fetched_state, find_trace, manifest, traces_folder


@click.group(short_help="known traces: list, fetch, describe")
def traces() -> None:
    """Request traces to replay, and to draw batch lengths from.

    \b
    Example:
      harness traces fetch all
    """


@traces.command("list")
def list_() -> None:
    """List the known traces, and whether they were fetched.

    \b
    Example:
      harness traces list
    """
    rows = [("NAME", "REQUESTS", "SIZE", "LICENCE", "STATE", "ABOUT")]
    for entry in manifest():
        state = fetched_state(entry)
        size = f"{entry.bytes / 1000:.0f} kB"
        rows.append((entry.name, str(entry.rows), size, entry.licence, state, entry.about))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo(f"\nfolder: {printable(str(traces_folder()))}")
    for citation in dict.fromkeys(entry.citation for entry in manifest()):
        click.echo(f"cite: {citation}")


@traces.command("fetch")
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to put it; by default as `traces list` shows.")
def fetch_(name: str, folder: Path | None) -> None:
    """Download the trace NAME, or `all` of them; checksums are verified, a cut download resumes.

    \b
    Example:
      harness traces fetch azure2023-conv
    """
    for known in [entry.name for entry in manifest()] if name == "all" else [name]:
        click.echo(f"{known}: {printable(str(_fetch_with_bar(known, folder)))}")


def _fetch_with_bar(name: str, folder: Path | None) -> Path:
    # Without a terminal a progress bar is only noise in a log.
    with click.progressbar(length=1, label=name, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:

        def show(have_bytes: int, total_bytes: int) -> None:
            bar.length = total_bytes
            bar.update(have_bytes - bar.pos)

        return fetch(name, folder, show)


@traces.command("describe")
@click.argument("name_or_file", metavar="NAME-or-FILE")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def describe_(name_or_file: str, as_json: bool) -> None:
    """Show a trace in figures: span, rate, burstiness and token lengths.

    A trace that was not fetched is described by its bundled statistical profile, and says so.

    \b
    Example:
      harness traces describe azure2023-code
      harness traces describe my-requests.csv.gz --json
    """
    figures = describe(find_trace(name_or_file))
    click.echo(json.dumps(asdict(figures), indent=2) if as_json else _table(figures))


def _table(figures: Description) -> str:
    kind = "bundled statistical profile, sampled" if figures.source == "profile" else "file"
    rate = "-" if figures.rate_per_s is None else f"{figures.rate_per_s:.2f} requests/s"
    gap_cv = "-" if figures.gap_cv is None else f"{figures.gap_cv:.2f} (1 is Poisson)"
    busiest = f"{figures.busiest_minute_requests} requests in the busiest minute"
    rows = [
        ("name", printable(figures.name)),
        ("source", kind),
        ("sha256", figures.sha256),
        ("start", figures.start_utc),
        ("requests", str(figures.requests)),
        ("span", f"{format_duration(figures.span_s)} ({figures.span_s:.1f} s)"),
        ("rate", rate),
        ("gap CV", gap_cv),
        ("minutes", f"{figures.minutes}, {figures.empty_minutes} of them empty; {busiest}"),
        (f"over {REFERENCE_CONTEXT_TOKENS}", f"{figures.over_context_share:.1%} of requests, prompt + generated"),
    ]
    lines = [f"{label:<10}  {value}" for label, value in rows]
    lines.append(f"\n{'tokens':<10}  {'mean':>9} {'median':>9} {'p99':>9} {'max':>9}")
    for label, tokens in (("prompt", figures.prompt_tokens), ("generated", figures.generated_tokens)):
        lines.append(f"{label:<10}  {tokens.mean:>9.1f} {tokens.median:>9.1f} {tokens.p99:>9.1f} {tokens.max:>9d}")
    return "\n".join(lines)
