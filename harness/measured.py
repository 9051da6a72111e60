"""What a window leaves in hand before it becomes a record: readings, its ends, and what the engine did."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from harness.engines.base import Served
from harness.errors import MeasurementError
from harness.hygiene import Verdict, judge
from harness.meters.base import PowerTrace, Recording
from harness.meters.window import MeanPowers, Power, WindowEnergies, mean_powers, window_energies

METERED = ("gpu", "cpu", "dram")
"""Domains that counters measure."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One window: all readings around it, its ends on the monotonic clock, and what the engine did in it.

    `gated`: nothing ran outside it, so that the quiet power beside it is known.
    """

    recording: Recording
    start_s: float
    end_s: float
    started_at: datetime
    served: Served
    gated: bool = True

    @property
    def window_s(self) -> float:
        return self.end_s - self.start_s

    def part(self, start_s: float, end_s: float) -> "Measured":
        """A shorter window of the same recording."""
        started_at = self.started_at + timedelta(seconds=start_s - self.start_s)
        return replace(self, start_s=start_s, end_s=end_s, started_at=started_at, gated=False)

    def power_of(self, gpu_uuids: tuple[str, ...]) -> tuple[PowerTrace, ...]:
        """The power traces of some GPUs."""
        return tuple(trace for trace in self.recording.power if trace.device in gpu_uuids)

    def energies(self, gpu_uuids: tuple[str, ...]) -> WindowEnergies:
        return window_energies(self.recording, self.start_s, self.end_s, gpu_uuids, gated=self.gated)

    def verdict(self, gpu_uuids: tuple[str, ...]) -> Verdict:
        return judge(self.recording, gpu_uuids, (self.start_s, self.end_s))


@dataclass(frozen=True, slots=True, eq=False)
class Baselines:
    """Idle windows before the launch and with the model resident."""

    cold: Measured
    loaded: Measured

    def power_w(self, gpu_uuids: tuple[str, ...]) -> dict[str, float | None]:
        """`{domain}_{cold|loaded}_idle_w` columns; null where the domain has no counter."""
        columns: dict[str, float | None] = {}
        for name, idle in (("cold", self.cold), ("loaded", self.loaded)):
            try:
                powers = mean_powers(idle.recording, idle.start_s, idle.end_s, gpu_uuids)
            except MeasurementError:
                powers = MeanPowers(None, None, None)
            for domain in METERED:
                power: Power | None = getattr(powers, domain)
                columns[f"{domain}_{name}_idle_w"] = None if power is None else power.power_w
        return columns
