"""The section `sampling` of a sweep file: what targeted rounds take the traffic to be, and what is good enough."""

import re
from dataclasses import dataclass

from pydantic import Field

from harness.deployment.validation import Strict
from harness.errors import BadInput
from harness.sampling.acquisition import PER_LAUNCH
from harness.sampling.candidates import Traffic

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


class SamplingEntry(Strict):
    """As it is written; docs/sweep-files.md explains the fields."""

    traffic: Traffic = "usual"
    per_launch: int = Field(default=PER_LAUNCH, ge=1, le=1000)
    target_mape: str | None = None
    target_eba10: str | None = None


@dataclass(frozen=True, slots=True)
class SamplingRules:
    """How rounds after the first are chosen.

    Attributes:
        traffic: how much each deployment is asked for.
        per_launch: points that a launch gets at least, where there are so many.
        target_mape_pct, target_eba10_pct: accuracy on the test part at which no further round is begun; None: whatever
            it is.
    """

    traffic: Traffic = "usual"
    target_mape_pct: float | None = None
    target_eba10_pct: float | None = None
    per_launch: int = PER_LAUNCH


def sampling_rules(spec: SamplingEntry, where: str) -> SamplingRules:
    """The rules, their shares in percent.

    Args:
        where: file and field, for complaints.

    Raises:
        BadInput: a target that is no percentage, or none that can be missed.
    """
    return SamplingRules(
        traffic=spec.traffic,
        per_launch=spec.per_launch,
        target_mape_pct=_percent(spec.target_mape, f"{where}.target_mape"),
        target_eba10_pct=_percent(spec.target_eba10, f"{where}.target_eba10"),
    )


def _percent(text: str | None, field: str) -> float | None:
    if text is None:
        return None
    match = _PERCENT.fullmatch(text.strip())
    if match is None or not 0 < float(match[1]) <= 100:
        raise BadInput(field, text, "a percentage over 0% and up to 100%, such as 5%")
    return float(match[1])
