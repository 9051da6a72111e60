"""Ask/tell: which launch to measure next. It sees runs and answers with points; it never touches hardware.

Its state is what the store holds: a point's repetitions per environment, and those of its probes. `tell` keeps it
in step while a sweep runs; a new controller over the same store asks for exactly what is missing. Probes come when
nothing else is left for a host.

A launch must not cost more the more points there are: of each host is remembered which groups it hosts, and in which of
its environments they are measured; of each environment, which groups had nothing left when they were last looked at.
Hosts of one environment are of one kind of node, so what one of them cannot run, none can.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from harness.hosts import Host, KnownHost, Outcome
from harness.plan import Assignment, LaunchPlan, MeasurementRules
from harness.points import Deployment, Point, content_id
from harness.probes import PointKey, ProbeStanding, choose_probes, probe_numbers
from harness.records import INTERRUPTED, SETTLED
from harness.space import Candidate, Group, Space
from harness.statistics import repetitions_needed


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


_ALL_GROUPS = 5040
"""A multiple of every number of groups of GPUs up to 10."""


@dataclass(frozen=True, slots=True)
class _Open:
    """What a launch would take: `assignments`, all of `group`; `launch` is 0, or which probe launch it is."""

    group: Group
    environment_id: str
    assignments: list[Assignment]
    launch: int = 0


class Controller:
    """Decides what is measured next, from the space of a sweep and the runs there are."""

    def __init__(self, sweep: str, space: Space, rules: MeasurementRules, seed: int) -> None:
        self._sweep, self._space, self._rules, self._seed = sweep, space, rules, seed
        self._repetitions: dict[PointKey, dict[int, _Repetition]] = defaultdict(dict)
        self._probes: dict[PointKey, dict[int, _Repetition]] = defaultdict(dict)
        self._recorded_infeasible: set[PointKey] = set()
        self._in_flight: set[tuple[str, str]] = set()
        self._withheld: set[str] = set()
        self._known: dict[int, KnownHost] = {}
        self._closed: dict[str, set[int]] = defaultdict(set)
        self._groups_of: dict[str, list[int]] = defaultdict(list)
        for number, group in enumerate(space.groups):
            for candidate in group.candidates:
                self._groups_of[candidate.point.point_id].append(number)
        self._exhausted: set[PointKey] = set()
        self._changes_of_exhausted = 0

    def tell(self, outcomes: Iterable[Outcome]) -> None:
        """Take note of runs, in any order; neither warm-ups nor probes count as a sweep's repetitions."""
        states = {"sweep": self._repetitions, "probe": self._probes}
        for outcome in outcomes:
            key = (outcome.point_id, outcome.environment_id)
            if outcome.reason == INTERRUPTED:
                continue
            if outcome.status == "infeasible":
                self._recorded_infeasible.add(key)
            elif outcome.purpose in states:
                state = states[outcome.purpose][key].setdefault(outcome.repetition, _Repetition())
                if outcome.status in SETTLED:
                    state.settled, state.gpu_energy_j = True, outcome.gpu_energy_j
                state.attempts = max(state.attempts, outcome.attempt)
                if state.attempts >= self._rules.max_attempts:
                    self._exhausted.add(key)
                self._changes_of_exhausted += key in self._exhausted
            # It may ask for more repetitions, so its group is looked at again.
            self._closed[outcome.environment_id].difference_update(self._groups_of.get(outcome.point_id, ()))

    def _know(self, host: Host) -> KnownHost:
        """What is remembered of a host, with its environments as they are now."""
        known = self._known.get(id(host))
        if known is None:
            # It holds the host, so that no other gets its id.
            known = self._known[id(host)] = KnownHost(host, self._space.groups)
        else:
            known.look()
        return known

    def environments(self, host: Host) -> tuple[str, ...]:
        """Ids of the environments of a host as they are now, in the order of the space."""
        return self._know(host).environment_ids

    def ask(self, host: Host) -> LaunchPlan | None:
        """The next launch for a host, or None when nothing is left for it.

        The launch is in flight until `finished` is called with it.
        """
        for item in self._offered(host):
            deployment, assignments = item.group.deployment, item.assignments
            self._in_flight.add((deployment.deployment_id, item.environment_id))
            points = {assignment.point.point_id for assignment in assignments}
            attempt = max(assignment.attempt for assignment in assignments)
            return LaunchPlan(
                sweep=self._sweep,
                deployment=deployment,
                assignments=tuple(assignments),
                rules=self._rules,
                seed=self._launch_seed(deployment, attempt, len(assignments), item.launch),
                schedules={key: value for key, value in self._space.schedules.items() if key in points},
            )
        return None

    def _launch_seed(self, deployment: Deployment, attempt: int, assignments: int, probe_launch: int) -> int:
        """Of probe launches successive ones, from an even one: `board_group` gives two of them each board.

        A probe launch that is tried again has another seed and the same board.
        """
        content = [self._seed, deployment.deployment_id]
        if probe_launch:
            base = int(content_id([*content, "probe"], 12), 16)
            return 2 * (base + _ALL_GROUPS * (attempt - 1)) + probe_launch - 1
        return 2 * int(content_id([*content, attempt, assignments], 12), 16)

    def withhold(self, deployment: Deployment) -> None:
        """Ask for no further launch of it; what is left of it stays in `remaining`."""
        self._withheld.add(deployment.deployment_id)

    def _offered(self, host: Host) -> Iterator[_Open]:
        for item in chain(self._open_groups(host), self._open_probes(host)):
            if item.group.deployment.deployment_id not in self._withheld:
                yield item

    def finished(self, plan: LaunchPlan, host: Host) -> None:
        """The launch has ended, however it did."""
        environment_id = host.environment(plan.deployment).environment_id
        self._in_flight.discard((plan.deployment.deployment_id, environment_id))

    def preview(self, host: Host, points: int) -> Iterator[tuple[Point, str, int]]:
        """The next points for a host, why each was picked, and how many repetitions it lacks."""
        for item in self._offered(host):
            missing = Counter(assignment.point.point_id for assignment in item.assignments)
            for candidate in item.group.candidates:
                if points <= 0:
                    return
                if count := missing[candidate.point.point_id]:
                    points -= 1
                    why = f"probe launch {item.launch}: spread of launches and boards" if item.launch else candidate.why
                    yield candidate.point, why, count

    def remaining(self, hosts: Iterable[Host]) -> int:
        """Repetitions still to be taken by these hosts together, probes included; equal environments count once."""
        wanted: set[tuple[str, str, int]] = set()
        for host in hosts:
            for item in chain(self._open_groups(host), self._open_probes(host)):
                wanted |= {(one.point.point_id, item.environment_id, one.repetition) for one in item.assignments}
        return len(wanted)

    def infeasible(self, host: Host) -> Iterator[tuple[Assignment, str]]:
        """Points that cannot run on the host and are not yet recorded as such, with the reason."""
        known = self._know(host)
        for _, group, place in known.groups:
            environment_id = known.environment_ids[place]
            for candidate in group.candidates:
                point = candidate.point
                if (point.point_id, environment_id) in self._recorded_infeasible:
                    continue
                obstacle = host.obstacle(point)
                if obstacle:
                    yield Assignment(point, 0, 0, lengths_from=candidate.lengths_from), obstacle

    def settled_points(self) -> set[str]:
        """Ids of the points that have a settled repetition, in any environment."""
        return {
            point_id for (point_id, _), taken in self._repetitions.items() if any(r.settled for r in taken.values())
        }

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

    def probe_standing(self, hosts: Iterable[Host]) -> ProbeStanding:
        """How far the probes of these hosts are; equal environments count once."""
        points: dict[PointKey, None] = {}
        for host in hosts:
            for environment_id, group in self._probe_groups(host).items():
                points |= {(item.point.point_id, environment_id): None for item in group.candidates}
        numbers = [number for launch in self._probe_launches for number in probe_numbers(launch)]
        states = [self._probes[key].get(number, _Repetition()) for key in points for number in numbers]
        return ProbeStanding(
            points=tuple(points),
            settled=sum(state.settled for state in states),
            wanted=len(states),
            given_up=sum(not state.settled and state.attempts >= self._rules.max_attempts for state in states),
        )

    @property
    def _probe_launches(self) -> range:
        return range(1, self._rules.probes.launches + 1)

    def _probe_groups(self, host: Host) -> dict[str, Group]:
        """What to probe on a host in each of its environments."""
        if not self._rules.probes.points:
            return {}
        known = self._know(host)
        state = (known.environment_ids, self._changes_of_exhausted)
        if known.probes is not None and known.probes[0] == state:
            return known.probes[1]
        found: dict[str, list[Group]] = defaultdict(list)
        for _, group, place in known.groups:
            found[known.environment_ids[place]].append(group)
        probed: dict[str, Group] = {}
        for environment_id, groups in found.items():

            def fit(point: Point, environment_id: str = environment_id) -> bool:
                return not host.obstacle(point) and not self._is_lost(point, environment_id)

            if (chosen := choose_probes(groups, self._rules.probes.points, fit)) is not None:
                probed[environment_id] = chosen
        known.probes = (state, probed)
        return probed

    def _is_lost(self, point: Point, environment_id: str) -> bool:
        """Whether it was tried as often as the rules allow, and never settled."""
        if (point.point_id, environment_id) not in self._exhausted:
            return False
        known = self._repetitions.get((point.point_id, environment_id), {}).values()
        tried = any(state.attempts >= self._rules.max_attempts for state in known)
        return tried and not any(state.settled for state in known)

    def _open_probes(self, host: Host) -> Iterator[_Open]:
        """Probe launches with something left to take, in order."""
        for environment_id, group in self._probe_groups(host).items():
            if (group.deployment.deployment_id, environment_id) in self._in_flight:
                continue
            for launch in self._probe_launches:
                assignments: list[Assignment] = []
                for candidate in group.candidates:
                    known = self._probes.get((candidate.point.point_id, environment_id), {})
                    missing = self._missing(candidate, known, probe_numbers(launch))
                    assignments += [replace(assignment, purpose="probe") for assignment in missing]
                if assignments:
                    yield _Open(group, environment_id, assignments, launch)

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

    def _open_groups(self, host: Host) -> Iterator[_Open]:
        known = self._know(host)
        for number, group, place in known.groups:
            environment_id = known.environment_ids[place]
            closed = self._closed[environment_id]
            if number in closed or (group.deployment.deployment_id, environment_id) in self._in_flight:
                continue
            assignments: list[Assignment] = []
            for candidate in group.candidates:
                if not host.obstacle(candidate.point):
                    taken = self._repetitions.get((candidate.point.point_id, environment_id), {})
                    assignments += self._missing(candidate, taken, range(1, self._wanted(taken) + 1))
            if assignments:
                yield _Open(group, environment_id, assignments)
            else:
                closed.add(number)

    def _missing(
        self, candidate: Candidate, known: Mapping[int, _Repetition], numbers: Iterable[int]
    ) -> Iterator[Assignment]:
        """The repetitions of these numbers that are neither settled nor given up."""
        for repetition in numbers:
            state = known.get(repetition, _Repetition())
            if not state.settled and state.attempts < self._rules.max_attempts:
                yield Assignment(candidate.point, repetition, state.attempts + 1, lengths_from=candidate.lengths_from)
