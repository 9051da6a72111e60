"""GPUs, RAPL, the management controller and the processors: what is read, how often it moves, what it costs."""

import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from harness.clock import WallClock
from harness.doctor.check import Check
from harness.errors import BadInput, MeasurementError
from harness.hygiene import FOREIGN_CPU_CORES, foreign_cores
from harness.meters.base import Domain, Series
from harness.meters.dram import count_dimms, implausible_dram
from harness.meters.edges import SHARP_SHARE, edges_of
from harness.meters.host import HostWatch
from harness.meters.nodepower import IPMI_FIX, open_node_power
from harness.meters.nvml import NvmlGpu, in_host_pid_namespace, open_nvml
from harness.meters.rapl import OLD_UNIT_FIX, PERMISSION_FIX, RaplMeter, open_rapl
from harness.meters.reader import Counter
from harness.meters.sampler import PollingSampler
from harness.units import BYTES_PER_GIB, MS_PER_S

_SPAN_S = 0.2
_PACE_SPAN_S = 0.05
_NO_GPU_FIX = (
    "install the NVIDIA driver (in a container: pass the GPUs in, such as --gpus all);"
    " without a GPU, simulated sweeps run: harness sweep deployments/simulated-dgx.yaml"
)


def check_gpus() -> Iterable[Check]:
    """The driver, and each GPU's counter: read densely until it has shown four refreshes."""
    try:
        meter = open_nvml()
    except BadInput as error:
        yield Check("gpu", "missing", f"{error.field}: {error.value}; {error.accepted} is needed", error.fix)
        return
    try:
        if meter.absent:
            yield Check("gpu", "missing", meter.absent["gpu"], _NO_GPU_FIX)
            return
        gpus = [gauge for gauge in meter.gauges if isinstance(gauge, NvmlGpu)]
        sampler = PollingSampler([meter], WallClock())
        sampler.start()
        sampler.settle()
        series = {one.channel.device: one for one in sampler.stop().series}
        for gpu in gpus:
            yield _check_gpu(gpu, series[gpu.uuid])
    finally:
        meter.close()


def _check_gpu(gpu: NvmlGpu, series: Series) -> Check:
    name = f"gpu {gpu.uuid}"
    about = f"{gpu.name}, {gpu.memory_bytes / BYTES_PER_GIB:.0f} GiB, limit {gpu.power_limit_w or float('nan'):g} W"
    try:
        edges = edges_of(series)
        pids = gpu.state(time.monotonic()).foreign_pids
        readable = gpu.processes_readable()
    except MeasurementError as error:
        return Check(name, "missing", f"{about}: {error}", "see dmesg for Xid errors of this GPU")
    sharp = edges.time_s[edges.half_width_s <= SHARP_SHARE * series.channel.refresh_s]
    if series.lost or len(sharp) < 2:
        return Check(name, "missing", f"{about}: {series.lost or 'the energy counter does not move'}", "see dmesg")
    refresh_ms = float(np.median(np.diff(sharp))) * MS_PER_S
    read_ms = float(np.median(series.latency_s)) * MS_PER_S
    detail = f"{about}, counter refreshed every {refresh_ms:.0f} ms, read in {read_ms:.3f} ms"
    if pids:
        detail += f"; processes on it: {', '.join(map(str, pids))}"
        fix = "end them before a sweep: runs beside them are invalid"
        if not in_host_pid_namespace():
            fix += "; these are pids of the host: docker run --pid=host, so that ours can be told from others"
        return Check(name, "warn", detail, fix)
    if not readable:
        detail += "; its processes cannot be listed"
        return Check(name, "warn", detail, "run outside a restricted container, or as root")
    if gpu.power_source != "instant":
        return Check(
            name, "warn", f"{detail}; power may be a 1-s average", "a newer NVIDIA driver, one that knows field 186"
        )
    if gpu.persistence is False:
        detail += "; persistence mode off: the counter starts again when the last program leaves the GPU"
        return Check(name, "warn", detail, f"sudo nvidia-smi -i {gpu.uuid} -pm 1")
    return Check(name, "ok", detail)


def check_rapl() -> Iterable[Check]:
    """Packages and DRAM: readable, moving, and at a plausible power."""
    meter = open_rapl()
    try:
        series = _two_readings(meter) if isinstance(meter, RaplMeter) else ()
        for domain in ("cpu", "dram"):
            if domain in meter.absent:
                reason = meter.absent[domain]
                yield Check(domain, "missing", reason.split(PERMISSION_FIX)[0].rstrip(", "), _rapl_fix(reason))
            elif isinstance(meter, RaplMeter):
                yield _check_domain(domain, meter, [one for one in series if one.channel.domain == domain])
    except MeasurementError as error:
        yield Check("cpu", "missing", str(error), "see dmesg for what removed the powercap zone")
    finally:
        meter.close()


def _two_readings(meter: RaplMeter) -> tuple[Series, ...]:
    sampler = PollingSampler([meter], WallClock())
    sampler.start()
    time.sleep(_SPAN_S)
    sampler.mark()
    return sampler.stop().series


def _rapl_fix(reason: str) -> str:
    if "permission denied" in reason:
        return PERMISSION_FIX
    if "AMD" in reason:
        return "none, the processor has no such counter: DRAM energy stays null, or is estimated where you ask for it"
    if "no DRAM" in reason:
        return "look for DRAM RAPL mode in the BIOS; where there is none, DRAM energy stays null with this reason"
    return "sudo modprobe intel_rapl_msr on the bare machine; elsewhere CPU and DRAM energy stay null with this reason"


def _check_domain(domain: Domain, meter: RaplMeter, series: list[Series]) -> Check:
    powers_w = []
    for one in series:
        wrapped = (int(one.counts[-1]) - int(one.counts[0])) % (one.channel.wrap_counts or 1 << 62)
        powers_w.append(wrapped * one.channel.joules_per_count / (one.time_s[-1] - one.time_s[0]))
    wrap_kj = (series[0].channel.wrap_counts or 0) * series[0].channel.joules_per_count / 1000
    zones = ", ".join(f"{one.channel.device} {power:.1f} W" for one, power in zip(series, powers_w, strict=True))
    counter = next(one for one in meter.counters if one.channels[0].domain == domain)
    refresh_s, read_s = measure_pace(counter)
    moves = "does not move" if refresh_s is None else f"refreshed every {refresh_s * MS_PER_S:.2f} ms"
    detail = f"{zones}; {moves}, read in {read_s * MS_PER_S:.3f} ms by {meter.reader}; wraps at {wrap_kj:.1f} kJ"
    if min(powers_w) == 0:
        fix = "measure on the bare machine: virtual machines show dead counters"
        return Check(domain, "warn", f"{detail}; a counter stands still", fix)
    if domain in meter.doubts:
        return Check(domain, "warn", f"{detail}; {meter.doubts[domain]}", OLD_UNIT_FIX)
    wrong = implausible_dram(sum(powers_w), len(series), count_dimms()) if domain == "dram" else ""
    if wrong:
        fix = "check the BIOS (DRAM RAPL mode) and compare with the management controller; do not use these figures"
        return Check(domain, "warn", f"{detail}; {wrong}", fix)
    return Check(domain, "ok", detail)


def measure_pace(counter: Counter) -> tuple[float | None, float]:
    """How often a counter moves, s (None: it stood still), and how long one reading takes: medians over 50 ms."""
    moved_s, took_s = [], []
    before_s = time.perf_counter()
    end_s, last = before_s + _PACE_SPAN_S, counter.read()
    while before_s < end_s:
        before_s = time.perf_counter()
        now = counter.read()
        after_s = time.perf_counter()
        took_s.append(after_s - before_s)
        if now != last:
            moved_s.append(after_s)
        last = now
    return float(np.median(np.diff(moved_s))) if len(moved_s) > 1 else None, float(np.median(took_s))


def check_node_power() -> Iterable[Check]:
    """The management controller of this machine, asked once by ipmitool."""
    before_s = time.perf_counter()
    gauge, reason = open_node_power()
    took_ms = (time.perf_counter() - before_s) * MS_PER_S
    if gauge is None:
        fix = (
            "give the Redfish address of its controller as `measurement.node_power` in the sweep file"
            if "ipmitool on PATH" in reason
            else ""
        )
        yield Check("node power", "missing", reason, f"{IPMI_FIX}; or {fix}" if fix else IPMI_FIX)
    else:
        yield Check("node power", "ok", f"read by {gauge.name} in {took_ms:.0f} ms")


def check_cpu() -> Iterable[Check]:
    """Processor, cores, governor and load, as they are: they are never set."""
    watch = HostWatch(lambda: [os.getpid()])
    first = watch.state(time.monotonic())
    time.sleep(_SPAN_S)
    last = watch.state(time.monotonic())
    load = foreign_cores([first, last]) or 0.0
    governors = ", ".join(sorted(last.governors))
    usable, kernel = len(os.sched_getaffinity(0)), platform.release()
    shown = f"governor {governors}" if governors else "no frequency governor shown"
    detail = f"{_cpu_name()}, {usable} of {os.cpu_count()} cores, {shown}, Linux {kernel}, {load:.1f} cores busy"
    if load > FOREIGN_CPU_CORES:
        fix = "end what runs beside (top shows it): it is in the CPU's energy, and runs are flagged foreign_cpu_load"
        yield Check("processor", "warn", f"{detail} with the work of others", fix)
    elif last.governors - {"performance"}:
        yield Check("processor", "warn", detail, "sudo cpupower frequency-set -g performance; runs are flagged without")
    else:
        yield Check("processor", "ok", detail)


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
