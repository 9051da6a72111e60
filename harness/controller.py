"""Ask/tell: which launch to measure next. It sees runs and answers with points; it never touches hardware.

Its state is what the store holds: a point's repetitions per environment. `tell` keeps it in step while a
sweep runs; a new controller over the same store asks for exactly what is missing.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from harness.plan import Assignment, LaunchPlan, MeasurementRules
from harness.points import Deployment, Environment, Point, content_id
from harness.records import SETTLED
from harness.space import Group, Space
from harness.statistics import repetitions_needed


class Outcome(Protocol):
    """What the controller reads of a run; rows of the store's ledger and new records both have it."""

    @property
    def point_id(self) -> str: ...

    @property
    def environment_id(self) -> str: ...

    @property
    def repetition(self) -> int: ...

    @property
    def attempt(self) -> int: ...

    @property
    def purpose(self) -> str: ...

    @property
    def status(self) -> str: ...

    @property
    def gpu_energy_j(self) -> float | None: ...


class Host(Protocol):
    """What the controller knows of an agent."""

    @property
    def name(self) -> str: ...

    def hosts(self, deployment: Deployment) -> bool: ...

    def obstacle(self, point: Point) -> str: ...

    def environment(self, deployment: Deployment) -> Environment: ...


@dataclass(slots=True)
class _Repetition:
    settled: bool = False
    attempts: int = 0
    gpu_energy_j: float | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a point is in one environment."""

    settled: int
    wanted: int
    given_up: int
    infeasible: bool

    @property
    def done(self) -> bool:
        return self.infeasible or self.settled >= self.wanted


class Controller:
    """Decides what is measured next, from the space of a sweep and the runs there are."""

    def __init__(self, sweep: str, space: Space, rules: MeasurementRules, seed: int) -> None:
        self._sweep, self._space, self._rules, self._seed = sweep, space, rules, seed
        self._repetitions: dict[tuple[str, str], dict[int, _Repetition]] = defaultdict(dict)
        self._recorded_infeasible: set[tuple[str, str]] = set()
        self._in_flight: set[tuple[str, str]] = set()

    def tell(self, outcomes: Iterable[Outcome]) -> None:
        """Take note of runs, in any order; warm-ups and probes do not count as repetitions."""
        for outcome in outcomes:
            key = (outcome.point_id, outcome.environment_id)
            if outcome.status == "infeasible":
                self._recorded_infeasible.add(key)
            elif outcome.purpose == "sweep":
                state = self._repetitions[key].setdefault(outcome.repetition, _Repetition())
                if outcome.status in SETTLED:
                    state.settled, state.gpu_energy_j = True, outcome.gpu_energy_j
                state.attempts = max(state.attempts, outcome.attempt)

    def ask(self, host: Host) -> LaunchPlan | None:
        """The next launch for a host, or None when nothing is left for it.

        The launch is in flight until `finished` is called with it.
        """
        for group, environment_id, assignments in self._open_groups(host):
            self._in_flight.add((group.deployment.deployment_id, environment_id))
            points = {assignment.point.point_id for assignment in assignments}
            attempt = max(assignment.attempt for assignment in assignments)
            return LaunchPlan(
                sweep=self._sweep,
                deployment=group.deployment,
                assignments=tuple(assignments),
                rules=self._rules,
                seed=int(content_id([self._seed, group.deployment.deployment_id, attempt, len(assignments)], 12), 16),
                schedules={key: value for key, value in self._space.schedules.items() if key in points},
            )
        return None

    def finished(self, plan: LaunchPlan, host: Host) -> None:
        """The launch has ended, however it did."""
        environment_id = host.environment(plan.deployment).environment_id
        self._in_flight.discard((plan.deployment.deployment_id, environment_id))

    def preview(self, host: Host, points: int) -> Iterator[tuple[Point, str, int]]:
        """The next points for a host, why each was picked, and how many repetitions it lacks."""
        for group, _, assignments in self._open_groups(host):
            missing = Counter(assignment.point.point_id for assignment in assignments)
            for candidate in group.candidates:
                if points <= 0:
                    return
                if count := missing[candidate.point.point_id]:
                    points -= 1
                    yield candidate.point, candidate.why, count

    def remaining(self, hosts: Iterable[Host]) -> int:
        """Repetitions still to be taken by these hosts together; equal environments count once."""
        wanted: set[tuple[str, str, int]] = set()
        for host in hosts:
            for _, environment_id, assignments in self._open_groups(host):
                wanted |= {(item.point.point_id, environment_id, item.repetition) for item in assignments}
        return len(wanted)

    def infeasible(self, host: Host) -> Iterator[tuple[Assignment, str]]:
        """Points that cannot run on the host and are not yet recorded as such, with the reason."""
        for group in self._space.groups:
            if not host.hosts(group.deployment):
                continue
            environment_id = host.environment(group.deployment).environment_id
            for candidate in group.candidates:
                point = candidate.point
                if (point.point_id, environment_id) in self._recorded_infeasible:
                    continue
                obstacle = host.obstacle(point)
                if obstacle:
                    yield Assignment(point, 0, 0, lengths_from=candidate.lengths_from), obstacle

    def standing(self, point: Point, host: Host) -> Standing:
        """How far a point is in the host's environment."""
        known = self._repetitions.get((point.point_id, host.environment(point.deployment).environment_id), {})
        wanted = self._wanted(known)
        repetitions = [state for number, state in known.items() if number <= wanted]
        return Standing(
            settled=sum(state.settled for state in repetitions),
            wanted=wanted,
            given_up=sum(not state.settled and state.attempts >= self._rules.max_attempts for state in repetitions),
            infeasible=bool(host.obstacle(point)),
        )

    def _wanted(self, known: Mapping[int, _Repetition]) -> int:
        """Repetitions that make a point done: those of the rules, and more while their spread misses the target."""
        rules = self._rules
        energies_j = [
            state.gpu_energy_j for state in known.values() if state.settled and state.gpu_energy_j is not None
        ]
        if rules.half_width is None or len(energies_j) < rules.repetitions:
            return rules.repetitions
        return max(
            len(energies_j) + repetitions_needed(energies_j, rules.half_width, rules.most_repetitions),
            rules.repetitions,
        )

    def _open_groups(self, host: Host) -> Iterator[tuple[Group, str, list[Assignment]]]:
        for group in self._space.groups:
            if not host.hosts(group.deployment):
                continue
            environment_id = host.environment(group.deployment).environment_id
            if (group.deployment.deployment_id, environment_id) in self._in_flight:
                continue
            assignments = list(self._pending(group, environment_id, host.obstacle))
            if assignments:
                yield group, environment_id, assignments

    def _pending(self, group: Group, environment_id: str, obstacle: Callable[[Point], str]) -> Iterator[Assignment]:
        for candidate in group.candidates:
            point = candidate.point
            if obstacle(point):
                continue
            known = self._repetitions.get((point.point_id, environment_id), {})
            for repetition in range(1, self._wanted(known) + 1):
                state = known.get(repetition, _Repetition())
                if not state.settled and state.attempts < self._rules.max_attempts:
                    yield Assignment(point, repetition, state.attempts + 1, lengths_from=candidate.lengths_from)
