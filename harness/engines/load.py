"""Requests under way: the loop that sends each at its time and notes when its first token and its end came."""

from array import array
from collections.abc import Callable, Sequence
from math import inf, nan
from time import monotonic

from harness.engines.answer import Said, read_answer
from harness.engines.base import Outcome
from harness.engines.http1 import Whole
from harness.engines.pace import Pace
from harness.engines.sockets import READ_BYTES, WRITES, Connection, Sockets, both_clocks

SETTLED_S = 0.01
"""A stream that still goes on so long after its first token comes at a pace: nobody waits for the rest of it."""
SWEEP_S = 0.05
"""How often followed streams are read, when the times of their tokens are not asked for. What arrived last in each is
stamped by the kernel, so an end costs no precision."""


class Load:
    """One call's worth of requests; times are monotonic, by request, NaN where the thing never came."""

    def __init__(self, sockets: Sockets, wires: Sequence[bytes], chunk_times: bool) -> None:
        n = len(wires)
        self._sockets, self._wires = sockets, wires
        self.due_s, self.sent_s = array("d", [nan]) * n, array("d", [nan]) * n
        self.first_token_s, self.finished_s = array("d", [nan]) * n, array("d", [nan]) * n
        self.chunk_s = [array("d") for _ in wires] if chunk_times else None
        self._whole: list[Whole | None] = [None] * n
        self._failed: dict[int, Said] = {}
        self._following = False
        self._pace = Pace() if chunk_times else None
        self._period_s = self._pace.period_s if self._pace else SWEEP_S
        self._sweep_s = inf  # when followed streams are read next
        self._under_way = 0
        self._unsent = 0

    def open_loop(
        self,
        start_s: float,
        offsets_s: Sequence[float],
        deadline_s: float,
        on_all_sent: Callable[[], None] | None,
        gone: Callable[[], bool],
    ) -> None:
        """Each leaves `offsets_s` after the start, whatever became of the others. Ends at the deadline, or when
        the server is `gone`."""
        self._following = True
        self.due_s = array("d", (start_s + offset_s for offset_s in offsets_s))
        order = sorted(range(len(offsets_s)), key=self.due_s.__getitem__)
        position, n = 0, len(order)
        while position < n or self._under_way:
            now_s = monotonic()
            if now_s >= deadline_s or gone():
                return
            while position < n and self.due_s[order[position]] <= now_s:
                self._begin(order[position])
                position += 1
            if position == n and not self._unsent and on_all_sent is not None:
                on_all_sent()
                on_all_sent = None
            if position < n or self._under_way:
                next_s = self.due_s[order[position]] if position < n else deadline_s
                self._serve(min(next_s, deadline_s))

    def closed_loop(self, concurrency: int, deadline_s: float) -> None:
        """`concurrency` under way at all times: the next leaves when one is answered, and is due then."""
        position, n = 0, len(self._wires)
        while position < n or self._under_way:
            now_s = monotonic()
            if now_s >= deadline_s:
                return
            while position < n and self._under_way < concurrency:
                self.due_s[position] = monotonic()
                self._begin(position)
                position += 1
            if self._under_way:
                self._serve(deadline_s)

    def abandon(self, outcome: Outcome, message: str) -> None:
        """Close every connection with a request on it; what is not finished ends so."""
        for connection in list(self._sockets.by_fd.values()):
            if connection.request >= 0:
                self._end(connection, Said(outcome, message))
        for request, whole in enumerate(self._whole):
            if whole is None:
                self._failed.setdefault(request, Said(outcome, message))

    def said(self) -> list[tuple[int, Said]]:
        """Status and content of every answer, in order; to be asked when the load is over."""
        return [
            (whole.status, read_answer(whole.status, whole.events, whole.body)) if whole else (0, self._failed[request])
            for request, whole in enumerate(self._whole)
        ]

    def _begin(self, request: int) -> None:
        try:
            connection = self._sockets.take()
        except OSError as error:
            self._failed[request] = Said("refused", f"cannot connect: {error}")
            return
        connection.request = request
        connection.incoming.expect(self.chunk_s is not None)
        self._under_way += 1
        self._send(connection, memoryview(self._wires[request]))

    def _send(self, connection: Connection, data: memoryview) -> None:
        """Hand bytes to the kernel; what it does not take now goes when it can."""
        waited = connection.unsent is not None
        try:
            taken = connection.socket.send(data)
        except BlockingIOError:
            taken = 0
        except OSError as error:
            self._fail(connection, error)
            return
        if taken == len(data):
            self.sent_s[connection.request] = monotonic()
            if waited:
                self._unsent -= 1
                connection.unsent = None
                self._sockets.watch_writes(connection, False)
            return
        connection.unsent = data[taken:]
        if not waited:
            self._unsent += 1
            self._sockets.watch_writes(connection, True)

    def _serve(self, until_s: float) -> None:
        """See to what happens until then, or until a request ends or has left."""
        by_fd, under_way, unsent, now_s = self._sockets.by_fd, self._under_way, self._unsent, monotonic()
        while True:
            if self._sweep_s < until_s:
                events = self._sockets.wait_about(self._sweep_s - now_s)
            else:
                events = self._sockets.wait(until_s - now_s)
            # One stamp for all that was ready: handling the others first does not make an arrival later.
            now_s = monotonic()
            for fd, event in events:
                connection = by_fd.get(fd)
                if connection is None:
                    continue
                if event & WRITES and connection.unsent is not None:
                    self._send(connection, connection.unsent)
                if event == WRITES:
                    continue
                try:
                    data = connection.socket.recv(READ_BYTES)
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._fail(connection, error)
                else:
                    self._take(connection, data, now_s)
            if now_s >= self._sweep_s:
                self._sweep(now_s)
            if self._under_way != under_way or self._unsent != unsent or now_s >= until_s:
                return

    def _sweep(self, now_s: float) -> None:
        """Read the followed streams until each has nothing more."""
        moved = self._sockets.moved()
        if moved:
            monotonic_s, wall_s = both_clocks()
            for connection in moved:
                while connection.followed:
                    try:
                        data, age_s = connection.read_stamped(wall_s)
                    except BlockingIOError:
                        break
                    except OSError as error:
                        self._fail(connection, error)
                        break
                    self._take(connection, data, monotonic_s - age_s)
                    if len(data) < READ_BYTES:
                        break
        if self._pace:
            self._pace.note(now_s, self._sockets.followed, len(moved))
            self._period_s = self._pace.period_s
        self._sweep_s = now_s + self._period_s if self._sockets.followed else inf

    def _take(self, connection: Connection, data: bytes, now_s: float) -> None:
        """Bytes that arrived at `now_s`; none are the end of the connection."""
        if not data or connection.request < 0:
            self._fail(connection, None)
            return
        incoming = connection.incoming
        state = incoming.feed(data, now_s)
        if state == "more":
            if self._following and not connection.followed and now_s - incoming.first_event_s > SETTLED_S:
                self._sockets.follow(connection)
                self._sweep_s = min(self._sweep_s, now_s + self._period_s)
        elif state == "whole":
            request = connection.request
            self._note(connection)
            self._under_way -= 1
            self.finished_s[request] = now_s
            self._whole[request] = incoming.whole()
            if incoming.closes:
                self._sockets.drop(connection)
            else:
                self._sockets.rest(connection, now_s)
        else:
            self._end(connection, Said("malformed", "not an HTTP answer with a length or in chunks"))

    def _note(self, connection: Connection) -> None:
        """Times of what came of an answer, whole or not."""
        self.first_token_s[connection.request] = connection.incoming.first_event_s
        if self.chunk_s is not None:
            self.chunk_s[connection.request] = connection.incoming.event_times()

    def _fail(self, connection: Connection, error: OSError | None) -> None:
        """The connection is of no more use; an idle one goes silently."""
        if isinstance(error, ConnectionRefusedError):
            self._end(connection, Said("refused", f"cannot connect: {error}"))
        else:
            self._end(connection, Said("lost", f"the server closed the connection{f': {error}' if error else ''}"))

    def _end(self, connection: Connection, said: Said) -> None:
        self._sockets.drop(connection)
        if connection.request >= 0:
            self._note(connection)
            self._under_way -= 1
            self._unsent -= connection.unsent is not None
            self._failed[connection.request] = said
            connection.request = -1
