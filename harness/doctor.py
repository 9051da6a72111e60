"""What works on this machine, what does not, and the fix for each thing that does not.

Nothing is changed: GPUs, counters, engines and folders are only looked at, for about a second each.
"""

import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np

from harness import __version__
from harness.clock import WallClock
from harness.errors import BadInput, HarnessError, MeasurementError
from harness.meters.base import Domain, Series
from harness.meters.instant import SHARP_SHARE, edges_of
from harness.meters.nvml import NvmlGpu, open_nvml
from harness.meters.rapl import PERMISSION_FIX, RaplMeter, open_rapl
from harness.meters.sampler import PollingSampler
from harness.units import BYTES_PER_GIB, MS_PER_S
from harness.workload.library import fetched_file, manifest, traces_folder

Status = Literal["ok", "warn", "missing"]

_PACKAGES = ("numpy", "pandas", "pyarrow", "nvidia-ml-py", "pyRAPL")
_VERSION_LIMIT_S = 120
_FREE_BYTES_WANTED = 5 * BYTES_PER_GIB
_RAPL_SPAN_S = 0.2
_DRAM_PLAUSIBLE_W = 2.0
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_NO_GPU_FIX = (
    "install the NVIDIA driver (in a container: pass the GPUs in, such as --gpus all);"
    " without a GPU, simulated sweeps run: harness sweep deployments/simulated-dgx.yaml"
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `fix` is empty where nothing needs one."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def examine(results: Path) -> list[Check]:
    """All checks, in the order in which they are shown; what fails is a check, never an error."""
    return [
        *check_python(),
        *check_gpus(),
        *check_rapl(),
        *check_engines(),
        *check_traces(),
        *check_results(results),
        *check_cpu(),
    ]


def check_python() -> Iterable[Check]:
    """The interpreter, and the packages whose version decides what is read."""
    found = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    yield Check("python", "ok", f"{platform.python_version()}, harness {__version__}, {found}")
    try:
        shadow = version("pynvml")
    except PackageNotFoundError:
        return
    yield Check("pynvml", "warn", f"the deprecated distribution pynvml {shadow} is installed", "pip uninstall pynvml")


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
        return Check(name, "warn", detail, "end them before a sweep: runs beside them are invalid")
    if not readable:
        detail += "; its processes cannot be listed"
        return Check(name, "warn", detail, "run outside a restricted container, or as root")
    if gpu.power_source != "instant":
        return Check(
            name, "warn", f"{detail}; power may be a 1-s average", "a newer NVIDIA driver, one that knows field 186"
        )
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
                yield _check_domain(domain, meter.reader, [one for one in series if one.channel.domain == domain])
    except MeasurementError as error:
        yield Check("cpu", "missing", str(error), "see dmesg for what removed the powercap zone")
    finally:
        meter.close()


def _two_readings(meter: RaplMeter) -> tuple[Series, ...]:
    sampler = PollingSampler([meter], WallClock())
    sampler.start()
    time.sleep(_RAPL_SPAN_S)
    sampler.mark()
    return sampler.stop().series


def _rapl_fix(reason: str) -> str:
    if "permission denied" in reason:
        return PERMISSION_FIX
    if "DRAM" in reason:
        return "none: DRAM energy stays null with this reason"
    return "load intel_rapl_msr on the bare machine; elsewhere CPU and DRAM energy stay null with this reason"


def _check_domain(domain: Domain, reader: str, series: list[Series]) -> Check:
    powers_w = []
    for one in series:
        wrapped = (int(one.counts[-1]) - int(one.counts[0])) % (one.channel.wrap_counts or 1 << 62)
        powers_w.append(wrapped * one.channel.joules_per_count / (one.time_s[-1] - one.time_s[0]))
    wrap_kj = (series[0].channel.wrap_counts or 0) * series[0].channel.joules_per_count / 1000
    zones = ", ".join(f"{one.channel.device} {power:.1f} W" for one, power in zip(series, powers_w, strict=True))
    detail = f"{zones}; wraps at {wrap_kj:.1f} kJ; read by {reader}"
    if min(powers_w) == 0:
        return Check(domain, "warn", f"{detail}; a counter does not move", "virtual machines show dead counters")
    if domain == "dram" and min(powers_w) < _DRAM_PLAUSIBLE_W:
        fix = "Sapphire Rapids reads 4x low with an old energy unit: a kernel with commit 4c081324df56, and the BIOS"
        return Check(domain, "warn", f"{detail}; less than DRAM draws at rest", fix)
    return Check(domain, "ok", detail)


def check_engines() -> Iterable[Check]:
    """Serving engines on PATH."""
    path = shutil.which("vllm")
    if path is None:
        fix = "install vLLM in an environment of its own and put its vllm command on PATH"
        yield Check("vllm", "missing", "no command vllm on PATH", fix)
    else:
        yield _check_command("vllm", path)
    yield Check("sarathi", "warn", "cannot be detected: it installs no command; a sweep that uses it finds out")


def _check_command(name: str, path: str) -> Check:
    try:
        done = subprocess.run(  # noqa: S603
            [path, "--version"], capture_output=True, text=True, timeout=_VERSION_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Check(name, "warn", f"{path} --version took over {_VERSION_LIMIT_S} s", "run it by hand")
    except OSError as error:
        return Check(name, "missing", f"{path} cannot be run: {error.strerror}", "install it again")
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines() or ["it printed nothing"]
    if done.returncode:
        return Check(name, "missing", f"{path} --version failed: {lines[-1]}", "run it by hand to see why")
    return Check(name, "ok", f"{lines[-1]} at {path}")


def check_traces() -> Iterable[Check]:
    """Which traces were fetched; their bundled profiles stand in for the others."""
    try:
        entries = manifest()
    except HarnessError as error:
        yield Check("traces", "missing", str(error), "install the harness again")
        return
    fetched = [entry.name for entry in entries if fetched_file(entry)]
    missing = [entry.name for entry in entries if entry.name not in fetched]
    where = f"in {traces_folder()}"
    if fetched:
        yield Check("traces", "ok", f"{', '.join(fetched)} {where}")
    if missing:
        detail = f"{', '.join(missing)} not {where}: bundled profiles stand in"
        yield Check("traces", "warn", detail, f"harness traces fetch {missing[0] if len(missing) == 1 else 'all'}")


def check_results(results: Path) -> Iterable[Check]:
    """Whether results can be written where they would land."""
    folder = results.absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        free_bytes = shutil.disk_usage(existing).free
    except OSError as error:
        yield Check("results", "missing", f"{existing}: {error.strerror}", "give another folder with --results")
        return
    detail = f"{folder} can be written, {free_bytes / BYTES_PER_GIB:.1f} GiB free"
    if free_bytes < _FREE_BYTES_WANTED:
        yield Check("results", "warn", detail, "free some space, or give another folder with --results")
    else:
        yield Check("results", "ok", detail)


def check_cpu() -> Iterable[Check]:
    """Processor, cores and frequency governor, as they are: they are never set."""
    try:
        governor = f"governor {_GOVERNOR.read_text().strip()}"
    except OSError:
        governor = "no frequency governor shown"
    usable, kernel = len(os.sched_getaffinity(0)), platform.release()
    yield Check("processor", "ok", f"{_cpu_name()}, {usable} of {os.cpu_count()} cores, {governor}, Linux {kernel}")


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
