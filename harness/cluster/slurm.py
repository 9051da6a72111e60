"""Nodes that Slurm gives: a Ray head beside the controller, and a job for each node that joins it, through submitit.

Each job has its node to itself until the controller ends or the time limit comes. One that Slurm preempts is queued
again, and joins again as a node that came back.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.cluster.ray import KIND_LABEL, RESOURCE, RayFleet, ray_fleet
from harness.cluster.rayconnect import host_ip, listens
from harness.cluster.raytoken import write_token
from harness.cluster.remote import RemoteAgent
from harness.deployment.sweepfile import Sweep
from harness.errors import BadInput, ClusterError
from harness.store.files import make_folder
from harness.store.lock import check_free

FOLDER = ".cluster"
"""In the results folder, which all nodes must see: the token, the head's log, what submitit writes."""
_JOBS = "jobs"
MARGIN_S = 15 * 60.0
"""Of a job's time limit over the budget: engines stop, runs are stored."""
WAIT_FOR_REQUEUED_S = 1800.0
_OBJECT_STORE_BYTES = 200_000_000
_HEAD_LIMIT_S = 180.0
_SAY_EVERY_S = 60.0
_END_LIMIT_S = 15.0
_PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""
_RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats")
_SMALL = ("--object-store-memory", str(_OBJECT_STORE_BYTES), "--include-log-monitor=false")


@dataclass(frozen=True, slots=True)
class SlurmOrder:
    """What to ask Slurm for.

    Attributes:
        nodes: jobs, of one node each.
        budget_s: of the sweep; jobs get `MARGIN_S` more.
        partition: empty: Slurm's default.
        parameters: further options of sbatch, such as ("gpus-per-node", "8").
        executor: `local` runs the jobs on this machine instead, for tests.
    """

    nodes: int
    budget_s: float
    partition: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    executor: Literal["slurm", "local"] = "slurm"


class NodeJob:
    """A job: a node of the Ray cluster until one of the two ends. It is pickled, with nothing secret in it."""

    def __init__(self, address: str, environment: Mapping[str, str], kind: str) -> None:
        self.address, self.environment, self.kind = address, dict(environment), kind

    def __call__(self) -> int:
        """Join, and stay; the exit code of Ray."""
        command = [*_RAY, *_SMALL, "--address", self.address, "--resources", json.dumps({RESOURCE: 1})]
        if self.kind:
            command += ["--labels", f"{KIND_LABEL}={self.kind}"]
        with _process(command, self.environment, None) as process:
            return process.wait()

    def checkpoint(self) -> Any:
        """Asked for when Slurm preempts the job: the same again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


@contextmanager
def slurm_fleet(
    sweep: Sweep, seed: int, results: Path, order: SlurmOrder, say: Callable[[str], None]
) -> Iterator[RayFleet]:
    """Start a head, ask Slurm for nodes, and wait for the first one.

    Args:
        say: told in a line while that takes long.

    Raises:
        BadInput: submitit, Ray or Slurm is missing here, or Slurm refuses what is asked of it.
        StoreRefused: another process writes to the folder.
        ClusterError: the head does not start; all jobs ended before a node joined.
        Whatever a node was refused for, where no other can come.
    """
    check_free(results)
    folder = _own_folder(results.absolute())
    executor = _executor(order, folder)
    kinds = [spec.kind for spec in sweep.nodes] if sweep.simulate else [""]
    option, ip = "--cluster slurm", host_ip()
    if ip.startswith("127."):
        raise ClusterError(f"{option}: this machine has no address at which nodes could reach it")
    with (
        _token(folder) as environment,
        _head(ip, folder, environment) as address,
        ray_fleet(sweep, seed, results, address, option, WAIT_FOR_REQUEUED_S) as fleet,
    ):
        jobs: list[Any] = []
        try:
            for number in range(order.nodes):
                jobs.append(_submit(executor, NodeJob(address, environment, kinds[number % len(kinds)])))
            _wait_for_nodes(fleet, jobs, say)
            yield fleet
        finally:
            fleet.close()
            for job in jobs:
                job.cancel(check=False)
            # A node that outlives its head lingers for a minute.
            until_s = time.monotonic() + _END_LIMIT_S
            while fleet.measuring() and time.monotonic() < until_s:
                time.sleep(0.2)


def _own_folder(results: Path) -> Path:
    """`.cluster`, for its owner alone whatever the umask: jobs load the pickles that lie in it.

    Raises:
        StoreRefused: the results folder cannot be made.
        ClusterError: this one cannot, or is another's.
    """
    make_folder(results)
    folder = results / FOLDER
    for path in (folder, folder / _JOBS):
        try:
            path.mkdir(0o700, exist_ok=True)
            path.chmod(0o700)
        except OSError as error:
            raise ClusterError(f"{path}: {error.strerror or error}") from error
    return folder


@contextmanager
def _token(folder: Path) -> Iterator[dict[str, str]]:
    """A token of this command alone, while it runs; the variables by which Ray finds it."""
    path = folder / f"token-{os.getpid()}"
    environment = write_token(path)
    os.environ.update(environment)
    try:
        yield environment
    finally:
        with suppress(OSError):
            path.unlink()


def _executor(order: SlurmOrder, folder: Path) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise BadInput(
            "--cluster", "slurm", "the extra slurm", "pip install 'harness[slurm]'; the nodes need it as well"
        ) from error
    try:
        executor = submitit.AutoExecutor(folder / _JOBS, cluster=order.executor, slurm_max_num_timeout=0)
    except RuntimeError as error:
        raise BadInput("--cluster", f"slurm ({error})", "a machine with Slurm's sbatch and srun") from error
    executor.update_parameters(
        name="harness",
        timeout_min=int((order.budget_s + MARGIN_S) // 60) + 1,
        nodes=1,
        tasks_per_node=1,
        slurm_exclusive=True,
        slurm_additional_parameters=dict(order.parameters),
        **({"slurm_partition": order.partition} if order.partition else {}),
    )
    return executor


def _submit(executor: Any, job: NodeJob) -> Any:
    from submitit.core.utils import FailedJobError

    try:
        return executor.submit(job)
    except (FailedJobError, subprocess.CalledProcessError, OSError) as error:
        raise BadInput("--cluster slurm", str(error), "what Slurm accepts", "--slurm-partition, --slurm-set") from error


def _last_line(output: str | None) -> str:
    return ((output or "").strip() or "no output").splitlines()[-1]


def _wait_for_nodes(fleet: RayFleet, jobs: Sequence[Any], say: Callable[[str], None]) -> Sequence[RemoteAgent]:
    """Wait for the first node that can measure; a queue may be long.

    Raises:
        BadInput, EngineUnavailable: a node cannot measure, and no job is left that could bring another.
        ClusterError: every job has ended.
    """
    said_s = time.monotonic()
    while not (agents := fleet.present()):
        left = sum(not job.done() for job in jobs)
        taken = sum(node["NodeID"] in fleet.refused for node in fleet.measuring())
        if fleet.refused and left <= taken:
            raise next(iter(fleet.refused.values()))
        if not left:
            ends = [f"job {job.job_id}: {_last_line(job.stderr())}" for job in jobs]
            raise ClusterError(f"every Slurm job ended before its node joined: {'; '.join(ends)}")
        if time.monotonic() - said_s > _SAY_EVERY_S:
            said_s = time.monotonic()
            say("Waiting for Slurm: " + ", ".join(f"job {job.job_id} {job.state}" for job in jobs))
        time.sleep(0.5)
    return agents


@contextmanager
def _head(ip: str, folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """A Ray head on this machine, which measures nothing; its address.

    Raises:
        ClusterError: it does not start.
    """
    with socket.socket() as probe:
        probe.bind((ip, 0))
        port = probe.getsockname()[1]
    command = [*_RAY, *_SMALL, "--head", "--node-ip-address", ip, "--port", str(port), "--num-cpus=0", "--num-gpus=0"]
    log = folder / "head.log"
    with _process([*command, "--include-dashboard=false"], environment, log) as process:
        until_s = time.monotonic() + _HEAD_LIMIT_S
        while not listens(ip, port):
            if process.poll() is not None or time.monotonic() > until_s:
                raise ClusterError(f"the Ray head did not start; see {log}")
            time.sleep(0.2)
        yield f"{ip}:{port}"


def _end_with_parent() -> None:
    """Have the kernel end this process as soon as its parent is gone, also one that was killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


@contextmanager
def _process(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None
) -> "Iterator[subprocess.Popen[bytes]]":
    """`ray start --block`, which ends all that it started when it is told to end."""
    output = None if log is None else log.open("ab")
    process = subprocess.Popen(  # noqa: S603
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if log is None else subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if output is not None:
            output.close()
