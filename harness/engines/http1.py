"""HTTP/1.1, as much of it as a client of a serving engine needs: the bytes of a request, the end of an answer.

An answer is watched, not parsed, while it arrives: what it says is read afterwards (answer.py). Answers have a length,
or come in chunks (RFC 9112, section 7.1).
"""

import re
from array import array
from collections.abc import Iterable
from math import nan
from typing import Literal, NamedTuple

END_OF_CHUNKS = b"\r\n0\r\n\r\n"
"""Ends a chunked answer. Chunks of JSON and of server-sent events cannot contain it: JSON escapes its line ends, and
an event has no line that is a bare 0."""
FRAMING = re.compile(rb"\r\n[0-9A-Fa-f]+\r\n")
MOST_KEPT, TAIL = 1 << 16, 1 << 15
"""Bytes of a chunked answer held at most, and what remains of them then: the last event is far shorter."""
LONGEST_HEAD = 1 << 16
EVENT = b"data: {"

State = Literal["more", "whole", "malformed"]


def request_bytes(method: str, host: str, path: str, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """A whole request. Raises ValueError where a header holds a line end."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines.append(f"Content-Length: {len(body)}")
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError(f"a line end in the head of a request: {lines}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class Whole(NamedTuple):
    """A complete answer, kept as it came until the load is over."""

    status: int
    events: bool
    chunked: bool
    raw: bytes

    @property
    def body(self) -> bytes:
        """Without the framing of chunks."""
        return FRAMING.sub(b"", self.raw) if self.chunked else self.raw


class Incoming:
    """The answer that a connection is receiving.

    Attributes:
        status: 0 until the head is there.
        flowing: a stream of events in chunks whose first event has come (an engine sends none before the first token).
        first_event_s: when that was; NaN before.
        closes: the server closes the connection after this answer.
    """

    __slots__ = (
        "_begin",
        "_buffer",
        "_chunked",
        "_ends",
        "_events",
        "_reads_s",
        "_whole",
        "closes",
        "first_event_s",
        "flowing",
        "status",
    )

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.expect(False)

    def expect(self, event_times: bool) -> None:
        """Ready for the next answer; with `event_times`, all of a stream is held until its end."""
        self._buffer.clear()
        self._reads_s = array("d") if event_times else None
        self._ends = array("q")
        self.status = self._begin = self._whole = 0
        self._chunked = self._events = self.flowing = self.closes = False
        self.first_event_s = nan

    def feed(self, data: bytes, now_s: float) -> State:
        """Take what arrived. This runs for every token: of a stream that flows it looks for nothing but the end."""
        buffer = self._buffer
        buffer += data
        if self._reads_s is not None:
            self._reads_s.append(now_s)
            self._ends.append(len(buffer))
        if not self.flowing:
            return self._begin_answer(now_s)
        if buffer.endswith(END_OF_CHUNKS):
            return "whole"
        if len(buffer) > MOST_KEPT and self._reads_s is None:
            del buffer[:-TAIL]
        return "more"

    def _begin_answer(self, now_s: float) -> State:
        """Until the head is there, and the first event; or, of what is no stream, until all of it is."""
        buffer = self._buffer
        if not self.status:
            state = self._read_head()
            if state != "whole":
                return state
        if self._events and self._chunked and buffer.find(EVENT, self._begin) >= 0:
            self.flowing = True
            self.first_event_s = now_s
        if self._chunked:
            return "whole" if buffer.endswith(END_OF_CHUNKS) else "more"
        if len(buffer) > self._whole:
            return "malformed"
        return "whole" if len(buffer) == self._whole else "more"

    def _read_head(self) -> State:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            plausible = self._buffer.startswith(b"HTTP/1."[: len(self._buffer)]) and len(self._buffer) < LONGEST_HEAD
            return "more" if plausible else "malformed"
        first, *lines = bytes(self._buffer[:end]).lower().split(b"\r\n")
        if not re.match(rb"http/1\.1 [1-5]\d\d", first):
            return "malformed"
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        # The two bytes before the body belong to what is searched for the end: an empty answer is `0` at once.
        self._begin = end + 2
        self._chunked = fields.get(b"transfer-encoding") == b"chunked"
        self._events = fields.get(b"content-type", b"").startswith(b"text/event-stream")
        self.closes = fields.get(b"connection") == b"close"
        length = fields.get(b"content-length", b"")
        if not self._chunked and not length.isdigit():
            return "malformed"
        self._whole = end + 4 + int(length or 0)
        self.status = int(first[9:12])
        return "whole"

    def event_times(self) -> "array[float]":
        """When each event of the stream came: when the read returned that completed its marker."""
        times_s = array("d")
        before = self._begin
        for read_s, end in zip(self._reads_s or (), self._ends, strict=True):
            begin = max(before - len(EVENT) + 1, self._begin)
            times_s.extend([read_s] * self._buffer.count(EVENT, begin, end))
            before = end
        return times_s

    def whole(self) -> Whole:
        """The answer that is complete now; of a stream of events, the last one and what follows it."""
        begin = self._buffer.rfind(EVENT) if self._events else self._begin + 2 * (not self._chunked)
        return Whole(self.status, self._events, self._chunked, bytes(self._buffer[max(begin, 0) :]))
