"""Looks on while a tool runs: CPU seconds of all its processes, and stalls of the machine itself.

python benchmarks/client_watch.py CPU        the stall probe: prints "END GAP" of each sleep that took too long
"""

import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

PERIOD_S = 0.1
WALK_EVERY = 5
"""Samples between two looks for new processes: reading the tree costs more than reading its clocks."""
PROBE_SLEEP_S = 0.010
STALL_S = 0.020
"""A sleep that ends so much too late is a stall."""
PRIORITY = 50


class CpuOfTree:
    """CPU seconds of a process and all its descendants, sampled; to be asked for any interval afterwards.

    Each process is asked through its own CPU clock (clock_getcpuclockid's numbering, linux/posix-timers.h): exact to
    nanoseconds, all threads, dead ones included. What a process uses before it is found, or between its last sample
    and its end, is booked late or missed: half a second at most, in favour of tools that start processes under load.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._used_s: dict[int, float] = {}
        self._time_s: list[float] = []
        self._total_s: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        for sample in itertools.count():
            if self._over.wait(PERIOD_S):
                return
            if sample % WALK_EVERY == 0:
                alive = descendants(self._pid)
            for pid in alive:
                try:
                    self._used_s[pid] = time.clock_gettime((~pid << 3) | 2)
                except OSError:
                    continue
            self._time_s.append(time.monotonic())
            self._total_s.append(sum(self._used_s.values()))

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def between(self, begin_s: float, end_s: float) -> float:
        used = np.interp([begin_s, end_s], self._time_s, self._total_s)
        return float(used[1] - used[0])


def descendants(pid: int) -> list[int]:
    """The process and every process below it that is alive."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


class StallProbe:
    """A process per CPU, at real-time priority where that is allowed, that notes when it was not let run."""

    def __init__(self) -> None:
        self._stalls: list[tuple[float, float]] = []
        self._processes = [self._start(cpu) for cpu in sorted(os.sched_getaffinity(0))]
        self._threads = [threading.Thread(target=self._read, args=(process,)) for process in self._processes]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _start(cpu: int) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, __file__, str(cpu)], stdout=subprocess.PIPE, text=True)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            end_s, gap_s = line.split()
            self._stalls.append((float(end_s), float(gap_s)))

    def longest_between(self, begin_s: float, end_s: float) -> float:
        """Seconds of the longest stall that touches the interval; 0 where none was longer than `STALL_S`."""
        return max((gap_s for at_s, gap_s in self._stalls if at_s >= begin_s and at_s - gap_s <= end_s), default=0.0)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for thread in self._threads:
            thread.join()


def probe(cpu: int) -> None:
    """Sleep and look at the clock, until killed."""
    os.sched_setaffinity(0, {cpu})
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except PermissionError:
        print("the stall probe runs at normal priority: a busy tool can look like a stall", file=sys.stderr)
    before_s = time.monotonic()
    while True:
        time.sleep(PROBE_SLEEP_S)
        now_s = time.monotonic()
        if now_s - before_s - PROBE_SLEEP_S > STALL_S:
            print(now_s, now_s - before_s, flush=True)
        before_s = now_s


if __name__ == "__main__":
    probe(int(sys.argv[1]))
