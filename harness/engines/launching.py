"""Launching a serving engine on this machine: command, environment, process, readiness, and what was resolved."""

import functools
import http.client
import os
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.clock import Clock
from harness.engines import commandline, placement
from harness.engines.base import LaunchOptions
from harness.engines.client import Address, Client
from harness.engines.dialect import COMPLETIONS, HEALTH, completion
from harness.engines.failures import launch_failure
from harness.engines.inside.steplog import PATH_VARIABLE
from harness.engines.kit import write_kit
from harness.engines.process import EngineProcess
from harness.engines.recipe import Part, Recipe, Site
from harness.engines.recipes import recipe
from harness.engines.server import HANG_LIMIT_S, ServerEngine
from harness.engines.steps import StepTail, check_attached, read_description
from harness.errors import DiskTooSmall, EngineError
from harness.points import Deployment

LOOK_S = 0.25
ANSWER_LIMIT_S = 120.0
"""The first completion may compile and capture what the start did not."""
LONGEST_LOG_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What to launch and where.

    Attributes:
        gpus: index (in PCI order) and UUID of each; empty on a machine without.
        workdir: logs and model folders live here, one folder per launch; it is made if absent.
        seed: of the engine's own random numbers (dummy weights among them).
        hang_limit_s: with work outstanding, it may be silent for so long.
        part: of an engine over several machines, which is ours.
        started: told of the process as soon as it runs.
    """

    deployment: Deployment
    options: LaunchOptions
    gpus: tuple[tuple[int, str], ...]
    workdir: Path
    seed: int
    clock: Clock
    hang_limit_s: float = HANG_LIMIT_S
    part: Part | None = None
    started: Callable[[EngineProcess], None] = lambda process: None


def engine_version(deployment: Deployment, options: LaunchOptions) -> str:
    """Version of the engine that would be launched, found without launching it; asked once per command.

    Raises:
        EngineUnavailable: not installed, or no such engine.
        BadInput: a placeholder that does not exist.
    """
    return _version(deployment.limits.engine, options.command, tuple(sorted(options.environment.items())))


@functools.cache
def _version(engine: str, command: tuple[str, ...], added: tuple[tuple[str, str], ...]) -> str:
    made = recipe(engine)
    environment = commandline.process_environment(os.environ, dict(added), ())
    # A container's command is run for this as well: its folders must be there, and one GPU is enough to ask.
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        values = {"python": sys.executable, "model": folder, "workdir": folder, "port": "0", "gpus": "0"}
        return made.version(commandline.fill(command or made.command, values, ()), environment)


def launch_engine(request: LaunchRequest) -> ServerEngine:
    """Start the engine and wait until it has answered a request.

    Raises:
        EngineUnavailable: not installed.
        LaunchFailed: one of its kinds, with the log's tail and path; nothing stays behind.
        BadInput: a placeholder that does not exist.
    """
    deployment, options = request.deployment, request.options
    version = engine_version(deployment, options)
    placed, site, prepared, process = _start(request)
    client = Client(Address("127.0.0.1", site.port), cpus=placed.client)
    try:
        request.started(process)
        _wait_ready(process, client, deployment, options.ready_limit_s)
        check_attached(prepared.step_log)
    except BaseException:
        # SIGTERM first, also for one that failed: `docker run` passes that on to its container, and SIGKILL not.
        client.close()
        process.stop()
        raise
    load_s = time.monotonic() - process.started_s
    launched = {
        **_described(placed, prepared, process),
        "version": version,
        "resolved": read_description(prepared.step_log),
        "load_s": round(load_s, 3),
    }
    return ServerEngine(
        process,
        client,
        StepTail(prepared.step_log),
        deployment,
        gpu_uuids=tuple(uuid for _, uuid in request.gpus),
        version=version,
        load_s=load_s,
        launched=launched,
        hang_limit_s=request.hang_limit_s,
    )


class Following:
    """What this machine runs of an engine that is asked for tokens elsewhere.

    Attributes:
        gpu_uuids: that it holds; launched: how it was started, for records.
    """

    def __init__(self, process: EngineProcess, gpu_uuids: tuple[str, ...], launched: Mapping[str, object]) -> None:
        self._process, self.gpu_uuids, self.launched = process, gpu_uuids, launched

    @property
    def pids(self) -> tuple[int, ...]:
        """Roots of its process tree."""
        return (self._process.keeper_pid,)

    @property
    def ended(self) -> str:
        """How it ended and the last lines of its log; "" while it runs."""
        if self._process.exit_code is None:
            return ""
        return f"{self._process.how_it_ended} (log: {self._process.log_path})\n{self._process.tail()}"

    def stop(self) -> None:
        """Raises EngineError: some of its processes would not end."""
        self._process.stop()


def start_part(request: LaunchRequest) -> Following:
    """Start our part of an engine over several machines; whoever runs its first part waits until it is ready.

    Raises:
        EngineUnavailable, DiskTooSmall, BadInput: as `launch_engine`.
    """
    placed, _, prepared, process = _start(request)
    return Following(process, tuple(uuid for _, uuid in request.gpus), _described(placed, prepared, process))


def _start(request: LaunchRequest) -> tuple[placement.Placement, Site, "_Prepared", EngineProcess]:
    made = recipe(request.deployment.limits.engine)
    placed = placement.place(tuple(uuid for _, uuid in request.gpus))
    site = _site(request, placed)
    prepared = _Prepared.of(made, request, site)
    process = EngineProcess(prepared.words, prepared.environment, site.folder / "engine.log", placed.engine)
    return placed, site, prepared, process


def _described(placed: placement.Placement, prepared: "_Prepared", process: EngineProcess) -> dict[str, object]:
    return {
        "argv": commandline.redacted_words(prepared.words),
        "environment": commandline.redacted(prepared.environment),
        "cpus": placed.described(),
        "log_path": str(process.log_path),
    }


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A command with everything filled in."""

    words: list[str]
    environment: dict[str, str]
    step_log: Path

    @staticmethod
    def of(made: Recipe, request: LaunchRequest, site: Site) -> "_Prepared":
        deployment, options = request.deployment, request.options
        values = {
            "python": sys.executable,
            "model": made.model(deployment, options, site),
            "workdir": str(site.folder),
            "port": str(site.port),
            "gpus": ",".join(str(index) for index in site.gpus),
        }
        arguments = [*made.arguments(deployment, options, site), *options.arguments]
        words = commandline.fill(options.command or made.command, values, arguments)
        step_log = site.folder / "steps.log"
        added = {**made.environment(deployment, options, site), **options.environment, PATH_VARIABLE: str(step_log)}
        environment = commandline.process_environment(os.environ, added, site.gpus)
        return _Prepared(words, commandline.with_search_path(environment, str(write_kit(site.folder))), step_log)


def _site(request: LaunchRequest, placed: placement.Placement) -> Site:
    folder = request.workdir.resolve() / f"{request.deployment.limits.engine}-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise DiskTooSmall(f"{folder} cannot be made: {error}") from error
    return Site(
        folder=folder,
        port=free_port(),
        gpus=tuple(index for index, _ in request.gpus),
        cpus=tuple(sorted(placed.engine or os.sched_getaffinity(0))),
        seed=request.seed % (1 << 31),
        part=request.part,
    )


def free_port(address: str = "127.0.0.1") -> int:
    """A port of this address on which nothing listens now; of loopback where none is given."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_ready(process: EngineProcess, client: Client, deployment: Deployment, limit_s: float) -> None:
    """Until it is healthy and has served one request; a server may answer /health and die of the first one."""
    until_s = process.started_s + limit_s
    while not _healthy(client):
        if process.exit_code is not None:
            raise _failure(process, process.how_it_ended)
        if time.monotonic() > until_s:
            raise _failure(process, f"was not ready within {limit_s:g} s")
        time.sleep(LOOK_S)
    body = completion(deployment.model.name, [3, 4, 5, 6], 2, stream=False)
    try:
        left_s = max(1.0, min(ANSWER_LIMIT_S, until_s - time.monotonic()))
        status, answer = client.request("POST", COMPLETIONS, body=body, timeout_s=left_s)
    except (OSError, http.client.HTTPException) as error:
        time.sleep(LOOK_S)
        state = process.how_it_ended
        raise _failure(process, f"was healthy but did not serve its first request: {error} ({state})") from error
    if status != 200:
        text = " ".join(answer.decode("utf-8", "replace").split())[:300]
        raise _failure(process, f"answered its first request with {status}: {text}")


def _healthy(client: Client) -> bool:
    try:
        status, _ = client.request("GET", HEALTH, timeout_s=5.0)
    except (OSError, http.client.HTTPException):
        return False
    return status == 200


def _failure(process: EngineProcess, happened: str) -> EngineError:
    with process.log_path.open("rb") as file:
        log = file.read(LONGEST_LOG_BYTES).decode("utf-8", "replace")
    return launch_failure(happened, log, process.tail(), str(process.log_path))
