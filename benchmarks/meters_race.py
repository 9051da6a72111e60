"""Runs tools side by side over one stand-in driver, and compares what they say with the truth."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from meters_loads import LOADS, Slot, boards, node, schedule
from meters_outcome import Outcome, Window, outcome

from tests.fixtures.nvml.driver import FakeDriver, Gate
from tests.fixtures.powercap import INTEL_WRAP_UJ

HERE = Path(__file__).parent
WORKER = HERE / "meters_worker.py"
STAGGER_S = 0.037
"""Between the schedules of two tools, so that they do not all wake at once."""


@dataclass(frozen=True)
class Pythons:
    """Interpreters: the harness's own, and the peers'."""

    own: str
    peers: str

    def of(self, tool: str) -> str:
        return self.peers if tool.startswith(("zeus", "codecarbon")) else self.own


def environment(library: Path, driver: Path | None) -> dict[str, str]:
    """Where a tool finds the stand-in driver, and nothing that would send it elsewhere."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FAKE_NVML")}
    if driver is None:
        return kept
    path = f"{library.parent}:{kept.get('PATH', '')}"
    return kept | {"LD_LIBRARY_PATH": str(library.parent), "PATH": path, "FAKE_NVML": str(driver)}


@dataclass
class _Worker:
    load: str
    gpus: int
    tool: str
    driver: FakeDriver
    output: Path
    process: "subprocess.Popen[str]"

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line == "ready\n":
                return
        raise RuntimeError(f"{self.tool} did not start; see {self.output.with_suffix('.log')}")

    def begin(self, at_s: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{at_s!r}\n")
        self.process.stdin.flush()

    def outcomes(self, slots: Sequence[Slot]) -> list[Outcome]:
        if self.process.wait() != 0:
            raise RuntimeError(f"{self.tool} failed; see {self.output.with_suffix('.log')}")
        windows = json.loads(self.output.read_text())
        gated_w = LOADS[self.load].gate_w

        def truth_j(window: Window, start_s: float) -> float:
            gates = [Gate(gated_w, *window["gate"])] if window["gate"] else []
            return self.driver.truth_j(start_s, window["end_s"], gates)

        nominal_s = [slot.nominal_s for slot in slots]
        found = []
        for window_s in sorted(set(nominal_s)):
            chosen = [window for window, length_s in zip(windows, nominal_s, strict=True) if length_s == window_s]
            found.append(outcome((self.load, self.gpus, window_s, self.tool), chosen, truth_j))
        return found


def race(
    entries: Sequence[tuple[str, int, str]],
    counts: dict[float, int],
    library: Path,
    pythons: Pythons,
    scratch: Path,
) -> list[Outcome]:
    """All windows of the (load, gpus, tool) given, each in a process of its own, all at the same time."""
    slots = schedule(counts, seed=1)
    origin_s = time.monotonic()
    workers: list[_Worker] = []
    try:
        for i, (load, gpus, tool) in enumerate(entries):
            name = f"{load}-{gpus}-{tool}".replace(" ", "-").replace(",", "")
            driver = node(LOADS[load], gpus, origin_s, seed=list(LOADS).index(load) + 1)
            file = driver.write(scratch / f"{name}.driver")
            plan = scratch / f"{name}.plan.json"
            plan.write_text(json.dumps({"gate_w": LOADS[load].gate_w, "slots": [asdict(slot) for slot in slots]}))
            output = scratch / f"{name}.json"
            command = [pythons.of(tool), str(WORKER), tool, str(plan), str(output)]
            process = _spawn(command, environment(library, file), output.with_suffix(".log"))
            workers.append(_Worker(load, gpus, tool, driver, output, process))
            if i % 4 == 3:  # not all imports at once
                workers[i - 3].wait_ready()
        for i, worker in enumerate(workers):
            if i % 4 != 0 or i + 3 >= len(workers):
                worker.wait_ready()
        start_s = time.monotonic() + 1.0
        for i, worker in enumerate(workers):
            worker.begin(start_s + STAGGER_S * i)
        return [found for worker in workers for found in worker.outcomes(slots)]
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.kill()


def _spawn(command: Sequence[str], environ: dict[str, str], log: Path) -> "subprocess.Popen[str]":
    with log.open("w") as stderr:
        return subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        )


def board_coverage_pct(gains: Sequence[float], gain_uncertainty: float, library: Path, scratch: Path) -> float:
    """Share of boards whose true energy lies within the random and the gain uncertainty, in a window of 1 s."""
    inside: list[bool] = []
    per_node = 50
    for first in range(0, len(gains), per_node):
        driver = boards(list(gains[first : first + per_node]), time.monotonic())
        file = driver.write(scratch / "boards.driver")
        plan = scratch / "boards.plan.json"
        plan.write_text(json.dumps({"gate_w": 0, "slots": [asdict(Slot(0.1, 1.0, 1.0))]}))
        output = scratch / "boards.json"
        command = [sys.executable, str(WORKER), "harness", str(plan), str(output)]
        process = _spawn(command, environment(library, file), scratch / "boards.log")
        worker = _Worker("steady", per_node, "harness", driver, output, process)
        worker.wait_ready()
        worker.begin(time.monotonic())
        if process.wait() != 0:
            raise RuntimeError(f"harness failed; see {scratch / 'boards.log'}")
        (window,) = json.loads(output.read_text())
        for i, (energy_j, uncertainty_j) in enumerate(window["by_gpu"]):
            truth_j = driver.truth_j(window["called_s"], window["end_s"], gpu=i)
            inside.append(abs(energy_j - truth_j) <= math.hypot(uncertainty_j, gain_uncertainty * energy_j))
    return float(100 * np.mean(inside))


def can_unshare() -> bool:
    """Whether a mount namespace can be made here."""
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


class RaplRace:
    """Tools over one live powercap tree, in the background."""

    TOOLS = ("harness rapl", "zeus rapl", "pyRAPL", "codecarbon rapl")

    def __init__(self, title: str, windows: int, window_s: float, one_wrap: bool, pythons: Pythons, scratch: Path):
        """`one_wrap`: a wrap at 262 kJ of each socket within three of four windows; else one every few seconds."""
        self.title, self.window_s = title, window_s
        self._folder = scratch / title.replace(" ", "-").replace(",", "")
        self._folder.mkdir()
        rng = np.random.default_rng(5)
        room_s = 4.0 if one_wrap else 0.5
        slots, wraps, at_s = [], [], 0.0
        for i in range(windows):
            begin_s = at_s + room_s
            length_s = window_s + float(rng.uniform(-0.05, 0.05))
            slots.append(Slot(begin_s, length_s, window_s))
            if one_wrap and i % 4 < 3:
                wraps.append((at_s, [begin_s + _wrap_offset_s(i + j, length_s, rng) for j in range(2)]))
            at_s = begin_s + length_s + 0.3
        plan = self._folder / "slots.json"
        plan.write_text(json.dumps({"gate_w": 0, "slots": [asdict(slot) for slot in slots]}))
        commands = [
            [pythons.of(tool), str(WORKER), tool, str(plan), str(self._folder / f"{tool}.json")] for tool in self.TOOLS
        ]
        tree = self._folder / "tree.json"
        wrap_uj = INTEL_WRAP_UJ if one_wrap else 1_500_000_000
        tree.write_text(json.dumps({"wrap_uj": wrap_uj, "wraps": wraps, "commands": commands}))
        inside = 'mount -t tmpfs tmpfs /sys/class && exec "$@"'
        script = [sys.executable, str(HERE / "meters_rapl_tree.py"), str(tree)]
        command = ["unshare", "-m", "sh", "-c", inside, "sh", *script]
        self._process = _spawn(command, environment(tree, None), self._folder / "tree.log")

    def outcomes(self) -> list[Outcome]:
        from meters_rapl_tree import POWER_W

        if self._process.wait() != 0:
            raise RuntimeError(f"the powercap tree failed; see {self._folder / 'tree.log'}")
        found = []
        for tool in self.TOOLS:
            windows = json.loads((self._folder / f"{tool}.json").read_text())
            power_w = sum(POWER_W[: _sockets()]) if tool == "pyRAPL" else sum(POWER_W)

            def truth_j(window: Window, start_s: float, power_w: float = power_w) -> float:
                return power_w * float(window["end_s"] - start_s)

            found.append(outcome((self.title, 0, self.window_s, tool), windows, truth_j))
        return found

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()


def _wrap_offset_s(i: int, length_s: float, rng: np.random.Generator) -> float:
    """Within the window; every third just before its end, every third just after its begin."""
    anywhere = float(rng.uniform(0.02, length_s - 0.02))
    close = float(rng.uniform(0.005, 0.06))
    return (anywhere, length_s - close, close)[i % 3]


def _sockets() -> int:
    """Sockets of this machine: pyRAPL reads as many packages, whatever the tree shows."""
    ids = Path("/sys/devices/system/cpu").glob("cpu*/topology/physical_package_id")
    return len({path.read_text() for path in ids})


def cost(tool: str, seconds: float, library: Path, pythons: Pythons, scratch: Path) -> dict[str, float]:
    """meters_cost.py with 8 GPUs and two sockets."""
    from tests.fixtures.powercap import build_powercap, two_intel_sockets

    folder = scratch / "powercap"
    if not folder.exists():
        build_powercap(folder, two_intel_sockets())
    driver = node(LOADS["jittered bursts"], 8, time.monotonic(), seed=1).write(scratch / "cost.driver")
    command = [pythons.of(tool), str(HERE / "meters_cost.py"), tool, str(seconds), str(folder)]
    done = subprocess.run(command, env=environment(library, driver), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{tool}: {done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found
