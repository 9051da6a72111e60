"""Points as candidates: how much of the traffic each stands for, and what measuring it costs.

What nobody knows is assumed, and can be switched off (`traffic: uniform`). The usual traffic is equal over the kinds of
GPU and over the models on each. Of a model on a kind of GPU, every way to divide it over GPUs, width of its weights and
engine has a share that halves with each doubling of GPUs beyond the fewest that fit, and halves again with a pipeline:
whoever serves a model takes no more GPUs than it needs, and tensor parallelism within a node. The batches of a
deployment share its traffic equally: those that were drawn from a trace stand for equal shares of its requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.points import BoolArray, Deployment, FloatArray, Point
from harness.sampling.base import Candidates

Traffic = Literal["usual", "uniform"]
"""usual: as the module says. uniform: every deployment has the same share."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one kind of node, which a launch has to itself, in GPU-seconds of all its GPUs.

    Attributes:
        launch_gpu_s: one launch, before its first repetition.
        point_gpu_s: all repetitions of a point.
    """

    launch_gpu_s: float
    point_gpu_s: float


def candidates_of(
    points: Sequence[Point], measured: BoolArray, costs: Mapping[str, Cost], traffic: Traffic = "usual"
) -> Candidates:
    """Candidates in the order of n feasible points; shares of traffic sum to 1.

    Args:
        measured: (n,) whether it is done or under way.
        costs: for each kind of GPU of the points.
    """
    numbers: dict[Deployment, int] = {}
    launch = np.array([numbers.setdefault(point.deployment, len(numbers)) for point in points], np.int64)
    deployments = tuple(numbers)
    share = shares(deployments, traffic)
    count = np.bincount(launch, minlength=len(deployments))
    return Candidates(
        launch=launch,
        prevalence=(share / np.maximum(count, 1))[launch],
        gpu_s=np.array([costs[point.deployment.gpu].point_gpu_s for point in points], np.float64),
        launch_gpu_s=np.array([costs[deployment.gpu].launch_gpu_s for deployment in deployments], np.float64),
        measured=measured,
    )


def shares(deployments: Sequence[Deployment], traffic: Traffic) -> FloatArray:
    """(n,) share of the traffic of each deployment; they sum to 1."""
    if traffic == "uniform" or not deployments:
        return np.full(len(deployments), 1 / max(len(deployments), 1))
    fewest: dict[tuple[str, str, int], int] = {}
    for item in deployments:
        key = (item.gpu, item.model.name, item.bits)
        fewest[key] = min(fewest.get(key, item.gpus), item.gpus)
    weight = np.array(
        [
            fewest[item.gpu, item.model.name, item.bits] / item.gpus * (0.5 if item.pipeline_parallel > 1 else 1.0)
            for item in deployments
        ]
    )
    names = [(item.gpu, item.model.name) for item in deployments]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    group = np.array([numbers[name] for name in names], np.int64)
    of_gpu = np.array([gpu for gpu, _ in numbers])
    models = np.array([(of_gpu == gpu).sum() for gpu in of_gpu])
    each = 1 / (len(np.unique(of_gpu)) * models)
    found: FloatArray = weight / np.bincount(group, weight)[group] * each[group]
    return found
