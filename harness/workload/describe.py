"""A trace in figures, for people who choose one."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.points import IntArray
from harness.workload.azure import Trace

REFERENCE_CONTEXT_TOKENS = 4096
"""The context of Llama 2, the shortest among the models that come with the harness."""
_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class TokenFigures:
    """Tokens per request."""

    mean: float
    median: float
    p99: float
    max: int


@dataclass(frozen=True, slots=True)
class Description:
    """Figures of a trace.

    Attributes:
        rate_per_s: requests over the span; None for a trace without a span.
        gap_cv: standard deviation over mean of the gaps between requests (1: Poisson); None without a span.
        minutes, empty_minutes, busiest_minute_requests: minutes are counted from the first request.
        over_context_share: requests of more than 4096 tokens, prompt and generated together.
    """

    name: str
    source: Literal["file", "profile"]
    sha256: str
    start_utc: str
    requests: int
    span_s: float
    rate_per_s: float | None
    gap_cv: float | None
    minutes: int
    empty_minutes: int
    busiest_minute_requests: int
    over_context_share: float
    prompt_tokens: TokenFigures
    generated_tokens: TokenFigures


def describe(trace: Trace) -> Description:
    """The figures of `trace`."""
    # Only minutes with requests are kept: a damaged stamp may lie millennia behind the others.
    occupied, per_minute = np.unique((trace.arrival_s // _MINUTE_S).astype(np.int64), return_counts=True)
    minutes = int(occupied[-1]) + 1
    gaps_s = np.diff(trace.arrival_s)
    moves = trace.span_s > 0
    over = trace.prompt_tokens + trace.generated_tokens > REFERENCE_CONTEXT_TOKENS
    return Description(
        name=trace.name,
        source=trace.source,
        sha256=trace.sha256,
        start_utc=trace.start_utc.isoformat(),
        requests=len(trace),
        span_s=trace.span_s,
        rate_per_s=len(trace) / trace.span_s if moves else None,
        gap_cv=float(gaps_s.std() / gaps_s.mean()) if moves else None,
        minutes=minutes,
        empty_minutes=minutes - len(occupied),
        busiest_minute_requests=int(per_minute.max()),
        over_context_share=float(over.mean()),
        prompt_tokens=_figures(trace.prompt_tokens),
        generated_tokens=_figures(trace.generated_tokens),
    )


def _figures(tokens: IntArray) -> TokenFigures:
    return TokenFigures(
        mean=float(tokens.mean()),
        median=float(np.median(tokens)),
        p99=float(np.quantile(tokens, 0.99)),
        max=int(tokens.max()),
    )
