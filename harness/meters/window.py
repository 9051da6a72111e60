"""Energies and mean powers of a window, for every domain of a recording at once.

How one counter is placed at the two ends of the window is in `harness.meters.instant`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.errors import MeasurementError, WindowTooShort
from harness.meters.base import Domain, PowerTrace, Recording, Series
from harness.meters.counter import cumulative_j
from harness.meters.edges import edges_of
from harness.meters.instant import FAST_REFRESH_S, not_covered, slow_ends, window_ends
from harness.meters.interior import Instant, power_range_w, shown_powers
from harness.meters.sampled import integrates, sampling_bound_j, sampling_error
from harness.points import FloatArray
from harness.records import Energy

GPU_GAIN_UNCERTAINTY = 0.05
"""Systematic, a fraction. One A100 against an external meter had a gain of 0.954 (arXiv 2312.02741)."""


@dataclass(frozen=True, slots=True)
class Power:
    """A mean power with its random uncertainty (95% half-width), both in W."""

    power_w: float
    uncertainty_w: float


@dataclass(frozen=True, slots=True)
class WindowEnergies:
    """Energies of one window, one for each domain.

    Attributes:
        gpu: sum over the engine's GPUs; by_gpu: each of them, in the order of the UUIDs asked for.
        idle_gpus: sum over the node's other GPUs.
        cpu, dram: sums over all sockets.
        gpu_power_integral_j: integral of the engine's GPUs' power traces; None where they do not cover the window.
        gpu_sampling_bound_j: how far the truth of `gpu` may lie off, beside its random uncertainty, where the boards'
            sensors do not look all the time; 0 where they do, or where the counters are seen to integrate; None
            where it is not known how much they see, or no power limit bounds what they may have missed.
    """

    gpu: Energy
    by_gpu: tuple[Energy, ...]
    idle_gpus: Energy
    cpu: Energy
    dram: Energy
    gpu_power_integral_j: float | None
    gpu_sampling_bound_j: float | None = None


@dataclass(frozen=True, slots=True)
class MeanPowers:
    """Mean powers of one span: the engine's GPUs together, all sockets, all DRAM; None where absent."""

    gpu: Power | None
    cpu: Power | None
    dram: Power | None


def window_energy(
    series: Series, start_s: float, end_s: float, gated: bool = False, power: PowerTrace | None = None
) -> Energy:
    """Energy of one counter in [start_s, end_s], both on the clock of the readings.

    Args:
        gated: nothing ran before the start and after the end.
        power: instantaneous power of the same GPU: it shows what happens between two refreshes.

    Raises:
        CounterWentBack: the counter was reset.
        CounterLost: it stopped answering too early.
        WindowTooShort: no refresh (slow) or reading (fast) on both sides of an end.
    """
    return _total(_parts([series], start_s, end_s, gated, [power])[0], series)


def _parts(
    series: Sequence[Series], start_s: float, end_s: float, gated: bool, powers: Sequence[PowerTrace | None]
) -> tuple[list[Instant], bool]:
    """Each counter's energy in the window, and its uncertainty in its two parts; and whether they integrate.

    The GPUs of a node are of one kind: when half of their counters are seen to integrate, all of them do.
    """
    parts, sampling, clocks_j, integrating = [], [], list[float](), 0
    for one, power in zip(series, powers, strict=True):
        loss_j = (0.0, 0.0)
        if one.channel.refresh_s <= FAST_REFRESH_S or end_s <= start_s:
            start, end = window_ends(one, start_s, end_s)
            clock_j = _clock_bound_j(one, one.time_s, cumulative_j(one), start_s, end_s)
        else:
            edges = edges_of(one)
            shown = shown_powers(edges, power)
            start, end = slow_ends(one, edges, start_s, end_s, gated, shown)
            if power is not None and integrates(edges, shown):
                integrating += 1
            elif power is not None and power.instant:
                loss_j = sampling_error(edges, power, start_s, end_s)
            clock_j = _clock_bound_j(one, edges.time_s, edges.energy_j, start_s, end_s)
        parts.append((start, end))
        sampling.append(loss_j)
        clocks_j.append(clock_j)
    all_integrate = 2 * integrating >= len(series)
    if all_integrate:
        sampling = [(0.0, 0.0)] * len(series)
    instants = [
        Instant(
            end.energy_j - start.energy_j,
            math.hypot(start.random_j, end.random_j, random_j),
            start.bound_j + end.bound_j + bound_j + clock_j,
        )
        for (start, end), (random_j, bound_j), clock_j in zip(parts, sampling, clocks_j, strict=True)
    ]
    return instants, all_integrate


def _clock_bound_j(series: Series, time_s: FloatArray, energy_j: FloatArray, start_s: float, end_s: float) -> float:
    """What a window holds too much or too little if its machine's clock is off: the same at both ends and for all its
    counters, so at most the difference of the powers there (means of 0.1 s) over that time, J."""
    if series.clock_uncertainty_s == 0.0 or len(time_s) < 2:
        return 0.0
    powers_w = [*power_range_w(time_s, energy_j, start_s), *power_range_w(time_s, energy_j, end_s)]
    return series.clock_uncertainty_s * (max(powers_w) - min(powers_w))


def _sampling_bound_j(
    recording: Recording,
    gpus: Sequence[Series],
    powers: Sequence[PowerTrace | None],
    parts: Sequence[Instant],
    window_s: float,
    gated: bool,
) -> float | None:
    """What the sensors of GPUs that are not seen to integrate may have missed, J; linearly, their load being alike.

    Unseen, a board drew at most its power limit, or what it was seen to draw if that is more, and at least nothing;
    gated, at least the lowest power shown, that of the quiet beside the window.
    """
    total_j = 0.0
    for series, power, part in zip(gpus, powers, parts, strict=True):
        channel = series.channel
        if channel.seen_share == 1.0:
            continue
        states = [state.power_limit_w for state in recording.states if state.device == channel.device]
        limits_w = [limit_w for limit_w in states if limit_w is not None]
        if channel.seen_share is None or not limits_w:
            return None
        shown_w = power.power_w if power is not None and power.instant else np.zeros(0)
        lowest_w = float(shown_w.min()) if gated and len(shown_w) else 0.0
        highest_w = max(limits_w + shown_w.tolist())
        total_j += sampling_bound_j(part.energy_j, window_s, channel.refresh_s, channel.seen_share, lowest_w, highest_w)
    return total_j


def _total(parts: Sequence[Instant], first: Series) -> Energy:
    """The sum over one or more counters: random parts in quadrature, bounds linearly."""
    uncertainty_j = math.hypot(*(part.random_j for part in parts)) + sum(part.bound_j for part in parts)
    return Energy(sum(part.energy_j for part in parts), uncertainty_j, first.channel.source)


def window_energies(
    recording: Recording, start_s: float, end_s: float, gpu_uuids: Sequence[str], gated: bool = False
) -> WindowEnergies:
    """All energies of one and the same window. Random uncertainties of a sum combine in quadrature.

    A domain without counters, and CPU or DRAM counters that fail, are null with the reason.

    Args:
        gated: nothing ran on the GPUs before the start and after the end.

    Raises:
        MeasurementError: a counter of the engine's GPUs cannot be believed, or one of them was not read.
    """
    gpus = [_gpu_series(recording, uuid) for uuid in gpu_uuids] if _of_domain(recording, "gpu") else []
    others = tuple(series for series in _of_domain(recording, "gpu") if series.channel.device not in gpu_uuids)
    power = {trace.device: trace for trace in recording.power}
    traces = [trace for trace in recording.power if trace.device in gpu_uuids]
    gpu_power = [power.get(series.channel.device) for series in gpus]
    parts, integrate = _parts(gpus, start_s, end_s, gated, gpu_power)
    unseen_j = 0.0 if integrate else _sampling_bound_j(recording, gpus, gpu_power, parts, end_s - start_s, gated)
    return WindowEnergies(
        gpu=_total(parts, gpus[0]) if gpus else Energy.absent(_absent_reason(recording, "gpu")),
        by_gpu=tuple(_total([part], series) for part, series in zip(parts, gpus, strict=True)),
        idle_gpus=_energy_or_reason(others, start_s, end_s, "no GPU outside the engine's was read"),
        cpu=_domain_energy(recording, "cpu", start_s, end_s),
        dram=_domain_energy(recording, "dram", start_s, end_s),
        gpu_power_integral_j=_integral_j(traces, len(gpu_uuids), start_s, end_s),
        gpu_sampling_bound_j=unseen_j if gpus else None,
    )


def _of_domain(recording: Recording, domain: Domain) -> tuple[Series, ...]:
    return tuple(series for series in recording.series if series.channel.domain == domain)


def _gpu_series(recording: Recording, uuid: str) -> Series:
    for series in _of_domain(recording, "gpu"):
        if series.channel.device == uuid:
            return series
    raise MeasurementError(f"the energy counter of {uuid} was not read")


def _absent_reason(recording: Recording, domain: Domain) -> str:
    return recording.absent.get(domain, f"no {domain} counter was read")


def _energy_or_reason(series: Sequence[Series], start_s: float, end_s: float, reason: str) -> Energy:
    if not series:
        return Energy.absent(reason)
    try:
        return _total(_parts(series, start_s, end_s, False, [None] * len(series))[0], series[0])
    except MeasurementError as error:
        return Energy.absent(str(error))


def _domain_energy(recording: Recording, domain: Domain, start_s: float, end_s: float) -> Energy:
    return _energy_or_reason(_of_domain(recording, domain), start_s, end_s, _absent_reason(recording, domain))


def _integral_j(traces: Sequence[PowerTrace], gpus: int, start_s: float, end_s: float) -> float | None:
    """Under the power of all of the engine's GPUs; None where one of them was not read to the end."""
    if not traces or len(traces) != gpus:
        return None
    try:
        return sum(power_integral(trace, start_s, end_s) for trace in traces)
    except WindowTooShort:
        return None


def power_integral(trace: PowerTrace, start_s: float, end_s: float) -> float:
    """Joules under a power trace in [start_s, end_s], by trapezoids.

    Raises:
        WindowTooShort: the trace does not reach both ends to within 0.25 s.
    """
    slack_s = 0.25
    time_s = trace.time_s
    if len(time_s) == 0 or time_s[0] > start_s + slack_s or time_s[-1] < end_s - slack_s:
        raise WindowTooShort(f"{trace.device}: the power trace does not cover {start_s:.3f} to {end_s:.3f} s")
    inside = time_s[(time_s > start_s) & (time_s < end_s)]
    grid = np.concatenate(([start_s], inside, [end_s]))
    return float(np.trapezoid(np.interp(grid, time_s, trace.power_w), grid))


def mean_power(series: Series, start_s: float, end_s: float) -> Power:
    """Mean power of one counter within [start_s, end_s], for baselines.

    A slow counter's is taken between its first and last edge inside, a fast one's over the whole span.

    Raises:
        MeasurementError: as `window_energy`; WindowTooShort with fewer than two edges inside.
    """
    if series.channel.refresh_s <= FAST_REFRESH_S:
        energy = window_energy(series, start_s, end_s)
        span_s = end_s - start_s
        return Power((energy.energy_j or 0.0) / span_s, (energy.uncertainty_j or 0.0) / span_s)
    edges = edges_of(series)
    inside = np.flatnonzero((edges.after_s >= start_s) & (edges.before_s <= end_s))
    if len(inside) < 2:
        raise not_covered(series, end_s, "two updates of the counter")
    first, last = inside[0], inside[-1]
    span_s = float(edges.time_s[last] - edges.time_s[first])
    power_w = float(edges.energy_j[last] - edges.energy_j[first]) / span_s
    spread_j = power_w * math.hypot(edges.half_width_s[first], edges.half_width_s[last])
    return Power(power_w, math.hypot(spread_j, series.channel.joules_per_count) / span_s)


def mean_powers(recording: Recording, start_s: float, end_s: float, gpu_uuids: Sequence[str]) -> MeanPowers:
    """Mean powers of one span in which nothing changes.

    CPU or DRAM counters that fail give None; why is in the energies of the windows beside the span.

    Raises:
        MeasurementError: a counter of the GPUs cannot be believed, or one of them was not read.
    """
    gpus = [_gpu_series(recording, uuid) for uuid in gpu_uuids] if _of_domain(recording, "gpu") else []
    return MeanPowers(
        gpu=_sum_power(gpus, start_s, end_s),
        cpu=_host_power(recording, "cpu", start_s, end_s),
        dram=_host_power(recording, "dram", start_s, end_s),
    )


def _host_power(recording: Recording, domain: Domain, start_s: float, end_s: float) -> Power | None:
    try:
        return _sum_power(_of_domain(recording, domain), start_s, end_s)
    except MeasurementError:
        return None


def _sum_power(series: Sequence[Series], start_s: float, end_s: float) -> Power | None:
    if not series:
        return None
    powers = [mean_power(one, start_s, end_s) for one in series]
    return Power(sum(power.power_w for power in powers), math.hypot(*(power.uncertainty_w for power in powers)))
