"""What the simulator says of an anchor, without noise: one batch through its scheduler, or a server kept full."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from anchors import Anchor

from harness.feasibility import kv_cache_tokens
from harness.points import Deployment, FloatArray, GpuSpec
from harness.simulator.batching import Scheduler
from harness.simulator.constants import Constants
from harness.simulator.stepmodel import StepModel
from harness.simulator.stepshape import StepShape
from harness.simulator.thermal import settled_leakage_w


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps of one anchor, weighted: `repeats` of each (fractions where a server is kept full)."""

    shape: StepShape[FloatArray]
    repeats: FloatArray
    generated_tokens: float


class Simulation:
    """Anchors under one set of constants for each architecture; models are built once per deployment."""

    def __init__(self, constants: dict[str, Constants]) -> None:
        self._constants = constants
        self._models: dict[Deployment, StepModel] = {}

    def value(self, anchor: Anchor) -> float:
        """The anchor's quantity as simulated."""
        constants = self._constants[anchor.gpu.kind]
        steps = steps_of(anchor)
        if anchor.deployment not in self._models:
            self._models[anchor.deployment] = StepModel(anchor.deployment, anchor.gpu, constants)
        model = self._models[anchor.deployment]
        sequences = steps.shape.prefill_requests + steps.shape.decode_requests
        micro = model.micro_batches(sequences) if anchor.serving else np.ones(len(sequences))
        cost = model.cost(steps.shape, micro)
        time_s = cost.duration_s * steps.repeats
        prefill = steps.shape.prefill_requests > 0
        if anchor.quantity == "latency_s":
            return float(time_s.sum())
        if anchor.quantity == "ttft_s":
            return float(time_s[prefill].sum())
        if anchor.quantity == "tpot_s":
            return float(time_s[~prefill].sum() / steps.repeats[~prefill].sum())
        stages = anchor.deployment.pipeline_parallel
        dynamic_w = (cost.dynamic_w * (stages - 1) + cost.last_dynamic_w) / stages
        idle_w = constants.gpu.loaded_idle_w(anchor.gpu)
        power_w = idle_w + float((dynamic_w * time_s).sum() / time_s.sum())
        power_w += settled_leakage_w(anchor.gpu, power_w, constants.gpu.leakage_share_per_c)
        if anchor.quantity == "power_w":
            length_s = float(time_s.sum())
            return (power_w * length_s + idle_w * anchor.idle_tail_s) / (length_s + anchor.idle_tail_s)
        return power_w * anchor.deployment.gpus * float(time_s.sum()) / steps.generated_tokens


@cache
def steps_of(anchor: Anchor) -> Steps:
    """The steps that the anchor's workload takes; they do not depend on the constants."""
    return _full_server(anchor) if anchor.serving else _one_batch(anchor)


def _one_batch(anchor: Anchor) -> Steps:
    size, prompt, generated = int(anchor.batch_size), int(anchor.prompt_tokens), int(anchor.generated_tokens)
    batching = Scheduler(
        np.zeros(size),
        np.full(size, prompt),
        np.full(size, generated),
        anchor.deployment.limits,
        max(kv_cache_tokens(anchor.deployment, anchor.gpu), prompt + generated + 16),
        lambda shape: 1.0,
    ).run()
    return Steps(batching.shape, np.ones(len(batching)), size * generated)


def _full_server(anchor: Anchor) -> Steps:
    """A server in its steady state: every sequence that ends is replaced by a new one.

    Each step yields one token per sequence, and B / G prompts of P tokens arrive in it on average: two kinds of steps,
    with one prompt more and without, in the proportion that keeps that mean.
    """
    size, prompt, generated = anchor.batch_size, anchor.prompt_tokens, anchor.generated_tokens
    arriving = size / generated
    prompts = np.array([np.floor(arriving), np.floor(arriving) + 1])
    repeats = np.array([prompts[1] - arriving, arriving - prompts[0]])
    decoding = np.maximum(size - prompts, 1.0)
    shape = StepShape(
        prefill_requests=prompts,
        prefill_tokens=prompts * prompt,
        prefill_context_tokens=prompts * prompt,
        prefill_pairs=prompts * prompt * (prompt + 1) / 2,
        decode_requests=decoding,
        decode_context_tokens=decoding * (prompt + generated / 2),
    )
    return Steps(shape, repeats, float((repeats * (decoding + prompts)).sum()))


def without_hidden_terms(constants: Constants, gpu: GpuSpec) -> Constants:
    """The same without what operations, bytes and transferred volumes cannot tell.

    Gone are tiles and waves, the start of kernels, short chunks, keys read again, latency of all-reduces, the host's
    time, padding to CUDA graphs, launches, and leakage.
    """
    bare = replace(
        constants.gpu,
        multiprocessors=0,
        kernel_s=0.0,
        group_reread=0.0,
        attention_half_tokens=0.0,
        all_reduce_s=0.0,
        all_reduce_gpu_s=0.0,
        leakage_share_per_c=0.0,
    )
    engines = {
        name: replace(engine, host_step_s=0.0, host_sequence_s=0.0, launch_s=0.0, graphs=False)
        for name, engine in constants.engines.items()
    }
    return Constants(bare, engines, constants.host)
