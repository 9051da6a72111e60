"""Tokens per request as they were served, beside those of the trace (the LLMCO2 paper's Fig. 3)."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from harness.points import FloatArray
from harness.report.data import Results
from harness.report.tables.spread import quantiles

LEVELS = {"p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "max": 1.0}
TOKENS = ("prompt_tokens", "generated_tokens")
_BINS_PER_DOUBLING = 2


def length_quantiles(results: Results) -> pd.DataFrame:
    """Quantiles of tokens per request, of each trace and of what was served of it.

    One row per trace, tokens (prompt_tokens or generated_tokens) and `of`: the trace (or the profile that stands for
    it), `replays` (every finished request of settled ones) or `batch points` (each point's lengths once, whatever its
    batch size; those drawn from the trace, or under the trace "" those of a grid). n, mean, quantiles, and
    apart_pct: the largest distance between the distribution and the trace's (Kolmogorov-Smirnov), percent.
    """
    rows = []
    for trace, of, lengths, own in _served(results):
        for tokens in TOKENS:
            values = lengths[tokens]
            apart_pct = np.nan if own is None else 100.0 * _apart(values, own[tokens])
            row = {"trace": trace, "tokens": tokens, "of": of, "n": len(values), "mean": float(values.mean())}
            rows.append({**row, **quantiles(values, LEVELS), "apart_pct": apart_pct})
    columns = ["trace", "tokens", "of", "n", "mean", *LEVELS, "apart_pct"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(["trace", "tokens"], kind="stable", ascending=[True, False], ignore_index=True)


def length_histogram(results: Results) -> pd.DataFrame:
    """The same distributions in bins of half a doubling: trace, tokens, of, from_tokens, below_tokens, share_pct."""
    frames = []
    for trace, of, lengths, _ in _served(results):
        for tokens in TOKENS:
            values = lengths[tokens]
            doublings = np.ceil(_BINS_PER_DOUBLING * np.log2(values.max() + 1.0))
            edges = 2.0 ** (np.arange(doublings + 1) / _BINS_PER_DOUBLING)
            counts, _edges = np.histogram(values, edges)
            bins = pd.DataFrame({"from_tokens": edges[:-1], "below_tokens": edges[1:]})
            bins["share_pct"] = 100.0 * counts / len(values)
            frames.append(bins.assign(trace=trace, tokens=tokens, of=of))
    columns = ["trace", "tokens", "of", "from_tokens", "below_tokens", "share_pct"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


Lengths = dict[str, FloatArray]


def _served(results: Results) -> Iterator[tuple[str, str, Lengths, Lengths | None]]:
    """Trace, what the lengths are of, the lengths, and those of the trace to compare with; nothing that is empty."""
    runs, requests = results.runs, results.requests[results.requests["counted"]]
    replayed = requests.groupby(runs["trace"][requests["run"]].to_numpy())
    drawn = runs.drop_duplicates("point_id").set_index("point_id")["trace"]
    batches = results.lengths.groupby(results.lengths["point_id"].map(drawn))
    by_trace = {"replays": dict(iter(replayed)), "batch points": dict(iter(batches))}
    for name in sorted({*by_trace["replays"], *by_trace["batch points"]}):
        trace, own = results.traces.get(name), None
        if trace is not None:
            own = {tokens: getattr(trace, tokens).astype(np.float64) for tokens in TOKENS}
            yield name, "trace" if trace.source == "file" else "trace's profile", own, None
        for of, frames in by_trace.items():
            if name in frames:
                yield name, of, {tokens: np.asarray(frames[name][tokens], np.float64) for tokens in TOKENS}, own


def _apart(values: FloatArray, other: FloatArray) -> float:
    """Kolmogorov-Smirnov distance of two samples."""
    both = np.sort(np.concatenate((values, other)))
    shares = [np.searchsorted(np.sort(sample), both, side="right") / len(sample) for sample in (values, other)]
    return float(np.abs(shares[0] - shares[1]).max())
