"""Window energies against a model of real counters whose true energy is known."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import CounterLost, CounterWentBack, MeasurementError, WindowTooShort
from harness.meters.base import Channel, PowerTrace, Recording, Series
from harness.meters.window import mean_power, mean_powers, power_integral, window_energies, window_energy
from tests.fixtures.counter_model import (
    LEAD_S,
    QUIET_W,
    Load,
    PowerCurve,
    fast_series,
    power_curve,
    ramp,
    reading_times,
    slow_series,
    square,
    steady,
    steps,
)

ROUNDS = 40


def recording(curve: PowerCurve, gpus: int, dense: bool, rng: np.random.Generator) -> Recording:
    times_s = reading_times(curve, rng, dense)
    return Recording(tuple(slow_series(curve, times_s, rng, f"GPU-{i}") for i in range(gpus)))


def uuids(gpus: int) -> list[str]:
    return [f"GPU-{i}" for i in range(gpus)]


@pytest.mark.parametrize("load", [steady, square, ramp, steps])
@pytest.mark.parametrize("gpus", [1, 8])
@pytest.mark.parametrize(("window_s", "median_error"), [(0.5, 0.002), (2.0, 0.001), (10.0, 0.0005)])
def test_quiet_ends_are_far_below_one_percent_and_say_how_far(
    load: Load, gpus: int, window_s: float, median_error: float
) -> None:
    rng = np.random.default_rng(1)
    errors, covered = [], []
    for _ in range(ROUNDS if gpus == 1 else 12):
        curve = power_curve(load, window_s, rng)
        energy = window_energies(recording(curve, gpus, True, rng), curve.start_s, curve.end_s, uuids(gpus)).gpu
        assert energy.energy_j is not None
        assert energy.uncertainty_j is not None
        error_j = abs(energy.energy_j - gpus * curve.window_j)
        errors.append(error_j / (gpus * curve.window_j))
        covered.append(error_j <= energy.uncertainty_j)
        # An uncertainty that covers all and says nothing would be no use.
        assert energy.uncertainty_j < 0.015 * gpus * curve.window_j
    assert np.median(errors) < median_error
    assert np.mean(covered) >= 0.9


@pytest.mark.parametrize("load", [steady, square, ramp, steps])
@pytest.mark.parametrize("gpus", [1, 8])
def test_without_dense_reading_the_larger_uncertainty_still_covers(load: Load, gpus: int) -> None:
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(ROUNDS):
        curve = power_curve(load, 2.0, rng)
        energy = window_energies(recording(curve, gpus, False, rng), curve.start_s, curve.end_s, uuids(gpus)).gpu
        assert energy.energy_j is not None
        assert energy.uncertainty_j is not None
        covered.append(abs(energy.energy_j - gpus * curve.window_j) <= energy.uncertainty_j)
    assert np.mean(covered) >= 0.9


def test_power_that_decays_after_the_window_is_covered() -> None:
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(ROUNDS):
        curve = power_curve(steady, 2.0, rng)
        after = curve.time_s >= curve.end_s
        decay_w = 200.0 * np.exp(-(curve.time_s - curve.end_s) / 0.15) * after
        energy_j = curve.energy_j + np.concatenate(([0.0], np.cumsum(decay_w[:-1]) * np.diff(curve.time_s)))
        curve = replace(curve, power_w=curve.power_w + decay_w, energy_j=energy_j)
        series = slow_series(curve, reading_times(curve, rng, True), rng)
        energy = window_energy(series, curve.start_s, curve.end_s)
        assert energy.energy_j is not None
        assert energy.uncertainty_j is not None
        covered.append(abs(energy.energy_j - curve.window_j) <= energy.uncertainty_j)
    assert np.mean(covered) >= 0.9


def test_refreshes_in_step_with_the_readings_are_no_less_uncertain() -> None:
    """Every interval looks the same then, and yet each edge may lie anywhere between two readings."""
    tick_s, read_s = np.arange(0.0, 4.0, 0.1), np.arange(0.009, 4.0, 0.02)
    power_w, load_w, start_s, end_s = 100.0, 600.0, 1.5, 2.5
    truth_j = power_w * tick_s + (load_w - power_w) * np.clip(tick_s - start_s, 0.0, end_s - start_s)
    counts = np.round(1000 * truth_j).astype(np.int64)[np.searchsorted(tick_s, read_s, side="right") - 1]
    channel = Channel("gpu", "GPU-0", 1e-3, None, 0.1, "simulated")
    energy = window_energy(Series(channel, read_s, np.full(len(read_s), 1e-4), counts), start_s, end_s)
    assert energy.energy_j == pytest.approx(load_w * (end_s - start_s), abs=3.0)
    # Two edges, each +-10 ms of 100 W.
    assert energy.uncertainty_j == pytest.approx(np.hypot(1.0, 1.0), rel=0.1)


def test_a_reading_that_hangs_beside_the_window_is_covered() -> None:
    rng = np.random.default_rng(4)
    for _ in range(ROUNDS):
        curve = power_curve(steady, 2.0, rng)
        times_s = reading_times(curve, rng, True)
        hang_s = curve.end_s + rng.uniform(0.003, 0.3)
        kept = times_s[(times_s <= hang_s) | (times_s > hang_s + 0.13)]
        energy = window_energy(slow_series(curve, kept, rng), curve.start_s, curve.end_s)
        assert energy.energy_j is not None
        assert energy.uncertainty_j is not None
        assert abs(energy.energy_j - curve.window_j) <= energy.uncertainty_j


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.1, 0.9))
def test_adjacent_windows_add_up(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    curve = power_curve(steady, 3.0, rng)
    middle_s = curve.start_s + share * 3.0
    times_s = reading_times(curve, rng, True, marks=(middle_s,))
    for series in (slow_series(curve, times_s, rng), fast_series(curve, times_s, rng)):
        parts = [window_energy(series, *ends) for ends in ((curve.start_s, middle_s), (middle_s, curve.end_s))]
        whole = window_energy(series, curve.start_s, curve.end_s)
        assert sum(part.energy_j or 0.0 for part in parts) == pytest.approx(whole.energy_j, rel=1e-9)


@pytest.mark.parametrize("load", [steady, square, ramp, steps])
def test_a_fast_counter_is_exact_to_its_refresh_through_a_wrap(load: Load) -> None:
    rng = np.random.default_rng(5)
    covered = []
    for _ in range(ROUNDS):
        curve = power_curve(load, 2.0, rng)
        energy = window_energy(fast_series(curve, reading_times(curve, rng, True), rng), curve.start_s, curve.end_s)
        assert energy.energy_j is not None
        assert energy.uncertainty_j is not None
        assert energy.uncertainty_j < 0.005 * curve.window_j
        covered.append(abs(energy.energy_j - curve.window_j) <= energy.uncertainty_j)
    assert np.mean(covered) >= 0.9


def scene(seed: int = 6) -> tuple[PowerCurve, Series, Series, Series]:
    """A curve, two GPUs and a package."""
    rng = np.random.default_rng(seed)
    curve = power_curve(steady, 2.0, rng)
    times_s = reading_times(curve, rng, True)
    gpus = [slow_series(curve, times_s, rng, f"GPU-{i}") for i in range(2)]
    return curve, gpus[0], gpus[1], fast_series(curve, times_s, rng)


def cut(series: Series, until_s: float, lost: str) -> Series:
    kept = series.time_s <= until_s
    return replace(
        series, time_s=series.time_s[kept], latency_s=series.latency_s[kept], counts=series.counts[kept], lost=lost
    )


def test_a_gpu_that_is_lost_or_reloaded_makes_the_window_invalid() -> None:
    curve, gpu, _, _ = scene()
    middle_s = (curve.start_s + curve.end_s) / 2
    with pytest.raises(CounterLost, match="GPU is lost"):
        window_energies(Recording((cut(gpu, middle_s, "GPU is lost"),)), curve.start_s, curve.end_s, ["GPU-0"])
    with pytest.raises(WindowTooShort, match="no update of the counter"):
        window_energies(Recording((cut(gpu, curve.end_s, ""),)), curve.start_s, curve.end_s, ["GPU-0"])
    reloaded = replace(gpu, counts=np.where(gpu.time_s > middle_s, gpu.counts - 7_000_000, gpu.counts))
    with pytest.raises(CounterWentBack):
        window_energies(Recording((reloaded,)), curve.start_s, curve.end_s, ["GPU-0"])
    with pytest.raises(MeasurementError, match="GPU-9 was not read"):
        window_energies(Recording((gpu,)), curve.start_s, curve.end_s, ["GPU-9"])


def test_a_failing_package_and_absent_domains_are_null_with_their_reason() -> None:
    curve, gpu, other, package = scene()
    broken = cut(package, curve.end_s - 0.5, "zone disappeared")
    result = window_energies(
        Recording((gpu, other, broken), absent={"dram": "no DRAM domain"}), curve.start_s, curve.end_s, ["GPU-1"]
    )
    assert result.cpu.energy_j is None
    assert "zone disappeared" in result.cpu.reason
    assert (result.dram.energy_j, result.dram.reason) == (None, "no DRAM domain")
    assert result.idle_gpus.energy_j == pytest.approx(curve.window_j, rel=0.01)
    assert result.gpu.energy_j == result.by_gpu[0].energy_j
    alone = window_energies(
        Recording((package,), absent={"gpu": "no NVIDIA driver"}), curve.start_s, curve.end_s, ["GPU-0"]
    )
    assert (alone.gpu.energy_j, alone.gpu.reason) == (None, "no NVIDIA driver")
    assert alone.cpu.energy_j == pytest.approx(curve.window_j, rel=0.01)


def test_mean_powers_of_a_quiet_span() -> None:
    rng = np.random.default_rng(7)
    curve = power_curve(lambda time_s, _: np.full(len(time_s), QUIET_W), 2.0, rng)
    times_s = reading_times(curve, rng, False)
    gpus = [slow_series(curve, times_s, rng, uuid) for uuid in uuids(2)]
    powers = mean_powers(
        Recording((*gpus, fast_series(curve, times_s, rng))), curve.start_s - 0.8, curve.end_s + 0.8, uuids(2)
    )
    assert powers.gpu is not None
    assert abs(powers.gpu.power_w - 2 * QUIET_W) < powers.gpu.uncertainty_w < 12
    assert powers.cpu is not None
    assert powers.cpu.power_w == pytest.approx(QUIET_W, rel=0.005)
    assert powers.dram is None
    with pytest.raises(WindowTooShort):
        mean_power(gpus[0], curve.start_s, curve.start_s + 0.05)


def test_the_power_integral_covers_exactly_the_window() -> None:
    trace = PowerTrace("GPU-0", np.array([0.0, 1.0, 2.0, 3.0]), np.array([100.0, 100.0, 300.0, 300.0]))
    assert power_integral(trace, 0.5, 2.5) == pytest.approx(50 + 200 + 150)
    with pytest.raises(WindowTooShort):
        power_integral(trace, 0.5, 2.5 + LEAD_S)


def test_integrals_are_summed_over_the_engines_gpus_only() -> None:
    curve, gpu, other, _ = scene()
    span = np.array([curve.start_s - 0.5, curve.end_s + 0.5])
    traces = [PowerTrace(f"GPU-{i}", span, np.full(2, 100.0 * (i + 1))) for i in range(2)]
    result = window_energies(Recording((gpu, other), tuple(traces)), curve.start_s, curve.end_s, ["GPU-1"])
    assert result.gpu_power_integral_j == pytest.approx(400.0)
