"""Progress of a sweep: a bar with an ETA on a terminal, a plain line every few seconds elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from harness.agent import MeasuringAgent
from harness.plan import LaunchPlan
from harness.records import SETTLED, RunRecord
from harness.units import format_duration

_LINE_EVERY_S = 10.0


class BarProgress:
    """A live bar on standard error."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("runs, left"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "BarProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def planned(self, runs: int) -> None:
        if runs:
            self._task = self._bar.add_task("measuring", total=runs)

    def say(self, line: str) -> None:
        """A line that stays, above the bar."""
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def launching(self, agent: MeasuringAgent, plan: LaunchPlan) -> None:
        if self._task is not None:
            self._bar.update(self._task, description=_label(plan))

    def skipped(self, agent: MeasuringAgent, reasons: tuple[str, ...]) -> None:
        self._bar.console.print(_skip_line(agent, reasons), style="yellow", markup=False)

    def measured(self, run: RunRecord) -> None:
        if self._task is not None and run.status in SETTLED:
            self._bar.advance(self._task)


class LineProgress:
    """Plain lines on standard error, at most one every ten seconds."""

    def __init__(self) -> None:
        self._total = self._done = 0
        self._label = ""
        self._begun_s = self._last_s = time.monotonic()

    def __enter__(self) -> "LineProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._done:
            self._say("measured")

    def planned(self, runs: int) -> None:
        self._total, self._done = runs, 0
        self._begun_s = self._last_s = time.monotonic()
        if runs:
            print(f"{runs} runs to measure", file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """A line at once."""
        print(line, file=sys.stderr, flush=True)

    def launching(self, agent: MeasuringAgent, plan: LaunchPlan) -> None:
        self._label = _label(plan)

    def skipped(self, agent: MeasuringAgent, reasons: tuple[str, ...]) -> None:
        print(_skip_line(agent, reasons), file=sys.stderr, flush=True)

    def measured(self, run: RunRecord) -> None:
        self._done += run.status in SETTLED
        if time.monotonic() - self._last_s >= _LINE_EVERY_S:
            self._last_s = time.monotonic()
            left_s = (self._last_s - self._begun_s) / max(self._done, 1) * max(self._total - self._done, 0)
            self._say(f"{self._label}; left {format_duration(left_s)}")

    def _say(self, what: str) -> None:
        share = self._done / self._total if self._total else 1.0
        print(f"{self._done}/{self._total} runs ({share:.0%}) {what}", file=sys.stderr, flush=True)


def _skip_line(agent: MeasuringAgent, reasons: tuple[str, ...]) -> str:
    return f"{agent.name} is skipped: {'; '.join(reasons)}"


def _label(plan: LaunchPlan) -> str:
    probing = any(assignment.purpose == "probe" for assignment in plan.assignments)
    return f"probe of {plan.deployment.label}" if probing else plan.deployment.label


def sweep_progress() -> BarProgress | LineProgress:
    """What fits standard error."""
    return BarProgress() if sys.stderr.isatty() else LineProgress()
