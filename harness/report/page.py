"""A report as one HTML file: nothing is fetched, nothing in it can run, every text from data is escaped."""

import base64
import html
from collections.abc import Callable, Iterator
from types import ModuleType

import pandas as pd

from harness import __version__
from harness.report.cells import cells
from harness.report.data import Results
from harness.report.sections import Plot, ReportTable, Section, headline, sections

MOST_ROWS = 500
"""Of a table in the page; `--json` has all."""
NO_PLOTS = "Plots need matplotlib: pip install -e '.[report]'."
_FOLDED_ROWS = 60
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 72rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .3rem; } h2 { margin-top: 2.6rem; border-bottom: 1px solid #ccc; }
h3 { margin: 1.8rem 0 .2rem; font-size: 1.05rem; } p { max-width: 56rem; } nav a { margin-right: 1.2rem; }
.headline { font-weight: 600; padding: .6rem .9rem; border-left: 6px solid #0072B2; background: #eef5fa; }
.simulated { border-color: #D55E00; background: #fdf0e6; }
.wide { overflow-x: auto; } .note, figcaption { color: #555; font-size: .88rem; margin: .2rem 0 .5rem; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .65rem; text-align: right; border-bottom: 1px solid #eaeaea; vertical-align: top; }
th { border-bottom: 2px solid #888; vertical-align: bottom; background: #fff; }
th.text, td.text { text-align: left; } td.text { max-width: 34rem; overflow-wrap: anywhere; }
td.text:first-child, th { white-space: nowrap; }
tbody tr:hover { background: #f4f8fb; } figure { margin: 1.2rem 0; } img { width: 100%; max-width: 62rem; }
summary { cursor: pointer; color: #0072B2; }
"""


def page(results: Results) -> str:
    """The page of a results folder."""
    return "".join(_page(results))


def _page(results: Results) -> Iterator[str]:
    made, plots = sections(results), plots_module()
    title = html.escape(f"Report of {results.folder.resolve().name}")
    simulated = " simulated" if results.sources != ("measured",) else ""
    yield (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        f'<p class="headline{simulated}">{html.escape(headline(results))}</p>\n'
        f'<p class="note">{html.escape(str(results.folder))}; harness {html.escape(__version__)}. Headings of columns'
        " explain themselves when pointed at.</p>\n"
    )
    if plots is None:
        yield f'<p class="note">{html.escape(NO_PLOTS)}</p>\n'
    links = (f'<a href="#{section.anchor}">{html.escape(section.title)}</a>' for section in made)
    yield f"<nav>{''.join(links)}</nav>\n"
    for section in made:
        yield from _section(section, plots)
    yield "</body></html>\n"


def plots_module() -> ModuleType | None:
    """`harness.report.plots`, or None where matplotlib is not installed."""
    try:
        from harness.report import plots
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "matplotlib":
            return None
        raise
    return plots


def _section(section: Section, plots: ModuleType | None) -> Iterator[str]:
    yield f'<h2 id="{section.anchor}">{html.escape(section.title)}</h2>\n'
    yield from (f"<p>{html.escape(text)}</p>\n" for text in section.text)
    if plots is not None:
        yield from (_figure(plot, plots.FIGURES[plot.name], plots.style.render) for plot in section.plots)
    yield from (_table(table) for table in section.tables if len(table.frame))


def _figure(plot: Plot, draw: Callable[[pd.DataFrame], object], render: Callable[[object], bytes]) -> str:
    figure = draw(plot.frame)
    if figure is None:
        return ""
    # As an image, so that even an SVG with a script in it would not run it.
    data, caption = base64.b64encode(render(figure)).decode(), html.escape(plot.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def _table(table: ReportTable) -> str:
    shown = cells(table, MOST_ROWS, "all of them: harness report --json")
    kinds = [' class="text"' if left else "" for left in shown.left]
    head = "".join(
        f'<th{kind} title="{html.escape(meaning)}">{html.escape(heading)}</th>'
        for kind, heading, meaning in zip(kinds, shown.headings, shown.meanings, strict=True)
    )
    rows = "".join(
        f"<tr>{''.join(f'<td{kind}>{html.escape(text)}</td>' for kind, text in zip(kinds, row, strict=True))}</tr>\n"
        for row in shown.rows
    )
    head = f"<thead><tr>{head}</tr></thead>\n" if any(shown.headings) else ""
    body = f'<div class="wide"><table>\n{head}<tbody>\n{rows}</tbody></table></div>\n'
    if shown.note:
        body = f'<p class="note">{html.escape(shown.note)}</p>\n{body}'
    if table.brief == 0 or len(shown.rows) > _FOLDED_ROWS:
        body = f"<details><summary>{len(table.frame):,} rows</summary>\n{body}</details>\n"
    return f"<h3>{html.escape(table.title)}</h3>\n{body}"
