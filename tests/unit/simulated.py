"""Simulated nodes, deployments and steps that tests of the simulator share."""

from dataclasses import replace

import numpy as np

from harness.engines.base import Served
from harness.meters.base import Recording
from harness.points import BatchWorkload, CpuSpec, Deployment, EngineLimits, GpuSpec, ModelShape, NodeSpec, Schedule
from harness.simulator.constants import Constants, constants_of
from harness.simulator.engine import SimulatedEngine
from harness.simulator.faults import NO_FAULTS, Faults
from harness.simulator.node import SimulatedNode
from harness.simulator.stepmodel import StepModel
from harness.simulator.stepshape import StepShape

A100 = GpuSpec("a100", "NVIDIA A100-SXM4-80GB", 85_900_000_000, 312e12, 2.039e12, 300e9, 60.0, 400.0)
H100 = GpuSpec("h100", "NVIDIA H100 80GB HBM3", 85_900_000_000, 989.5e12, 3.35e12, 450e9, 70.0, 700.0)
EPYC = CpuSpec("AMD EPYC 7742", 2, 120.0, 450.0, 16.0, 60.0, False, 65532.6, 65712.999613)
XEON = CpuSpec("Intel Xeon 8480C", 2, 120.0, 700.0, 16.0, 60.0, True, 262143.3, 65712.999613)
DGX_A100 = NodeSpec("dgx-a100", A100, 8, EPYC)
DGX_H100 = NodeSpec("dgx-h100", H100, 8, XEON)
SMALL = ModelShape("small", 1024, 2816, 24, 16, 16, 64, 32000, 4096)
"""A third of a billion weights: its kernels are shorter than their launches."""
LLAMA_7B = ModelShape("llama-2-7b", 4096, 11008, 32, 32, 32, 128, 32000, 4096)
INTERNLM_20B = ModelShape("internlm-20b", 5120, 13824, 60, 40, 40, 128, 103168, 4096)
LLAMA_70B = ModelShape("llama-2-70b", 8192, 28672, 80, 64, 8, 128, 32000, 4096)
BATCH = BatchWorkload(8, 128, 16)


def deployment(
    model: ModelShape = LLAMA_7B,
    tp: int = 1,
    pp: int = 1,
    *,
    gpu: str = "h100",
    bits: int = 16,
    engine: str = "vllm",
    token_budget: int = 8192,
    max_sequences: int = 128,
    enforce_eager: bool = False,
    stream_interval: int = 1,
) -> Deployment:
    limits = EngineLimits(engine, token_budget, max_sequences, 4096, enforce_eager, stream_interval)
    return Deployment(gpu, model, bits, limits, tp, pp, "dummy")


def node(
    seed: int = 1,
    gain_sd: float = 0.0,
    faults: Faults = NO_FAULTS,
    spec: NodeSpec = DGX_H100,
    constants: Constants | None = None,
) -> SimulatedNode:
    return SimulatedNode(spec, "node-a", seed, gain_sd=gain_sd, faults=faults, constants=constants)


def changed(gpu: GpuSpec, **values: float) -> Constants:
    """The fitted constants of a kind of GPU, but for some of the GPU's."""
    fitted = constants_of(gpu)
    return replace(fitted, gpu=replace(fitted.gpu, **values))


def hot(gpu: GpuSpec) -> Constants:
    """Long prefills draw more than the limit on every kind of GPU, whatever was fitted."""
    return changed(gpu, compute_share=2.0, attention_share=2.0)


def prefill(batch: float = 1, prompt: float = 1024) -> StepShape[float]:
    """Whole prompts, each from its first token."""
    pairs = batch * prompt * (prompt + 1) / 2
    return StepShape(float(batch), float(batch * prompt), float(batch * prompt), pairs, 0.0, 0.0)


def decode(batch: float = 1, context: float = 1024) -> StepShape[float]:
    """One token for each of the sequences; each reads `context` keys."""
    return StepShape(0.0, 0.0, 0.0, 0.0, float(batch), float(batch * context))


def together(*shapes: StepShape[float]) -> StepShape[np.ndarray]:
    """Steps one by one -> arrays of them."""
    return StepShape(*(np.array(column) for column in zip(*shapes, strict=True)))


def model(
    gpu: GpuSpec, shape: ModelShape, tp: int = 1, pp: int = 1, constants: Constants | None = None, **kwargs: object
) -> StepModel:
    return StepModel(deployment(shape, tp, pp, gpu=gpu.kind, **kwargs), gpu, constants or constants_of(gpu))


def decode_w(gpu: GpuSpec, steps: StepModel, batch: int, context: int = 1024) -> float:
    """Power of a GPU of the last stage in a decoding step of one micro-batch."""
    cost = steps.cost(together(decode(batch, context)), np.ones(1))
    return constants_of(gpu).gpu.loaded_idle_w(gpu) + float(cost.last_dynamic_w[0])


def busy_s(steps: StepModel, shape: StepShape[float], micro: float = 1.0) -> float:
    """Kernels of one stage, without the output head."""
    return float(steps.parts(together(shape), np.array([micro])).busy_s[0])


def layers_s(steps: StepModel, shape: StepShape[float]) -> float:
    """A step's layers, from the first launch to the end of the last kernel."""
    parts = steps.parts(together(shape), np.ones(1))
    return float((parts.step_s - parts.host_s - parts.head_s)[0])


def measured(
    machine: SimulatedNode, engine: SimulatedEngine, workload: BatchWorkload, batches: int, seed: int = 0
) -> tuple[Recording, Served, float, float]:
    """A window as the experiment takes it: the recording, what was served, and the two marks."""
    go = engine.prepare_batches(workload, batches, seed)
    sampler = machine.sampler()
    sampler.start()
    sampler.settle()
    start_s = sampler.mark()
    served = go()
    end_s = sampler.mark()
    sampler.settle()
    return sampler.stop(), served, start_s, end_s


def mean_w(machine: SimulatedNode, domain: str, device: str | None, start_s: float, length_s: float) -> float:
    """True power between two instants, of all devices where none is named, W."""
    return machine.truth.energy_j(domain, device, start_s, start_s + length_s) / length_s


def requests_at(rate_per_s: float, count: int, seed: int = 0) -> Schedule:
    """Requests of random lengths at random instants."""
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1 / rate_per_s, count))
    prompt, generated = rng.integers(1, 3000, count), rng.integers(1, 500, count)
    return Schedule(arrival_s, prompt, generated, float(arrival_s[-1]))
