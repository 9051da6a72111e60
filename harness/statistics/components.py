"""Variance between repetitions, launches and boards, told apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Component:
    """One source of variance.

    Attributes:
        name: repetition, launch or board.
        df: degrees of freedom of its mean square; 0: nothing was repeated at this level.
        variance: estimate, which may be negative (then it is small against what lies below it); None without
            degrees of freedom, when the next level up holds it as well.
    """

    name: str
    df: int
    variance: float | None


def variance_components(
    values: ArrayLike, points: Sequence[object], boards: Sequence[object], launches: Sequence[object]
) -> tuple[Component, Component, Component]:
    """Variances between repetitions of a launch, launches on a board, and boards, pooled over points.

    Random effects nested board / launch / repetition within each point (a fixed effect), unbalanced, by equating
    mean squares to their expectations (Searle, Linear Models, 1971, ch. 11). A launch counts once per point;
    points that share launches are not independent, so pooled degrees of freedom are upper bounds.

    Args:
        values: (n,) values of the runs; divide by each point's mean first for relative variances.
        points, boards, launches: (n,) what each run belongs to.
    """
    frame = pd.DataFrame({"y": np.asarray(values, np.float64), "p": points, "a": boards, "b": launches})
    frame["p"], frame["a"], frame["b"] = (pd.factorize(frame[name])[0] for name in "pab")
    keys = [["p"], ["p", "a"], ["p", "a", "b"]]
    levels = [frame.groupby(key)["y"].agg(["size", "mean"]) for key in keys]
    # n and mean of the group of each run, from points down to launches: (3, n).
    sizes = np.array([frame.groupby(key)["y"].transform("size") for key in keys], np.float64)
    means = np.array([frame.groupby(key)["y"].transform("mean") for key in keys])
    within = float(((frame["y"] - means[2]) ** 2).sum())
    squares = [within, *(float(((means[i] - means[i - 1]) ** 2).sum()) for i in (2, 1))]
    points_n, boards_n, launches_n = (len(level) for level in levels)
    dfs = [len(frame) - launches_n, launches_n - boards_n, boards_n - points_n]

    def spread(inner: int, outer: int) -> float:
        """Sum over inner groups of n_inner^2 / n_outer, as a sum over runs."""
        return float((sizes[inner] / sizes[outer]).sum())

    total = float(len(frame))
    # E[MS launch] = s_e + k1 s_b;  E[MS board] = s_e + k2 s_b + k3 s_a
    k1 = (total - spread(2, 1)) / dfs[1] if dfs[1] else 0.0
    k2 = (spread(2, 1) - spread(2, 0)) / dfs[2] if dfs[2] else 0.0
    k3 = (total - spread(1, 0)) / dfs[2] if dfs[2] else 0.0
    error = squares[0] / dfs[0] if dfs[0] else None
    below = error or 0.0
    launch = (squares[1] / dfs[1] - below) / k1 if dfs[1] else None
    board = (squares[2] / dfs[2] - below - k2 * (launch or 0.0)) / k3 if dfs[2] else None
    named = zip(("repetition", "launch", "board"), dfs, (error, launch, board), strict=True)
    repetition, between_launches, between_boards = (Component(*item) for item in named)
    return repetition, between_launches, between_boards
