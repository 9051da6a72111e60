"""A node without hardware behind it: engines, meters and a clock that only computation moves."""

from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np

from harness.clock import VirtualClock
from harness.errors import LaunchFailed
from harness.feasibility import deployment_obstacle
from harness.meters.base import Domain
from harness.node import board_group
from harness.points import Deployment, Environment, NodeSpec, Source, content_id
from harness.simulator.activity import Activity
from harness.simulator.constants import Constants
from harness.simulator.engine import ENGINE_VERSION, SimulatedEngine
from harness.simulator.faults import FOREIGN_PID, NO_FAULTS, Faults
from harness.simulator.hardware import Hardware
from harness.simulator.launching import launch_phases
from harness.simulator.sampler import SimulatedSampler
from harness.simulator.seeds import factor, generator

_LOAD_SD = 0.05
_FAILED_LAUNCH_S = 30.0
_LOOK_S = 1.0
_DEFAULT_START = datetime(2026, 1, 1, tzinfo=UTC)


class Truth:
    """What the counters should have shown. For tests: no harness code may look at it."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware

    def energy_j(self, domain: Domain, device: str | None, start_s: float, end_s: float) -> float:
        """Exact energy without any board's gain, J.

        Args:
            domain, device: a channel's, or a device of None for all of the domain's (of `gpu`: all GPUs).
            start_s, end_s: monotonic, no further back than the last minute or the last recording.

        Raises:
            ValueError: the start is no longer known, or there is no such device.
        """
        hardware = self._hardware
        view = hardware.view(start_s)
        if start_s < view.time_s[0] or end_s > view.time_s[-1]:
            raise ValueError(f"the power is known from {view.time_s[0]} to {view.time_s[-1]}")
        shares = {
            "gpu": {uuid: (row, 1.0) for row, uuid in enumerate(hardware.gpu_uuids)},
            "cpu": {"": (hardware.cpu_row, 1.0)},
            "dram": {"": (hardware.dram_row, 1.0)},
        }[domain]
        if device is not None:
            shares |= {
                counter.channel.device: (counter.row, counter.share)
                for counter in hardware.rapl_counters
                if counter.channel.domain == domain
            }
            if device not in shares:
                raise ValueError(f"no device {device} in {domain}")
            shares = {device: shares[device]}
        bounds_s = np.array([start_s, end_s])
        return sum(share * float(np.diff(view.at(row, bounds_s))[0]) for row, share in shares.values())


class SimulatedNode:
    """A node of some kind with simulated GPUs, processors, counters and engines.

    The same name and seed, and the same calls, give the same numbers; no call takes real time beyond its
    computation. One engine runs at a time.

    Args:
        spec: the kind of node.
        name: its host name; GPU UUIDs follow from it.
        beside: host names of further machines of the same kind, for engines that serve over all of them; the node is
            then one of all their boards and processors, on one clock.
        seed: of everything that varies.
        gain_sd: spread of the boards' gains (0: every counter is true).
        start_utc: wall clock at the beginning; a fixed date by default.
        constants: of the models of time and power; by default those fitted for the kind of GPU.
        faults: what goes wrong.
    """

    def __init__(
        self,
        spec: NodeSpec,
        name: str,
        seed: int,
        *,
        gain_sd: float = 0.02,
        start_utc: datetime | None = None,
        constants: Constants | None = None,
        faults: Faults = NO_FAULTS,
        beside: tuple[str, ...] = (),
    ) -> None:
        self._name = "+".join((name, *beside))
        self._made = (name, seed, gain_sd, constants, faults)
        self._joint: dict[tuple[str, ...], SimulatedNode] = {}
        names = (name, *beside)
        self._hardware = Hardware(spec, names, seed, gain_sd, start_utc or _DEFAULT_START, constants, faults)
        self._engine: SimulatedEngine | None = None
        self.truth = Truth(self._hardware)

    def beside(self, others: tuple[str, ...]) -> "SimulatedNode":
        """This node and others of its kind as one: the same boards, on a clock of their own; the same one each time."""
        name, seed, gain_sd, constants, faults = self._made
        if others not in self._joint:
            self._joint[others] = SimulatedNode(
                self.spec, name, seed, gain_sd=gain_sd, start_utc=self.clock.utc(), constants=constants, faults=faults,
                beside=others,
            )  # fmt: skip
        return self._joint[others]

    @property
    def name(self) -> str:
        return self._name

    @property
    def spec(self) -> NodeSpec:
        return self._hardware.spec

    @property
    def machines(self) -> int:
        return self._hardware.machines

    @property
    def source(self) -> Source:
        return "simulated"

    @property
    def clock(self) -> VirtualClock:
        return self._hardware.clock

    @property
    def gpu_uuids(self) -> tuple[str, ...]:
        """UUIDs of all GPUs of the node."""
        return self._hardware.gpu_uuids

    @property
    def segments_kept(self) -> int:
        """How many stretches of constant power are in memory."""
        return self._hardware.segments_kept

    @property
    def processor(self) -> str:
        return self._hardware.cpu.name

    def busy(self) -> tuple[str, ...]:
        until_s = self._hardware.faults.busy_until_s
        self.clock.sleep(_LOOK_S)
        if until_s is None or self.clock.monotonic_s() >= until_s:
            return ()
        return (f"{self.gpu_uuids[0]} is used by pid {FOREIGN_PID}",)

    def environment(self, deployment: Deployment) -> Environment:
        gpu = self._hardware.gpu
        return Environment(
            source="simulated",
            node_kind=self.spec.kind,
            gpu=gpu.kind,
            gpu_name=gpu.name,
            driver_version=f"simulated-{content_id(asdict(self.spec), 6)}",
            engine=deployment.limits.engine,
            engine_version=ENGINE_VERSION,
            power_limit_w=gpu.tdp_w,
        )

    def sampler(self) -> SimulatedSampler:
        return SimulatedSampler(self._hardware)

    def launch(self, deployment: Deployment, seed: int) -> SimulatedEngine:
        hardware = self._hardware
        if self._engine is not None and self._engine.running:
            raise LaunchFailed("another engine holds the GPUs of this node")
        obstacle = self._obstacle(deployment)
        if obstacle:
            hardware.clock.sleep(_FAILED_LAUNCH_S)
            raise LaunchFailed(f"the engine did not become ready: {obstacle}", log_tail=obstacle)
        random = generator("load", hardware.seed, deployment.deployment_id, seed)
        wanted, boards = deployment.gpus_per_node, self.spec.gpus
        first = board_group(seed, boards // wanted) * wanted
        held = [machine * boards + first + board for machine in range(self.machines) for board in range(wanted)]
        hardware.hold(tuple(held))
        load_s = self._load(deployment, factor(random, _LOAD_SD))
        self._engine = SimulatedEngine(hardware, deployment, seed, load_s)
        return self._engine

    def _load(self, deployment: Deployment, time_factor: float) -> float:
        """Let the clock run through a launch; how long it took, s."""
        hardware, limits = self._hardware, deployment.limits
        phases = launch_phases(deployment, hardware.constants.engine(limits.engine, limits.enforce_eager))
        duration_s = np.array([phase.duration_s for phase in phases]) * time_factor
        gpu_w = (hardware.gpu.tdp_w - hardware.gpu.idle_w) * np.array([phase.gpu_share for phase in phases])
        cpu = hardware.cpu
        hardware.work(
            Activity(
                time_s=hardware.clock.monotonic_s() + np.concatenate(([0.0], np.cumsum(duration_s))),
                dynamic_w=np.tile(gpu_w, (deployment.gpus, 1)),
                cpu_w=hardware.host.cpu_w(np.array([phase.cores for phase in phases])),
                dram_w=cpu.dram_idle_w
                + (cpu.dram_tdp_w - cpu.dram_idle_w) * np.array([phase.dram_share for phase in phases]),
                relative_clock=np.ones(len(phases)),
            )
        )
        return float(duration_s.sum())

    def _obstacle(self, deployment: Deployment) -> str:
        if deployment.deployment_id in self._hardware.faults.failing_deployments:
            return "RuntimeError: NCCL error: unhandled system error"
        if deployment.gpu != self.spec.gpu_kind:
            return f"the deployment is for {deployment.gpu}, the node has {self.spec.gpu_kind}"
        if deployment.nodes != self.machines:
            return f"the deployment is for {deployment.nodes} node(s), here are {self.machines}"
        return deployment_obstacle(deployment, self.spec.gpu, self.spec.gpus)
