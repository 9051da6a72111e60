"""How the plots of a report look: figures, axes, colours and the texts on them."""

import io
import textwrap
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#A8A8A8",
)  # fmt: skip
"""Okabe and Ito's, which people who do not tell red from green tell apart."""
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW)
TEXT, SMALL = 9.0, 8.0
_WIDTH_IN, _ROW_IN, _PANEL_IN = 10.0, 0.21, 2.1
_LONGEST = 64
_MANY_NAMES = 8


def render(figure: Figure, kind: str = "svg") -> bytes:
    """A figure as SVG (letters are outlines, so that it looks alike everywhere) or PNG."""
    FigureCanvasAgg(figure)
    target = io.BytesIO()
    with warnings.catch_warnings():
        # Names may hold letters that the font lacks: they show as boxes here, and in full in the tables.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(target, format=kind, dpi=110)
    return target.getvalue()


def plain(text: str) -> str:
    """Text from data, shortened, and with `$` as itself: it would else begin a formula."""
    short = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"
    return short.replace("$", r"\$")


def wrapped(text: str, width: int = 30) -> str:
    return "\n".join(textwrap.wrap(plain(text), width)[:3])


def rows_figure(rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    """Panels side by side that share rows of names."""
    figure = Figure(figsize=(_WIDTH_IN, 0.9 + _ROW_IN * rows), layout="constrained")
    axes = [_quiet(one) for one in np.atleast_1d(figure.subplots(1, columns, sharey=True))]
    axes[0].set_ylim(-0.7, rows - 0.3)
    for one in axes:
        one.grid(axis="y", color="#ECECEC", linewidth=0.6)
    return figure, axes


def panels(count: int, columns: int, share: tuple[bool, bool] = (False, False)) -> tuple[Figure, list[Axes]]:
    """Small multiples, `columns` of them in a row; `share` says whether they share x and y."""
    columns = min(columns, count)
    rows = -(-count // columns)
    width = _WIDTH_IN if columns > 1 else _WIDTH_IN / 2
    figure = Figure(figsize=(width, 0.6 + _PANEL_IN * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=share[0], sharey=share[1], squeeze=False).flatten()
    for unused in grid[count:]:
        unused.set_visible(False)
    return figure, [_quiet(one) for one in grid[:count]]


def outer_labels(grid: Sequence[Axes], columns: int, x: str, y: str) -> None:
    """Name x below the lowest panel of each column (there may be an empty place under it), y beside the first ones."""
    for index, axes in enumerate(grid):
        lowest = index + columns >= len(grid)
        axes.tick_params(labelbottom=lowest)
        axes.set_xlabel(x if lowest else "", fontsize=SMALL)
        axes.set_ylabel(y if index % columns == 0 else "", fontsize=SMALL)


def name_rows(axes: Axes, places: Sequence[float], names: Sequence[str]) -> None:
    axes.set_yticks(places, [plain(name) for name in names], fontsize=SMALL)
    axes.tick_params(axis="y", length=0)


def log_axis(axes: Axes, which: str, label: str = "", base: float = 10.0) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5 (or at powers of two)."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log", base=base)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(base, (1.0, 2.0, 5.0) if base == 10.0 else (1.0,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_label_text(label, fontsize=TEXT)


def legend(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """One legend for all panels, above them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=SMALL, frameon=False)


def left_out(figure: Figure, names: Sequence[str], what: str) -> Figure:
    """A line below that names what has no place in the plot."""
    if names:
        named = ", ".join(plain(name) for name in names[:_MANY_NAMES])
        more = f" and {len(names) - _MANY_NAMES} more" if len(names) > _MANY_NAMES else ""
        text = textwrap.fill(f"Not shown here ({what}; the table has all): {named}{more}", 150)
        figure.supxlabel(text, fontsize=SMALL, color="#555555", x=0.01, ha="left")
    return figure


def _quiet(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#888888")
    axes.tick_params(labelsize=SMALL, color="#888888", which="both")
    axes.grid(axis="x", color="#ECECEC", linewidth=0.6)
    axes.set_axisbelow(True)
    return axes
