"""Whether a window can be believed, from what else the GPUs said: throttling, strangers, temperature.

Consequences (measurement rule 7): a software power cap is normal for large prefills and only flagged;
thermal or hardware slowdown, a power brake, or a foreign process make the run invalid.
"""

from dataclasses import dataclass

from harness.meters.base import Recording

_INVALIDATING = frozenset({"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """Causes of invalidity, flags, and the figures they rest on (the hottest of the engine's GPUs)."""

    invalid: tuple[str, ...]
    flags: tuple[str, ...]
    temperature_start_c: float | None
    temperature_max_c: float | None
    sm_clock_mean_mhz: float | None

    def and_also(self, other: "Verdict") -> "Verdict":
        """Both windows of one run; the figures stay those of the first."""
        invalid = tuple(dict.fromkeys(self.invalid + other.invalid))
        flags = tuple(dict.fromkeys(self.flags + other.flags))
        return Verdict(invalid, flags, self.temperature_start_c, self.temperature_max_c, self.sm_clock_mean_mhz)


def judge(recording: Recording, gpu_uuids: tuple[str, ...]) -> Verdict:
    """Judge the states of the engine's GPUs over a recording."""
    states = [state for state in recording.states if state.device in gpu_uuids]
    invalid: dict[str, None] = {}
    flags: dict[str, None] = {}
    for state in states:
        for reason in sorted(state.event_reasons):
            if reason in _INVALIDATING:
                invalid[f"{reason} on {state.device}"] = None
            else:
                flags[reason] = None
        if state.foreign_pids:
            invalid[f"foreign process on {state.device}: pid {', '.join(map(str, state.foreign_pids))}"] = None
    first: dict[str, float] = {}
    for state in states:
        if state.temperature_c is not None:
            first.setdefault(state.device, state.temperature_c)
    temperatures_c = [state.temperature_c for state in states if state.temperature_c is not None]
    clocks_mhz = [state.sm_clock_mhz for state in states if state.sm_clock_mhz is not None]
    return Verdict(
        invalid=tuple(invalid),
        flags=tuple(flags),
        temperature_start_c=max(first.values()) if first else None,
        temperature_max_c=max(temperatures_c) if temperatures_c else None,
        sm_clock_mean_mhz=sum(clocks_mhz) / len(clocks_mhz) if clocks_mhz else None,
    )
