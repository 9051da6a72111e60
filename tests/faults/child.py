"""The real command in a process of its own, with a diary, and with what is to go wrong.

python -m tests.faults.child       imports everything, prints `ready`, reads its orders (a line of JSON), and begins
"""

import contextlib
import ctypes
import functools
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import harness.cli
from harness import agent, machine_node
from harness.cli.main import main
from harness.cluster import local, remote
from harness.plan import LaunchPlan
from harness.points import Source
from harness.records import RunBundle
from harness.simulator.node import SimulatedNode
from harness.store import compact, files, writer
from tests.faults.diary import Diary

_CHANGES = ("os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir")
_WRITING = os.O_WRONLY | os.O_RDWR
_TIME = time.time


@dataclass(frozen=True)
class Orders:
    """What to do and what goes wrong.

    Attributes:
        measured: simulated nodes whose runs count as measured: each is stored, and on the disk, before the next begins.
        die_within, die_at: end by SIGKILL at the so-many-th touch of the disk within `append`, `compact` or `open`;
            where that is a write, in the middle of it.
        die_after: end by SIGKILL once so many runs are stored; 0: never.
        file_limit_bytes: no file may get longer.
        clock: [after so many stored runs, set the wall clock to be off by so many seconds].
        lose_gpus_after, gpus_back_s: after so many stored runs NVML loses the GPUs, for so long.
        hang_limit_s: an engine may be silent for so long.
        looks_s: time between two looks whether the node is free.
    """

    argv: list[str]
    cwd: str
    diary: str
    measured: bool = False
    die_within: str = ""
    die_at: int = 0
    die_after: int = 0
    file_limit_bytes: int = 0
    clock: list[list[float]] = field(default_factory=list)
    lose_gpus_after: int = 0
    gpus_back_s: float = 1e9
    hang_limit_s: float = 0.0
    looks_s: float = 0.3
    variables: dict[str, str] = field(default_factory=dict)


class Measuring(SimulatedNode):
    """A simulated node whose runs count as measured."""

    @property
    def source(self) -> Source:
        return "measured"


class Death:
    """By SIGKILL, at a chosen touch of the disk within one kind of step."""

    def __init__(self, within: str, at: int) -> None:
        self._within, self._left, self._active = within, at, False

    def during(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, within which touches count if this is the step."""
        if step != self._within:
            return function

        @functools.wraps(function)
        def counted(*given: Any, **named: Any) -> Any:
            self._active = True
            try:
                return function(*given, **named)
            finally:
                self._active = False

        return counted

    @property
    def is_next(self) -> bool:
        if self._active:
            self._left -= 1
        return self._active and self._left == 0

    def touch(self) -> None:
        if self.is_next:
            die()

    def hear(self, event: str, given: tuple[Any, ...]) -> None:
        """An audit hook."""
        if event in _CHANGES or (event == "open" and isinstance(given[2], int) and given[2] & _WRITING):
            self.touch()


class Torn:
    """A file whose write may be the last thing that the process does, and then only half of it."""

    def __init__(self, file: Any, death: Death) -> None:
        self._file, self._death = file, death

    def write(self, data: Any) -> int:
        if self._death.is_next:
            self._file.write(bytes(data)[: len(data) // 2])
            self._file.flush()
            die()
        return int(self._file.write(data))

    def __enter__(self) -> "Torn":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def keep_diary(orders: Orders) -> None:
    """Note what agents complete and what the store is given; what happens after so many runs hangs on it as well."""
    diary, stored = Diary(Path(orders.diary)), 0

    def noted(measure: Callable[..., Generator[RunBundle]]) -> Callable[..., Generator[RunBundle]]:
        def generate(self: object, plan: LaunchPlan, *more: Any) -> Generator[RunBundle]:
            with contextlib.closing(measure(self, plan, *more)) as bundles:
                for bundle in bundles:
                    diary.note("completed", [bundle])
                    yield bundle

        return generate

    def append(self: writer.Writer, bundles: Sequence[RunBundle]) -> None:
        nonlocal stored
        real(self, bundles)
        diary.note("stored", bundles)
        before, stored = stored, stored + len(bundles)
        if before < orders.die_after <= stored:
            die()
        if before < orders.lose_gpus_after <= stored:
            lose_gpus(orders.gpus_back_s)
        for after, off_s in orders.clock:
            if before < after <= stored:
                set_clock(off_s)

    def tables(bundles: list[RunBundle]) -> object:
        # The first thing that an append does: whoever is told to end here ends after it.
        diary.note("storing", bundles)
        return tables_of(bundles)

    real, tables_of = writer.Writer.append, writer.tables_of
    writer.tables_of = tables  # type: ignore[assignment]
    writer.Writer.append = append  # type: ignore[method-assign]
    agent.Agent.measure = noted(agent.Agent.measure)  # type: ignore[method-assign]
    remote.RemoteAgent.measure = noted(remote.RemoteAgent.measure)  # type: ignore[method-assign]


def lose_gpus(until_s: float) -> None:
    driver = ctypes.CDLL("libnvidia-ml.so.1")
    now_s = time.monotonic() - float(os.environ["FAKE_NVML_ORIGIN_S"])
    for gpu in (0, 1):
        driver.fake_nvml_set(b"lost_at_s", f"{now_s + 0.2} {gpu} {now_s + 0.2 + until_s}".encode())


def set_clock(off_s: float) -> None:
    """The machine's wall clock, as this process sees it from now on; `time.monotonic` goes on."""

    class Off(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(seconds=off_s)

    for name, module in list(sys.modules.items()):
        held = getattr(module, "datetime", None) if name.startswith("harness.") else None
        if isinstance(held, type) and issubclass(held, datetime):
            module.datetime = Off  # type: ignore[attr-defined]
    time.time = lambda: _TIME() + off_s


def arrange(orders: Orders) -> None:
    os.chdir(orders.cwd)
    os.environ.update(orders.variables)
    sys.argv = ["harness", *orders.argv]
    # Small, so that segments are sealed and joined every few runs.
    writer.ROWS_PER_SEGMENT.update(runs=10, requests=50, iterations=50, power=200)
    compact.MOST_SEGMENTS = 2
    agent._LOOK_EVERY_S = orders.looks_s
    death = Death(orders.die_within, orders.die_at)
    if orders.die_within:
        sys.addaudithook(death.hear)
        sync, open_new = os.fsync, files.open_new
        os.fsync = lambda descriptor: (death.touch(), sync(descriptor))[1]
        files.open_new = lambda path: Torn(open_new(path), death)  # type: ignore[assignment,return-value]
        writer.Writer.append = death.during("append", writer.Writer.append)  # type: ignore[method-assign]
        writer.Writer.__init__ = death.during("open", writer.Writer.__init__)  # type: ignore[method-assign]
        compact._rebuild = death.during("compact", compact._rebuild)
    keep_diary(orders)
    if orders.measured:
        local.SimulatedNode = Measuring  # type: ignore[misc]
    if orders.hang_limit_s:
        machine_node.LaunchRequest = functools.partial(  # type: ignore[misc,assignment]
            machine_node.LaunchRequest, hang_limit_s=orders.hang_limit_s
        )
    if orders.file_limit_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (orders.file_limit_bytes, resource.RLIM_INFINITY))


def commands() -> Iterator[str]:
    for module in pkgutil.iter_modules(harness.cli.__path__):
        yield f"harness.cli.{module.name}"


if __name__ == "__main__":
    for command in commands():
        importlib.import_module(command)
    print("ready", flush=True)
    line = sys.stdin.readline()
    if line:
        arrange(Orders(**json.loads(line)))
        main()
