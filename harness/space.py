"""All points of a sweep, in the order in which a first look at the space should take them.

Deployments are ordered so that each is as far as can be from those before it (in GPU, model, TP, PP, bits,
engine and its token budget); each gets batch lengths from a low-discrepancy sequence over the trace's own joint
distribution, shared by all deployments, so that together they fill the trace's space evenly. Any prefix of
the order is therefore well spread, and every deployment needs one launch only.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from harness.deployment.sweepfile import BatchSpace, ReplaySpec, Sweep
from harness.errors import BadInput
from harness.points import BatchWorkload, Deployment, FloatArray, IntArray, Point, ReplayWorkload, Schedule, content_id
from harness.workload.azure import Trace
from harness.workload.slices import choose_slice, different_lengths, make_schedule, pick_lengths

_GOLDEN = (math.sqrt(5) - 1) / 2
_MOST_REPLAYED_S = 4 * 3600.0
PER_LOOK = 5
"""Batches of a deployment that a first round takes at most while other deployments have had none."""
_SHARED_LENGTHS = 2048
"""Pairs of lengths that are picked of a trace at most; larger spaces take them again, with other batch sizes."""
FindTrace = Callable[[str], Trace]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point that the sweep may take, and why it is a candidate."""

    point: Point
    lengths_from: str
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The candidates of one deployment: they share launches."""

    deployment: Deployment
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Groups in the order to take them, and the requests of every replay point by point id."""

    groups: tuple[Group, ...]
    schedules: Mapping[str, Schedule]

    def __len__(self) -> int:
        return sum(len(group.candidates) for group in self.groups)

    def first(self, points: int | None, feasible: Callable[[Point], bool]) -> "Space":
        """The groups up to the first `points` feasible points; the infeasible ones met on the way stay."""
        if points is None:
            return self
        kept: list[Group] = []
        left = points
        for group in self.groups:
            if left <= 0:
                break
            taken: list[Candidate] = []
            for candidate in group.candidates:
                if left <= 0:
                    break
                taken.append(candidate)
                left -= feasible(candidate.point)
            kept.append(replace(group, candidates=tuple(taken)))
        return Space(tuple(kept), self.schedules)


def in_looks(space: Space) -> Space:
    """The space for rounds: `PER_LOOK` batches of each deployment and its replays, then as many further ones, ...

    A first round over few deployments would tell nothing of the others, nor would what tests in it.
    """
    looks: dict[int, list[Group]] = {}
    for group in space.groups:
        batches = [item for item in group.candidates if isinstance(item.point.workload, BatchWorkload)]
        replays = [item for item in group.candidates if not isinstance(item.point.workload, BatchWorkload)]
        for look, start in enumerate(range(0, max(len(batches), 1), PER_LOOK)):
            taken = batches[start : start + PER_LOOK] + (replays if look == 0 else [])
            looks.setdefault(look, []).append(Group(group.deployment, tuple(taken)))
    return Space(tuple(group for look in sorted(looks) for group in looks[look]), space.schedules)


def by_deployment(space: Space) -> Space:
    """The space with one group for each deployment, in the order in which they first come."""
    found: dict[Deployment, list[Candidate]] = {}
    for group in space.groups:
        found.setdefault(group.deployment, []).extend(group.candidates)
    return Space(tuple(Group(one, tuple(candidates)) for one, candidates in found.items()), space.schedules)


def build_space(sweep: Sweep, find_trace: FindTrace, seed: int) -> Space:
    """All candidates of a sweep.

    Args:
        find_trace: name or path of a trace -> the trace (or the profile's sample, named as such).
        seed: decides the order of lengths and sizes, nothing else.

    Raises:
        BadInput: a trace that cannot be read, a slice without requests.
    """
    deployments = spread_out(sweep.deployments)
    asked = [(space.trace, space.place) for space in sweep.batches if space.trace]
    asked += [(spec.trace, spec.place) for spec in sweep.replays]
    traces: dict[str, Trace] = {}
    for name, place in asked:
        if name not in traces:
            with _named(f"{place}.trace" if place else f"{sweep.path}: trace {name}"):
                traces[name] = find_trace(name)
    batches: dict[Deployment, dict[Point, Candidate]] = {deployment: {} for deployment in deployments}
    for space in sweep.batches:
        with _named(space.place):
            found = _batch_candidates(space, deployments, traces, seed)
        for deployment, candidate in found:
            batches[deployment].setdefault(candidate.point, candidate)
    groups: list[Group] = []
    schedules: dict[str, Schedule] = {}
    made: dict[tuple[ReplaySpec, int], tuple[ReplayWorkload, Schedule]] = {}
    for deployment in deployments:
        replays: list[Candidate] = []
        context = deployment.limits.max_context_tokens
        for spec in sweep.replays:
            if (spec, context) not in made:
                with _named(spec.place or f"{sweep.path}: replay of {spec.trace}"):
                    made[spec, context] = _replay(spec, traces[spec.trace], context)
            workload, schedule = made[spec, context]
            point = Point(deployment, workload)
            schedules[point.point_id] = schedule
            replays.append(Candidate(point, workload.trace, "one replay of the trace per deployment"))
        groups.append(Group(deployment, (*batches[deployment].values(), *replays)))
    return Space(tuple(groups), schedules)


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Puts the place in the sweep file before what is wrong there."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{place}: {error.field}", error.value, error.accepted, error.fix) from error


def spread_out(deployments: tuple[Deployment, ...]) -> list[Deployment]:
    """Farthest-first order: each deployment is as far as can be from all before it.

    The first is the one nearest to the middle; ties keep the given order.
    """
    if not deployments:
        return []
    # (coordinates, n), and a buffer: of thousands of deployments the order then takes about a second.
    coordinates = np.vstack(
        [
            np.array([_sizes(item) for item in deployments]).T,
            _apart([item.gpu for item in deployments]),
            _apart([item.limits.engine for item in deployments]),
        ]
    )

    gaps = np.empty_like(coordinates)

    def distances(place: FloatArray) -> FloatArray:
        np.subtract(coordinates, place[:, np.newaxis], out=gaps)
        squares: FloatArray = np.square(gaps, out=gaps).sum(axis=0)
        return np.sqrt(squares)

    order = [int(np.argmin(distances(coordinates.mean(axis=1))))]
    nearest = distances(coordinates[:, order[0]])
    while len(order) < len(deployments):
        nearest[order[-1]] = -1.0
        order.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, distances(coordinates[:, order[-1]]))
    return [deployments[index] for index in order]


def _sizes(item: Deployment) -> list[float]:
    """Coordinates in which a deployment's sizes differ by about 1 over the usual range of each."""
    return [
        math.log10(item.model.parameters),
        math.log10(item.model.kv_bytes_per_token) / 2,
        math.log2(item.tensor_parallel) / 2,
        math.log2(item.pipeline_parallel) / 2,
        item.bits / 16,
        math.log2(item.limits.token_budget) / 4,
    ]


def _apart(names: list[str]) -> FloatArray:
    """(different names, n) coordinates in which any two names are 1 apart."""
    return np.array([[name == known for name in names] for known in sorted(set(names))]) / math.sqrt(2)


def _batch_candidates(
    space: BatchSpace, deployments: list[Deployment], traces: Mapping[str, Trace], seed: int
) -> list[tuple[Deployment, Candidate]]:
    if not space.trace:
        return [
            (deployment, Candidate(Point(deployment, BatchWorkload(size, *lengths)), "", "grid"))
            for deployment in deployments
            for size, lengths in product(space.sizes, space.grid)
        ]
    trace, count = traces[space.trace], space.per_deployment
    candidates: list[tuple[Deployment, Candidate]] = []
    contexts = sorted({deployment.limits.max_context_tokens for deployment in deployments})
    picked = min(count * len(deployments), max(count, _SHARED_LENGTHS))
    by_context: dict[int, IntArray] = {}
    for context in contexts:
        different = different_lengths(trace, context)
        if count > different:
            accepted = f"at most the {different} different lengths of {trace.name} in a context of {context} tokens"
            raise BadInput("per_deployment", count, accepted)
        # Of a trace with fewer, deployments share them, with other batch sizes.
        by_context[context] = pick_lengths(trace, min(picked, different), seed, context)
    start = int(content_id([seed, trace.name], 8), 16) / 16**8
    for position, deployment in enumerate(deployments):
        lengths = by_context[deployment.limits.max_context_tokens]
        for index in range(position * count, (position + 1) * count):
            # The golden-ratio sequence spreads sizes evenly over any run of picks.
            size = space.sizes[int((start + index * _GOLDEN) % 1.0 * len(space.sizes))]
            prompt_tokens, generated_tokens = (int(tokens) for tokens in lengths[index % len(lengths)])
            point = Point(deployment, BatchWorkload(size, prompt_tokens, generated_tokens))
            candidates.append((deployment, Candidate(point, trace.name, f"fills the lengths of {trace.name}")))
    return candidates


def _replay(spec: ReplaySpec, trace: Trace, context: int) -> tuple[ReplayWorkload, Schedule]:
    start_s = choose_slice(trace, spec.duration_s, spec.slice_rule)
    schedule = make_schedule(trace, start_s, spec.duration_s, context, spec.context_policy, spec.length_scale)
    if len(schedule) < 1:
        raise BadInput(f"slice of {trace.name}", f"{start_s:g}s+{spec.duration_s:g}s", "a slice that holds requests")
    replayed_s = spec.duration_s / (spec.rate_scale or 1.0)
    if replayed_s > _MOST_REPLAYED_S:
        raise BadInput("duration over rate", f"{replayed_s:g} s", f"at most {_MOST_REPLAYED_S:g} s of replaying")
    workload = ReplayWorkload(
        trace=trace.name,
        trace_sha256=trace.sha256,
        start_s=start_s,
        duration_s=spec.duration_s,
        context_policy=spec.context_policy,
        drain_s=spec.drain_s,
        rate_scale=spec.rate_scale,
        capacity_share=spec.capacity_share,
        length_scale=spec.length_scale,
    )
    return workload, schedule
