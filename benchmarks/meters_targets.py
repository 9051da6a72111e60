"""Which of the race's targets are met: accuracy, ratio to the better peer, widths, coverage, RAPL windows."""

from collections.abc import Sequence

import numpy as np
from meters_loads import CAPS_PCT, LOADS
from meters_outcome import Outcome, ratio_upper

WRONG_PCT = 5.0
"""A RAPL window that is off by more missed a wrap, or counted one that was not there."""
MANY = 50
"""Coverage is judged over all windows of a load, and for a length alone only where it has so many: of eight windows,
one missed makes 87.5%, which says nothing of 90%."""
CALLS = {
    "harness": ("harness", "mark/mark"),
    "harness gated": ("harness", "mark/mark, gated=True"),
    "zeus": ("zeus", "begin_window/end_window"),
    "codecarbon task": ("codecarbon", "start_task/stop_task"),
    "codecarbon run": ("codecarbon", "start/stop"),
    "harness rapl": ("harness", "mark/mark"),
    "zeus rapl": ("zeus", "begin_window/end_window"),
    "codecarbon rapl": ("codecarbon", "start_task/stop_task"),
    "pyRAPL": ("pyRAPL", "begin/end"),
}
"""Package of a tool, and the calls that bound its windows; around the harness's, settle."""
Row = dict[str, object]


def best_peer(outcomes: list[Outcome], ours: Outcome) -> Outcome:
    """The peer with the lowest median error in the same windows; a window that failed is infinitely wrong."""
    peers = [
        other
        for other in outcomes
        if (other.load, other.gpus, other.window_s) == (ours.load, ours.gpus, ours.window_s)
        and not other.tool.startswith("harness")
    ]
    return min(peers, key=lambda peer: float(np.median(np.nan_to_num(peer.error_pct, nan=np.inf))))


def target(name: str, where: str, figure: float, limit: float, at_least: bool = False) -> Row:
    met = figure >= limit if at_least else figure <= limit
    sign = "at least" if at_least else "at most"
    return {
        "target": name,
        "where": where,
        "figure": round(float(figure), 4),
        "limit": f"{sign} {limit:g}",
        "verdict": "PASS" if met else "UNMET",
    }


def gpu_targets(outcomes: list[Outcome]) -> list[Row]:
    """Accuracy, ratio to the better peer, coverage: one line for each load, number of GPUs and length."""
    rows = []
    for one in outcomes:
        if not one.tool.startswith("harness"):
            continue
        where = f"{one.load}, {one.gpus} GPU, {one.window_s:g} s"
        errors = one.error_pct
        median = float(np.nanmedian(errors))
        kind = LOADS[one.load].kind
        if not kind and len(errors) >= MANY:
            rows.append(target(covers([one]), where, one.coverage_pct or 0.0, 90, at_least=True))
        elif one.load == "gated":
            if one.window_s == 0.5:
                rows.append(target("gated median, %", where, median, 0.2))
        elif one.window_s in (0.5, 2.0):
            most_median, most_p90 = (1.0, 5.0) if one.window_s == 0.5 else (0.2, 1.5)
            rows.append(target("median, %", where, median, most_median))
            rows.append(target("p90, %", where, float(np.nanquantile(errors, 0.9)), most_p90))
            limit = 0.5 if one.load == "jittered bursts" else 0.2
            peer = best_peer(outcomes, one)
            against = f"{where}: {CALLS[peer.tool][1]}"
            rows.append(target("ratio to the better peer, upper bound", against, ratio_upper(one, peer), limit))
        if kind and one.window_s in CAPS_PCT[kind]:
            cap = CAPS_PCT[kind][one.window_s]
            rows.append(target(f"width cap of {kind}, median %", where, one.width_pct or np.inf, cap))
        if one.errors:
            rows.append(target("windows failed", f"{where}: {one.errors[0]}", len(one.errors), 0))
    return rows + coverage_targets(outcomes)


def coverage_targets(outcomes: list[Outcome]) -> list[Row]:
    """One line for each load and number of GPUs, over all its windows."""
    rows = []
    for load, gpus in dict.fromkeys((one.load, one.gpus) for one in outcomes if not LOADS[one.load].kind):
        alike = [one for one in outcomes if (one.load, one.gpus) == (load, gpus) and one.tool.startswith("harness")]
        windows = sum(len(one.truth_j) for one in alike)
        covered_pct = sum((one.coverage_pct or 0.0) * len(one.truth_j) for one in alike) / windows
        where = f"{load}, {gpus} GPU, all {windows} windows"
        rows.append(target(covers(alike), where, covered_pct, 90, at_least=True))
    return rows


def covers(alike: Sequence[Outcome]) -> str:
    """Where the boards are such as sample, both of what is stated count together."""
    bounded = any(one.bound_pct for one in alike)
    return "random and sampling bound cover, %" if bounded else "random uncertainty covers, %"


def rapl_targets(outcomes: list[Outcome]) -> list[Row]:
    return [
        target("RAPL windows wrong or failed", f"{one.load}, {one.tool}", wrong(one), 0)
        for one in outcomes
        if one.tool == "harness rapl"
    ]


def wrong(one: Outcome) -> int:
    """Windows that failed, or are off by more than `WRONG_PCT`."""
    return int(np.sum(~(one.error_pct <= WRONG_PCT)))
