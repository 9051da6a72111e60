"""One replay of a trace: its capacity probe, its rate, and when it is called saturated."""

import numpy as np

from harness.engines.base import Engine, Served
from harness.errors import EngineError
from harness.points import ReplayWorkload, Schedule

_PROBE_WAVES = 2
"""The probe holds this many times the engine's sequences: one wave fills it, the next shows its pace."""
_PROBE_DRAIN_S = 3600.0
_GROWTH = 2.0
_FORMATION_LIMIT_S = 5.0
_STEADY_MIN_S = 30.0
"""Shortest steady state that replaces a saturated window (ML.ENERGY's rule, measurement rule 21)."""


def measure_capacity(engine: Engine, schedule: Schedule, max_sequences: int, seed: int) -> tuple[Served, float]:
    """Requests per second the deployment completes when it never waits for one.

    The slice's requests, repeated as needed, arrive all at once; the rate is taken between the first and the
    last tenth of the completions, where the engine is full.
    """
    size = max(min(_PROBE_WAVES * max_sequences, 4 * len(schedule)), 20)
    index = np.arange(size) % len(schedule)
    burst = Schedule(
        arrival_s=np.zeros(size),
        prompt_tokens=schedule.prompt_tokens[index],
        generated_tokens=schedule.generated_tokens[index],
        duration_s=0.0,
    )
    served = engine.replay(burst, _PROBE_DRAIN_S, seed)
    finished_s = np.sort(served.requests.finished_s[~np.isnan(served.requests.finished_s)])
    if len(finished_s) < size:
        raise EngineError(f"capacity probe: {size - len(finished_s)} of {size} requests unfinished")
    low, high = size // 10, size - size // 10 - 1
    span_s = finished_s[high] - finished_s[low]
    if span_s <= 0:
        return served, float(size / (finished_s[-1] - served.start_s))
    return served, float((high - low) / span_s)


def resolved_schedule(workload: ReplayWorkload, schedule: Schedule, capacity: float) -> tuple[Schedule, float]:
    """The schedule at its own rate, and the factor on the trace's rate.

    Args:
        capacity: requests per second from `measure_capacity`; used only with a `capacity_share`.
    """
    scale = workload.rate_scale
    if workload.capacity_share is not None:
        scale = workload.capacity_share * capacity / (len(schedule) / schedule.duration_s)
    assert scale is not None, "a replay has a rate or a share of capacity"
    return schedule.scaled(scale), scale


def saturation(served: Served) -> str:
    """Why the replay counts as saturated, or "".

    It is, when a request was still waiting for its first step at the drain limit, or when batch formation (arrival
    to first step) took more than 5 s in the last quarter of arrivals and twice as long as in the first quarter:
    a backlog grows. A request that was being served at the limit is unfinished, but no sign of saturation.
    """
    requests = served.requests
    waiting = int(np.isnan(requests.admitted_s).sum())
    if waiting:
        return f"{waiting} of {len(requests)} requests not yet begun at the drain limit"
    formation_s = requests.admitted_s - requests.scheduled_s
    quarter = max(len(formation_s) // 4, 1)
    first_s, last_s = float(np.mean(formation_s[:quarter])), float(np.mean(formation_s[-quarter:]))
    if last_s > _FORMATION_LIMIT_S and last_s > _GROWTH * first_s:
        return f"batch formation grew from {first_s:.1f} s to {last_s:.1f} s"
    return ""


def steady_window(served: Served, max_sequences: int) -> tuple[float, float] | None:
    """From the B-th first token to the (N-B)-th completion, B the engine's sequences; None when under 30 s."""
    first_s = np.sort(served.requests.first_token_s[~np.isnan(served.requests.first_token_s)])
    finished_s = np.sort(served.requests.finished_s[~np.isnan(served.requests.finished_s)])
    last = len(served.requests) - max_sequences - 1
    if len(first_s) < max_sequences or not 0 <= last < len(finished_s):
        return None
    start_s, end_s = float(first_s[max_sequences - 1]), float(finished_s[last])
    return (start_s, end_s) if end_s - start_s >= _STEADY_MIN_S else None
