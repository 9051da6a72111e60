"""A real node in a folder: its files, its stand-in driver and tree; a sweep on it runs in a process of its own."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from tests.conftest import REPOSITORY
from tests.fixtures.nvml.driver import FakeDriver, constant
from tests.fixtures.powercap import build_powercap
from tests.integration.machine_child import PACKAGES, Orders
from tests.integration.support import read

NODE = """\
kind: fake-2
gpus: 2
gpu:
  {kind: fake, name: NVIDIA Fake 80GB, memory_gib: 80, peak_tflops: 312, memory_bandwidth_gb_per_s: 2039,
   link_bandwidth_gb_per_s: 300, idle_w: 60, tdp_w: 700}
cpu:
  {name: none that is here, sockets: 2, idle_w: 130, tdp_w: 450, dram_idle_w: 18, dram_tdp_w: 90,
   has_dram_counter: false, package_wrap_j: 65532.6, dram_wrap_j: 65532.6}
"""
SWEEP = """\
sweep: real
simulate: false
nodes: [./node.yaml]
models: [tiny-llama]
parallelism: [{tp: 1}]
engines:
  - {name: vllm, token_budget: 8192, max_sequences: 128, max_context_tokens: 4096}
batches:
  - sizes: [1, 8]
    grid: {prompt_tokens: [128], generated_tokens: [16]}
measurement: {repetitions: 2, window: 400ms, idle: 600ms, uncertainty: 0.5, foreign_cores: 1000}
"""
IDLE_W = (100.0, 130.0)


class Machine:
    """A folder with a node, a sweep, a driver and a powercap tree; `sweep` measures in a process of its own."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder, self._library = folder, library
        self.text, self.settings, self.orders, self.rapl = SWEEP, {"refresh_s": 0.05}, {}, True
        self.driver: FakeDriver | None = None

    def sweep(self, *changes: tuple[str, str]) -> dict[str, object]:
        for old, new in changes:
            assert old in self.text, old
            self.text = self.text.replace(old, new)
        (self.folder / "node.yaml").write_text(NODE, "utf-8")
        (self.folder / "sweep.yaml").write_text(self.text, "utf-8")
        tree = self.folder / "powercap"
        if not tree.exists():
            tree.mkdir()
            if self.rapl:
                build_powercap(tree, PACKAGES)
        origin_s = time.monotonic()
        self.driver = FakeDriver([constant(power_w) for power_w in IDLE_W], origin_s, settings=self.settings)
        file = self.driver.write(self.folder / "driver")
        orders = Orders(str(self.folder / "sweep.yaml"), str(self.folder / "out"), str(tree), origin_s, **self.orders)  # type: ignore[arg-type]
        environment = os.environ | {"LD_LIBRARY_PATH": str(self._library.parent), "FAKE_NVML": str(file)}
        done = subprocess.run(
            [sys.executable, "-m", "tests.integration.machine_child", json.dumps(asdict(orders))],
            cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        outcome: dict[str, object] = json.loads(done.stdout)
        return outcome

    def runs(self) -> pd.DataFrame:
        return read(self.folder / "out").query("purpose == 'sweep'")
