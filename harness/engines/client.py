"""The client of a serving engine: an open loop that keeps its schedule, at next to no CPU.

It runs on the node whose CPU energy is being measured. So: one thread that sleeps in epoll, no spinning, request bodies
built beforehand, answers only watched for their first token and their end, and read when the load is over. There is no
limit on connections other than the system's on open files.
"""

import gc
import http.client
import json
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from harness.engines.base import Outcome
from harness.engines.http1 import request_bytes
from harness.engines.load import Load
from harness.engines.sockets import Address, Sockets
from harness.errors import Interrupted
from harness.points import FloatArray, IntArray

__all__ = ["Address", "Answers", "Client", "ClientInterrupted", "Prepared", "prepare"]

CONNECT_LIMIT_S = 10.0
ENOUGH_FILES = 65_536


@dataclass(frozen=True, slots=True)
class Prepared:
    """One request, its bytes built before the window opens. Due so many seconds after the start of the schedule."""

    wire: bytes
    due_s: float
    asked_tokens: int


def prepare(
    address: Address,
    path: str,
    body: Mapping[str, object],
    request_id: str,
    due_s: float,
    asked_tokens: int,
    headers: Sequence[tuple[str, str]] = (),
) -> Prepared:
    """A POST of JSON; `request_id` travels as X-Request-Id."""
    content = json.dumps(body, separators=(",", ":")).encode()
    fields = (("Content-Type", "application/json"), ("X-Request-Id", request_id), *headers)
    return Prepared(request_bytes("POST", str(address), path, content, fields), due_s, asked_tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What became of requests, in their order; arrays are (n,), times monotonic, NaN where the thing never came.

    Attributes:
        due_s, sent_s: when each was due; when its last byte was handed to the kernel.
        first_token_s: of a streamed answer; finished_s: of a finished one.
        prompt_tokens, generated_tokens: as the server counted them (`usage`); -1 where it did not say.
        status: of HTTP, 0 where no answer came.
        messages: the server's error, shortened; "" if fine.
        metrics: what the server says of the request itself (vLLM's --enable-per-request-metrics), else empty.
        chunk_s: arrival of every chunk that bore tokens, when asked for.
        cpu_s: CPU seconds of the calling thread, which sends and receives, over the call.
    """

    due_s: FloatArray
    sent_s: FloatArray
    first_token_s: FloatArray
    finished_s: FloatArray
    prompt_tokens: IntArray
    generated_tokens: IntArray
    outcome: tuple[Outcome, ...]
    status: IntArray
    messages: tuple[str, ...]
    metrics: tuple[Mapping[str, float], ...]
    chunk_s: tuple[FloatArray, ...] | None
    cpu_s: float
    start_s: float


class ClientInterrupted(Interrupted):
    """Stopped while requests were under way, by what it says; `answers` had come, the rest of them "aborted"."""

    def __init__(self, answers: Answers, by: str) -> None:
        self.answers = answers
        super().__init__(by or "interrupted")


class Client:
    """One server. Connections stay open between calls. To be used by one thread at a time.

    The process's soft limit on open files is raised, if it is low: a replay that cannot open another
    connection would bend its schedule.

    Args:
        cpus: where the calling thread runs while requests are under way; None leaves it where it is.
    """

    def __init__(self, address: Address, *, cpus: frozenset[int] | None = None) -> None:
        self.address = address
        self._cpus = cpus
        _allow_open_files()
        self._sockets = Sockets(address)

    def connect(self, connections: int) -> None:
        """Have so many idle connections. Raises EngineCrashed where nothing listens."""
        self._sockets.open_idle(connections, CONNECT_LIMIT_S)

    def send(
        self,
        requests: Sequence[Prepared],
        *,
        deadline_s: float,
        start_s: float | None = None,
        chunk_times: bool = False,
        on_all_sent: Callable[[], None] | None = None,
        gone: Callable[[], bool] = lambda: False,
    ) -> Answers:
        """Open loop: each request leaves at `start_s` (now) + its `due_s`, whatever became of the others.

        Returns when all are answered, or at `start_s + deadline_s`: what is unfinished then is aborted as "timeout".
        Raises ClientInterrupted on an interrupt; nothing is under way afterwards. `on_all_sent` is called once every
        request has left; while it runs nothing is received. Once the server is `gone` nothing more is sent, and what is
        unfinished is "lost".
        """
        begin_s = time.monotonic() if start_s is None else start_s
        offsets_s = [request.due_s for request in requests]
        return self._run(
            requests,
            chunk_times,
            begin_s,
            lambda load: load.open_loop(begin_s, offsets_s, begin_s + deadline_s, on_all_sent, gone),
            gone,
        )

    def closed_loop(
        self, requests: Sequence[Prepared], concurrency: int, *, deadline_s: float, chunk_times: bool = False
    ) -> Answers:
        """`concurrency` requests under way at all times, in their order; `due_s` of a request is ignored.

        Each is due when another is answered. Ends, and raises, as `send` does.
        """
        begin_s = time.monotonic()
        return self._run(
            requests,
            chunk_times,
            begin_s,
            lambda load: load.closed_loop(concurrency, begin_s + deadline_s),
            lambda: False,
        )

    def _run(
        self,
        requests: Sequence[Prepared],
        chunk_times: bool,
        begin_s: float,
        run: Callable[[Load], None],
        gone: Callable[[], bool],
    ) -> Answers:
        load = Load(self._sockets, [request.wire for request in requests], chunk_times)
        self._sockets.forget_stale()
        cpu_s = time.thread_time()
        try:
            with _pinned(self._cpus), _without_collections():
                run(load)
            if gone():
                load.abandon("lost", "the server is gone")
            load.abandon("timeout", "not finished at the deadline")
            return _answers(load, time.thread_time() - cpu_s, begin_s)
        except (KeyboardInterrupt, Interrupted) as interrupt:
            load.abandon("aborted", "interrupted")
            raise ClientInterrupted(_answers(load, time.thread_time() - cpu_s, begin_s), str(interrupt)) from interrupt
        finally:
            load.abandon("aborted", "the client failed")

    def request(
        self, method: str, path: str, *, body: Mapping[str, object] | None = None, timeout_s: float
    ) -> tuple[int, bytes]:
        """Status and body of a small call, on a connection of its own. Raises OSError, http.client.HTTPException."""
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=timeout_s)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def close(self) -> None:
        self._sockets.close()


def _allow_open_files() -> None:
    """Raise the soft limit to ENOUGH_FILES, or as near as the hard one lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(ENOUGH_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _answers(load: Load, cpu_s: float, start_s: float) -> Answers:
    statuses, said = zip(*load.said(), strict=True) if load.due_s else ((), ())
    outcomes: tuple[Outcome, ...] = tuple(one.outcome for one in said)
    finished = np.array([outcome == "finished" for outcome in outcomes], bool)
    chunk_s = None
    if load.chunk_s is not None:
        # The last event of a stream holds usage, and no token.
        chunk_s = tuple(
            np.array(times[:-1] if not one.last_event_bears_token else times)
            for times, one in zip(load.chunk_s, said, strict=True)
        )
    return Answers(
        due_s=np.array(load.due_s),
        sent_s=np.array(load.sent_s),
        first_token_s=np.array(load.first_token_s),
        finished_s=np.where(finished, np.array(load.finished_s), np.nan),
        prompt_tokens=np.array([one.prompt_tokens for one in said], np.int64),
        generated_tokens=np.array([one.generated_tokens for one in said], np.int64),
        outcome=outcomes,
        status=np.array(statuses, np.int64),
        messages=tuple(one.message for one in said),
        metrics=tuple(one.metrics for one in said),
        chunk_s=chunk_s,
        cpu_s=cpu_s,
        start_s=start_s,
    )


@contextmanager
def _pinned(cpus: frozenset[int] | None) -> Iterator[None]:
    """The calling thread on these CPUs, and back where it was."""
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _without_collections() -> Iterator[None]:
    """No pause of the garbage collector; the loop makes no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
