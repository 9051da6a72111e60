"""This process and a Ray cluster: found, asked for its token, connected to, and left."""

import http.client
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.cluster.raytoken import require_token
from harness.errors import BadInput, ClusterError

_CONNECT_LIMIT_S = 60.0
_LISTEN_LIMIT_S = 10.0
_LAST_PORT = 65535
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ADDRESS = re.compile(r"auto|\S+:[0-9]{1,5}")
_STAY_ON_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def connected(address: str, option: str) -> Iterator[Any]:
    """The module `ray`, connected to a cluster for as long as the context lasts.

    Args:
        address: HOST:PORT of its head, or empty: that of RAY_ADDRESS, or of the cluster of this machine.
        option: as it was written, for complaints.

    Raises:
        BadInput: Ray is not installed, there is no token or another one, or no such address can be.
        ClusterError: no cluster answers there.
    """
    os.environ.update(require_token(os.environ, option))
    address = _head_address(address, option)
    if address.rpartition(":")[0] in _LOOPBACK:
        # Ray puts an address of the network in its place, unless it takes the machine for one that has no clusters.
        os.environ.setdefault(_STAY_ON_LOOPBACK, "0")
    ray = _import_ray(option)
    _check_answers(address, option)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace=f"harness-{os.getpid()}")
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise ClusterError(f"{option}: {in_a_line(error)}") from error
    for number, handler in handlers.items():
        # Ray takes SIGTERM for itself, and would end the process before its agents.
        signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _head_address(given: str, option: str) -> str:
    """HOST:PORT of the head, or `auto`.

    Raises:
        BadInput: it is neither.
    """
    address = given or os.environ.get("RAY_ADDRESS", "") or "auto"
    if not _ADDRESS.fullmatch(address) or (address != "auto" and int(address.rpartition(":")[2]) > _LAST_PORT):
        fix = "correct it" if given else "correct it, or unset it and say --cluster ray:HOST:PORT"
        raise BadInput(option if given else "RAY_ADDRESS", address, f"HOST:PORT, a port up to {_LAST_PORT}", fix)
    return address


def _import_ray(option: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise BadInput(option, "Ray is not installed", "the extra ray", "pip install 'harness[ray]'") from error
    # It prints what happens to its processes on standard output, where ours is JSON; we say ourselves what is lost.
    ray._private.worker._worker_logs_enabled = False
    return ray


def _check_answers(address: str, option: str) -> None:
    """See that a cluster answers, in a process of its own: one with another token has Ray try, and log, for long.

    Raises:
        ClusterError: none does.
        BadInput: not with this token.
    """
    host, _, port = address.rpartition(":")
    if host and not listens(host, int(port)):
        raise ClusterError(f"{option}: nothing listens at {address}: start a Ray head there, or name the right address")
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    command += [] if address == "auto" else ["--address", address]
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        timer = threading.Timer(_CONNECT_LIMIT_S, process.kill)
        timer.start()
        try:
            said = ""
            for line in process.stderr:
                said = line.strip() or said
                if "InvalidAuthToken" in line:
                    raise BadInput(
                        option, "the cluster has another token", "the token that the cluster was started with",
                        "copy it from the head",
                    )  # fmt: skip
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
    if code != 0:
        raise ClusterError(f"{option}: no Ray cluster answers at {address}: {said or 'no answer'}")


def check_guarded(where: str, host: str, port: int) -> None:
    """See that a node refuses whoever has no token: a client's token is ignored by a cluster that asks for none.

    Raises:
        BadInput: it answers everybody.
    """
    connection = http.client.HTTPConnection(host, port, timeout=_LISTEN_LIMIT_S)
    try:
        connection.request("GET", "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise ClusterError(f"{where}: {error}") from error
    finally:
        connection.close()
    if status not in (401, 403):
        raise BadInput(
            where, "it asks for no token", "nodes of a cluster that was started with RAY_AUTH_MODE=token",
            "stop the cluster; start it with a token",
        )  # fmt: skip


def listens(host: str, port: int) -> bool:
    """Whether a connection is taken there."""
    try:
        with socket.create_connection((host, port), timeout=_LISTEN_LIMIT_S):
            return True
    except OSError:
        return False


def host_ip() -> str:
    """The address of this machine on its network, as the route to any other says; loopback where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: the address is one for documentation (RFC 5737).
            probe.connect(("203.0.113.1", 9))
        except OSError:
            return _LOOPBACK[0]
        return str(probe.getsockname()[0])


def in_a_line(error: BaseException) -> str:
    """Ray's messages have many lines; the first that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
