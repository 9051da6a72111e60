"""What really happened in a window, from its steps and requests: composition, gaps, latencies, token counts."""

import numpy as np

from harness.engines.base import Requests, Served
from harness.errors import WrongTokenCount
from harness.measured import Measured
from harness.points import BatchWorkload, BoolArray, FloatArray


def tokens_generated(measured: Measured) -> int:
    """Tokens that came inside the window: one per decoding sequence and step, and the first token of each request."""
    steps, requests = measured.served.steps, measured.served.requests
    inside = (steps.start_s >= measured.start_s) & (steps.start_s < measured.end_s)
    first = (requests.first_token_s >= measured.start_s) & (requests.first_token_s <= measured.end_s)
    return int(steps.decode_requests[inside].sum() + first.sum())


def step_columns(measured: Measured) -> dict[str, float | None]:
    """What the steps inside the window say: mean decoding batch, share of mixed steps, share of gaps."""
    steps = measured.served.steps
    inside = (steps.start_s >= measured.start_s) & (steps.start_s < measured.end_s)
    if not inside.any():
        return {"decode_batch_mean": None, "mixed_step_fraction": None, "gap_fraction": None}
    decoding = steps.decode_requests[inside]
    mixed = (decoding > 0) & (steps.prefill_tokens[inside] > 0)
    ends_s = np.minimum(steps.start_s + steps.duration_s, measured.end_s)
    busy_s = _covered_s(steps.start_s[inside], ends_s[inside] - steps.start_s[inside])
    return {
        "decode_batch_mean": float(decoding[decoding > 0].mean()) if (decoding > 0).any() else None,
        "mixed_step_fraction": float(mixed.mean()),
        "gap_fraction": 1.0 - busy_s / measured.window_s,
    }


def _covered_s(start_s: FloatArray, duration_s: FloatArray) -> float:
    """Length of the union of intervals sorted by start (pipeline stages may overlap)."""
    ends_s = np.maximum.accumulate(start_s + duration_s)
    previous_s = np.concatenate((start_s[:1], ends_s[:-1]))
    return float(np.clip(ends_s - np.maximum(start_s, previous_s), 0.0, None).sum())


def latency_columns(requests: Requests, counted: BoolArray | None = None) -> dict[str, float | None]:
    """Latencies counted from the schedule, over the `counted` requests, or all that finished."""
    done = ~np.isnan(requests.finished_s) if counted is None else counted
    if not done.any():
        return {}
    scheduled_s = requests.scheduled_s[done]
    first_s = requests.first_token_s[done] - scheduled_s
    latency_s = requests.finished_s[done] - scheduled_s
    later_tokens = requests.generated_tokens[done] - 1
    several = later_tokens > 0
    tpot_s = (latency_s - first_s)[several] / later_tokens[several]
    return {
        "ttft_mean_s": float(first_s.mean()),
        "ttft_p99_s": float(np.quantile(first_s, 0.99)),
        "tpot_mean_s": float(tpot_s.mean()) if several.any() else None,
        "latency_mean_s": float(latency_s.mean()),
        "formation_mean_s": float((requests.admitted_s[done] - scheduled_s).mean()),
        "lag_p99_s": float(np.quantile(requests.sent_s[done] - scheduled_s, 0.99)),
    }


def check_token_counts(served: Served, workload: BatchWorkload | None) -> None:
    """Every finished request has exactly the tokens it was asked for, and a batch the prompts it says.

    Raises:
        WrongTokenCount
    """
    requests = served.requests
    done = ~np.isnan(requests.finished_s)
    wrong = np.flatnonzero(done & (requests.generated_tokens != requests.asked_tokens))
    if len(wrong):
        first = wrong[0]
        counts = f"{requests.generated_tokens[first]} instead of {requests.asked_tokens[first]}"
        raise WrongTokenCount(f"{len(wrong)} of {len(requests)} requests; request {first} generated {counts} tokens")
    if workload is None:
        return
    if not done.all() or (requests.prompt_tokens != workload.prompt_tokens).any():
        raise WrongTokenCount(f"a batch of {workload.prompt_tokens}-token prompts came back unfinished or with others")
