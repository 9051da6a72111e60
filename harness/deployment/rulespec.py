"""The section `measurement` of a sweep file: how often and for how long each point is measured, and by what meter."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from harness.deployment.validation import Strict, bounded_s
from harness.errors import BadInput
from harness.plan import MeasurementRules, Probes


class _Probes(Strict):
    points: Annotated[int, Field(ge=0, le=100)] = 2
    launches: Annotated[int, Field(ge=1, le=100)] = 3


class RulesEntry(Strict):
    """As it is written; docs/sweep-files.md explains the fields."""

    repetitions: Annotated[int, Field(ge=1, le=100)] = 5
    half_width: Annotated[float, Field(ge=1e-3, le=1)] | None = None
    most_repetitions: Annotated[int, Field(ge=1, le=1000)] = 20
    window: str = "2s"
    uncertainty: Annotated[float, Field(ge=1e-4, le=1)] = 0.01
    window_limit: str = "30s"
    idle: str = "5s"
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    probes: _Probes = _Probes(points=0)
    estimate_dram: bool = False
    node_power: str = ""
    foreign_cores: Annotated[float, Field(gt=0, le=10_000)] | None = None


def measurement_rules(spec: RulesEntry, where: str) -> MeasurementRules:
    """The rules, their durations as seconds.

    Args:
        where: file and field, for complaints.

    Raises:
        BadInput: a figure out of range, or two that contradict each other.
    """
    window_s = bounded_s(spec.window, f"{where}.window", 0.2, 600.0)
    window_limit_s = bounded_s(spec.window_limit, f"{where}.window_limit", 0.2, 600.0)
    if window_limit_s < window_s:
        accepted = f"at least the window of {spec.window}"
        raise BadInput(f"{where}.window_limit", spec.window_limit, accepted, f"window_limit: {spec.window}")
    # Without `half_width` nobody looks at the default of `most_repetitions`.
    counts = spec.half_width is not None or "most_repetitions" in spec.model_fields_set
    if counts and spec.most_repetitions < spec.repetitions:
        accepted = f"at least the {spec.repetitions} repetitions"
        fix = f"most_repetitions: {spec.repetitions}"
        raise BadInput(f"{where}.most_repetitions", spec.most_repetitions, accepted, fix)
    return MeasurementRules(
        repetitions=spec.repetitions,
        half_width=spec.half_width,
        most_repetitions=spec.most_repetitions,
        window_s=window_s,
        idle_s=bounded_s(spec.idle, f"{where}.idle", 0.5, 600.0),
        uncertainty=spec.uncertainty,
        window_limit_s=window_limit_s,
        max_attempts=spec.max_attempts,
        probes=Probes(spec.probes.points, spec.probes.launches),
        estimate_dram=spec.estimate_dram,
        node_power=_node_power(spec.node_power, f"{where}.node_power"),
        foreign_cores=spec.foreign_cores,
    )


def _node_power(text: str, where: str) -> str:
    try:
        parts = urlsplit(text)
        is_host = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        bare = not parts.username and not parts.password and parts.path in ("", "/") and not parts.query
    except ValueError:
        is_host = bare = False
    if text in ("", "ipmi") or (is_host and bare and not any(sign.isspace() for sign in text)):
        return text
    accepted = "ipmi, or the address of a Redfish service such as https://bmc.example: HOST[:PORT], no user, no path"
    raise BadInput(where, text, accepted)
