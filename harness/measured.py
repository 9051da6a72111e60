"""What a window leaves in hand before it becomes a record: readings, its ends, and what the engine did."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from harness.engines.base import Served
from harness.errors import MeasurementError
from harness.hygiene import Verdict, judge
from harness.meters.base import PowerTrace, Recording
from harness.meters.dram import estimate_dram
from harness.meters.nodepower import rest_energy
from harness.meters.window import (
    GPU_GAIN_UNCERTAINTY,
    MeanPowers,
    Power,
    WindowEnergies,
    mean_powers,
    window_energies,
)
from harness.records import Energy

METERED = ("gpu", "cpu", "dram")
"""Domains that counters measure."""
_NO_REST = "no meter of the rest of the node was asked for (measurement.node_power)"


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
    _energies: dict[tuple[str, ...], WindowEnergies] = field(default_factory=dict, init=False, repr=False)
    """Asked for twice: to see whether the window was long enough, and for the record."""

    @property
    def window_s(self) -> float:
        return self.end_s - self.start_s

    def part(self, start_s: float, end_s: float) -> "Measured":
        """A shorter window of the same recording."""
        started_at = self.started_at + timedelta(seconds=start_s - self.start_s)
        # What the client took is known of the whole only.
        served = replace(self.served, client_cpu_s=None)
        return replace(self, start_s=start_s, end_s=end_s, started_at=started_at, served=served, gated=False)

    def power_of(self, gpu_uuids: tuple[str, ...]) -> tuple[PowerTrace, ...]:
        """The power traces of some GPUs."""
        return tuple(trace for trace in self.recording.power if trace.device in gpu_uuids)

    def energies(self, gpu_uuids: tuple[str, ...], dram_estimated: bool = False) -> WindowEnergies:
        """Energies of all domains.

        Args:
            dram_estimated: DRAM without a counter is estimated by its size, where that is known, and marked so.

        Raises:
            MeasurementError: the GPUs' energy cannot be believed.
        """
        if gpu_uuids not in self._energies:
            self._energies[gpu_uuids] = window_energies(
                self.recording, self.start_s, self.end_s, gpu_uuids, gated=self.gated
            )
        found = self._energies[gpu_uuids]
        memory_gib = self.recording.memory_gib
        counted = any(one.channel.domain == "dram" for one in self.recording.series)
        if dram_estimated and not counted and memory_gib is not None:
            return replace(found, dram=estimate_dram(self.window_s, memory_gib))
        return found

    def rest(self, gpu_uuids: tuple[str, ...], energies: WindowEnergies) -> tuple[Energy, tuple[str, ...]]:
        """Energy of the node less that of its metered domains, and flags; null with the reason."""
        recording = self.recording
        if recording.node_power is None:
            return Energy.absent(recording.node_power_lost or _NO_REST), ()
        parts = {"cpu": energies.cpu, "dram": energies.dram}
        if gpu_uuids:
            parts["gpu"] = energies.gpu
        if any(one.channel.domain == "gpu" and one.channel.device not in gpu_uuids for one in recording.series):
            parts["idle_gpus"] = energies.idle_gpus
        return rest_energy(
            recording.node_power, recording.node_power_lost, self.start_s, self.end_s, parts, GPU_GAIN_UNCERTAINTY
        )

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
