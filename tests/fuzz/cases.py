"""Runs a command line as a user does, in this process, and says what was wrong with how it ended."""

import contextlib
import faulthandler
import io
import os
import re
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import click
import numpy as np

from harness import trainer
from harness.cli.main import main
from harness.errors import BadInput
from harness.points import BoolArray
from harness.sampling.base import Knowledge
from harness.trainer import Answer, Answers, Provenance, Question, Regions, Scored, ScoreOrder, Trained, TrainOrder

LIMIT_S = 30.0
"""No case takes longer, however odd: what does is a hang."""
_GIVEN_UP_S = 120
_MOST_MEMORY_BYTES = 6 << 30
"""Of address space beside what the process has: a case that asks for more shows as a MemoryError."""
_MOST_LETTERS = 1200
_OURS = re.compile(r"harness: (?P<field>.+?): (?P<value>.+); accepted: (?P<accepted>.+)")
_CLICK = re.compile(
    r"harness: (Invalid value for '?.+: .+|No such (option|command)\W+.+|Missing (argument|option) .+"
    r"|Got unexpected extra arguments? \(.*(\)|\.\.\.)"
    r"|Option '.+' (requires (an|\d) arguments?|does not take a value).*"
    r"); see '.*harness[\w ]* --help'"
)
_EXTRA = re.compile(r"harness: .+ needs pip install 'llm-energy-harness\[\w+\]'")
_INSIDES = re.compile(r"<class |object at 0x|function-|Traceback|\[type=|Input should|Value error|_Model|Errno")


class Hung(BaseException):
    """A case was not done within its limit."""


class StandIn:
    """A trainer that takes everything, so that what comes before it is tried where no torch is."""

    def train(self, order: TrainOrder, watch: object) -> Trained:
        return Trained(("simulated",), 80, 0, 9, None, 12.0, (order.predictor,))

    def score(self, order: ScoreOrder, watch: object) -> Scored:
        return Scored(("simulated",), ("simulated",), {})

    def regions(self, predictor: Path) -> Regions:
        return Regions(_PROVENANCE, 100, 4.5, "the measured points", ())

    def predict(self, predictor: Path, questions: tuple[Question, ...]) -> Answers:
        answer = Answer(1234.5, 200.0, 1.25, 1200.0, 1300.0, "vllm", 8192, (), "")
        return Answers(_PROVENANCE, tuple(answer for _ in questions))

    def teaches(self, questions: Sequence[Question]) -> BoolArray:
        return np.ones(len(questions), np.bool_)

    def knowledge(self, predictor: Path, questions: Sequence[Question]) -> Knowledge:
        raise BadInput("predictor", str(predictor), "one that knows something")


_PROVENANCE = Provenance(("simulated",), 1234, "2026-11-21T10:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command line ended; `arguments` as given, in `folder`."""

    arguments: tuple[str, ...]
    folder: Path
    code: int
    out: str
    err: str

    @property
    def kind(self) -> str:
        """For the table."""
        return {0: "done (0)", 1: "failed, one line (1)", 2: "refused, one line (2)"}.get(self.code, str(self.code))


def run(*arguments: object, cwd: Path, standing_in: bool = True) -> Ended:
    """Run `harness ARGUMENTS` in a folder, through its real entry point.

    Args:
        standing_in: with a trainer that takes everything in the place of the installed one.

    Raises:
        Hung: it takes too long.
        Exception: whatever would have been a traceback.
    """
    words = tuple(map(str, arguments))
    out, err = io.StringIO(), io.StringIO()
    code = 0
    entry = EntryPoint("stand-in", f"{__name__}:StandIn", trainer.GROUP)
    with (
        contextlib.ExitStack() as stack,
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
        mock.patch.object(sys, "argv", ["harness", *words]),
        mock.patch.dict(os.environ, {"HARNESS_TRACES": os.devnull, "COLUMNS": "160"}),
        limited(),
    ):
        # As outside of pytest: a warning is printed, and is then one line too many.
        warnings.showwarning = _print_warning
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)
        if standing_in:
            stack.enter_context(mock.patch.object(trainer, "entry_points", return_value=(entry,)))
        try:
            main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
    return Ended(words, cwd, code, out.getvalue(), err.getvalue())


def _print_warning(message: object, category: type, filename: str, lineno: int, *_more: object) -> None:
    print(f"{filename}:{lineno}: {category.__name__}: {message}", file=sys.stderr)


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Bounds the time and the memory of what is inside, and puts back the signals that it takes over."""

    def hung(_number: int, _frame: FrameType | None) -> None:
        raise Hung(f"not done after {LIMIT_S:g} s")

    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    # Where no signal is looked at (inside a library), the process ends with a traceback of where it hangs.
    faulthandler.dump_traceback_later(_GIVEN_UP_S, exit=True, file=sys.__stderr__)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + _MOST_MEMORY_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        for number, handler in kept.items():
            signal.signal(number, handler)


def check_outcome(ended: Ended, *codes: int) -> None:
    """Assert one of the codes (0, 1 or 2 by default), and that what was printed is fit for a person.

    Failure is one line on standard error and nothing on standard output; a refusal names the field, the value and
    what is accepted. Nothing that was printed commands a terminal.
    """
    shown = f"{ended.arguments} -> {ended.code}\nout: {ended.out[:2000]!r}\nerr: {ended.err[:4000]!r}"
    assert ended.code in (codes or (0, 1, 2)), shown
    for text in (ended.out, ended.err):
        raw = sorted({letter for letter in text if not letter.isprintable() and letter != "\n"})
        assert not raw, f"reaches the terminal raw: {raw}\n{shown}"
    if ended.code in (1, 2):
        assert ended.out == "", shown
        lines = ended.err.splitlines()
        assert len(lines) == 1, shown
        assert len(lines[0]) <= _MOST_LETTERS, shown
        assert not _INSIDES.search(lines[0].split("; accepted:")[-1]), shown
    if ended.code == 2:
        line = ended.err.rstrip("\n")
        assert _OURS.fullmatch(line) or _CLICK.fullmatch(line) or _EXTRA.fullmatch(line), shown
    if ended.code == 0:
        assert ended.err == "", shown


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder, with its kind and size: what a command that only looks must leave as it is."""
    found = {}
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            state = os.lstat(os.path.join(where, name))
            is_folder = os.path.isdir(os.path.join(where, name))
            found[os.path.relpath(os.path.join(where, name), folder)] = (
                state.st_mode,
                0 if is_folder else state.st_size,
            )
    return found


def commands() -> dict[str, Any]:
    """Every command of the command line by its name, those of groups with both words."""
    from harness.cli.app import cli

    found: dict[str, Any] = {}
    for name, command in cli.commands.items():
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": one for inner, one in command.commands.items()}
        else:
            found[name] = command
    return found


@contextlib.contextmanager
def case_folder(made: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=made) as folder:
        yield Path(folder)
