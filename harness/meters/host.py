"""What the processors do beside the measurement: CPU time not ours, and frequency governors."""

from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from harness.meters.base import HostState

CPUS = Path("/sys/devices/system/cpu")


class HostWatch:
    """Reads `HostState`s. One takes some milliseconds with a thousand processes: no more than one a second.

    /proc/stat counts the whole machine, other containers too, so their load is seen where their processes are not.
    """

    def __init__(self, own_pids: Callable[[], Iterable[int]], cpus: Path = CPUS) -> None:
        """Args: roots of our process trees, the harness's own pid among them; where the kernel shows processors."""
        self._own_pids = own_pids
        self._governors = tuple(sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")))

    def state(self, time_s: float) -> HostState:
        times = psutil.cpu_times()
        busy_s = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice  # user holds guests
        return HostState(time_s, busy_s, self._own_s(), self.governors())

    def governors(self) -> frozenset[str]:
        """Governors in force, over all processors; empty where there are none (virtual machines)."""
        found = set()
        for path in self._governors:
            try:
                found.add(path.read_text().strip())
            except OSError:  # a processor that went offline
                continue
        return frozenset(found)

    def _own_s(self) -> float:
        """CPU seconds of our trees, with those of children that have ended and were waited for."""
        trees: dict[int, psutil.Process] = {}
        for root in self._own_pids():
            try:
                process = psutil.Process(root)
                trees |= {one.pid: one for one in (process, *process.children(recursive=True))}
            except psutil.Error:
                continue
        own_s = 0.0
        for process in trees.values():
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            own_s += times.user + times.system + times.children_user + times.children_system
        return own_s
