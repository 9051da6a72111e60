"""One tool, one scenario, one server: what it did, judged by the server's book and the kernel's CPU clocks."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from client_tools import CLOSED, PACE_MS, REQUESTS, SMALL, Pythons, command, schedule
from client_watch import CpuOfTree, StallProbe, descendants

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.fixtures.mock_openai import Book, Mock

LIMIT_S = 90.0


@dataclass(frozen=True)
class Outcome:
    """One run; the load window is from the first request's arrival at the server to its last answer.

    Attributes:
        lateness_p99_ms: arrivals behind the schedule. The server does not know when a tool's schedule began: the
            earliest request counts as in time. NaN in the closed loop.
        requests_per_s: between a tenth and nine tenths of the answers, so that neither start nor end counts.
        cpu_s_per_1000_tokens: of all the tool's processes, in the load window.
        server_busy: share of a core that the server used in the load window.
        stall_s: the longest stall of the machine in the load window; 0 where none exceeded the limit.
    """

    lateness_p99_ms: float
    requests_per_s: float
    cpu_s_per_1000_tokens: float
    server_busy: float
    stall_s: float


class ToolFailed(Exception):
    """The tool did not do the job; the message is its own last words."""


def race(tool: str, scenario: str, program: Path, pythons: Pythons, folder: Path, probe: StallProbe) -> Outcome:
    """Run the tool against a new server. Raises ToolFailed, also where a request is missing or not as asked."""
    with Mock(program, PACE_MS[scenario]) as mock:
        line = command(tool, scenario, mock.port, pythons, folder)
        environment = os.environ | {"PYTHONWARNINGS": "ignore", "VLLM_NO_USAGE_STATS": "1"}
        log = folder / f"{tool}-{scenario}.log".replace(" ", "-")
        before_cpu_s = mock.book().cpu_s
        try:
            with log.open("w") as output:
                started = subprocess.Popen(
                    line, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
                )
        except OSError as error:
            raise ToolFailed(str(error)) from error
        cpu = CpuOfTree(started.pid)
        try:
            returned = started.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            returned = None
        finally:
            cpu.stop()
            _end(started)
        book = mock.book()
    if returned != 0:
        how = f"not done after {LIMIT_S:g} s" if returned is None else f"exit {returned}"
        raise ToolFailed(f"{how}: {_last_words(log)}")
    _check(tool, scenario, book)
    return _outcome(scenario, book, cpu, before_cpu_s, probe)


def _outcome(scenario: str, book: Book, cpu: CpuOfTree, before_cpu_s: float, probe: StallProbe) -> Outcome:
    begin_s, end_s = float(book.arrival_s[0]), float(book.finished_s.max())
    lateness_p99_ms = float("nan")
    if scenario != CLOSED:
        behind_s = book.arrival_s - np.sort([request.due_s for request in schedule(scenario)])
        lateness_p99_ms = 1000 * float(np.quantile(behind_s - behind_s.min(), 0.99))
    first_s, last_s = np.quantile(book.finished_s, [0.1, 0.9])
    return Outcome(
        lateness_p99_ms,
        0.8 * len(book.finished_s) / float(last_s - first_s),
        1000 * cpu.between(begin_s, end_s) / book.tokens,
        (book.cpu_s - before_cpu_s) / (end_s - begin_s),
        probe.longest_between(begin_s, end_s),
    )


def _check(tool: str, scenario: str, book: Book) -> None:
    """Every request arrived once, as asked, and was answered to its end."""
    if scenario == CLOSED:
        asked = [(SMALL, SMALL)] * REQUESTS[tool]
    else:
        asked = sorted((request.prompt_tokens, request.generated_tokens) for request in schedule(scenario))
    came = sorted(zip(book.prompt_tokens.tolist(), book.asked_tokens.tolist(), strict=True))
    if len(came) != len(asked):
        raise ToolFailed(f"{len(came)} requests arrived of {len(asked)}")
    if came != asked:
        odd = next(pair for pair in zip(came, asked, strict=True) if pair[0] != pair[1])
        raise ToolFailed(f"not the requests asked for: {odd[0]} (prompt, generated) where {odd[1]} was meant")
    if book.aborted or not book.finished_s.all():
        raise ToolFailed(f"{book.aborted} requests were given up")


def _end(started: subprocess.Popen[bytes]) -> None:
    """No process of the tool's stays."""
    for pid in descendants(started.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait()


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"
