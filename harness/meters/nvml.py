"""NVIDIA GPUs through NVML: cumulative energy, instantaneous power, and what disturbs them.

Nothing on the card is ever changed. `pynvml` comes from the distribution nvidia-ml-py.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pynvml

from harness.errors import BadInput, CounterLost
from harness.meters.base import Channel, Domain, GpuState
from harness.meters.reader import AbsentMeter

REFRESH_S = 0.1
"""A100 and H100 refresh the counter and the power about every 100 ms (arXiv 2312.02741)."""
_SEEN_SHARES: Mapping[str, float] = {"A100": 0.25, "H100": 0.25}
"""Board -> the share of each refresh that its power sensor sees (arXiv 2312.02741); of others nothing is claimed."""
_JOULES_PER_COUNT = 1e-3
_MILLI = 1000.0

_EVENT_REASONS: Mapping[int, str] = {
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""nvml.h, nvmlClocksEventReason*; bit 0x1 is idle and left out."""

OwnPids = Callable[[], Iterable[int]]
_PROC = Path("/proc")
_NAMESPACE = Path("/proc/self/ns/pid")
_HOST_NAMESPACE = Path("pid:[4026531836]")
"""The first namespace's inode is fixed: PROC_PID_INIT_INO in linux/proc_ns.h."""


def _nobody() -> Iterable[int]:
    return ()


class NvmlGpu:
    """One GPU: a counter of one channel, and a gauge."""

    def __init__(self, handle: object, own_pids: OwnPids, own_container: bool = False) -> None:
        """Args: an NVML handle, and the two arguments of `open_nvml`."""
        self._handle = handle
        self._own_pids, self._own_container = own_pids, own_container
        self.uuid = str(pynvml.nvmlDeviceGetUUID(handle))
        self.name = str(pynvml.nvmlDeviceGetName(handle))
        self.memory_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
        seen = seen_share(self.name)
        self.channels = (Channel("gpu", self.uuid, _JOULES_PER_COUNT, None, REFRESH_S, "measured", seen),)
        self.power_source = "instant" if self._instant_mw() is not None else "power_usage"
        """`instant`: field 186; `power_usage`: a 1-s average on H100 and on Ampere except GA100."""
        self._power_limit_w = self._optional(pynvml.nvmlDeviceGetEnforcedPowerLimit)
        mode = self._optional(pynvml.nvmlDeviceGetPersistenceMode)
        self.persistence = None if mode is None else bool(mode)
        """Whether the driver stays loaded without clients; when it does not, the counter starts again."""

    @property
    def power_limit_w(self) -> float | None:
        """The limit in force when the GPU was opened."""
        return None if self._power_limit_w is None else self._power_limit_w / _MILLI

    def read(self) -> tuple[int]:
        with self._lost_on_error():
            return (int(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)),)

    def power_w(self) -> float:
        with self._lost_on_error():
            power_mw = self._instant_mw() if self.power_source == "instant" else None
            if power_mw is None:
                power_mw = int(pynvml.nvmlDeviceGetPowerUsage(self._handle))
            return power_mw / _MILLI

    def state(self, time_s: float) -> GpuState:
        """Temperature, SM clock, limit, event reasons, memory, ECC errors, and processes not the engine's.

        What the driver does not tell (a vGPU, say) is None or empty; `processes_readable` says
        whether an empty `foreign_pids` means that there are none.
        """
        with self._lost_on_error():
            limit_mw = self._optional(pynvml.nvmlDeviceGetEnforcedPowerLimit)
            pids = self._optional_pids()
            foreign, unseen = self._strangers(pids or [])
            ecc = self._optional(
                pynvml.nvmlDeviceGetTotalEccErrors,
                pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                pynvml.NVML_VOLATILE_ECC,
            )
            return GpuState(
                device=self.uuid,
                time_s=time_s,
                temperature_c=self._optional(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
                sm_clock_mhz=self._optional(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM),
                power_limit_w=None if limit_mw is None else limit_mw / _MILLI,
                event_reasons=self._event_reasons(),
                foreign_pids=foreign,
                unseen_pids=unseen,
                processes_readable=pids is not None,
                ecc_uncorrected=None if ecc is None else int(ecc),
                memory_used_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(self._handle).used),
                persistence=self.persistence,
            )

    def processes_readable(self) -> bool:
        """Whether the driver lists the processes on this GPU."""
        with self._lost_on_error():
            return self._optional_pids() is not None

    def _instant_mw(self) -> int | None:
        try:
            value = pynvml.nvmlDeviceGetFieldValues(self._handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])[0]
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_InvalidArgument):
            return None
        return int(value.value.uiVal) if value.nvmlReturn == pynvml.NVML_SUCCESS else None

    def _event_reasons(self) -> frozenset[str]:
        bits = self._optional(pynvml.nvmlDeviceGetCurrentClocksEventReasons)
        if bits is None:  # older drivers know only the older name
            bits = self._optional(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        known = int(bits or 0) & ~0x1
        return frozenset(
            _EVENT_REASONS.get(1 << i, f"bit_{1 << i:#x}") for i in range(known.bit_length()) if known & 1 << i
        )

    def _optional_pids(self) -> list[int] | None:
        try:
            return [int(process.pid) for process in pynvml.nvmlDeviceGetComputeRunningProcesses(self._handle)]
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_NoPermission, pynvml.NVMLError_FunctionNotFound):
            return None

    def _strangers(self, pids: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the processes on the GPU, those that are not the engine's, and those that /proc does not show."""
        own = frozenset(self._own_pids()) if pids else frozenset()
        not_own = [pid for pid in sorted(pids) if not _descends(pid, own)]
        unseen = tuple(pid for pid in not_own if not (_PROC / str(pid)).is_dir())
        foreign = tuple(pid for pid in not_own if not (self._own_container and pid in unseen))
        return foreign, unseen

    def _optional(self, query: Callable[..., float], *args: int) -> float | None:
        """A figure that some boards do not have."""
        with suppress(pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NoPermission):
            return float(query(self._handle, *args))
        return None

    @contextmanager
    def _lost_on_error(self) -> Iterator[None]:
        try:
            yield
        except pynvml.NVMLError as error:
            raise CounterLost(f"{self.uuid}: NVML says: {error}") from error


def seen_share(board: str) -> float | None:
    """Of each refresh, how much the sensor of a board (by NVML's name of it) sees; None where it is not known.

    Names are compared word by word: an RTX A1000 is no A100.
    """
    words = re.findall(r"[A-Za-z0-9]+", board)
    return next((share for name, share in _SEEN_SHARES.items() if name in words), None)


def in_host_pid_namespace() -> bool:
    """Whether our pids are those that NVML gives: it knows no PID namespaces (NVIDIA/nvidia-docker issue 1483)."""
    try:
        return _NAMESPACE.readlink() == _HOST_NAMESPACE
    except OSError:
        return True


def _descends(pid: int, roots: frozenset[int]) -> bool:
    """Whether a process is one of the roots or below one."""
    if pid in roots:
        return True
    try:
        return any(parent.pid in roots for parent in psutil.Process(pid).parents())
    except psutil.Error:  # gone, or of another namespace: not known to be ours
        return False


class NvmlMeter:
    """All GPUs of the node, in NVML's order; address them by UUID. Use as a context, or call `close`."""

    def __init__(self, gpus: tuple[NvmlGpu, ...], driver_version: str) -> None:
        """Takes over one initialisation of NVML; made by `open_nvml`."""
        self.gpus = self.counters = self.gauges = gpus
        self.driver_version = driver_version
        self.absent: Mapping[Domain, str] = {}
        self.doubts: Mapping[Domain, str] = {}
        self._open = True

    def __enter__(self) -> "NvmlMeter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._open:
            self._open = False
            pynvml.nvmlShutdown()


def open_nvml(own_pids: OwnPids = _nobody, own_container: bool = False) -> NvmlMeter | AbsentMeter:
    """Initialise NVML and open every GPU, or say why there is none.

    Args:
        own_pids: roots of process trees that belong on the GPUs; asked at every state reading.
        own_container: the engine runs in a container of ours, whose processes our /proc does not show under
            the pids that NVML gives: pids it does not show are reported as unseen only, not as foreign.

    Raises:
        BadInput: MIG is enabled on a GPU: each instance would carry the whole board's energy.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return AbsentMeter({"gpu": f"no NVIDIA driver answers here (NVML says: {error})"})
    try:
        gpus = _open_gpus(own_pids, own_container)
        version = str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError as error:
        pynvml.nvmlShutdown()
        return AbsentMeter({"gpu": f"the NVIDIA driver does not give GPU energy (NVML says: {error})"})
    except BadInput:
        pynvml.nvmlShutdown()
        raise
    if not gpus:
        pynvml.nvmlShutdown()
        return AbsentMeter({"gpu": "the NVIDIA driver is loaded and shows no GPU"})
    return NvmlMeter(gpus, version)


def _open_gpus(own_pids: OwnPids, own_container: bool) -> tuple[NvmlGpu, ...]:
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    for handle in handles:
        _refuse_mig(handle)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # not supported before Volta
    return tuple(NvmlGpu(handle, own_pids, own_container) for handle in handles)


def _refuse_mig(handle: object) -> None:
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return
    if current == pynvml.NVML_DEVICE_MIG_ENABLE:
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        raise BadInput(f"GPU {uuid}", "MIG enabled", "a whole GPU (MIG disabled)", f"sudo nvidia-smi -i {uuid} -mig 0")
