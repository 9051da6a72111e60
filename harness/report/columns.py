"""What each column of a report's tables is called and means."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True, slots=True)
class Column:
    """`heading` has the unit; `meaning` is a line for people who do not know the field."""

    heading: str
    meaning: str


_DEPLOYED = "GPU, model, tensor and pipeline parallel size, engine and its token budget"
_HALF_WIDTH = "half-width of the 95% t-interval over repetitions; the boards' gain is not in it"

COLUMNS: dict[str, Column] = {
    # What and where
    "deployment": Column("deployment", _DEPLOYED),
    "replay": Column("replay", "trace, slice and arrival rate"),
    "point_id": Column("point", "hash of the point's content"),
    "source": Column("source", "measured, estimated or simulated"),
    "node": Column("node", "host that measured"),
    "node_kind": Column("kind of node", "kind of node"),
    "gpu": Column("GPU", "kind of GPU"),
    "gpu_name": Column("GPU", "the board's own name"),
    "power_limit_w": Column("limit W", "power limit of one GPU, W"),
    "cpu": Column("CPU", "processors of the node"),
    "driver_version": Column("driver", "version of the GPU driver"),
    "engine": Column("engine", "serving engine"),
    "engine_version": Column("version", "version of the engine"),
    "harness_version": Column("harness", "version of the harness"),
    "weights": Column("weights", "real, or dummy values"),
    "deployments": Column("deployments", "how many deployments ran there"),
    "first_started_at": Column("first run, UTC", "when the first run began"),
    "last_started_at": Column("last run, UTC", "when the last run began"),
    "batch_points": Column("batch points", "batches: size and lengths that were asked for"),
    "replay_points": Column("replay points", "replays that were asked for"),
    "launches": Column("launches", "lives of the engine process"),
    "runs": Column("runs", "repetitions, with probes and without warm-ups"),
    "ok": Column("ok", "runs that count"),
    "saturated": Column("saturated", "replays whose backlog grew; they count, with their steady state"),
    "invalid": Column("invalid", "runs that were measured, but are not to be believed"),
    "failed": Column("failed", "runs in which the engine did not do its work"),
    "infeasible": Column("infeasible", "runs that were screened before a launch"),
    "status": Column("status", "what came of the runs"),
    "points": Column("points", "how many points"),
    "example": Column("reason (an example)", "one of the reasons that differ only in their numbers"),
    # Energy
    "tp": Column("tp", "tensor parallel size"),
    "pp": Column("pp", "pipeline parallel size"),
    "batch_size": Column("batch", "requests of the batch"),
    "prompt_tokens": Column("prompt", "prompt tokens per request"),
    "generated_tokens": Column("generated", "generated tokens per request"),
    "prompt_tokens_median": Column("prompt", "median over points of the prompt tokens per request"),
    "generated_tokens_median": Column("generated", "median over points of the generated tokens per request"),
    "n": Column("n", "how many repetitions, points or requests the row is made of"),
    "gpu_j": Column("GPU J", "gross energy of the GPUs for one batch, mean over repetitions, J"),
    "cpu_j": Column("CPU J", "gross energy of all sockets for one batch, mean over repetitions, J"),
    "dram_j": Column("DRAM J", "gross energy of all DRAM for one batch, mean over repetitions, J"),
    "duration_s": Column("duration s", "time of one batch, gap included, s"),
    "half_width_pct": Column("± %", f"{_HALF_WIDTH}, percent of the mean; over several points their median"),
    "cv_pct": Column("CV %", "standard deviation over mean of the repetitions, percent"),
    "prefill_share_pct": Column("prefill %", "energy of the prefill-only batch, percent of the full batch's"),
    "j_per_token": Column("J/token", "gross energy of the GPUs per generated token, J"),
    "j_per_token_min": Column("least", "J/token of the point that takes least"),
    "j_per_token_max": Column("most", "J/token of the point that takes most"),
    "j_per_token_half_width": Column("±", f"J/token, {_HALF_WIDTH}"),
    "j_per_request": Column("J/request", "gross energy of the GPUs per finished request, J"),
    "j_per_request_half_width": Column("±", f"J/request, {_HALF_WIDTH}"),
    "cpu_j_per_request": Column("CPU J/request", "gross energy of all sockets per finished request, J"),
    "dram_j_per_request": Column("DRAM J/request", "gross energy of all DRAM per finished request, J"),
    "requests_per_s": Column("requests/s", "requests finished over the window"),
    "ttft_mean_s": Column("TTFT s", "time to first token, from the schedule, mean, s"),
    # Requests
    "trace": Column("trace", "trace that lengths or arrivals are from"),
    "tokens": Column("tokens", "prompt or generated, per request"),
    "of": Column("of", "the trace itself, requests of replays, or batch points (each counted once)"),
    "apart_pct": Column("apart %", "largest distance from the trace's distribution (Kolmogorov-Smirnov), percent"),
    "from_tokens": Column("from", "lower end of the bin, tokens"),
    "below_tokens": Column("below", "upper end of the bin, tokens"),
    "share_pct": Column("share %", "percent of all"),
    # Steps
    "steps": Column("steps", "engine iterations"),
    "time_s": Column("time s", "time inside these steps, s"),
    "decode_requests": Column("decode batch", "sequences that generate a token in the step"),
    "share_of_steps_pct": Column("steps %", "percent of decoding steps"),
    "share_of_time_pct": Column("time %", "percent of the time in decoding steps"),
    "mixed_steps_pct": Column("mixed steps %", "steps that hold prompt chunks and decoding sequences, percent of all"),
    "mixed_time_pct": Column("mixed time %", "their time, percent of all steps' time"),
    "prefill_only_time_pct": Column("prefill-only time %", "time of steps without decoding, percent of all steps'"),
    "time_mean": Column("mean by time", "mean decode batch, weighted by the steps' time"),
    "time_p50": Column("p50 by time", "half of the decoding time is spent at this decode batch or a smaller one"),
    # Times and outcomes
    "part": Column("time", "lag: sent; formation: admitted to its first step; latency: finished; all less scheduled"),
    "mean_s": Column("mean s", "mean, s"),
    "requests": Column("requests", "requests, over all runs"),
    "finished": Column("finished", "requests that got all their tokens"),
    "refused": Column("refused", "requests that the engine turned away"),
    "lost": Column("lost", "requests whose connection died"),
    "timeout": Column("timeout", "requests unfinished at the drain limit"),
    "aborted": Column("aborted", "requests cut short by an interruption"),
    "malformed": Column("malformed", "answers that could not be read"),
    "unknown": Column("unknown", "requests whose outcome was not kept"),
    # Quality
    "workload": Column("workload", "batch or replay"),
    "figure": Column("figure", "what is looked at, and its unit"),
    "flag": Column("flag", "recorded condition that does not invalidate a run"),
    "batch_runs": Column("batch runs", "runs of batches that have it"),
    "replay_runs": Column("replay runs", "runs of replays that have it"),
    "gpu_cold_idle_w": Column(
        "GPU cold W", "idle power per GPU before the engine was launched, median over launches, W"
    ),
    "gpu_loaded_idle_w": Column("GPU loaded W", "idle power per GPU with the model resident, median over launches, W"),
    "cpu_cold_idle_w": Column("CPU cold W", "idle power of all sockets before the launch, W"),
    "cpu_loaded_idle_w": Column("CPU loaded W", "idle power of all sockets with the model resident, W"),
    "dram_cold_idle_w": Column("DRAM cold W", "idle power of all DRAM before the launch, W"),
    "dram_loaded_idle_w": Column("DRAM loaded W", "idle power of all DRAM with the model resident, W"),
    "domain": Column("domain", "what the energy is of"),
    "reason": Column("why not", "why there is no energy"),
    "mean": Column("mean", "mean"),
    "min": Column("least", "smallest value"),
    "max": Column("most", "largest value"),
    **{f"p{level}": Column(f"p{level}", f"{level}% are at most this") for level in (5, 10, 25, 50, 75, 90, 95, 99)},
    **{f"p{level}_s": Column(f"p{level} s", f"{level}% took at most this, s") for level in (50, 90, 99)},
    "max_s": Column("most s", "the longest, s"),
}


def text_of(value: object) -> str:
    """A cell for people: numbers with three significant digits (or whole) and no exponent, a dash for nothing."""
    if value is None or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return "-"
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if isinstance(value, (float, np.floating)):
        return _significant(float(value))
    return printable(str(value))


def printable(text: str) -> str:
    """Text without what would command a terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def _significant(value: float) -> str:
    if value == 0 or not np.isfinite(value):
        return "0" if value == 0 else str(value)
    if value.is_integer():
        return f"{value:,.0f}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{digits}f}"


def is_text(column: "pd.Series[Any]") -> bool:
    """Whether a column is aligned to the left."""
    return not pd.api.types.is_numeric_dtype(column)
