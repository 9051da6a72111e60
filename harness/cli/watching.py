"""Progress of something long in equal parts: a bar with an ETA on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from harness.trainer import Watch
from harness.units import format_duration

_LINE_EVERY_S = 10.0


@contextmanager
def watching() -> Iterator[Watch]:
    """What fits standard error."""
    if sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task("", total=None)
            yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)
    else:
        yield _lines()


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"))
    return Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr), transient=True)


def _lines() -> Watch:
    """At most a line every ten seconds; nothing about what is done before that."""
    begun_s = last_s = time.monotonic()

    def say(done: int, total: int, what: str) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if done and now_s - last_s >= _LINE_EVERY_S:
            last_s = now_s
            left_s = (now_s - begun_s) / done * (total - done)
            print(f"{done}/{total} {what}; left {format_duration(left_s)}", file=sys.stderr, flush=True)

    return say
