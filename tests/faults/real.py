"""A node with a real engine process: the stand-in for Sarathi, on GPUs of the stand-in for NVML."""

import contextlib
import time
from pathlib import Path
from typing import Any

import psutil

from tests.engines.servers import STAND_IN
from tests.faults.trial import Child, Nursery, Trial
from tests.fixtures.nvml.driver import FakeDriver, constant
from tests.fixtures.processes import writers
from tests.integration.machine import IDLE_W, NODE

NO_RAY = "def init(**_): ...\ndef shutdown(): ...\n"
"""The stand-in needs none; a Ray that is installed here would be started with each engine."""
REPETITIONS = 4
RUNS = 2 * REPETITIONS
SWEEP = f"""\
sweep: real
simulate: false
nodes: [./node.yaml]
models: [tiny-llama]
parallelism: [{{tp: 1}}]
engines:
  - {{name: sarathi, token_budget: 256, max_sequences: 8, max_context_tokens: 1024,
     environment: {{PYTHONPATH: "{STAND_IN}:PATH"}}}}
batches:
  - sizes: [1, 8]
    grid: {{prompt_tokens: [16], generated_tokens: [8]}}
measurement: {{repetitions: {REPETITIONS}, window: 400ms, idle: 600ms, uncertainty: 0.5, foreign_cores: 1000}}
"""
COMMAND = ("sweep", "sweep.yaml", "--results", "out", "--max-attempts", "1000")


class RealTrial(Trial):
    """A sweep on such a node; every run counts as measured."""

    def __init__(self, folder: Path, nursery: Nursery, command: tuple[str, ...] = COMMAND, **orders: Any) -> None:
        origin_s = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "node.yaml").write_text(NODE, "utf-8")
        (folder / "path").mkdir()
        (folder / "path" / "ray.py").write_text(NO_RAY, "utf-8")
        driver = FakeDriver([constant(power_w) for power_w in IDLE_W], origin_s, settings={"refresh_s": 0.05})
        variables = {"FAKE_NVML": str(driver.write(folder / "driver")), "FAKE_NVML_ORIGIN_S": repr(origin_s)}
        text = SWEEP.replace(':PATH"', f':{folder / "path"}"')
        super().__init__(
            folder, nursery, text=text, expected=RUNS, command=command, measured=True, variables=variables, **orders
        )

    def logs(self) -> list[Path]:
        """Of all engines so far, the latest last."""
        found = (self.results / "logs").glob("*/engine.log")
        return sorted(found, key=lambda path: path.stat().st_ctime_ns)

    def engine(self, child: Child, known: set[Path]) -> Path | None:
        """Log of an engine that runs and is not known yet, as soon as there is one; None if the sweep ends."""
        while child.ended(0.02) is None:
            for log in self.logs():
                if log not in known and writers(log):
                    return log
        return None

    def engines_gone(self) -> bool:
        until_s = time.monotonic() + 60.0
        while any(writers(log) for log in self.logs()):
            if time.monotonic() > until_s:
                return False
            time.sleep(0.05)
        return True


def server_of(log: Path) -> psutil.Process | None:
    """The engine's own process: the child of its keeper, which ends it."""
    pids = writers(log)
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.ppid() in pids:
                return process
    return None
