"""The client against a server that counts, refuses, dies, hangs and lies; and what it makes of bytes in any pieces."""

import gc
import itertools
import json
import os
import re
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.answer import read_answer
from harness.engines.client import Address, Answers, Client, ClientInterrupted, Prepared, prepare
from harness.engines.http1 import MOST_KEPT, Incoming, request_bytes
from harness.engines.load import SWEEP_S
from harness.engines.placement import parse_cpus
from harness.engines.sockets import Sockets
from harness.errors import EngineCrashed, Interrupted
from tests.fixtures.mock_openai import Mock, compile_mock

HANG_S = 30.0
"""A deadline that a test should never reach."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = compile_mock(tmp_path_factory.mktemp("mock"))
    if found is None:
        pytest.skip("no C compiler for the mock server")
    return found


@pytest.fixture
def mock(program: Path) -> Iterator[Mock]:
    with Mock(program) as server:
        yield server


@pytest.fixture
def client(mock: Mock) -> Iterator[Client]:
    found = Client(Address("127.0.0.1", mock.port))
    yield found
    found.close()


def ask(
    client: Client, tokens: int, *headers: tuple[str, str], due_s: float = 0.0, prompt: int = 5, stream: bool = True
) -> Prepared:
    body = {"model": "mock", "prompt": list(range(prompt)), "max_tokens": tokens, "stream": stream}
    return prepare(client.address, "/v1/completions", body, "r", due_s, tokens, headers)


def pace(ms: float) -> tuple[str, str]:
    return ("X-Pace-Ms", str(ms))


def fault(name: str) -> tuple[str, str]:
    return ("X-Fault", name)


# ---- what is asked, and what comes back ----


@pytest.mark.parametrize("stream", [True, False])
def test_counts_and_metrics_are_the_servers_own(client: Client, mock: Mock, stream: bool) -> None:
    tokens = [1, 2, 7, 30]
    answers = client.send(
        [ask(client, n, prompt=100 + n, stream=stream, due_s=0.01) for n in tokens], deadline_s=HANG_S
    )
    assert answers.outcome == ("finished",) * 4
    assert answers.messages == ("",) * 4
    assert answers.status.tolist() == [200] * 4
    assert answers.generated_tokens.tolist() == tokens
    assert answers.prompt_tokens.tolist() == [100 + n for n in tokens]
    assert all(one["queue_time_ms"] == 0.0 and one["generation_time_ms"] >= 0 for one in answers.metrics)
    assert np.isnan(answers.first_token_s).all() == (not stream)
    assert (answers.finished_s > answers.sent_s).all()
    assert (answers.sent_s >= answers.due_s).all()
    assert np.allclose(answers.due_s - answers.start_s, 0.01)
    assert mock.book().prompt_tokens.tolist() == [100 + n for n in tokens]


def test_every_token_has_its_time_when_asked(client: Client) -> None:
    tokens = [1, 3, 40]
    requests = [ask(client, n, pace(2)) for n in tokens]
    answers = client.send(requests, deadline_s=HANG_S, chunk_times=True)
    assert answers.chunk_s is not None
    assert [len(times) for times in answers.chunk_s] == tokens
    for times, first, last in zip(answers.chunk_s, answers.first_token_s, answers.finished_s, strict=True):
        assert times[0] == first
        assert times[-1] <= last
        assert (np.diff(times) >= 0).all()
    assert len(set(answers.chunk_s[2])) > 1, "tokens that came apart have times apart"


def test_the_end_of_a_stream_is_stamped_when_it_came_and_not_when_it_was_read(client: Client, mock: Mock) -> None:
    requests = [ask(client, 30 + i, pace(2), due_s=0.007 * i) for i in range(20)]
    answers = client.send(requests, deadline_s=HANG_S)
    assert set(answers.outcome) == {"finished"}
    late_s = np.sort(answers.finished_s) - np.sort(mock.book().finished_s)
    assert np.median(late_s) < SWEEP_S / 5, "reading alone would be half of SWEEP_S late"
    assert (answers.first_token_s < answers.finished_s).all()


def test_requests_leave_at_their_time_whatever_became_of_the_others(client: Client, mock: Mock) -> None:
    due_s = [0.08, 0.02, 0.05, 0.0]
    requests = [ask(client, 3 + i, fault("hang"), due_s=due) for i, due in enumerate(due_s)]
    answers = client.send(requests, deadline_s=0.4)
    assert answers.outcome == ("timeout",) * 4
    assert (answers.sent_s >= answers.due_s).all()
    book = mock.book()
    assert book.asked_tokens.tolist() == [6, 4, 5, 3], "in the order of the schedule, though none was answered"
    assert book.connections == 4 + 1, "and that of the book"


def test_a_body_larger_than_the_kernels_buffers_arrives_whole(client: Client, mock: Mock) -> None:
    called = []
    requests = [ask(client, 2, prompt=1_500_000), ask(client, 2)]
    answers = client.send(requests, deadline_s=HANG_S, on_all_sent=lambda: called.append(time.monotonic()))
    assert answers.prompt_tokens.tolist() == [1_500_000, 5]
    assert len(called) == 1
    assert called[0] >= np.max(answers.sent_s)


def test_connections_are_opened_ahead_and_kept(client: Client, mock: Mock) -> None:
    client.connect(4)
    for _ in range(3):
        assert set(client.send([ask(client, 2) for _ in range(4)], deadline_s=HANG_S).outcome) == {"finished"}
    assert mock.book().connections == 4 + 1


def test_a_closed_loop_has_just_so_many_under_way(client: Client, mock: Mock) -> None:
    answers = client.closed_loop([ask(client, 4, pace(1)) for _ in range(50)], 7, deadline_s=HANG_S)
    assert answers.generated_tokens.tolist() == [4] * 50
    assert mock.book().connections == 7 + 1
    events = sorted([(at, 1) for at in answers.sent_s] + [(at, -1) for at in answers.finished_s])
    assert max(np.cumsum([step for _, step in events])) == 7


def test_small_calls(client: Client) -> None:
    assert client.request("GET", "/health", timeout_s=5) == (200, b"")
    assert client.request("POST", "/nowhere", body={"a": 1}, timeout_s=5)[0] == 404


# ---- what goes wrong ----


def test_each_fault_has_its_outcome_and_leaves_the_others_alone(client: Client, mock: Mock) -> None:
    faults = ["refuse", "close", "hang", "garbage", "wrong", None]
    requests = [ask(client, 8, *([fault(name)] if name else [])) for name in faults for _ in range(3)]
    answers = client.send(requests, deadline_s=1.0)
    assert answers.outcome[::3] == ("refused", "lost", "timeout", "malformed", "finished", "finished")
    assert Counter(answers.outcome) == {"finished": 6, "refused": 3, "lost": 3, "timeout": 3, "malformed": 3}
    assert answers.status[::3].tolist() == [503, 0, 0, 0, 200, 200]
    assert answers.messages[0] == "no room"
    assert answers.generated_tokens[::3].tolist() == [-1, -1, -1, -1, 7, 8], "7: the server's count, not the wish"
    assert np.isnan(answers.finished_s[:12]).all()
    assert not np.isnan(answers.first_token_s[3:6]).any(), "what came before the end of the connection is kept"
    assert mock.book().aborted == 3
    again = client.send([ask(client, 2)], deadline_s=HANG_S)
    assert again.outcome == ("finished",)


def test_a_server_that_dies_in_mid_answer_ends_the_wait(program: Path) -> None:
    with Mock(program) as server:
        client = Client(Address("127.0.0.1", server.port))
        requests = [ask(client, 10_000, pace(2)) for _ in range(5)] + [ask(client, 1)]
        threading.Timer(0.3, server.process.kill).start()
        begin_s = time.monotonic()
        answers = client.send(requests, deadline_s=HANG_S)
        assert answers.outcome == ("lost",) * 5 + ("finished",)
        assert client.send([ask(client, 1)] * 2, deadline_s=HANG_S).outcome == ("refused",) * 2
        assert client.closed_loop([ask(client, 1)] * 3, 2, deadline_s=HANG_S).outcome == ("refused",) * 3
        assert time.monotonic() - begin_s < HANG_S / 2
        with pytest.raises(EngineCrashed, match="cannot connect"):
            client.connect(1)
        client.close()


def test_an_interrupt_keeps_what_had_come_and_leaves_nothing_under_way(client: Client, mock: Mock) -> None:
    def stop(signum: int, frame: object) -> None:
        raise Interrupted("asked to stop")

    before = os.sched_getaffinity(0)
    before_handler = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        requests = [ask(client, 5), ask(client, 10_000, pace(2)), ask(client, 5, due_s=20.0)]
        with pytest.raises(ClientInterrupted, match="asked to stop") as caught:
            client.send(requests, deadline_s=HANG_S)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before_handler)
    answers: Answers = caught.value.answers
    assert answers.outcome == ("finished", "aborted", "aborted")
    assert np.isnan(answers.sent_s).tolist() == [False, False, True]
    assert not np.isnan(answers.first_token_s[1])
    assert isinstance(caught.value, Interrupted)
    assert gc.isenabled()
    assert os.sched_getaffinity(0) == before
    time.sleep(0.05)
    assert mock.book().aborted == 1
    assert client.send([ask(client, 2)], deadline_s=HANG_S).outcome == ("finished",)


def test_a_connection_that_the_server_closed_in_the_meantime_is_not_used() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    answer = b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    served = []

    def serve() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            served.append(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    client = Client(Address("127.0.0.1", listener.getsockname()[1]))
    for _ in range(2):
        assert client.send([ask(client, 1)], deadline_s=HANG_S).outcome == ("finished",)
        time.sleep(0.05)
    thread.join()
    client.close()
    listener.close()
    assert len(served) == 2


def test_a_dropped_connection_is_not_taken_again(mock: Mock) -> None:
    sockets = Sockets(Address("127.0.0.1", mock.port))
    sockets.open_idle(2, 5.0)
    dropped, kept = list(sockets.by_fd.values())
    sockets.rest(sockets.take(), time.monotonic())
    sockets.drop(dropped)
    taken = [sockets.take() for _ in range(3)]
    assert dropped not in taken
    assert kept in taken
    assert all(connection.socket.fileno() >= 0 for connection in taken)
    sockets.close()


def test_a_low_limit_on_open_files_does_not_cap_the_connections(mock: Mock) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
    try:
        client = Client(Address("127.0.0.1", mock.port))
        assert set(client.send([ask(client, 2, pace(20)) for _ in range(400)], deadline_s=HANG_S).outcome) == {
            "finished"
        }
        client.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_thread_is_pinned_only_while_requests_are_under_way(mock: Mock) -> None:
    before = os.sched_getaffinity(0)
    one = frozenset([max(before)])
    client = Client(Address("127.0.0.1", mock.port), cpus=one)
    seen = []
    client.send([ask(client, 1)], deadline_s=HANG_S, on_all_sent=lambda: seen.append(os.sched_getaffinity(0)))
    client.close()
    assert seen == [one]
    assert os.sched_getaffinity(0) == before


# ---- bytes in any pieces ----


def stream_of(tokens: int, text: str = "a") -> bytes:
    events = [json.dumps({"choices": [{"index": 0, "text": text}], "usage": None})] * tokens
    events.append(json.dumps({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": tokens}}))
    chunks = [f"data: {event}\n\n".encode() for event in events] + [b"data: [DONE]\n\n"]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def feed(incoming: Incoming, data: bytes, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges) if b > a]
    return [incoming.feed(piece, float(number)) for number, piece in enumerate(pieces)]


@given(st.data(), st.integers(0, 6), st.sampled_from(["a", "", "0\r\n\r\n", "data: {", '"choices":[]']))
@settings(max_examples=150)
def test_a_stream_is_the_same_in_whatever_pieces_it_comes(data: st.DataObject, tokens: int, text: str) -> None:
    wire = stream_of(tokens, text)
    cuts = data.draw(st.lists(st.integers(1, len(wire) - 1), max_size=12))
    incoming = Incoming()
    incoming.expect(True)
    states = feed(incoming, wire, cuts)
    assert states[-1] == "whole"
    assert set(states[:-1]) <= {"more"}
    whole = incoming.whole()
    said = read_answer(whole.status, whole.events, whole.body)
    assert (said.outcome, said.prompt_tokens, said.generated_tokens) == ("finished", 9, tokens)
    assert not said.last_event_bears_token
    if text != "data: {":  # the marker within a text would be counted: a model that speaks of SSE
        assert len(incoming.event_times()) == tokens + 1


def test_a_long_stream_is_not_held() -> None:
    wire = stream_of(5000)
    incoming = Incoming()
    states = feed(incoming, wire, list(range(1000, len(wire), 1000)))
    assert states[-1] == "whole"
    assert len(incoming._buffer) <= MOST_KEPT
    whole = incoming.whole()
    assert read_answer(whole.status, whole.events, whole.body).generated_tokens == 5000


@given(st.data(), st.sampled_from([200, 400]))
@settings(max_examples=50)
def test_an_answer_with_a_length_ends_at_its_length(data: st.DataObject, status: int) -> None:
    body = b'{"choices":[{"text":"\\r\\n0\\r\\n"}],"usage":{"prompt_tokens":3,"completion_tokens":4},"detail":"no"}'
    wire = b"HTTP/1.1 %d Whatever\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body
    incoming = Incoming()
    states = feed(incoming, wire, data.draw(st.lists(st.integers(1, len(wire) - 1), max_size=6)))
    assert states == ["more"] * (len(states) - 1) + ["whole"]
    whole = incoming.whole()
    assert whole.body == body
    said = read_answer(whole.status, whole.events, whole.body)
    assert (said.outcome, said.generated_tokens) == (("finished", 4) if status == 200 else ("refused", -1))
    assert said.message == ("" if status == 200 else "no")
    assert incoming.feed(b"x", 0.0) == "malformed", "more than the length"


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 okay\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000,
    ],
)
def test_what_is_not_http_is_malformed(wire: bytes) -> None:
    assert Incoming().feed(wire, 0.0) == "malformed"


@pytest.mark.parametrize(
    ("events", "body", "outcome", "message"),
    [
        (True, b'data: {"choices":[{}]}\n\ndata: {"error":{"message":"engine died"}}\n\ndata: [DONE]', "lost", "died"),
        (True, b'data: {"choices":[{}]}\n\ndata: [DONE]\n\n', "malformed", "no usage"),
        (True, b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n', "malformed", "DONE"),
        (False, b"<html>", "malformed", "not JSON"),
        (False, b"[1]", "malformed", "not an object"),
        (False, b'{"error":{"message":"too long"}}', "refused", "too long"),
        (False, b'{"usage":{"prompt_tokens":null,"completion_tokens":2}}', "malformed", "no usage"),
    ],
)
def test_answers_that_say_less_than_they_should(events: bool, body: bytes, outcome: str, message: str) -> None:
    said = read_answer(200, events, body)
    assert said.outcome == outcome
    assert message in said.message


def test_a_long_error_is_one_short_line() -> None:
    said = read_answer(500, False, ("line\n" * 500).encode())
    assert "\n" not in said.message
    assert len(said.message) <= 300


def test_a_request_is_whole_and_a_header_cannot_hold_another() -> None:
    wire = prepare(Address("h", 1), "/p", {"a": [1, 2]}, "id-7", 0.0, 1, [("X-A", "b")]).wire
    head, _, body = wire.partition(b"\r\n\r\n")
    assert json.loads(body) == {"a": [1, 2]}
    assert re.findall(rb"(?m)^(?:Content-Length|X-Request-Id|X-A|Host): .*?$", head.replace(b"\r", b"")) == [
        b"Host: h:1",
        b"X-Request-Id: id-7",
        b"X-A: b",
        b"Content-Length: %d" % len(body),
    ]
    with pytest.raises(ValueError, match="line end"):
        request_bytes("GET", "h", "/", b"", [("X-A", "b\r\nX-B: c")])


def test_cpu_lists_of_the_kernel() -> None:
    assert parse_cpus("0-2,7,9-9\n") == {0, 1, 2, 7, 9}
    assert parse_cpus("\n") == frozenset()
