"""The dialect that every server engine here speaks: vLLM's completions, with token ids and exact counts."""

from collections.abc import Sequence

COMPLETIONS = "/v1/completions"
PAUSE, RESUME = "/pause?mode=keep", "/resume"
"""While paused, requests are queued and none is scheduled."""
HEALTH, METRICS = "/health", "/metrics"
PREFIX_HITS = "vllm:prefix_cache_hits_total"


def completion(model: str, prompt: Sequence[int], tokens: int, stream: bool) -> dict[str, object]:
    """Body of a request for exactly `tokens` tokens; a streamed answer ends with its usage."""
    body: dict[str, object] = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": tokens,
        "min_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def counter(metrics: str, name: str) -> float:
    """Sum of a counter over its labels in a page of Prometheus' text format; 0 where the page has none."""
    values = (line.split() for line in metrics.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
    return sum(float(words[-1]) for words in values)
