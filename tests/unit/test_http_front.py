"""The HTTP front without an engine: the gate, what a connection may send, when its client hears of tokens."""

import asyncio
import http.client
import io
import json
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from harness.engines.kit import INSIDE


@pytest.fixture(scope="module", autouse=True)
def _inside() -> Iterator[None]:
    """The modules import one another as they do in an engine's environment."""
    sys.path.insert(0, str(INSIDE))
    yield
    sys.path.remove(str(INSIDE))


class FakeBackend:
    """Steps are made by the test, one at a time, through `steps`."""

    max_context_tokens, vocabulary, most_under_way = 100, 50, 2

    def __init__(self) -> None:
        self.submitted: list[list[int]] = []
        self.aborted: list[int] = []
        self.steps: queue.Queue[Any] = queue.Queue()

    def submit(self, requests: Sequence[Any]) -> None:
        self.submitted.append([request.key for request in requests])

    def abort(self, key: int) -> None:
        self.aborted.append(key)

    def has_work(self) -> bool:
        return bool(self.submitted)

    def step(self) -> Any:
        made = self.steps.get()
        if isinstance(made, Exception):
            raise made
        return made

    def describe(self) -> dict[str, object]:
        return {}

    def close(self) -> None:
        pass


class FakeLog:
    def __init__(self) -> None:
        self.kinds: list[tuple[Any, ...]] = []

    def arrived(self, number: int, arrived_s: float) -> None:
        self.kinds.append(("arrived", number))

    def gate(self, closed: bool, at_s: float) -> None:
        self.kinds.append(("gate", closed))

    def step(self, start_s: float, end_s: float, *counts: int) -> None:
        self.kinds.append(("step", *counts))

    def request(self, number: int, *rest: Any) -> None:
        self.kinds.append(("request", number, *rest[-3:]))


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class Bench:
    """A front whose engine's thread is not started: news are delivered by hand."""

    def __init__(self, stream_interval: int = 1) -> None:
        import engine_service
        import http_front

        self.log, self.backend = FakeLog(), FakeBackend()
        self.front = http_front.Front(lambda: self.backend, self.log, stream_interval)
        self.service = self.front.service
        self.service.backend = self.backend
        self.service.tell = self.front._spread
        self.front._set_ready(True)
        self.make_connection = lambda: http_front.Connection(self.front)
        self.make_step = engine_service.Step

    def connect(self) -> tuple[Any, FakeTransport]:
        connection, transport = self.make_connection(), FakeTransport()
        connection.connection_made(transport)
        return connection, transport

    def step(self, chunks: dict[int, int], tokens: dict[int, int]) -> None:
        self.service._take(self.make_step(1.0, 2.0, chunks, 9, tokens), self.backend)


def run(test: Callable[[Bench], None], **options: int) -> None:
    """In an event loop, as the front demands."""

    async def inside() -> None:
        test(Bench(**options))
        await asyncio.sleep(0)

    asyncio.run(inside())


def completion(number: int = 1, close: bool = False, **other: object) -> bytes:
    body = json.dumps({"prompt": [1, 2], "max_tokens": 3, "ignore_eos": True, **other}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\nX-Request-Id: harness-{number}\r\n"
    return (head + ("Connection: close\r\n" if close else "") + "\r\n").encode() + body


class Wire(io.BytesIO):
    """What http.client reads an answer from; stays open, to see whether something is left."""

    def makefile(self, mode: str) -> "Wire":
        return self

    def close(self) -> None:
        pass


def the_answer(written: bytes) -> tuple[int, Any]:
    """Status of the one whole answer, and the last JSON object in it."""
    wire = Wire(written)
    response = http.client.HTTPResponse(wire)
    response.begin()
    text = response.read().decode().removesuffix("data: [DONE]\n\n")
    assert wire.read() == b""
    return response.status, json.loads(text.rpartition("data: ")[2])


def test_a_streamed_answer_is_one_that_the_client_understands() -> None:
    def test(bench: Bench) -> None:
        connection, transport = bench.connect()
        connection.data_received(completion(stream=True))
        assert transport.written == b"", "nothing before the first token"
        bench.step({0: 2}, {0: 1})
        assert transport.written.count(b"data: ") == 1
        bench.step({0: 0}, {0: 1})
        bench.step({0: 0}, {0: 1})
        status, said = the_answer(transport.written)
        assert status == 200
        assert said["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
        assert said["choices"] == []
        assert said["metrics"]["generation_time_ms"] == 0.0
        assert transport.written.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert transport.written.count(b"data: ") == 3 + 2

    run(test)


def test_an_answer_in_one_piece_comes_at_the_end() -> None:
    def test(bench: Bench) -> None:
        connection, transport = bench.connect()
        connection.data_received(completion())
        bench.step({0: 2}, {0: 2})
        assert transport.written == b""
        bench.step({0: 0}, {0: 1})
        status, said = the_answer(transport.written)
        assert (status, said["usage"]["completion_tokens"]) == (200, 3)
        assert not transport.closed

    run(test)


def test_a_request_that_arrives_in_pieces_and_early_is_served_in_turn() -> None:
    def test(bench: Bench) -> None:
        connection, _ = bench.connect()
        both = completion(1) + completion(2)
        for at in range(len(both)):
            connection.data_received(both[at : at + 1])
        assert bench.backend.submitted == [[0]], "one at a time"
        bench.step({0: 2}, {0: 3})
        asyncio.get_running_loop().call_soon(lambda: checked.append(list(bench.backend.submitted)))

    checked: list[list[list[int]]] = []
    run(test)
    assert checked == [[[0], [1]]]


def test_a_connection_is_closed_where_its_client_asks_for_it() -> None:
    def test(bench: Bench) -> None:
        connection, transport = bench.connect()
        connection.data_received(completion(close=True))
        bench.step({0: 2}, {0: 3})
        assert b"Connection: close\r\n" in transport.written
        assert transport.closed

    run(test)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"GET /health HTTP/1.1\r\n\r\n", 200),
        (b"what\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1\r\n\r\n{", 400),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]", 400),
        (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: -2\r\n\r\n{}", 400),
        (b"G" * 70_000, 431),
    ],
)
def test_what_is_no_request_is_answered(sent: bytes, status: int) -> None:
    def test(bench: Bench) -> None:
        connection, transport = bench.connect()
        connection.data_received(sent)
        assert transport.written.startswith(b"HTTP/1.1 %d " % status)
        assert bench.backend.submitted == []

    run(test)


def test_held_requests_enter_together_and_those_given_up_do_not() -> None:
    def test(bench: Bench) -> None:
        bench.service.pause()
        connections = [bench.connect()[0] for _ in range(4)]
        for number, connection in enumerate(connections):
            connection.data_received(completion(number))
        assert bench.backend.submitted == []
        assert [kind for kind, *_ in bench.log.kinds] == ["gate"] + ["arrived"] * 4
        connections[2].connection_lost(None)
        bench.service.resume()
        assert bench.backend.submitted == [[0, 1, 3]]
        assert bench.backend.aborted == []
        assert bench.log.kinds[-2:] == [("request", 2, 2, 0, False), ("gate", False)]
        assert (bench.service.waiting, bench.service.running) == (3, 0)

    run(test)


def test_a_lost_connection_aborts_its_request_and_no_other() -> None:
    def test(bench: Bench) -> None:
        first, second = bench.connect()[0], bench.connect()[0]
        first.data_received(completion(5))
        second.data_received(completion(6))
        bench.step({0: 2, 1: 2}, {0: 1, 1: 1})
        first.connection_lost(ConnectionResetError())
        assert bench.backend.aborted == [0]
        assert bench.log.kinds[-1][0] == "step", "two steps that hold it may be under way"
        # They end; nobody is told, nothing is counted twice.
        bench.step({0: 0, 1: 0}, {0: 1, 1: 1})
        assert bench.log.kinds[-1][0] == "step"
        bench.step({0: 0, 1: 0}, {0: 1, 1: 1})
        assert bench.log.kinds[-2:] == [("request", 6, 2, 3, True), ("request", 5, 2, 1, False)]
        assert (bench.service.totals.aborted, bench.service.totals.finished) == (1, 1)
        second.connection_lost(None)
        assert bench.backend.aborted == [0], "one that is over cannot be aborted"

    run(test)


def test_steps_are_logged_before_the_requests_that_they_end() -> None:
    def test(bench: Bench) -> None:
        bench.connect()[0].data_received(completion(7))
        bench.step({0: 2}, {0: 3})
        assert bench.log.kinds == [("arrived", 7), ("step", 1, 2, 0, 9), ("request", 7, 2, 3, True)]

    run(test)


def test_old_news_do_not_reach_the_next_request_of_a_connection() -> None:
    """The engine's thread runs ahead of the connections: news of a request may come when it has been answered."""

    def test(bench: Bench) -> None:
        connection, transport = bench.connect()
        late: list[Any] = []
        bench.service.tell = late.extend
        connection.data_received(completion(1, stream=True))
        for chunk in (2, 0, 0):
            bench.step({0: chunk}, {0: 1})
        assert len(late) == 3
        bench.front._spread(late[:1])
        assert the_answer(transport.written)[0] == 200
        connection.data_received(completion(2, stream=True))
        before = transport.written
        bench.front._spread(late[1:])
        assert transport.written == before

    run(test)


def test_the_interval_counts_tokens_and_not_steps() -> None:
    def test(bench: Bench) -> None:
        connection, transport = bench.connect()
        connection.data_received(completion(max_tokens=20, stream=True))
        seen = []
        for tokens in (1, 2, 2, 1, 3, 1, 10):
            bench.step({0: 0}, {0: tokens})
            seen.append(transport.written.count(b'"choices": [{'))
        # After 1; 3 more tokens come with the third step (5), then with the fifth (9), then with the last.
        assert seen == [1, 1, 2, 2, 3, 3, 4]

    run(test, stream_interval=4)


def test_an_engine_that_fails_says_so_after_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    import engine_service

    said: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: said.append(str(arguments.exc_value)))
    ended: queue.Queue[bool] = queue.Queue()
    backend = FakeBackend()
    service = engine_service.Service(lambda: backend, lambda tickets: None, ended.put)
    service.start()
    assert ended.get(timeout=10) is True
    backend.steps.put(RuntimeError("the device is gone"))
    service.accept([1], 1, "", None)
    assert ended.get(timeout=10) is False
    assert said == ["the device is gone"]
