"""The plots of a report, each from one of its tables. Needs matplotlib (extra `report`): object interface only."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.report import style

MOST_ROWS, MOST_PANELS, MOST_TRACES = 60, 12, 4
_MARKERS = "os^Dv<>P"
_REPLAY = ["deployment", "replay"]
_FINEST_BARS = 48
_COMMON_LEAST_PCT = 0.05


def replay_energy(frame: pd.DataFrame) -> Figure | None:
    """`tables.replay_energy`: a row per deployment and replay, least energy per request first."""
    shown, rest = _first(frame.sort_values("j_per_request"), MOST_ROWS)
    if shown.empty:
        return None
    figure, (left, right) = style.rows_figure(len(shown), columns=2)
    places = np.arange(len(shown))[::-1]
    for axes, name, label in (
        (left, "j_per_request", "GPU energy per request, J"),
        (right, "j_per_token", "GPU energy per generated token, J"),
    ):
        half_width = shown[f"{name}_half_width"].fillna(0.0)
        axes.errorbar(shown[name], places, xerr=half_width, fmt="o", markersize=4, color=style.BLUE, capsize=2)
        style.log_axis(axes, "x", label)
    style.name_rows(left, places.tolist(), _names(shown))
    return style.left_out(figure, rest, "those that take most")


def batch_energy(frame: pd.DataFrame) -> Figure | None:
    """`tables.batch_points`: energy per token over batch size; a panel holds the splits of one model over GPUs."""
    if frame.empty:
        return None
    split = [
        name.replace(f" tp{tp} pp{pp}", "", 1)
        for name, tp, pp in zip(frame["deployment"], frame["tp"], frame["pp"], strict=True)
    ]
    frame = frame.assign(panel=split)
    names = sorted(frame["panel"].unique())
    colours = dict(zip(sorted(frame["tp"].unique()), style.COLOURS * 9, strict=False))
    markers = dict(zip(sorted(frame["pp"].unique()), _MARKERS * 9, strict=False))
    figure, grid = style.panels(min(len(names), MOST_PANELS), 3, share=(True, True))
    for axes, name in zip(grid, names, strict=False):
        for (tp, pp), points in frame[frame["panel"] == name].groupby(["tp", "pp"]):
            look = {"color": colours[tp], "marker": markers[pp]}
            axes.plot(points["batch_size"], points["j_per_token"], linestyle="", markersize=2.5, alpha=0.35,
                      rasterized=len(points) > 100, **look)  # fmt: skip
            medians = points.groupby("batch_size")["j_per_token"].median()
            axes.plot(medians.index, medians, linewidth=0.8, markersize=5, markeredgecolor="white", **look)
        axes.set_title(style.wrapped(name), fontsize=style.TEXT, loc="left")
        style.log_axis(axes, "x", base=2.0)
        style.log_axis(axes, "y")
    style.outer_labels(grid, 3, "batch size, requests", "GPU J per generated token")
    for tp, colour in colours.items():
        grid[0].plot([], [], color=colour, linewidth=3, label=f"tensor parallel {tp}")
    for pp, marker in markers.items():
        grid[0].plot([], [], color=style.GREY, marker=marker, linestyle="", label=f"pipeline parallel {pp}")
    style.legend(figure, grid[0])
    return style.left_out(figure, names[MOST_PANELS:], "the last by name")


def lengths(frame: pd.DataFrame) -> Figure | None:
    """`tables.length_histogram`: prompt and generated tokens of each trace, what was served beside it."""
    if frame.empty:
        return None
    traces = list(dict.fromkeys(frame["trace"]))
    figure, grid = style.panels(2 * min(len(traces), MOST_TRACES), columns=2)
    common = frame[frame["share_pct"] > _COMMON_LEAST_PCT]
    for index, axes in enumerate(grid):
        trace, tokens = traces[index // 2], ("prompt_tokens", "generated_tokens")[index % 2]
        here = common[(common["trace"] == trace) & (common["tokens"] == tokens)]
        for of, bins in here.groupby("of", sort=False):
            _stairs_of(axes, str(of), bins)
        style.log_axis(axes, "x", f"{tokens.replace('_', ' ')} per request", base=2.0)
        axes.set_ylabel("% of requests (or points)", fontsize=style.TEXT)
        axes.set_title(style.plain(trace or "batches of a grid"), fontsize=style.TEXT, loc="left")
        axes.legend(fontsize=style.SMALL, frameon=False, loc="upper left")
    return style.left_out(figure, traces[MOST_TRACES:], "the last by name")


def _stairs_of(axes: Axes, of: str, bins: pd.DataFrame) -> None:
    looks: dict[str, dict[str, Any]] = {
        "replays": {"color": style.BLUE, "linewidth": 1.8},
        "batch points": {"color": style.VERMILION, "linewidth": 1.5, "linestyle": (0, (4, 1.5))},
    }
    look = looks.get(of, {"color": style.GREY, "fill": True, "alpha": 0.45})
    # Bins without requests were left out: every bin is drawn by itself, at its own place.
    edges = np.unique(np.concatenate((bins["from_tokens"], bins["below_tokens"])).astype(float))
    heights = np.zeros(len(edges) - 1)
    heights[np.searchsorted(edges, bins["from_tokens"].to_numpy(float))] = bins["share_pct"]
    axes.stairs(heights, edges, label=of, **look)


def decode_batches(frame: pd.DataFrame) -> Figure | None:
    """`tables.decode_batch_histogram`: a panel per replay; of many some, from the least mean batch to the largest."""
    if frame.empty:
        return None
    weighted = (frame["decode_requests"] * frame["share_of_steps_pct"]).groupby([frame[name] for name in _REPLAY]).sum()
    keys = weighted.sort_values(kind="stable").index
    chosen = np.unique(np.linspace(0, len(keys) - 1, MOST_PANELS).round().astype(int))
    figure, grid = style.panels(len(chosen), 4, share=(True, False))
    replays = dict(iter(frame.groupby(_REPLAY)))
    width = -(-int(frame["decode_requests"].max()) // _FINEST_BARS)
    edges = np.arange(1, frame["decode_requests"].max() + width + 1, width) - 0.5
    per_bar = f" ({width} batch sizes to a bar)" if width > 1 else ""
    one_replay = frame["replay"].nunique() == 1
    for axes, key in zip(grid, keys[chosen], strict=True):
        sizes = replays[key]
        by_steps, by_time = (
            np.histogram(sizes["decode_requests"], edges, weights=sizes[column])[0]
            for column in ("share_of_steps_pct", "share_of_time_pct")
        )
        axes.stairs(by_steps, edges, fill=True, color=style.SKY, label=f"by count of steps{per_bar}")
        axes.stairs(by_time, edges, color=style.VERMILION, linewidth=1.2, label="by their time")
        title = style.wrapped(key[0] if one_replay else f"{key[0]} {key[1]}")
        axes.set_title(title, fontsize=style.SMALL, loc="left")
    style.outer_labels(grid, 4, "sequences decoding together", "% of decoding steps")
    style.legend(figure, grid[0])
    rest = [keys[index][0] for index in range(len(keys)) if index not in chosen]
    return style.left_out(
        figure, rest, f"{len(chosen)} of {len(keys)} are shown, from the least mean batch to the largest"
    )


def latencies(frame: pd.DataFrame) -> Figure | None:
    """`tables.latencies`: batch formation beside whole latency, a row per deployment and replay."""
    by_part = frame[frame["n"] > 0].set_index(_REPLAY).sort_index()
    whole = by_part[by_part["part"] == "latency"].sort_values("p50_s")
    shown, rest = _first(whole.reset_index(), MOST_ROWS)
    if shown.empty:
        return None
    figure, (axes,) = style.rows_figure(len(shown), columns=1)
    places = np.arange(len(shown))[::-1]
    looks = {"formation": (style.ORANGE, "s", "batch formation"), "latency": (style.BLUE, "o", "whole latency")}
    for part, (colour, marker, label) in looks.items():
        of_part = by_part[by_part["part"] == part].reindex(pd.MultiIndex.from_frame(shown[_REPLAY]))
        axes.hlines(places, of_part["p50_s"], of_part["p99_s"], color=colour, linewidth=2, alpha=0.55)
        axes.plot(of_part["p50_s"], places, marker, color=colour, markersize=5, label=label)
    style.log_axis(axes, "x", "from the schedule, s: median (mark) to 99th percentile (end of the line)")
    style.name_rows(axes, places.tolist(), _names(shown))
    style.legend(figure, axes)
    return style.left_out(figure, rest, "the slowest")


def spread(frame: pd.DataFrame) -> Figure | None:
    """`tables.batch_points`: how far the repetitions of a point scatter, and how sure their mean is."""
    known = frame[frame["cv_pct"].notna()]
    if known.empty:
        return None
    figure, grid = style.panels(2, columns=2)
    for axes, name, label in (
        (grid[0], "cv_pct", "CV of GPU energy over repetitions, %"),
        (grid[1], "half_width_pct", "half-width of the 95% interval of the mean, %"),
    ):
        axes.hist(known[name], bins=min(30, 4 + len(known) // 4), color=style.BLUE, alpha=0.75)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.axvline(known[name].median(), color=style.VERMILION, linewidth=1.3, label="median")
        axes.set_xlim(left=0.0)
        axes.set_xlabel(label, fontsize=style.TEXT)
        axes.set_ylabel("batch points", fontsize=style.TEXT)
        axes.legend(fontsize=style.SMALL, frameon=False)
    return figure


FIGURES: Mapping[str, Callable[[pd.DataFrame], Figure | None]] = {
    "replay_energy": replay_energy,
    "batch_energy": batch_energy,
    "lengths": lengths,
    "decode_batches": decode_batches,
    "latencies": latencies,
    "spread": spread,
}
"""By the name that `harness.report.sections.Plot` gives; None where there is nothing to draw."""


def _first(frame: pd.DataFrame, most: int) -> tuple[pd.DataFrame, list[str]]:
    """The rows that have a place, and the names of those that do not."""
    return frame.iloc[:most], _names(frame.iloc[most:])


def _names(frame: pd.DataFrame) -> list[str]:
    """Deployments; with the replay where there are several of them."""
    if frame["replay"].nunique() <= 1:
        return frame["deployment"].tolist()
    return (frame["deployment"] + "  " + frame["replay"]).tolist()
