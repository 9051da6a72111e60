"""CPU seconds of metering 8 GPUs of the stand-in for some time; one tool, in its own environment.

    meters_cost.py harness|zeus SECONDS POWERCAP_FOLDER

Prints JSON. Imports and setting up are left out of both; the harness's figure holds all it does from start to stop,
with both settles, Zeus's the processes that PowerMonitor runs beside its own.
"""

import json
import sys
import time
from pathlib import Path


def harness(seconds: float, powercap: Path) -> dict[str, object]:
    from harness.clock import WallClock
    from harness.meters.nvml import open_nvml
    from harness.meters.rapl import open_rapl
    from harness.meters.sampler import PollingSampler

    sampler = PollingSampler([open_nvml(), open_rapl(powercap)], WallClock())
    before_s = time.process_time()
    started_s = time.monotonic()
    sampler.start()
    sampler.settle()
    sampler.mark()
    settled_s = time.process_time()
    time.sleep(seconds)
    ends_s = time.process_time()
    sampler.mark()
    sampler.settle()
    recording = sampler.stop()
    cpu_s = time.process_time() - before_s
    return {
        "seconds": time.monotonic() - started_s,
        "cpu_s": cpu_s,
        "between_marks_s": ends_s - settled_s,
        "period_s": sampler._period_s,
        "channels": len(recording.series),
    }


def zeus(seconds: float, update_period_s: float | None) -> dict[str, object]:
    import psutil
    from zeus.monitor import PowerMonitor

    def cpu_s() -> float:
        own = psutil.Process()
        processes = [own, *own.children(recursive=True)]
        return sum(process.cpu_times().user + process.cpu_times().system for process in processes)

    monitor = PowerMonitor() if update_period_s is None else PowerMonitor(update_period=update_period_s)
    before_s = cpu_s()
    started_s = time.monotonic()
    time.sleep(seconds)
    found = {
        "seconds": time.monotonic() - started_s,
        "cpu_s": cpu_s() - before_s,
        "period_s": monitor.update_period,
        "channels": len(monitor.gpu_indices) * len(monitor.measurement_domains),
    }
    monitor.stop()
    return found


def main() -> None:
    tool, seconds, folder = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    periods_s = {"zeus": None, "zeus at 0.1 s": 0.1}
    print(json.dumps(harness(seconds, folder) if tool == "harness" else zeus(seconds, periods_s[tool])))


if __name__ == "__main__":
    main()
