"""What targeted sampling decides on: candidates with their traffic and cost, and what a trainer knows of them.

Arrays, one value for each of n candidates: a trainer fills `Knowledge`, `acquisition` reads it and decides. Neither
side knows how the other works.
"""

from dataclasses import dataclass

import numpy as np

from harness.points import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Feasible points of one kind of node, measured ones among them.

    Attributes:
        launch: (n,) number of the deployment, from 0: points of one share launches.
        prevalence: (n,) share of the traffic that it stands for; at least 0.
        gpu_s: (n,) GPU-seconds that all its repetitions take, by estimate.
        launch_gpu_s: (launches,) GPU-seconds that one launch takes before its first repetition, by estimate.
        measured: (n,) whether it is done, or under way on another node.

    Raises:
        ValueError: arrays that do not fit, a cost or a share that is negative or not finite.
    """

    launch: IntArray
    prevalence: FloatArray
    gpu_s: FloatArray
    launch_gpu_s: FloatArray
    measured: BoolArray

    def __post_init__(self) -> None:
        if not len(self.launch) == len(self.prevalence) == len(self.gpu_s) == len(self.measured):
            raise ValueError("candidates have one launch, share, cost and state each")
        if len(self.launch) and not 0 <= self.launch.min() <= self.launch.max() < len(self.launch_gpu_s):
            raise ValueError(f"launches are numbered from 0 to {len(self.launch_gpu_s) - 1}")
        for name in ("prevalence", "gpu_s", "launch_gpu_s"):
            values = getattr(self, name)
            if not np.isfinite(values).all() or (values < 0).any():
                raise ValueError(f"{name} is finite and at least 0")

    def __len__(self) -> int:
        return len(self.launch)


@dataclass(frozen=True, slots=True, eq=False)
class Knowledge:
    """What a trainer knows of n candidates.

    Attributes:
        error: (n,) relative error that it expects of its predictor there, as of points that it has not seen.
        noise: (n,) relative standard error that the repetitions there are expected to leave, whatever is measured.
        coordinates: (n, d) where the candidate is; a distance of 1 is far enough for the other to say little. Compared
            only within a deployment.

    Raises:
        ValueError: arrays that do not fit, or are not finite.
    """

    error: FloatArray
    noise: FloatArray
    coordinates: FloatArray

    def __post_init__(self) -> None:
        if not len(self.error) == len(self.noise) == len(self.coordinates) or self.coordinates.ndim != 2:
            raise ValueError("an error, a noise and a row of coordinates for each candidate")
        for name in ("error", "noise", "coordinates"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} is finite")


@dataclass(frozen=True, slots=True, eq=False)
class Picks:
    """What to measure, launch by launch, the most worthwhile launch first.

    Attributes:
        position: (k,) of candidates; those of one launch follow one another.
        why: of each a phrase.
        gpu_s: GPU-seconds of all, launches included, by estimate.
    """

    position: IntArray
    why: tuple[str, ...]
    gpu_s: float

    def __len__(self) -> int:
        return len(self.position)
