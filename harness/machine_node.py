"""This machine as a node: its GPUs, counters and processors, and real engines on them.

Between launches `busy` looks whether others use it; that look also finds a driver that was loaded again and power
limits that were changed, so that a launch never runs in another environment than its records say.
"""

import os
import socket
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePath
from typing import Protocol

from harness.clock import WallClock
from harness.engines.base import Engine, LaunchOptions
from harness.engines.launching import Following, LaunchRequest, engine_version, launch_engine, start_part
from harness.engines.process import EngineProcess
from harness.engines.recipe import Part
from harness.errors import BadInput, EngineUnavailable, LaunchFailed, MeasurementError
from harness.hygiene import busy_reasons
from harness.machine import gpus_of, processor_name, tree_root
from harness.meters.base import GpuState, HostState
from harness.meters.dram import dram_doubts, memory_gib
from harness.meters.host import HostWatch
from harness.meters.nodepower import open_wanted
from harness.meters.nvml import NvmlMeter, in_host_pid_namespace, open_nvml
from harness.meters.rapl import POWERCAP, open_rapl
from harness.meters.reader import AbsentMeter, Meter
from harness.meters.sampler import PollingSampler
from harness.node import board_group
from harness.plan import MeasurementRules
from harness.points import Deployment, Environment, NodeSpec, Source

_LOOK_S = 1.0
_NO_GPUS = "a node without GPUs: the engine computes on the processors"
_BY_A_DAEMON = frozenset({"docker", "podman", "nerdctl", "srun"})
"""Commands whose programs are started by another process: what they start does not descend from us."""


class Rooted(Protocol):
    """Processes of ours."""

    @property
    def pids(self) -> tuple[int, ...]:
        """Roots of their trees."""
        ...


class RealEngine(Engine, Rooted, Protocol):
    """An engine on this machine."""


Launch = Callable[[LaunchRequest], RealEngine]
Started = Callable[[EngineProcess], None]
FindVersion = Callable[[Deployment, LaunchOptions], str]


class MachineNode:
    """A `harness.node.Node` over this machine. Use as a context, or call `close`.

    Args:
        spec: the kind of node that it is.
        options: how to start the engine of each deployment.
        logs: folder for the launches' own folders, each with its engine's log.
        rules: say whether and how the node's power is read, and how busy it may be.
        launch, version: of `harness.engines.launching`; tests give their own.
        powercap: where the kernel shows RAPL.

    Raises:
        BadInput: its GPUs are not those of `spec`, or MIG is enabled on one of them.
    """

    def __init__(
        self,
        spec: NodeSpec,
        options: Mapping[Deployment, LaunchOptions],
        logs: Path,
        rules: MeasurementRules,
        *,
        launch: Launch = launch_engine,
        version: FindVersion = engine_version,
        powercap: Path = POWERCAP,
    ) -> None:
        self._spec, self._options, self._logs, self._rules = spec, dict(options), logs, rules
        self._launch, self._find_version = launch, version
        self._name = socket.gethostname()
        self._clock = WallClock()
        self._processor = processor_name()
        self._engine: Rooted | None = None
        self._adopted: frozenset[int] = frozenset()
        self._by_others = False
        self._versions: dict[tuple[object, ...], str | EngineUnavailable] = {}
        self._gpus = self._open_gpus()
        self._gpus_were = self._name_and_driver()
        self._rapl = open_rapl(powercap)
        self._doubts = AbsentMeter({}, doubts=dram_doubts(self._rapl))
        self._power_limit_w = self._limit_w([])
        self._node_gauge, self._node_reason = open_wanted(rules.node_power)

    def __enter__(self) -> "MachineNode":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the meters; may be called twice. An engine is its launcher's to stop."""
        self._gpus.close()
        self._rapl.close()

    @property
    def name(self) -> str:
        """The host's name."""
        return self._name

    @property
    def spec(self) -> NodeSpec:
        return self._spec

    @property
    def machines(self) -> int:
        return 1

    @property
    def source(self) -> Source:
        return "measured"

    @property
    def clock(self) -> WallClock:
        return self._clock

    @property
    def processor(self) -> str:
        """Name of the processors found, whatever the kind of node says."""
        return self._processor

    def check_engines(self) -> None:
        """See that something can be launched at all.

        Raises:
            EngineUnavailable: none of the engines is installed here.
            BadInput: a command with a placeholder that does not exist.
        """
        found = [self._version_of(deployment) for deployment in self._options]
        missing = dict.fromkeys(str(one) for one in found if isinstance(one, EngineUnavailable))
        if missing and all(isinstance(one, EngineUnavailable) for one in found):
            raise EngineUnavailable("; ".join(missing))

    def busy(self) -> tuple[str, ...]:
        """One look of a second; also takes note of the power limit. No engine of ours may be up.

        A driver that does not answer is a reason as well; it is opened again, so that the next look may find it back.
        """
        self._engine, self._adopted = None, frozenset()
        if self._spec.gpu is not None and not isinstance(self._gpus, NvmlMeter) and (lost := self._reopen()):
            return lost
        host = self._host_watch()
        states: list[GpuState] = []
        hosts: list[HostState] = []
        try:
            for wait_s in (0.0, _LOOK_S):
                self._clock.sleep(wait_s)
                now_s = self._clock.monotonic_s()
                hosts.append(host.state(now_s))
                states += [gauge.state(now_s) for gauge in self._gpus.gauges]
        except MeasurementError as error:
            return (str(error), *self._reopen())
        self._power_limit_w = self._limit_w(states)
        return busy_reasons(states, hosts, os.cpu_count() or 1, self._rules.foreign_cores)

    def environment(self, deployment: Deployment) -> Environment:
        """Cheap: an engine is asked for its version once. The version of one that is not installed is empty."""
        version = self._version_of(deployment)
        gpu_name, driver_version = self._gpus_were
        return Environment(
            source="measured",
            node_kind=self._spec.kind,
            gpu=self._spec.gpu_kind,
            gpu_name=gpu_name,
            driver_version=driver_version,
            engine=deployment.limits.engine,
            engine_version="" if isinstance(version, EngineUnavailable) else version,
            power_limit_w=self._power_limit_w,
            processor=self._processor if self._spec.gpu is None else "",
        )

    def sampler(self) -> PollingSampler:
        return PollingSampler(
            self._meters,
            self._clock,
            host=self._host_watch(),
            node_gauge=self._node_gauge,
            node_reason=self._node_reason,
            memory_gib=memory_gib(),
        )

    def launch(self, deployment: Deployment, seed: int) -> RealEngine:
        return self.lead(deployment, seed, None, lambda process: None)

    def lead(self, deployment: Deployment, seed: int, part: Part | None, started: Started) -> RealEngine:
        """As `launch`: the first part of an engine over several machines, or all of one that is only here.

        Args:
            started: told of the process as soon as it runs.
        """
        request = self._request(deployment, seed, part, started)
        engine = self._launch(request)
        try:
            self.adopt(engine, {uuid for _, uuid in request.gpus})
        except MeasurementError as error:
            engine.stop()
            raise LaunchFailed(f"it became ready, and then a GPU did not answer: {error}") from error
        return engine

    def follow(self, deployment: Deployment, seed: int, part: Part) -> Following:
        """Start a later part of an engine over several machines; `adopt` it once the engine is ready.

        Raises:
            EngineError: it cannot be started.
        """
        return start_part(self._request(deployment, seed, part, lambda process: None))

    def adopt(self, engine: Rooted, uuids: Collection[str]) -> None:
        """Take what runs on these GPUs for this engine's; nothing else does that.

        Raises:
            MeasurementError: a GPU does not answer.
        """
        if self._by_others:
            self._adopted = self._engine_pids_on(uuids)
        self._engine = engine

    def _request(self, deployment: Deployment, seed: int, part: Part | None, started: Started) -> LaunchRequest:
        gpus, options = self._choose_gpus(deployment, seed), self._options[deployment]
        self._engine, self._adopted = None, frozenset()
        by_daemon = any(PurePath(word).name in _BY_A_DAEMON for word in options.command)
        self._by_others = by_daemon or not in_host_pid_namespace()
        return LaunchRequest(deployment, options, gpus, self._logs, seed, self._clock, part=part, started=started)

    @property
    def _meters(self) -> tuple[Meter, ...]:
        return (self._gpus, self._rapl, self._doubts)

    def _version_of(self, deployment: Deployment) -> str | EngineUnavailable:
        options = self._options[deployment]
        key = (deployment.limits.engine, options.command, *sorted(options.environment.items()))
        if key not in self._versions:
            try:
                self._versions[key] = self._find_version(deployment, options)
            except EngineUnavailable as error:
                self._versions[key] = error
        return self._versions[key]

    def _choose_gpus(self, deployment: Deployment, seed: int) -> tuple[tuple[int, str], ...]:
        """Index and UUID of an aligned group of neighbours in PCI order (which is NVML's); launches go round them.

        Raises:
            LaunchFailed: there are not so many.
        """
        if not isinstance(self._gpus, NvmlMeter):
            return ()
        uuids = [gpu.uuid for gpu in self._gpus.gpus]
        wanted = deployment.gpus_per_node
        groups = len(uuids) // wanted
        if groups == 0:
            raise LaunchFailed(f"needs {wanted} GPUs, {self._name} has {len(uuids)}")
        first = board_group(seed, groups) * wanted
        return tuple(enumerate(uuids))[first : first + wanted]

    def _engine_pids_on(self, uuids: Collection[str]) -> frozenset[int]:
        """Roots of the processes on the GPUs that a daemon, or another PID namespace, keeps out of our process tree.

        The node was free just before, and an engine has one process on each of its GPUs: where there are more, one is
        a stranger's, none is taken for ours, and the runs are invalid.
        """
        found: set[int] = set()
        for gauge in self._gpus.gauges:
            if gauge.uuid in uuids:
                pids = gauge.state(self._clock.monotonic_s()).foreign_pids
                if len(pids) > 1:
                    return frozenset()
                found |= {tree_root(pid) for pid in pids}
        return frozenset(found)

    def _engine_pids(self) -> tuple[int, ...]:
        return (() if self._engine is None else self._engine.pids) + tuple(self._adopted)

    def _host_watch(self) -> HostWatch:
        return HostWatch(lambda: (os.getpid(), *self._engine_pids()))

    def _open_gpus(self) -> NvmlMeter | AbsentMeter:
        """Raises BadInput: other GPUs than those of the kind of node, or MIG."""
        if self._spec.gpu is None:
            return AbsentMeter({"gpu": _NO_GPUS})
        meter = open_nvml(self._engine_pids)
        found = gpus_of(meter)
        if not found.makes(self._spec):
            meter.close()
            wanted = f"{self._spec.gpus} x {self._spec.gpu.name}"
            raise BadInput(f"node {self._spec.kind}", found.absent or found.name, wanted)
        return meter

    def _reopen(self) -> tuple[str, ...]:
        """Open the GPUs again after one did not answer; why that failed."""
        self._gpus.close()
        try:
            self._gpus = self._open_gpus()
        except BadInput as error:
            self._gpus = AbsentMeter({"gpu": str(error)})
            return (str(error),)
        self._gpus_were = self._name_and_driver()
        return ()

    def _name_and_driver(self) -> tuple[str, str]:
        """Kept while the GPUs do not answer: in another environment all that was measured would be left to do."""
        gpus = self._gpus if isinstance(self._gpus, NvmlMeter) else None
        return (gpus.gpus[0].name, gpus.driver_version) if gpus else ("", "")

    def _limit_w(self, states: list[GpuState]) -> float | None:
        """Power limit of one GPU; from the look before a launch, or as it was when the GPUs were opened."""
        limits_w = [state.power_limit_w for state in states]
        if not limits_w and isinstance(self._gpus, NvmlMeter):
            limits_w = [gpu.power_limit_w for gpu in self._gpus.gpus]
        return min((limit_w for limit_w in limits_w if limit_w is not None), default=None)
