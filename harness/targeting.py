"""The next points of a sweep's space: those that a predictor is expected to learn most from, for what they cost.

Only batches are candidates (nothing is learnt from replays), and of them only those that teach: what the trainer keeps
for tests stays what the first round measured, so that scores of all rounds are of the same points.
"""

from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path

import numpy as np

from harness.deployment.samplingspec import SamplingRules
from harness.points import BatchWorkload, Deployment, Point
from harness.roundfiles import Pick
from harness.sampling.acquisition import choose, worth
from harness.sampling.candidates import Cost, Traffic, candidates_of
from harness.space import Candidate, Group, Space
from harness.trainer import Question, Trainer

Feasible = Callable[[Point], bool]


def targeted(
    space: Space,
    feasible: Feasible,
    taken: frozenset[str],
    trainer: Trainer,
    predictor: Path,
    costs: Mapping[str, Cost],
    points: int,
    rules: SamplingRules,
    gpu_s: float = float("inf"),
    seed: int = 0,
) -> tuple[tuple[Pick, ...], float]:
    """The next picks in launch order, and the GPU-seconds that they are expected to take.

    None where no point is left that teaches, none fits `gpu_s`, or no expected error is above the noise of repetitions.

    Args:
        taken: ids of points that are measured, or that another round is to measure.
        predictor: trained, without a suffix.

    Raises:
        BadInput: a predictor that cannot be used, a GPU that the trainer does not know.
    """
    open_ = _batches(space, feasible)
    questions = [question_of(point) for point in open_]
    teaches = trainer.teaches(questions)
    kept = np.flatnonzero(teaches).tolist()
    open_, questions = [open_[at] for at in kept], [questions[at] for at in kept]
    measured = np.array([point.point_id in taken for point in open_], np.bool_)
    if not open_ or measured.all():
        return (), 0.0
    candidates = candidates_of(open_, measured, costs, rules.traffic)
    knowledge = trainer.knowledge(predictor, questions)
    if not worth(candidates, knowledge)[np.unique(candidates.launch[~measured])].any():
        return (), 0.0
    found = choose(candidates, knowledge, points, gpu_s, seed, rules.per_launch)
    picks = zip(found.position.tolist(), found.why, strict=True)
    return tuple(Pick(open_[at].point_id, why) for at, why in picks), found.gpu_s


def drawn(
    space: Space,
    feasible: Feasible,
    costs: Mapping[str, Cost],
    points: int,
    rules: SamplingRules,
    seed: int = 0,
) -> tuple[Pick, ...]:
    """A first look at the space, before anything is known: `points` picks in launch order.

    Deployments are drawn, each as likely as its traffic per GPU-second; batches of one are drawn too, and its replays
    come with them. What tests is among them, as often as elsewhere. None where the space has no batches that can run.
    """
    open_ = _batches(space, feasible)
    if not open_:
        return ()
    candidates = candidates_of(open_, np.zeros(len(open_), np.bool_), costs, rules.traffic)
    found = choose(candidates, None, points, seed=seed, per_launch=rules.per_launch)
    replays: dict[Deployment, list[Pick]] = {}
    for group in space.groups:
        for item in group.candidates:
            if not _is_batch(item.point) and feasible(item.point):
                replays.setdefault(group.deployment, []).append(Pick(item.point.point_id, item.why))
    picks: list[Pick] = []
    by_launch = groupby(zip(found.position.tolist(), found.why, strict=True), lambda pick: open_[pick[0]].deployment)
    for deployment, launch in by_launch:
        picks += [Pick(open_[at].point_id, why) for at, why in launch]
        picks += replays.get(deployment, [])
    return tuple(picks[:points])


def _batches(space: Space, feasible: Feasible) -> list[Point]:
    """Of one node: predictors do not learn from deployments over several."""
    points = (item.point for group in space.groups if group.deployment.nodes == 1 for item in group.candidates)
    return [point for point in points if _is_batch(point) and feasible(point)]


def traffic_of(space: Space, feasible: Feasible, traffic: Traffic) -> dict[str, float]:
    """By id of each batch point that can run, the share of the traffic that it stands for; together 1."""
    points = _batches(space, feasible)
    nothing = dict.fromkeys({point.deployment.gpu for point in points}, Cost(0.0, 0.0))
    share = candidates_of(points, np.zeros(len(points), np.bool_), nothing, traffic).prevalence
    return {point.point_id: value for point, value in zip(points, share.tolist(), strict=True)}


def spread(space: Space, feasible: Feasible, taken: frozenset[str], points: int | None) -> tuple[Pick, ...]:
    """The next `points` feasible points in the order of the space, with the infeasible ones met on the way."""
    untaken = tuple(
        Group(group.deployment, tuple(item for item in group.candidates if item.point.point_id not in taken))
        for group in space.groups
    )
    first = Space(tuple(group for group in untaken if group.candidates), space.schedules).first(points, feasible)
    return tuple(Pick(item.point.point_id, item.why) for group in first.groups for item in group.candidates)


def question_of(point: Point) -> Question:
    """What a trainer is asked of a batch point.

    Raises:
        ValueError: a replay.
    """
    deployment, workload = point.deployment, point.workload
    if not isinstance(workload, BatchWorkload):
        raise ValueError("predictors are of batches")
    return Question(
        gpu=deployment.gpu,
        model=deployment.model,
        batch_size=workload.batch_size,
        prompt_tokens=workload.prompt_tokens,
        generated_tokens=workload.generated_tokens,
        tp=deployment.tensor_parallel,
        pp=deployment.pipeline_parallel,
        bits=deployment.bits,
        engine=deployment.limits.engine,
        token_budget=deployment.limits.token_budget,
    )


def picked(space: Space, picks: tuple[Pick, ...]) -> tuple[Group, ...]:
    """Groups of the picks, in their order; ids that the space does not have are left out."""
    known = _by_id(space)
    groups: list[Group] = []
    for pick in picks:
        item = known.get(pick.point_id)
        if item is None:
            continue
        item = Candidate(item.point, item.lengths_from, pick.why)
        if groups and groups[-1].deployment == item.point.deployment:
            groups[-1] = Group(groups[-1].deployment, (*groups[-1].candidates, item))
        else:
            groups.append(Group(item.point.deployment, (item,)))
    return tuple(groups)


def _by_id(space: Space) -> dict[str, Candidate]:
    return {item.point.point_id: item for group in space.groups for item in group.candidates}


def _is_batch(point: Point) -> bool:
    return isinstance(point.workload, BatchWorkload)
