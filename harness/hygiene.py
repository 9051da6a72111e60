"""Whether a window can be believed, and whether a node is free to measure: who else was there, what was throttled.

Consequences (measurement rule 7; the table is in docs/measurement.md):

invalid  thermal or hardware slowdown, power brake; a process that is not the engine's, or one that appears among
         processes of another PID namespace; power limit changed; uncorrected ECC errors
flagged  other event reasons, such as a software power cap; CPU load that is not ours; a governor other than
         performance; persistence mode off; temperature risen by over 10 C; SM clock moved by over 10%; processes
         that cannot be listed; a domain whose counts are suspect
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.meters.base import GpuState, HostState, Recording
from harness.units import BYTES_PER_GIB

FOREIGN_CPU_CORES = 1.0
"""Processors kept busy by others, on average over a recording; a busy core of a server takes some 5 W."""
TEMPERATURE_RISE_C = 10.0
CLOCK_MOVE = 0.1
BUSY_CPU_SHARE = 0.1
"""A node is not free when others keep this share of its processors busy, or `FOREIGN_CPU_CORES`, if that is more."""
BUSY_MEMORY_GIB = 2.0
"""A free GPU shows up to about 1 GiB that the driver keeps for itself."""

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


def judge(recording: Recording, gpu_uuids: tuple[str, ...], window: tuple[float, float] | None = None) -> Verdict:
    """Judge the states of the engine's GPUs and of the host over a recording.

    Args:
        window: its start and end, monotonic s. SM clocks are compared within it only, since they fall while
            nothing runs; without it they are not compared.
    """
    by_gpu: dict[str, list[GpuState]] = defaultdict(list)
    for state in recording.states:
        if state.device in gpu_uuids:
            by_gpu[state.device].append(state)
    invalid = [cause for states in by_gpu.values() for cause in _invalid(states)]
    flags = [flag for states in by_gpu.values() for flag in _flags(states, window)]
    for hosts in (recording.hosts, *recording.other_hosts):
        flags += _host_flags(hosts)
    flags += [f"{domain}_doubtful" for domain in recording.doubts]
    temperatures_c = {device: _known(state.temperature_c for state in states) for device, states in by_gpu.items()}
    first_c = [values[0] for values in temperatures_c.values() if values]
    clocks_mhz = _known(state.sm_clock_mhz for states in by_gpu.values() for state in states)
    return Verdict(
        invalid=tuple(dict.fromkeys(invalid)),
        flags=tuple(dict.fromkeys(flags)),
        temperature_start_c=max(first_c, default=None),
        temperature_max_c=max((max(values) for values in temperatures_c.values() if values), default=None),
        sm_clock_mean_mhz=sum(clocks_mhz) / len(clocks_mhz) if clocks_mhz else None,
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _invalid(states: Sequence[GpuState]) -> list[str]:
    """What makes a window invalid, of one GPU's states in order of time."""
    device = states[0].device
    causes = [f"{reason} on {device}" for state in states for reason in sorted(state.event_reasons & _INVALIDATING)]
    for state in states:
        if state.foreign_pids:
            causes.append(f"foreign process on {device}: {_pids(state.foreign_pids, state.unseen_pids)}")
    before = set(states[0].unseen_pids)
    for state in states[1:]:
        appeared = tuple(sorted(set(state.unseen_pids) - before - set(state.foreign_pids)))
        if appeared:
            causes.append(f"a process appeared on {device}: {_pids(appeared, appeared)}")
    limits_w = _known(state.power_limit_w for state in states)
    if limits_w and min(limits_w) != max(limits_w):
        causes.append(f"power limit of {device} changed within the window: {min(limits_w):g} to {max(limits_w):g} W")
    errors = [state.ecc_uncorrected for state in states if state.ecc_uncorrected is not None]
    if errors and errors[-1] > errors[0]:
        causes.append(f"{errors[-1] - errors[0]} uncorrected ECC errors on {device} within the window")
    return causes


def _pids(pids: Sequence[int], unseen: Sequence[int]) -> str:
    shown = ", ".join(f"{pid} (not in our /proc: another PID namespace)" if pid in unseen else str(pid) for pid in pids)
    return f"pid {shown}"


def _flags(states: Sequence[GpuState], window: tuple[float, float] | None) -> list[str]:
    flags = [reason for state in states for reason in sorted(state.event_reasons - _INVALIDATING)]
    if not all(state.processes_readable for state in states):
        flags.append("processes_not_listed")
    if any(state.persistence is False for state in states):
        flags.append("persistence_mode_off")
    temperatures_c = _known(state.temperature_c for state in states)
    if temperatures_c and max(temperatures_c) - temperatures_c[0] > TEMPERATURE_RISE_C:
        flags.append("temperature_rise")
    if window is not None:
        start_s, end_s = window
        clocks_mhz = _known(state.sm_clock_mhz for state in states if start_s <= state.time_s <= end_s)
        if clocks_mhz and max(clocks_mhz) - min(clocks_mhz) > CLOCK_MOVE * max(clocks_mhz):
            flags.append("sm_clock_moved")
    return flags


def _host_flags(hosts: Sequence[HostState]) -> list[str]:
    flags = []
    cores = foreign_cores(hosts)
    if cores is not None and cores > FOREIGN_CPU_CORES:
        flags.append("foreign_cpu_load")
    governors = {governor for host in hosts for governor in host.governors}
    return flags + [f"cpu_governor_{name}" for name in sorted(governors - {"performance"})]


def foreign_cores(hosts: Sequence[HostState]) -> float | None:
    """Processors kept busy by others, on average between the first and the last state; None if not known.

    Spans in which one of our processes ended without being waited for are left out: its time is no longer
    in the later sum.
    """
    foreign_s, span_s = 0.0, 0.0
    for before, after in pairwise(hosts):
        own_s = after.own_s - before.own_s
        if own_s >= 0:
            foreign_s += after.busy_s - before.busy_s - own_s
            span_s += after.time_s - before.time_s
    return foreign_s / span_s if span_s > 0 else None


def busy_reasons(
    states: Sequence[GpuState], hosts: Sequence[HostState], processors: int, most_cores: float | None = None
) -> tuple[str, ...]:
    """Why a node is not free to measure, before anything of ours is launched on it; empty where it is free.

    Args:
        states: one or more of each GPU; hosts: two or more, a second or so apart.
        processors: how many the node has.
        most_cores: so many processors others may keep busy; None: `BUSY_CPU_SHARE` of them, and `FOREIGN_CPU_CORES`.
    """
    reasons: dict[str, None] = {}
    for state in states:
        used_gib = (state.memory_used_bytes or 0) / BYTES_PER_GIB
        if state.foreign_pids or state.unseen_pids:
            pids = tuple(sorted({*state.foreign_pids, *state.unseen_pids}))
            reasons[f"{state.device} is used by {_pids(pids, state.unseen_pids)}"] = None
        elif used_gib > BUSY_MEMORY_GIB:
            reasons[f"{used_gib:.1f} GiB of {state.device} are in use by a process that is not shown"] = None
    cores = foreign_cores(hosts)
    most = max(FOREIGN_CPU_CORES, BUSY_CPU_SHARE * processors) if most_cores is None else most_cores
    if cores is not None and cores > most:
        reasons[f"others keep {cores:.1f} of {processors} processors busy; up to {most:.1f} are let pass"] = None
    limits_w = sorted({state.power_limit_w for state in states if state.power_limit_w is not None})
    if len(limits_w) > 1:
        reasons[f"its GPUs have different power limits: {', '.join(f'{limit_w:g}' for limit_w in limits_w)} W"] = None
    return tuple(reasons)
