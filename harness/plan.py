"""What is asked of an agent: how to measure, and which repetitions in one launch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.points import Deployment, Point, Schedule
from harness.records import Purpose


@dataclass(frozen=True, slots=True)
class Probes:
    """Points measured again on purpose, so that the spread between launches and between boards is known (rule 22).

    Attributes:
        points: batch points to measure again in each environment; 0: none.
        launches: further launches to measure them in.
    """

    points: int = 0
    launches: int = 3


@dataclass(frozen=True, slots=True)
class MeasurementRules:
    """How a repetition is measured.

    Attributes:
        repetitions: valid repetitions that make a point done.
        half_width: more repetitions are taken, up to `most_repetitions`, while the 95% half-width of the mean GPU
            energy over repetitions is more than this share of it; None: never.
        window_s: a window of batches is at least this long (NVML's counter moves every 0.1 s).
        uncertainty: a window whose GPU energy is less sure than this (random part, a fraction) is taken again,
            longer, up to `window_limit_s`.
        idle_s: length of each idle baseline.
        spin_s: wait between the last work and the loaded baseline: engine workers spin for about 1 s after
            the last message (measurement rule 17).
        max_attempts: tries at one repetition before it is given up.
        estimate_dram: where no counter shows DRAM, estimate it by its size, marked so (measurement rule 12).
        foreign_cores: a node is busy, and skipped, while others keep more processors at work than this; None: more
            than one, and more than a tenth of them.
        node_power: what reads the whole node's power: "" nothing, `ipmi`, or the address of a Redfish service.
        warm_drift_c: a start temperature this far from the launch's first one is flagged (rule 23).
        probes: what is measured again once the points are done.
    """

    repetitions: int = 5
    half_width: float | None = None
    most_repetitions: int = 20
    window_s: float = 2.0
    uncertainty: float = 0.01
    window_limit_s: float = 30.0
    idle_s: float = 5.0
    spin_s: float = 2.0
    max_attempts: int = 3
    estimate_dram: bool = False
    node_power: str = ""
    foreign_cores: float | None = None
    warm_drift_c: float = 10.0
    probes: Probes = Probes()


@dataclass(frozen=True, slots=True)
class Assignment:
    """One repetition to take."""

    point: Point
    repetition: int
    attempt: int
    purpose: Purpose = "sweep"
    lengths_from: str = ""
    """Trace that the lengths of a batch were drawn from."""


@dataclass(frozen=True, slots=True, eq=False)
class LaunchPlan:
    """One life of an engine: its deployment and the repetitions to take in it.

    `schedules` holds the requests of each replay point, by point id.
    """

    sweep: str
    deployment: Deployment
    assignments: tuple[Assignment, ...]
    rules: MeasurementRules
    seed: int
    schedules: Mapping[str, Schedule] = field(default_factory=dict)

    @property
    def points(self) -> tuple[Point, ...]:
        """The distinct points, in order of first appearance."""
        return tuple(dict.fromkeys(assignment.point for assignment in self.assignments))
