"""Real clusters on this machine, and the real command line against them."""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from harness.cluster.raytoken import write_token
from tests.conftest import REPOSITORY
from tests.integration.support import HARNESS, environment

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@dataclass
class RealCluster:
    """A head that measures nothing, and what is added to it."""

    process: "subprocess.Popen[str]"
    environment: dict[str, str]
    address: str = ""
    head: dict[str, list[int]] = field(default_factory=dict)

    def add(self, kind: str) -> int:
        """A measuring node; its raylet's pid."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{kind}\n")
        self.process.stdin.flush()
        return int(self.answer()["pids"]["raylet"][0])

    def answer(self) -> dict[str, dict[str, list[int]]]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the cluster did not start"
        return json.loads(line)

    def pids(self) -> set[int]:
        """All processes of the cluster."""
        return {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}


@contextlib.contextmanager
def real_cluster(token: dict[str, str], *kinds: str) -> Iterator[RealCluster]:
    """Unix sockets of Ray need short paths, so its files lie in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="hray", ignore_cleanup_errors=True) as folder:
        env = {**environment(**token, **LOOPBACK), "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.nodes"], cwd=REPOSITORY, env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        cluster = RealCluster(process, env)
        try:
            first = cluster.answer()
            cluster.address, cluster.head = str(first["address"]), first["pids"]
            for kind in kinds:
                cluster.add(kind)
            yield cluster
        finally:
            end(process)


def end(process: "subprocess.Popen[str]") -> None:
    """And all that it started, also what has lost its parent: it is of the same session."""
    known = psutil.Process(process.pid).children(recursive=True)
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in known:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    assert process.stdout is not None
    process.stdout.close()


def kill_node(raylet: int) -> None:
    """As a power cut: Ray's processes of the node and the agent on it, at one instant."""
    found = [psutil.Process(raylet), *psutil.Process(raylet).children(recursive=True)]
    for one in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.suspend()
    for one in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def start_sweep(cluster: RealCluster, *arguments: object, cwd: Path, **more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*HARNESS, "sweep", *map(str, arguments), "--cluster", f"ray:{cluster.address}", "--json"],
        cwd=cwd, env={**cluster.environment, "PYTHONPATH": str(REPOSITORY), **more}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def until(condition: Callable[[], bool], limit_s: float = 300.0) -> None:
    """Wait; tests say what for, never how long it takes."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, "it never happened"
        time.sleep(0.05)


def token(folder: Path, name: str = "token") -> dict[str, str]:
    return write_token(folder / name)


def stop(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGTERM)
