"""Whether a node measures as it used to: tonight's probes against the same probes of its first nights.

Each night one launch measures the same few points again. Of each launch is compared

- the GPUs' energy of the points,
- how long their batches take,
- each GPU's share of that energy, where the launch holds several: what is common to a launch cancels in it, so that one
  board of eight is seen that hardly moves their sum.

Each is a mean over points and repetitions of a logarithm, so a shift is a factor. The reference are the first
`REFERENCE_LAUNCHES` launches on the same boards: a reference that moved along would never see a slow drift. The spread
is that between these launches (repetitions within a launch say nothing of another one, measurement rule 22), pooled
over the boards that the node's launches go round. A launch that drifted when it was measured is no part of either: one
alarm would else hide the next.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from harness.points import FloatArray

FALSE_ALARM = 1e-3
"""At most this share of the nights of a node that did not change are called a drift (of launches that scatter
normally): half of it for energy and time, half for the GPUs' shares, divided equally (Bonferroni)."""
REFERENCE_LAUNCHES = 20
LEAST_FREEDOM = 4
"""Degrees of freedom without which nothing is said: five launches, where all are on the same boards. With fewer,
Student's t is so wide that only a change by tens of percent would show."""
COLUMNS = (
    "node", "environment_id", "launch_id", "point_id", "purpose", "status", "repetition", "started_at", "gpu_uuids",
    "gpu_energy_j", "gpu_energy_by_gpu_j", "duration_s",
)  # fmt: skip
"""Columns of `runs` that are looked at."""
ENERGY, TIME = "GPU energy", "time of a batch"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantity of tonight's probes beside its reference.

    Attributes:
        quantity: `ENERGY`, `TIME`, or "share of GPU-...".
        shift_pct: tonight over the mean of the reference, less 1.
        seen_from_pct: what shift, up or down, would have been called a drift.
        launches: of the reference, on the same boards.
        drifts: whether it is one.
    """

    quantity: str
    shift_pct: float
    seen_from_pct: float
    launches: int
    drifts: bool

    @property
    def told(self) -> bool:
        """Whether it is worth a word: the whole, or a GPU's share that shifted."""
        return self.drifts or self.quantity in (ENERGY, TIME)

    @property
    def line(self) -> str:
        """Such as "GPU energy +8.2% against 12 launches (a drift is 3.1% or more)"."""
        plural = "es" * (self.launches != 1)
        return (
            f"{self.quantity} {self.shift_pct:+.1f}% against {self.launches} launch{plural}"
            f" (a drift is {self.seen_from_pct:.1f}% or more)"
        )


@dataclass(frozen=True, slots=True)
class _Launch:
    """Logarithms of what a launch yielded, by quantity; `boards` are the GPUs that it held."""

    boards: str
    values: Mapping[str, float]


def compare(runs: pd.DataFrame, launch_id: str, repetitions: int, threshold_pct: float) -> tuple[Comparison, ...]:
    """One launch of probes beside the earlier ones of its node, in its environment, with the same points.

    Args:
        runs: settled nightly probes, with `COLUMNS`.
        launch_id: of tonight's.
        repetitions: of each point in a launch; launches with fewer are left out.
        threshold_pct: a smaller shift is no drift, however sure.

    Returns:
        One for each quantity; empty where too little is known, or where tonight's launch is not whole.
    """
    tonight = runs[runs["launch_id"] == launch_id]
    if tonight.empty:
        return ()
    node, environment_id = tonight["node"].iloc[0], tonight["environment_id"].iloc[0]
    points = frozenset(tonight["point_id"])
    here = runs[(runs["node"] == node) & (runs["environment_id"] == environment_id)]
    launches: dict[str, _Launch] = {}
    for name, group in here.sort_values("started_at", kind="stable").groupby("launch_id", sort=False):
        if group.groupby("point_id").size().to_dict() == dict.fromkeys(points, repetitions):
            launches[str(name)] = _launch(group)
    last = launches.pop(launch_id, None)
    if last is None:
        return ()
    shares = [name for name in last.values if name not in (ENERGY, TIME)]
    whole = FALSE_ALARM / 2 if shares else FALSE_ALARM
    made = []
    for quantity, value in last.values.items():
        chance = whole / 2 if quantity in (ENERGY, TIME) else FALSE_ALARM / 2 / len(shares)
        reference: dict[str, list[float]] = {last.boards: []}
        for launch in launches.values():
            on_these = reference.setdefault(launch.boards, [])
            earlier = launch.values.get(quantity)
            if earlier is not None and len(on_these) < REFERENCE_LAUNCHES:
                drifted = _compare_one(quantity, earlier, launch.boards, reference, chance, threshold_pct)
                if drifted is None or not drifted.drifts:
                    on_these.append(earlier)
        found = _compare_one(quantity, value, last.boards, reference, chance, threshold_pct)
        if found is not None:
            made.append(found)
    return tuple(made)


def _compare_one(
    quantity: str,
    value: float,
    boards: str,
    reference: Mapping[str, Sequence[float]],
    chance: float,
    threshold_pct: float,
) -> Comparison | None:
    """Logarithms as percents. The threshold holds up and down alike, as a factor."""
    others = [values for held, values in reference.items() if held != boards]
    found = apart_from(value, reference[boards], others, chance)
    if found is None:
        return None
    apart, width = found
    least = max(width, math.log1p(threshold_pct / 100))
    launches = len(reference[boards])
    return Comparison(quantity, 100 * math.expm1(apart), 100 * math.expm1(least), launches, abs(apart) > least)


def apart_from(
    value: float, reference: Sequence[float], others: Sequence[Sequence[float]], false_alarm: float
) -> tuple[float, float] | None:
    """How far a value is from the mean of a reference, and how far it would be by chance so seldom.

    The prediction interval of one more value: t(df) s sqrt(1 + 1/n), with s pooled within the reference and within
    others that scatter alike (Hahn and Meeker, Statistical Intervals, 1991, ch. 4, for one group).

    Returns:
        None without a reference, or with fewer than `LEAST_FREEDOM` degrees of freedom.
    """
    groups = [np.asarray(one, np.float64) for one in (reference, *others) if len(one)]
    freedom = sum(len(one) - 1 for one in groups)
    if not len(reference) or freedom < LEAST_FREEDOM:
        return None
    variance = sum(float(((one - one.mean()) ** 2).sum()) for one in groups) / freedom
    factor = float(special.stdtrit(freedom, 1 - false_alarm / 2))
    mean = float(np.mean(reference))
    return value - mean, factor * math.sqrt(variance * (1 + 1 / len(reference)))


def _launch(group: pd.DataFrame) -> _Launch:
    """Every point counts the same in a launch."""
    uuids = tuple(group["gpu_uuids"].iloc[0])
    logs = {ENERGY: np.log(group["gpu_energy_j"].to_numpy(np.float64))}
    logs[TIME] = np.log(group["duration_s"].to_numpy(np.float64))
    by_gpu: FloatArray = np.array([list(one) for one in group["gpu_energy_by_gpu_j"]], np.float64)
    if len(uuids) > 1 and by_gpu.shape == (len(group), len(uuids)):
        share = np.log(by_gpu / by_gpu.sum(axis=1, keepdims=True))
        logs |= {f"share of {uuid}": share[:, at] for at, uuid in enumerate(uuids)}
    # As many repetitions of each point: the mean over runs is that over points.
    values = {name: float(found.mean()) for name, found in logs.items()}
    return _Launch(" ".join(sorted(uuids)), {name: value for name, value in values.items() if math.isfinite(value)})
