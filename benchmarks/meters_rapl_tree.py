"""A live powercap tree, and tools that measure windows of it across wraps; runs in a mount namespace of its own.

    unshare -m sh -c 'mount -t tmpfs tmpfs /sys/class && exec python meters_rapl_tree.py PLAN.json'

Two Intel sockets with DRAM. Their counters rise at constant power, rewritten about every millisecond. Before each
window a counter is set forward (never back), so that it wraps where the plan says.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.fixtures.powercap import FakePackage, build_powercap

POWERCAP = Path("/sys/class/powercap")
POWER_W = (210.0, 260.0)
DRAM_W = 30.0


class LiveZone:
    """One energy_uj file."""

    def __init__(self, folder: Path, power_w: float, wrap_uj: int, start_s: float) -> None:
        (folder / "max_energy_range_uj").write_text(f"{wrap_uj}\n")
        self._fd = os.open(folder / "energy_uj", os.O_WRONLY)
        self._power_w, self._wrap_uj = power_w, wrap_uj
        self._start = (start_s, 1_000_000.0)  # one attribute: the writing thread reads it
        self.write(start_s)

    def energy_uj(self, time_s: float) -> int:
        start_s, start_uj = self._start
        return int(start_uj + 1e6 * self._power_w * (time_s - start_s)) % self._wrap_uj

    def write(self, time_s: float) -> None:
        # Always of one length, so that no reader finds half a number.
        os.pwrite(self._fd, b"%012d\n" % self.energy_uj(time_s), 0)

    def wrap_at(self, time_s: float) -> None:
        """Set the counter forward so that it wraps at `time_s`, unless it would have to go back."""
        now_s = time.monotonic()
        before_uj = self._wrap_uj - 1e6 * self._power_w * (time_s - now_s)
        if before_uj > self.energy_uj(now_s):
            self._start = (now_s, before_uj)


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    packages = [FakePackage(f"package-{i}", 0, subzones={"core": 1, "dram": 0}) for i in range(len(POWER_W))]
    build_powercap(POWERCAP, packages)
    # The kernel's links, without which CodeCarbon finds nothing.
    (POWERCAP / "intel-rapl" / "subsystem").symlink_to(POWERCAP)
    for zone in (POWERCAP / "intel-rapl").glob("intel-rapl:*"):
        (POWERCAP / zone.name).symlink_to(zone)
    now_s = time.monotonic()
    folders = [POWERCAP / "intel-rapl" / f"intel-rapl:{i}" for i in range(len(POWER_W))]
    zones = [LiveZone(folder, watts, plan["wrap_uj"], now_s) for folder, watts in zip(folders, POWER_W, strict=True)]
    drams = [LiveZone(folder / f"{folder.name}:1", DRAM_W, 65_712_999_613, now_s) for folder in folders]
    ending = threading.Event()

    def keep_writing() -> None:
        while not ending.wait(0.001):
            for zone in (*zones, *drams):
                zone.write(time.monotonic())

    writer = threading.Thread(target=keep_writing)
    writer.start()
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for command in plan["commands"]
    ]
    try:
        for worker in workers:
            while worker.stdout.readline() not in ("ready\n", ""):
                pass
        start_s = time.monotonic() + 3.0
        for worker in workers:
            worker.stdin.write(f"{start_s!r}\n")
            worker.stdin.flush()
        for zone_at, wraps_at in plan["wraps"]:
            time.sleep(max(0.0, start_s + zone_at - time.monotonic()))
            for zone, wrap_at in zip(zones, wraps_at, strict=True):
                zone.wrap_at(start_s + wrap_at)
        for worker in workers:
            worker.wait()
    finally:
        ending.set()
        writer.join()
        for worker in workers:
            if worker.poll() is None:
                worker.kill()


if __name__ == "__main__":
    main()
