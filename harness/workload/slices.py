"""From a trace to what is asked of an engine: a slice as a schedule, or token lengths for batches.

Context policies (a request's prompt and generated tokens share one context):

- `clip-prompt`: a request over the context keeps its generated tokens and loses the front of its prompt;
  if the generated tokens leave no room for one prompt token, they are cut to the context less one.
- `drop`: a request over the context is left out.

Both counts are kept with the schedule. Lengths may be scaled before, for engines too small for a trace.
"""

import math
import re
from collections.abc import Container
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from harness.errors import BadInput
from harness.points import IntArray, Schedule
from harness.workload.azure import Trace

ContextPolicy = Literal["clip-prompt", "drop"]
SLICE_RULES = "median, busiest, or start:SECONDS"
MIN_SLICE_S = 1.0
_WINDOWS_PER_SLICE = 4
_MIN_RATE_SCALE, _MAX_RATE_SCALE = 0.01, 1000.0
_MAX_CAPACITY_SHARE = 2.0
MIN_LENGTH_SCALE, MAX_LENGTH_SCALE = 0.001, 10.0
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_PROMPT_BANDS = 32
"""Requests of nearby prompt rank are a 32nd of the trace (605 of the chat trace, 275 of the code trace)."""


def choose_slice(trace: Trace, duration_s: float, rule: str) -> float:
    """Where a slice of `duration_s` starts, in seconds from the trace's first request.

    `median` and `busiest` look at windows every quarter of the duration from 0 on, and at their number of
    requests: `busiest` takes the most, `median` the (lower) median of the windows that hold at least one,
    both the earliest such window. `start:SECONDS` takes the given one.

    Raises:
        BadInput: an unknown rule, or a slice that does not lie within the trace.
    """
    _check_duration(trace, duration_s)
    start_s = parse_slice_rule(rule)
    if start_s is not None:
        _check_start(trace, start_s, duration_s)
        return start_s
    step_s = duration_s / _WINDOWS_PER_SLICE
    windows = math.floor((trace.end_s - duration_s) / step_s + 1e-9) + 1
    # Windows that may hold a request, and one more on each side for rounding: of a trace over years few do.
    last = np.unique(np.floor(trace.arrival_s / step_s).astype(np.int64))
    near = np.unique((last[:, np.newaxis] + np.arange(-_WINDOWS_PER_SLICE - 1, 2)).ravel())
    starts_s = near[(near >= 0) & (near < windows)] * step_s
    counts = np.searchsorted(trace.arrival_s, starts_s + duration_s) - np.searchsorted(trace.arrival_s, starts_s)
    # The first window holds the first request, so that at least one is not empty.
    occupied = np.sort(counts[counts > 0])
    wanted = occupied[-1] if rule.strip() == "busiest" else occupied[(len(occupied) - 1) // 2]
    return float(starts_s[np.flatnonzero(counts == wanted)[0]])


def parse_slice_rule(rule: str, field: str = "slice") -> float | None:
    """The start that `start:SECONDS` gives; None for `median` and `busiest`.

    Args:
        field: what a complaint calls it.

    Raises:
        BadInput: anything else.
    """
    given = re.fullmatch(f"start:{_NUMBER}", rule.strip(), re.ASCII)
    if given is None and rule.strip() not in ("median", "busiest"):
        raise BadInput(field, rule, SLICE_RULES)
    return float(given[1]) if given else None


def make_schedule(
    trace: Trace,
    start_s: float,
    duration_s: float,
    max_context_tokens: int,
    context_policy: str,
    length_scale: float = 1.0,
) -> Schedule:
    """The requests that arrive in [start_s, start_s + duration_s), fitted to a context.

    Args:
        length_scale: factor on all prompt and generated tokens, before the context policy: rounded up, so that
            each stays at least 1.

    Raises:
        BadInput: the slice does not lie within the trace or has no request, or none is left.
    """
    _check_duration(trace, duration_s)
    _check_start(trace, start_s, duration_s)
    if context_policy not in get_args(ContextPolicy):
        raise BadInput("context_policy", context_policy, " or ".join(get_args(ContextPolicy)))
    first, end = np.searchsorted(trace.arrival_s, [start_s, start_s + duration_s])
    where = f"slice {start_s:g}s+{duration_s:g}s of {trace.name}"
    if first == end:
        raise BadInput(where, "no requests", "a slice with at least one request", "choose `median` or `busiest`")
    lengths = np.stack([trace.prompt_tokens[first:end], trace.generated_tokens[first:end]], axis=1)
    lengths = scale_lengths(lengths, length_scale)
    arrival_s = trace.arrival_s[first:end] - start_s
    fitted = clip_lengths(lengths, max_context_tokens)
    over = (fitted != lengths).any(axis=1)
    clipped, dropped = int(over.sum()), 0
    if context_policy == "drop":
        clipped, dropped = 0, clipped
        fitted, arrival_s = fitted[~over], arrival_s[~over]
        if not len(fitted):
            accepted = f"at least one request within the context of {max_context_tokens} tokens"
            raise BadInput(where, "every request is over the context", accepted, "use clip-prompt")
    return Schedule(
        arrival_s=arrival_s,
        prompt_tokens=fitted[:, 0].copy(),
        generated_tokens=fitted[:, 1].copy(),
        duration_s=duration_s,
        clipped=clipped,
        dropped=dropped,
    )


def scale_lengths(lengths: IntArray, length_scale: float) -> IntArray:
    """Token counts times a factor, rounded up.

    Raises:
        BadInput: a factor out of range.
    """
    if not MIN_LENGTH_SCALE <= length_scale <= MAX_LENGTH_SCALE:
        raise BadInput("length_scale", length_scale, f"{MIN_LENGTH_SCALE:g} to {MAX_LENGTH_SCALE:g}")
    if length_scale == 1.0:
        return lengths
    # A part in 10^9 less, so that 100 x 0.07 is 7, not 8.
    scaled: IntArray = np.ceil(lengths * length_scale * (1 - 1e-9)).astype(np.int64)
    return scaled


def clip_lengths(lengths: IntArray, max_context_tokens: int) -> IntArray:
    """(n, 2) prompt and generated tokens after `clip-prompt`; each pair fits, both stay at least 1.

    Raises:
        BadInput: a context of less than two tokens.
    """
    if max_context_tokens < 2:
        raise BadInput("max_context_tokens", max_context_tokens, "at least 2: one prompt and one generated token")
    generated = np.minimum(lengths[:, 1], max_context_tokens - 1)
    prompt = np.minimum(lengths[:, 0], max_context_tokens - generated)
    return np.stack([prompt, generated], axis=1)


def parse_rate(text: str, field: str = "rate") -> tuple[float | None, float | None]:
    """(rate_scale, capacity_share) of `1.5` or `x1.5` (times the trace's rate) or `capacity:0.8`.

    Exactly one of the two is a number.

    Args:
        field: what a complaint calls it.

    Raises:
        BadInput: anything else, zero, or a figure out of range.
    """
    compact = text.strip().lower()
    scale = re.fullmatch(f"x?{_NUMBER}", compact, re.ASCII)
    if scale and _MIN_RATE_SCALE <= float(scale[1]) <= _MAX_RATE_SCALE:
        return float(scale[1]), None
    share = re.fullmatch(f"capacity:{_NUMBER}", compact, re.ASCII)
    if share and 0 < float(share[1]) <= _MAX_CAPACITY_SHARE:
        return None, float(share[1])
    accepted = f"a factor on the trace's rate such as 1.5 or x1.5 ({_MIN_RATE_SCALE:g} to {_MAX_RATE_SCALE:g})"
    accepted += f", or a share of capacity such as capacity:0.8 (over 0, at most {_MAX_CAPACITY_SHARE:g})"
    raise BadInput(field, text, accepted)


def pick_lengths(trace: Trace, n: int, seed: int, max_context_tokens: int) -> IntArray:
    """(n, 2) prompt and generated tokens that cover the trace's joint lengths evenly in its own probability.

    Points of a scrambled Sobol sequence in the unit square are mapped to requests: the first coordinate is
    the quantile of the prompt among all requests, the second that of the generated tokens among requests of
    nearby prompt rank. Every pair is one of the trace's after `clip-prompt`, and no pair comes twice. A
    longer pick begins with the shorter one, so that a sweep can grow.

    Raises:
        BadInput: more pairs than the trace has.
    """
    lengths = _fitted(trace, max_context_tokens)
    by_prompt = lengths[np.lexsort((lengths[:, 1], lengths[:, 0]))]
    available = different_lengths(trace, max_context_tokens)
    if not 0 <= n <= available:
        raise BadInput("number of lengths", n, f"0 to {available}, the different pairs of {trace.name}")
    taken: dict[tuple[int, int], None] = {}
    for prompt_quantile, generated_quantile in _sobol(n, seed):
        taken[_nearest_free(by_prompt, prompt_quantile, generated_quantile, taken)] = None
    return np.array(list(taken), dtype=np.int64).reshape(n, 2)


def different_lengths(trace: Trace, max_context_tokens: int) -> int:
    """How many different pairs of prompt and generated tokens a trace has after `clip-prompt`."""
    return len(np.unique(_fitted(trace, max_context_tokens), axis=0))


def _fitted(trace: Trace, max_context_tokens: int) -> IntArray:
    return clip_lengths(np.stack([trace.prompt_tokens, trace.generated_tokens], axis=1), max_context_tokens)


def _sobol(n: int, seed: int) -> npt.NDArray[np.float64]:
    """The first n points of the sequence that `seed` scrambles."""
    from scipy.stats import qmc  # takes 0.4 s to import, which every other command would wait for

    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    # Drawn by the power of two, as the sequence's balance asks for; shorter draws are prefixes of longer ones.
    points = qmc.Sobol(d=2, scramble=True, seed=generator).random_base2(max(n - 1, 0).bit_length())
    return np.asarray(points[:n], dtype=np.float64)


def _nearest_free(
    by_prompt: IntArray, prompt_quantile: float, generated_quantile: float, taken: Container[tuple[int, int]]
) -> tuple[int, int]:
    """The pair at the quantiles; where it is taken, the nearest in generated rank, in a band that widens."""
    size = len(by_prompt)
    bands = min(_PROMPT_BANDS, size)
    band = int(prompt_quantile * bands)
    first, end = band * size // bands, (band + 1) * size // bands
    while True:
        near = by_prompt[first:end]
        near = near[np.argsort(near[:, 1], kind="stable")]
        target = int(generated_quantile * len(near))
        for rank in np.argsort(np.abs(np.arange(len(near)) - target), kind="stable"):
            pair = int(near[rank, 0]), int(near[rank, 1])
            if pair not in taken:
                return pair
        widen = end - first
        first, end = max(first - widen, 0), end + widen


def _check_duration(trace: Trace, duration_s: float) -> None:
    if not MIN_SLICE_S <= duration_s <= trace.end_s:
        raise BadInput("slice duration", duration_s, f"{MIN_SLICE_S:g} to {trace.end_s:g} s, as long as {trace.name}")


def _check_start(trace: Trace, start_s: float, duration_s: float) -> None:
    latest_s = trace.end_s - duration_s
    if not 0 <= start_s <= latest_s:
        accepted = f"0 to {latest_s:g} s, so that {duration_s:g} s lie within {trace.name}"
        raise BadInput("slice start", start_s, accepted)
