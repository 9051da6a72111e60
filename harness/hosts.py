"""What the controller knows of those that measure, and what it remembers of each."""

from collections.abc import Iterable
from typing import Protocol

from harness.points import Deployment, Environment, Point
from harness.space import Group


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
    def reason(self) -> str: ...

    @property
    def gpu_energy_j(self) -> float | None: ...


class Host(Protocol):
    """What the controller knows of an agent.

    What it hosts, and what stands in a point's way, never changes. An environment may: a driver is loaded again, a
    power limit moved. Deployments that shared one then share the next.
    """

    @property
    def name(self) -> str: ...

    def hosts(self, deployment: Deployment) -> bool: ...

    def obstacle(self, point: Point) -> str: ...

    def environment(self, deployment: Deployment) -> Environment: ...


class KnownHost:
    """The groups that a host hosts, by their numbers, and where they are measured.

    Attributes:
        groups: (number, group, which environment) of each group that it hosts, in the order of the space.
        environment_ids: of each environment, as they are now.
        probes: what to probe in each environment, and for which state it was chosen.
    """

    def __init__(self, host: Host, groups: Iterable[Group]) -> None:
        self.host = host
        self._examples: dict[Environment, Deployment] = {}
        numbers: dict[Environment, int] = {}
        self.groups: list[tuple[int, Group, int]] = []
        for number, group in enumerate(groups):
            if host.hosts(group.deployment):
                environment = host.environment(group.deployment)
                self._examples.setdefault(environment, group.deployment)
                self.groups.append((number, group, numbers.setdefault(environment, len(numbers))))
        self.environment_ids: tuple[str, ...] = ()
        self.probes: tuple[object, dict[str, Group]] | None = None
        self.look()

    def look(self) -> None:
        """Take note of the environments as they are now."""
        found = (self.host.environment(deployment) for deployment in self._examples.values())
        self.environment_ids = tuple(environment.environment_id for environment in found)
