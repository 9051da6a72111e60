"""What a repetition leaves behind: `RunRecord`, and the bundle of it with its detail tables.

Each field's `doc` is the text of its column in the data dictionary (docs/data-dictionary.md is printed
from here). Field order is column order.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from datetime import datetime
from typing import Any, Literal

from harness.engines.base import Requests, Steps
from harness.meters.base import PowerTrace
from harness.points import Source

Purpose = Literal["sweep", "probe", "warmup"]
Status = Literal["ok", "invalid", "failed", "infeasible", "saturated"]
Window = Literal["prefill", "full", "replay"]

ENERGY_DOMAINS = (
    "gpu", "gpu_prefill", "gpu_decode",
    "cpu", "cpu_prefill", "cpu_decode",
    "dram", "dram_prefill", "dram_decode",
    "rest", "idle_gpus",
)  # fmt: skip
"""Domains of `RunRecord.energies`; each becomes four columns."""

SETTLED: tuple[Status, ...] = ("ok", "saturated")
"""Statuses of a repetition that need not be taken again."""

INTERRUPTED = "interrupted while it was measured"
"""Reason of a run that a person or the system cut short: it counts as no try at its repetition."""


@dataclass(frozen=True, slots=True)
class Energy:
    """An energy with its random uncertainty (95% half-width), or the reason why there is none."""

    energy_j: float | None
    uncertainty_j: float | None
    source: Source | None
    reason: str = ""

    @staticmethod
    def absent(reason: str) -> "Energy":
        return Energy(None, None, None, reason)


def _col(doc: str, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One repetition of one point: an immutable row of `runs`."""

    sweep: str = _col("name of the sweep")
    point_id: str = _col("hash of the point's content")
    environment_id: str = _col("hash of what may not be mixed: node kind, GPU, driver, engine version, power limit")
    launch_id: str = _col("one life of the engine process; empty where none was launched")
    repetition: int = _col("from 1; from 1001 for probes; 0 for a warm-up or an infeasible point")
    attempt: int = _col("1, 2, ... tries at the same repetition")
    purpose: Purpose = _col("sweep, probe (re-measured on purpose) or warmup")
    status: Status = _col("ok, invalid, failed, infeasible or saturated")
    reason: str = _col("why the status is not ok; empty otherwise", "")
    flags: tuple[str, ...] = _col("recorded conditions that do not invalidate the run", ())

    source: Source = _col("measured or simulated: the kind of node that ran it; the two never share a folder")
    node: str = _col("host that measured; several that measured together are joined by +")
    n_nodes: int | None = _col("how many nodes the engine spans; null (before version 2): one", None)
    node_kind: str = _col("kind of node, such as dgx-h100")
    gpu: str = _col("kind of GPU, such as h100; none on a node without GPUs")
    gpu_name: str = _col("the board's own name")
    gpu_uuids: tuple[str, ...] = _col("GPUs that the engine held", ())
    n_gpus: int = _col("how many GPUs the engine holds: tp x pp; 0 on a node without GPUs")
    cpu: str = _col("processor of the node")
    driver_version: str = _col("GPU driver")
    power_limit_w: float | None = _col("power limit of one GPU, W", None)
    engine: str = _col("serving engine")
    engine_version: str = _col("its version")
    harness_version: str = _col("version of this harness")
    weights: str = _col("real or dummy")
    revision: str = _col("revision of the weights", "")

    model: str = _col("name of the model's shape")
    bits: int = _col("bits of a weight")
    tp: int = _col("tensor parallel size")
    pp: int = _col("pipeline parallel size")
    token_budget: int = _col("tokens that one engine step may hold")
    max_sequences: int = _col("sequences that one engine step may hold")
    max_context_tokens: int = _col("context limit of the deployment, tokens")
    enforce_eager: bool = _col("whether CUDA graphs are off")
    stream_interval: int | None = _col("tokens per streamed chunk of a replay; null where nothing is streamed", None)
    workload: str = _col("batch or replay")
    trace: str = _col("trace of a replay, or the trace a batch's lengths were drawn from", "")
    batch_size: int | None = _col("requests of a batch; null in a replay", None)
    prompt_tokens: float | None = _col("per request: exact in a batch, the mean of the slice in a replay", None)
    generated_tokens: float | None = _col("per request: exact in a batch, the mean in a replay", None)
    requests: int | None = _col("requests finished in the window", None)
    tokens_generated: int | None = _col("tokens generated in the window, over all its batches or requests", None)
    rate_scale: float | None = _col("factor on the trace's arrival rate", None)
    capacity_share: float | None = _col("asked share of the measured capacity, if the rate was so given", None)
    capacity_requests_per_s: float | None = _col("request rate the deployment takes when saturated, per launch", None)
    length_scale: float | None = _col("factor on the trace's prompt and generated tokens; null in a batch", None)
    slice_start_s: float | None = _col("where the replayed slice starts in the trace, s", None)
    slice_duration_s: float | None = _col("length of the slice in the trace, s", None)
    context_policy: str = _col("rule for requests over the context", "")
    requests_clipped: int | None = _col("requests that the context policy shortened", None)
    requests_dropped: int | None = _col("requests that the context policy left out", None)
    requests_unfinished: int | None = _col("requests aborted when the drain limit was reached", None)

    decode_batch_mean: float | None = _col("mean sequences per decoding step", None)
    mixed_step_fraction: float | None = _col("share of steps that held both prompt chunks and decoding sequences", None)
    gap_fraction: float | None = _col("share of the window outside engine steps", None)
    prefill_gap_fraction: float | None = _col("the same for the prefill window", None)
    started_at: datetime = _col("wall clock at the window's start, UTC")
    window_started_s: float | None = _col("monotonic clock of the node at the window's start, s", None)
    window_s: float | None = _col("length of the window, s", None)
    clock_uncertainty_s: float | None = _col("how well other nodes' clocks are known, s; null: one clock", None)
    batches_in_window: int | None = _col("batches served back to back in the window", None)
    prefill_window_started_s: float | None = _col("monotonic clock at the prefill window's start, s", None)
    prefill_window_s: float | None = _col("length of the prefill window, s", None)
    prefill_batches_in_window: int | None = _col("prefill-only batches in the prefill window", None)
    prefill_s: float | None = _col("time of one prefill-only batch, gap included, s", None)
    duration_s: float | None = _col("time of one full batch, gap included; of the whole window in a replay, s", None)
    load_s: float | None = _col("time the engine took to become ready, s", None)
    ttft_mean_s: float | None = _col("time to first token from the schedule, mean over the requests counted, s", None)
    ttft_p99_s: float | None = _col("the same, 99th percentile, s", None)
    tpot_mean_s: float | None = _col("time per output token after the first, mean over requests, s", None)
    latency_mean_s: float | None = _col("scheduled arrival to last token, mean, s", None)
    formation_mean_s: float | None = _col("batch formation: scheduled arrival to the first step, mean, s", None)
    lag_p99_s: float | None = _col("sent behind the schedule, 99th percentile, s", None)
    client_cpu_s: float | None = _col("CPU time that sending and receiving took in the window, s", None)
    client_cpu_s_per_1000_tokens: float | None = _col("the same for each 1,000 tokens generated, s", None)

    energies: Mapping[str, Energy] = _col("four columns for each energy domain")
    gpu_energy_by_gpu_j: tuple[float, ...] = _col("gpu_energy_j of each GPU, in the order of gpu_uuids", ())
    gpu_power_integral_j: float | None = _col("integral of the power traces, in the unit of gpu_energy_j", None)
    gpu_sampling_bound_j: float | None = _col("how far off gpu_energy_j may be if GPUs sample, J; null: unknown", None)
    gpu_gain_uncertainty: float | None = _col("systematic uncertainty of the boards' gain, a fraction", None)
    gpu_net_energy_j: float | None = _col("gpu_energy_j less loaded idle over duration_s; may be negative", None)
    cpu_net_energy_j: float | None = _col("cpu_energy_j less loaded idle over duration_s; may be negative", None)
    dram_net_energy_j: float | None = _col("dram_energy_j less loaded idle over duration_s; may be negative", None)
    gpu_cold_idle_w: float | None = _col("the engine's GPUs together before the launch, W", None)
    gpu_loaded_idle_w: float | None = _col("the engine's GPUs together, model resident, no work, W", None)
    cpu_cold_idle_w: float | None = _col("all sockets before the launch, W", None)
    cpu_loaded_idle_w: float | None = _col("all sockets, model resident, no work, W", None)
    dram_cold_idle_w: float | None = _col("all DRAM before the launch, W", None)
    dram_loaded_idle_w: float | None = _col("all DRAM, model resident, no work, W", None)
    gpu_temperature_start_c: float | None = _col("hottest of the engine's GPUs at the start, deg C", None)
    gpu_temperature_max_c: float | None = _col("hottest of the engine's GPUs in the window, deg C", None)
    sm_clock_mean_mhz: float | None = _col("mean SM clock of the engine's GPUs, MHz", None)
    point: str = _col("the point's content as JSON")
    launch: str = _col("argv, environment and resolved configuration of the engine as JSON; empty if simulated", "")

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What makes a run one run."""
        return (self.point_id, self.environment_id, self.launch_id, self.repetition, self.attempt)

    @property
    def gpu_energy_j(self) -> float | None:
        """Gross energy of the engine's GPUs."""
        return self.energies["gpu"].energy_j

    @property
    def run_id(self) -> str:
        """The key as one string; detail tables refer to it."""
        return ".".join(str(part) for part in self.key)


@dataclass(frozen=True, slots=True, eq=False)
class WindowDetail:
    """Requests, steps and power of one window of a run; times are still monotonic."""

    window: Window
    start_s: float
    requests: Requests
    steps: Steps
    power: tuple[PowerTrace, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RunBundle:
    """A run with its details: what an agent hands to the one that writes the store."""

    run: RunRecord
    details: tuple[WindowDetail, ...] = ()
