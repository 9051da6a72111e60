"""Connections to one server: opened at need and never capped, kept while they are fresh, watched by epoll.

A stream of tokens past its first is followed instead of watched: nothing wakes for it, it is looked at now and then,
and the kernel's own stamp says when the last of its bytes came.
"""

import errno
import select
import socket
import struct
from dataclasses import dataclass
from time import CLOCK_REALTIME, clock_gettime, monotonic

from harness.engines.http1 import Incoming
from harness.errors import EngineCrashed

READS, WRITES = select.EPOLLIN, select.EPOLLOUT
IDLE_LIMIT_S = 2.0
"""A used connection is given up after so long: servers close them (uvicorn after 5 s), and a request that crosses with
such a close is lost."""
COARSE_S = 0.002
"""epoll counts in milliseconds; what is nearer than this is waited for with select, in microseconds."""
CLOCK_LOOKS, CLOCK_APART_S = 5, 1e-4
EVENTS_AT_ONCE = 64
READ_BYTES = 1 << 13
"""At most this is read at once; less than what http1 keeps of a stream."""
LONGEST_WAIT_S = 60.0
STAMPS = getattr(socket, "SO_TIMESTAMPNS", 35)
"""SO_TIMESTAMPNS of linux/asm-generic/socket.h, which Python does not name; the stamp is a struct timespec."""
TIMESPEC = struct.Struct("@qq")


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Connection:
    """One socket and what is under way on it: `request` is the number of the request, -1 while idle."""

    __slots__ = ("fd", "followed", "idle_since_s", "incoming", "request", "socket", "unsent")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.fd = opened.fileno()
        self.request = -1
        self.followed = False
        self.unsent: memoryview | None = None
        self.incoming = Incoming()
        self.idle_since_s = float("inf")  # a connection that was never used does not age

    def read_stamped(self, wall_s: float) -> tuple[bytes, float]:
        """What has arrived, and how long before `wall_s` the last of it did. Raises OSError, as `recv` does."""
        data, extras, _, _ = self.socket.recvmsg(READ_BYTES, 64)
        # Stamps are all that was asked for, and one comes with what is read; none where the kernel keeps none.
        if extras and extras[0][1] == STAMPS:
            seconds, nanoseconds = TIMESPEC.unpack(extras[0][2])
            return data, max(wall_s - seconds - nanoseconds * 1e-9, 0.0)
        return data, 0.0


def both_clocks() -> tuple[float, float]:
    """The monotonic clock and the wall clock at one instant: read again where the machine stalled in between."""
    for _ in range(CLOCK_LOOKS):
        before_s, wall_s, after_s = monotonic(), clock_gettime(CLOCK_REALTIME), monotonic()
        if after_s - before_s < CLOCK_APART_S:
            break
    return after_s, wall_s


class Sockets:
    """All connections to one address. `by_fd` holds the open ones; so many of them are `followed`."""

    def __init__(self, address: Address) -> None:
        self.by_fd: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self.followed = 0
        self._epoll, self._quiet = select.epoll(), select.epoll()
        self._precise = self._epoll.fileno() < 1024  # select's limit; beyond it, the last 2 ms are spun away
        # A name is looked up here, never within a window.
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        self._family: int = found[0]
        self._to = found[4]
        self._address = address

    def open_idle(self, connections: int, timeout_s: float) -> None:
        """Have so many idle ones. Raises EngineCrashed where nothing listens."""
        self.forget_stale()
        while len(self._idle) < connections:
            opened = socket.socket(self._family, socket.SOCK_STREAM)
            opened.settimeout(timeout_s)
            try:
                opened.connect(self._to)
            except OSError as error:
                opened.close()
                raise EngineCrashed(f"cannot connect to {self._address}: {error}") from error
            opened.setblocking(False)
            self._idle.append(self._watch(opened))

    def take(self) -> Connection:
        """An idle connection, or a new one that may still be connecting. Raises OSError."""
        oldest_s = monotonic() - IDLE_LIMIT_S
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since_s > oldest_s and self._is_open(connection):
                return connection
            self.drop(connection)
        opened = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        failed = opened.connect_ex(self._to)
        if failed not in (0, errno.EINPROGRESS):
            opened.close()
            raise OSError(failed, errno.errorcode.get(failed, "unknown"))
        return self._watch(opened)

    def _watch(self, opened: socket.socket) -> Connection:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.SOL_SOCKET, STAMPS, 1)
        connection = Connection(opened)
        self.by_fd[connection.fd] = connection
        self._epoll.register(connection.fd, READS)
        return connection

    def rest(self, connection: Connection, now_s: float) -> None:
        """Its request is answered; it may serve another."""
        connection.request = -1
        connection.idle_since_s = now_s
        if connection.followed:
            connection.followed = False
            self.followed -= 1
            self._quiet.unregister(connection.fd)
            self._epoll.register(connection.fd, READS)
        self._idle.append(connection)

    def follow(self, connection: Connection) -> None:
        """Do not wake for it any more; `moved` tells."""
        connection.followed = True
        self.followed += 1
        self._epoll.unregister(connection.fd)
        self._quiet.register(connection.fd, READS)

    def moved(self) -> list[Connection]:
        """The followed connections on which something arrived."""
        ready = self._quiet.poll(0, max(len(self.by_fd), 1))
        return [self.by_fd[fd] for fd, _ in ready if fd in self.by_fd]

    def watch_writes(self, connection: Connection, wanted: bool) -> None:
        self._epoll.modify(connection.fd, READS | WRITES if wanted else READS)

    def drop(self, connection: Connection) -> None:
        """Close it; may be called twice."""
        if self._is_open(connection):
            del self.by_fd[connection.fd]
            self.followed -= connection.followed
            connection.followed = False
            connection.socket.close()

    def _is_open(self, connection: Connection) -> bool:
        """Its descriptor alone does not tell: the next connection gets the same number."""
        return self.by_fd.get(connection.fd) is connection

    def forget_stale(self) -> None:
        """Drop idle connections that the server closed, or soon may."""
        oldest_s = monotonic() - IDLE_LIMIT_S
        closed = {fd for fd, _ in self._epoll.poll(0, max(len(self.by_fd), 1))}
        for connection in self._idle:
            if connection.fd in closed or connection.idle_since_s <= oldest_s:
                self.drop(connection)
        self._idle = [connection for connection in self._idle if self._is_open(connection)]

    def wait_about(self, limit_s: float) -> list[tuple[int, int]]:
        """As `wait`, for which a millisecond more does not matter: one wake at the most."""
        return self._epoll.poll(max(limit_s, 0.0), EVENTS_AT_ONCE)

    def wait(self, limit_s: float) -> list[tuple[int, int]]:
        """(descriptor, events) of what is ready; nothing after `limit_s` at the latest, or sooner."""
        if limit_s > COARSE_S:
            return self._epoll.poll(int(min(limit_s, LONGEST_WAIT_S) * 1000 - 1) / 1000, EVENTS_AT_ONCE)
        if limit_s > 0 and self._precise:
            select.select((self._epoll,), (), (), limit_s)
        return self._epoll.poll(0, EVENTS_AT_ONCE)

    def close(self) -> None:
        for connection in list(self.by_fd.values()):
            self.drop(connection)
        self._idle.clear()
        self._epoll.close()
        self._quiet.close()
