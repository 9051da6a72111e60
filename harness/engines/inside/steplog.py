"""The step log: what an engine did, written by itself as it went; fixed-size records that survive a `kill -9`.

Runs inside an engine's process: standard library only, Python 3.9 or newer, nothing else of `harness`. The path comes
in the environment variable `HARNESS_STEP_LOG`; `harness.engines.steps` reads the file.

    log = StepLog(os.environ[PATH_VARIABLE])      # writes the header: the engine is attached
    log.arrived(number, arrived_s)                # the engine's queue holds the request: a paused batch is complete
    write_description(path, {...})                # the configuration that the engine resolved, as JSON
    log.step(start_s, end_s, ...)                 # one per iteration that computed something
    log.request(number, arrived_s, ...)           # one per request, when it is over, aborted ones too

All times are `time.monotonic()` of the process, which on Linux is one clock for the whole machine. Requests carry the
number that the harness gave them, read from their X-Request-Id by `request_number`; others are left out.
Each record goes out in one `write` to a file opened for appending, so records of several threads do not mix.
"""

import json
import os
import re
import struct
import time
from pathlib import Path

PATH_VARIABLE = "HARNESS_STEP_LOG"
"""Environment variable with the path of the log."""
FORMAT_VERSION = 1
MAGIC = b"HSTEPLOG"
RECORD_BYTES = 64
HEADER, STEP, ARRIVED, REQUEST, GATE = 1, 2, 3, 4, 5
"""Kinds of records: the first byte of each."""

# Little endian, no implicit padding; every record has RECORD_BYTES.
HEADER_LAYOUT = struct.Struct("<B7x8sIId32x")
"""kind, MAGIC, FORMAT_VERSION, pid, opened_s"""
STEP_LAYOUT = struct.Struct("<B7xddIIIIQ16x")
"""kind, start_s, end_s, prefill_requests, prefill_tokens, decode_requests, 0, context_tokens"""
ARRIVED_LAYOUT = struct.Struct("<B7xQd40x")
"""kind, number, arrived_s"""
REQUEST_LAYOUT = struct.Struct("<B3xIQddddII8x")
"""kind, finished (1) or aborted (0), number, arrived_s, admitted_s, first_token_s, finished_s, prompt_tokens,
generated_tokens"""
GATE_LAYOUT = struct.Struct("<B3xId48x")
"""kind, closed (1) or open (0), at_s"""

REQUEST_ID_PREFIX = "harness-"
_REQUEST_ID = re.compile(REQUEST_ID_PREFIX + "([0-9]{1,18})(?![0-9])")


def request_id(number: int) -> str:
    """The X-Request-Id of a numbered request."""
    return f"{REQUEST_ID_PREFIX}{number}"


def request_number(text: str) -> int:
    """The number within an engine's name of a request (`cmpl-harness-17-0-9f3a`: 17), or -1 if it is not ours."""
    found = _REQUEST_ID.search(text)
    return int(found.group(1)) if found else -1


class StepLog:
    """An open log. Raises OSError where it cannot be written; a full disk raises it at the record that does not fit.

    Args:
        path: of the file; made if absent, appended to if there.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.write(self._fd, HEADER_LAYOUT.pack(HEADER, MAGIC, FORMAT_VERSION, os.getpid(), time.monotonic()))

    def step(
        self,
        start_s: float,
        end_s: float,
        prefill_requests: int,
        prefill_tokens: int,
        decode_requests: int,
        context_tokens: int,
    ) -> None:
        """One iteration.

        Args:
            start_s, end_s: from the scheduling of the step until its tokens were known.
            prefill_requests, prefill_tokens: prompt chunks in it, and their tokens.
            decode_requests: sequences that computed one generated token's successor.
            context_tokens: keys read by attention, summed over the step's sequences: of each, the tokens computed
                before the step and those of the step.
        """
        os.write(
            self._fd,
            STEP_LAYOUT.pack(
                STEP, start_s, end_s, prefill_requests, prefill_tokens, decode_requests, 0, context_tokens
            ),
        )

    def arrived(self, number: int, arrived_s: float) -> None:
        """A request entered the engine's queue (also while the engine is paused)."""
        os.write(self._fd, ARRIVED_LAYOUT.pack(ARRIVED, number, arrived_s))

    def gate(self, closed: bool, at_s: float) -> None:
        """The engine was paused or resumed. Of use where /pause answers late; it may be left out where it does not."""
        os.write(self._fd, GATE_LAYOUT.pack(GATE, 1 if closed else 0, at_s))

    def request(
        self,
        number: int,
        arrived_s: float,
        admitted_s: float,
        first_token_s: float,
        finished_s: float,
        prompt_tokens: int,
        generated_tokens: int,
        finished: bool = True,
    ) -> None:
        """A request is over; times that never came are NaN.

        Args:
            arrived_s: it entered the engine's queue.
            admitted_s: start of the first step that held it.
            first_token_s: end of the step that made its first token.
            finished_s: end of the step that made its last token, or when it was aborted.
            finished: False if it was aborted.
        """
        os.write(
            self._fd,
            REQUEST_LAYOUT.pack(
                REQUEST,
                1 if finished else 0,
                number,
                arrived_s,
                admitted_s,
                first_token_s,
                finished_s,
                prompt_tokens,
                generated_tokens,
            ),
        )

    def close(self) -> None:
        os.close(self._fd)


def write_description(path: str, described: "dict[str, object]") -> None:
    """The configuration that the engine resolved: JSON beside the log at `path`, whole or not at all."""
    partial = Path(path + ".json.partial")
    partial.write_text(json.dumps(described, indent=1, sort_keys=True), "utf-8")
    partial.replace(path + ".json")
