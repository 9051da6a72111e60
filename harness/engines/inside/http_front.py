"""The HTTP dialect of vLLM's server, as much of it as the harness speaks, in front of any `engine_service.Backend`.

Runs in an engine's own environment: standard library only, Python 3.10 or newer, nothing of `harness` but this folder.

    POST /v1/completions   token ids in, exactly `max_tokens` tokens out; JSON, or server-sent events with `stream`
    POST /pause, /resume   the gate: while it is closed requests are held, then enter together; what runs goes on
    GET  /health           200 only when the engine can serve
    GET  /metrics          requests running and waiting, tokens so far, in Prometheus' text format

The text of an answer is empty: what counts here are tokens, and turning random ids into text costs processor time that
nobody reads. A connection that its client closes aborts the request on it.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.engines.inside.engine_service import Backend, Service, Ticket
    from harness.engines.inside.steplog import PATH_VARIABLE, StepLog, write_description
else:
    from engine_service import Backend, Service, Ticket
    from steplog import PATH_VARIABLE, StepLog, write_description

LONGEST_HEAD_BYTES = 1 << 16
BACKLOG = 4096
STOPPED, FAILED, PORT_TAKEN = 0, 1, 3
"""Exit statuses."""


class Refused(Exception):
    """A request that cannot be served; answered with a status and a message."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class Connection(asyncio.Protocol):
    """One client; one request at a time."""

    def __init__(self, front: "Front") -> None:
        self._front = front
        self._buffer = bytearray()
        self._streams = self._begun = self._closing = False
        self.ticket: Ticket | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._front.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._front.connections.discard(self)
        if self.ticket is not None:
            self._front.service.abort(self.ticket)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self.ticket is None and not self.transport.is_closing() and self._take_request():
            pass

    def _take_request(self) -> bool:
        """Serve the request at the start of the buffer, if it is whole."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > LONGEST_HEAD_BYTES:
                self._closing = True
                self.answer(431, {"error": {"message": "the head of the request is too long"}})
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        words = first.split(" ")
        length = fields.get("content-length", "0")
        if len(words) != 3 or not length.isdigit() or "transfer-encoding" in fields:
            self._closing = True
            self.answer(400, {"error": {"message": "not a request with a Content-Length"}})
            return False
        whole = end + 4 + int(length)
        if len(self._buffer) < whole:
            return False
        body = bytes(self._buffer[end + 4 : whole])
        del self._buffer[:whole]
        self._closing = fields.get("connection", "").lower() == "close"
        try:
            self._front.serve(self, words[0], words[1].partition("?")[0], fields, body)
        except Refused as refused:
            self.answer(refused.status, {"error": {"message": str(refused), "code": refused.status}})
        return True

    def answer(self, status: int, content: Mapping[str, Any] | str) -> None:
        """A whole answer: JSON, or plain text."""
        text, kind = (content, "text/plain") if isinstance(content, str) else (json.dumps(content), "application/json")
        body = text.encode()
        self._write_head(status, f"Content-Type: {kind}\r\nContent-Length: {len(body)}", body)
        self._end()

    def begin_events(self, ticket: Ticket) -> None:
        """The answer will come as server-sent events; its head goes out with the first."""
        self.ticket, self._streams, self._begun = ticket, True, False

    def expect(self, ticket: Ticket) -> None:
        """The answer will come in one piece."""
        self.ticket, self._streams = ticket, False

    def tell(self, ticket: Ticket) -> None:
        """A ticket has news: tokens, or its end. Of one that ended there may be more, older news."""
        if ticket is not self.ticket:
            return
        over = ticket.finished_s == ticket.finished_s
        if not self._streams:
            if over:
                self.ticket = None
                self.answer(200, {**completion(ticket, "length"), **closing(ticket)})
            return
        events = [completion(ticket, "length" if over else None)]
        if over:
            events.append({**completion(ticket, None), "choices": [], **closing(ticket)})
        frames = b"".join(chunk(b"data: " + json.dumps(event).encode() + b"\n\n") for event in events)
        if over:
            frames += chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        if self._begun:
            self.transport.write(frames)
        else:
            self._begun = True
            self._write_head(200, "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked", frames)
        if over:
            self.ticket = None
            self._end()

    def _write_head(self, status: int, lines: str, body: bytes) -> None:
        closing = "\r\nConnection: close" if self._closing else ""
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}{closing}\r\n\r\n"
        self.transport.write(head.encode("latin-1") + body)

    def _end(self) -> None:
        if self._closing:
            self.transport.close()
        elif self._buffer and not self.transport.is_closing():
            # A request that came while this one was under way.
            asyncio.get_running_loop().call_soon(self.data_received, b"")


def chunk(data: bytes) -> bytes:
    """One chunk of HTTP's chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def completion(ticket: Ticket, finish_reason: str | None) -> dict[str, Any]:
    """An OpenAI-shaped completion without text."""
    return {
        "id": f"cmpl-{ticket.request.key}",
        "object": "text_completion",
        "choices": [{"index": 0, "text": "", "finish_reason": finish_reason}],
    }


def closing(ticket: Ticket) -> dict[str, Any]:
    """Exact counts and the engine's own times."""
    prompt, generated = len(ticket.request.prompt), ticket.generated
    usage = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
    return {"usage": usage, "metrics": ticket.metrics}


class Front:
    """The server: routes requests, and carries news from the engine's thread to connections."""

    def __init__(self, make_backend: Callable[[], Backend], log: StepLog | None, stream_interval: int) -> None:
        self.connections: set[Connection] = set()
        self.status = STOPPED
        self._ready = False
        self._started_s = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()
        self.service = Service(make_backend, self._carry, self._engine_ended, log, stream_interval)

    def _carry(self, tickets: list[Ticket]) -> None:
        self._loop.call_soon_threadsafe(self._spread, tickets)

    def _spread(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            ticket.owner.tell(ticket)

    def _engine_ended(self, ready: bool) -> None:
        self._loop.call_soon_threadsafe(self._set_ready, ready)

    def _set_ready(self, ready: bool) -> None:
        self._ready = ready
        if ready:
            print(f"ready after {time.monotonic() - self._started_s:.1f} s", flush=True)
        else:
            self.status = FAILED
            self.stopping.set()

    def serve(self, connection: Connection, method: str, path: str, fields: Mapping[str, str], body: bytes) -> None:
        """Answer a request, now or when its tokens have come. Raises Refused."""
        if not self._ready:
            raise Refused(503, "the engine is not ready")
        route = (method, path)
        if route == ("POST", "/v1/completions"):
            self._complete(connection, fields, body)
        elif route == ("POST", "/pause"):
            self.service.pause()
            connection.answer(200, {"status": "paused"})
        elif route == ("POST", "/resume"):
            self.service.resume()
            connection.answer(200, {"status": "resumed"})
        elif route == ("GET", "/health"):
            connection.answer(200, "")
        elif route == ("GET", "/metrics"):
            connection.answer(200, self._metrics())
        else:
            raise Refused(404, f"no such thing: {method} {path}")

    def _complete(self, connection: Connection, fields: Mapping[str, str], body: bytes) -> None:
        try:
            asked = json.loads(body)
        except ValueError as error:
            raise Refused(400, f"not JSON: {error}") from error
        prompt, max_tokens = read_completion(asked)
        assert self.service.backend is not None
        longest, vocabulary = self.service.backend.max_context_tokens, self.service.backend.vocabulary
        if max(prompt) >= vocabulary:
            raise Refused(400, f"prompt: token ids below {vocabulary} are accepted, not {max(prompt)}")
        if len(prompt) + max_tokens > longest:
            raise Refused(400, f"{len(prompt)} + {max_tokens} tokens exceed the context of {longest}")
        ticket = self.service.accept(prompt, max_tokens, fields.get("x-request-id", ""), connection)
        if asked.get("stream"):
            connection.begin_events(ticket)
        else:
            connection.expect(ticket)

    def _metrics(self) -> str:
        totals = self.service.totals
        values = {
            "num_requests_running": self.service.running,
            "num_requests_waiting": self.service.waiting,
            "prompt_tokens_total": totals.prompt_tokens,
            "generation_tokens_total": totals.generated_tokens,
            "request_success_total": totals.finished,
            "request_aborted_total": totals.aborted,
            "iterations_total": totals.steps,
        }
        return "".join(f"vllm:{name} {value}\n" for name, value in values.items())


def read_completion(asked: Any) -> tuple[list[int], int]:
    """Prompt and number of tokens of a completion. Raises Refused: only exact lengths, greedily, are served."""
    if not isinstance(asked, dict):
        raise Refused(400, "not an object")
    prompt, max_tokens = asked.get("prompt"), asked.get("max_tokens", 16)
    if not isinstance(prompt, list) or not prompt or not all(type(token) is int and token >= 0 for token in prompt):
        raise Refused(400, "prompt: a list of token ids is accepted")
    if type(max_tokens) is not int or max_tokens < 1:
        raise Refused(400, "max_tokens: a whole number of at least 1 is accepted")
    if asked.get("ignore_eos") is not True:
        raise Refused(400, "ignore_eos: only true is accepted: exactly max_tokens are generated")
    if asked.get("min_tokens", max_tokens) != max_tokens:
        raise Refused(400, "min_tokens: only the value of max_tokens is accepted")
    if asked.get("temperature", 0) != 0:
        raise Refused(400, "temperature: only 0 is accepted")
    return prompt, max_tokens


async def _serve(make_backend: Callable[[], Backend], host: str, port: int, log: StepLog | None, interval: int) -> int:
    loop = asyncio.get_running_loop()
    front = Front(make_backend, log, interval)
    try:
        server = await loop.create_server(lambda: Connection(front), host, port, backlog=BACKLOG)
    except OSError as error:
        print(f"cannot listen on {host}:{port}: {error.strerror}", file=sys.stderr, flush=True)
        return PORT_TAKEN
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, front.stopping.set)
    front.service.start()
    await front.stopping.wait()
    server.close()
    for connection in list(front.connections):
        connection.transport.abort()
    # Let the connections report that they are lost, so that every request has its end in the log.
    await asyncio.sleep(0)
    front.service.close()
    if front.service.backend is not None:
        front.service.backend.close()
    return front.status


def run(make_backend: Callable[[], Backend], host: str, port: int, stream_interval: int = 1) -> None:
    """Serve until SIGTERM, or until the engine fails; ends the process.

    The step log goes to the file that the environment variable `HARNESS_STEP_LOG` names, if it is set, and the
    configuration beside it.
    """
    path = os.environ.get(PATH_VARIABLE, "")
    log = StepLog(path) if path else None

    def make_described() -> Backend:
        backend = make_backend()
        if path:
            write_description(path, dict(backend.describe()))
        return backend

    status = asyncio.run(_serve(make_described, host, port, log, stream_interval))
    sys.stdout.flush()
    sys.stderr.flush()
    # The engine's thread may be inside a long call that nothing can interrupt: an orderly exit would wait for it.
    os._exit(status)
