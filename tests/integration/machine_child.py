"""One sweep by a real `MachineNode` over the stand-in driver and a powercap tree that counts, in a process of its own.

The driver is loaded by LD_LIBRARY_PATH, so it needs a process whose environment says so. The engine is a small one: a
child process to belong to it, GPUs that draw `WORK_W` more while it serves, and steps as an engine would record them.
"""

import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from harness import agent as agent_module
from harness.agent import Agent
from harness.clock import WallClock
from harness.cluster.local import LOGS
from harness.deployment.sweepfile import load_sweep
from harness.engines.base import LaunchOptions, Requests, Served, Steps
from harness.engines.launching import LaunchRequest
from harness.errors import EngineUnavailable, HarnessError
from harness.machine_node import MachineNode
from harness.plan import LaunchPlan
from harness.points import BatchWorkload, Deployment, Schedule
from harness.records import RunRecord
from harness.space import build_space
from harness.sweep import SweepOrder, run_sweep
from tests.fixtures.powercap import FakePackage, RunningPowercap

WORK_W = 300.0
BATCH_S = 0.05
CPU_W = {"package-0": 90.0, "package-1": 60.0, "package-0 dram": 12.0, "package-1 dram": 9.0}
PACKAGES = [FakePackage(f"package-{i}", 262_143_000_000, subzones={"dram": 1_000_000, "core": 5}) for i in range(2)]
"""Near their wrap, so that a sweep of some seconds passes it."""
STRANGER = 999_999_999
"""No pid of this machine."""


@dataclass(frozen=True)
class Orders:
    """What the process is to do.

    Attributes:
        script: number of a measured window, from 1 -> settings of the driver to change as its work begins; {now} is the
            time since the driver's origin. `later` changes one after so many seconds; `zone` takes the first package's
            zone away until the work is done.
        at_launch, at_stop: the same for each launch, and for each end of one.
        powercap: root of the tree; counted up when there are zones.
        missing: the engine whose version cannot be found.
        as_nobody: give up root first.
        looks_s: time between two looks whether the node is free.
    """

    sweep: str
    results: str
    powercap: str
    origin_s: float
    script: Mapping[str, list[list[str]]] = field(default_factory=dict)
    at_launch: list[list[str]] = field(default_factory=list)
    at_stop: list[list[str]] = field(default_factory=list)
    missing: str = ""
    as_nobody: bool = False
    looks_s: float = 0.2


class Powercap:
    """A tree that counts up from a thread."""

    def __init__(self, root: Path, counting: bool) -> None:
        self.root, self._tree = root, RunningPowercap(root, PACKAGES, CPU_W)
        self._origin_s, self._held, self._over = time.monotonic(), threading.Lock(), threading.Event()
        if counting and (root / "intel-rapl").is_dir():
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(PermissionError):  # only root may go before others
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -10)
        while not self._over.wait(0.004):
            with self._held:
                self._tree.advance(time.monotonic() - self._origin_s)

    def take_away(self) -> Callable[[], None]:
        """An empty file instead of a count, until the result is called."""
        self._held.acquire()
        os.truncate(self.root / "intel-rapl/intel-rapl:0/energy_uj", 0)
        return self._held.release


class SmallEngine:
    """Serves by waiting while its GPUs draw more."""

    version, load_s = "1.0", 0.1

    def __init__(self, request: LaunchRequest, bench: "Bench") -> None:
        self._bench = bench
        self.gpus = request.gpus
        self.gpu_uuids = tuple(uuid for _, uuid in request.gpus)
        self.launched = {"log_path": str(request.workdir)}
        self._process = subprocess.Popen(["sleep", "600"])
        self.pids = (self._process.pid,)

    def prepare_batches(self, workload: BatchWorkload, batches: int, seed: int) -> Callable[[], Served]:
        return lambda: self._serve(workload, batches)

    def replay(self, schedule: Schedule, drain_s: float, seed: int) -> Served:
        raise AssertionError("no sweep of these tests holds a replay")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
            self._bench.change(self._bench.orders.at_stop)

    def _serve(self, workload: BatchWorkload, batches: int) -> Served:
        put_back = lambda: None  # noqa: E731
        if batches > 2:  # warm-ups have two
            put_back = self._bench.window()
        begin_s = time.monotonic() + 0.01
        end_s = begin_s + batches * BATCH_S
        for index, _ in self.gpus:
            self._bench.gate(index, begin_s, end_s)
        while (left_s := end_s - time.monotonic()) > 0:
            time.sleep(left_s)
        put_back()
        size, n = workload.batch_size, batches * workload.batch_size
        batch = np.repeat(np.arange(batches), size)
        due_s, done_s = begin_s + batch * BATCH_S, begin_s + (batch + 1) * BATCH_S
        nothing_s, first_s = np.full(n, np.nan), due_s + BATCH_S / workload.generated_tokens
        tokens = np.full(n, workload.generated_tokens)
        requests = Requests(
            batch, due_s, due_s, due_s, first_s, done_s, nothing_s, nothing_s, nothing_s,
            np.full(n, workload.prompt_tokens), tokens, tokens, np.full(n, "finished", "<U9"),
        )  # fmt: skip
        each = workload.generated_tokens
        step = np.arange(batches * each)
        first = step % each == 0
        steps = Steps(
            begin_s + step * (BATCH_S / each),
            np.full(len(step), BATCH_S / each),
            step // each,
            np.where(first, size, 0),
            np.where(first, size * workload.prompt_tokens, 0),
            np.where(first, 0, size),
            np.full(len(step), size * workload.prompt_tokens),
        )
        return Served(begin_s, time.monotonic(), batches, requests, steps, client_cpu_s=0.0)


class Bench:
    """The stand-in driver and tree, as the engine changes them."""

    def __init__(self, orders: Orders) -> None:
        self.orders, self.powercap = orders, Powercap(Path(orders.powercap), not orders.as_nobody)
        self.gates: list[tuple[int, float, float]] = []
        self.launches: list[list[str]] = []
        self.windows = 0
        self._driver = ctypes.CDLL("libnvidia-ml.so.1")

    def launch(self, request: LaunchRequest) -> SmallEngine:
        if request.deployment.limits.engine == self.orders.missing:
            raise EngineUnavailable(f"{self.orders.missing} is not installed")
        self.change(self.orders.at_launch)
        engine = SmallEngine(request, self)
        self.launches.append(list(engine.gpu_uuids))
        return engine

    def version(self, deployment: Deployment, options: LaunchOptions) -> str:
        if deployment.limits.engine == self.orders.missing:
            raise EngineUnavailable(f"{self.orders.missing} is not installed")
        return "1.0"

    def gate(self, index: int, begin_s: float, end_s: float) -> None:
        arguments = (ctypes.c_double(WORK_W), ctypes.c_double(begin_s), ctypes.c_double(end_s))
        if self._driver.fake_nvml_gate(index, *arguments) == 0:
            self.gates.append((index, begin_s, end_s))

    def window(self) -> Callable[[], None]:
        """Change what the script says of this window; the result undoes it."""
        self.windows += 1
        changes = self.orders.script.get(str(self.windows), [])
        self.change([change for change in changes if change[0] != "zone"])
        return self.powercap.take_away() if ["zone"] in changes else lambda: None

    def change(self, settings: list[list[str]]) -> None:
        now_s = time.monotonic() - self.orders.origin_s
        for key, text in settings:
            if key == "later":
                after_s, later_key, later = text.split(" ", 2)
                threading.Timer(float(after_s), self.change, ([[later_key, later]],)).start()
                continue
            # Expressions such as {now+0.3}
            filled = " ".join(
                repr(now_s + float(word[4:-1] or 0)) if word.startswith("{now") else word for word in text.split()
            )
            self._driver.fake_nvml_set(key.encode(), filled.encode())


class Silent:
    def planned(self, runs: int) -> None: ...

    def launching(self, agent: Agent, plan: LaunchPlan) -> None: ...

    def skipped(self, agent: Agent, reasons: tuple[str, ...]) -> None: ...

    def measured(self, run: RunRecord) -> None: ...


def main(orders: Orders) -> dict[str, object]:
    agent_module._LOOK_EVERY_S = orders.looks_s
    sweep = load_sweep(Path(orders.sweep))
    # The small engine does not spin, and a test shares its machine.
    sweep = replace(sweep, rules=replace(sweep.rules, spin_s=0.05))
    bench = Bench(orders)
    options = dict(zip(sweep.deployments, sweep.options, strict=True))
    results = Path(orders.results)
    space = build_space(sweep, lambda name: None, 0)  # type: ignore[arg-type,return-value]
    if orders.as_nobody:
        os.setuid(65534)
    try:
        with MachineNode(
            sweep.nodes[0], options, results / LOGS, sweep.rules,
            launch=bench.launch, version=bench.version, powercap=Path(orders.powercap),
        ) as node:  # fmt: skip
            node.check_engines()
            order = SweepOrder(sweep, results, seed=0)
            outcome = run_sweep(order, space, [Agent(node)], Silent(), WallClock(), "test")
    except HarnessError as error:
        return {"error": [type(error).__name__, str(error)]}
    told = {name: value for name, value in asdict(outcome).items() if name not in ("points", "probes")}
    return told | {"gates": bench.gates, "launches": bench.launches, "windows": bench.windows}


if __name__ == "__main__":
    print(json.dumps(main(Orders(**json.loads(sys.argv[1])))))
