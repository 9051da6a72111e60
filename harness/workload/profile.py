"""A trace's statistical profile: counts and quantiles, small enough to come with the harness.

It stands in for a trace that was not fetched, under a name of its own. What it keeps of the trace:

- arrivals: the requests of every minute and where in the minute they begin and end, and the quantiles of
  the gaps between requests relative to their minute's mean gap (that is what makes bursts);
- lengths: quantiles of the prompt tokens, and of the generated tokens within bands of equal prompt rank.

Rebuild one with: python -m harness.workload.profile CSV NAME > traces/NAME-profile.json
"""

import json
from pathlib import Path
from typing import Annotated, Literal, Self

import click
import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from harness.points import FloatArray, IntArray, content_id
from harness.workload.azure import TICKS_PER_S, Trace, load_trace
from harness.workload.datafile import read_datafile

_MINUTE_S = 60.0
_MS_PER_S = 1000
_PROMPT_BANDS = 16
_REQUESTS_PER_BAND = 50
_MAX_REQUESTS = 10_000_000
_LEAST_GAP = 1e-9  # of a minute's mean gap: a minute whose gaps are all drawn as 0 still has an end
# Finer towards the long tails, where most tokens are.
_PROMPT_LEVELS = (*np.linspace(0, 0.98, 50), 0.985, 0.99, 0.995, 0.998, 1.0)
_GENERATED_LEVELS = (*np.linspace(0, 0.95, 20), 0.96, 0.97, 0.98, 0.99, 0.995, 1.0)
_GAP_LEVELS = (*np.linspace(0, 0.98, 50), 0.985, 0.99, 0.995, 0.998, 1.0)

Level = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Tokens = Annotated[float, Field(ge=1, allow_inf_nan=False)]
WithinMinute = Annotated[float, Field(ge=0, lt=_MINUTE_S)]


class Profile(BaseModel):
    """Content of a profile file.

    Attributes:
        fitted_to_sha256: of the CSV it was made from.
        minute_requests: (m,) requests in each minute, the first of which begins with the first request.
        minute_first_s, minute_last_s: (m,) first and last arrival within the minute; 0 in an empty one.
        *_levels: from 0 to 1, the levels of the quantiles beside them.
        gap_quantiles: gaps between requests, relative to the mean gap of their minute.
        generated_quantiles: one row per band of equal prompt rank.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal[1]
    name: str
    fitted_to_sha256: str
    start_utc: AwareDatetime
    requests: Annotated[int, Field(ge=1, le=_MAX_REQUESTS)]
    minute_requests: tuple[Annotated[int, Field(ge=0)], ...]
    minute_first_s: tuple[WithinMinute, ...]
    minute_last_s: tuple[WithinMinute, ...]
    gap_levels: tuple[Level, ...]
    gap_quantiles: tuple[NotNegative, ...]
    prompt_levels: tuple[Level, ...]
    prompt_quantiles: tuple[Tokens, ...]
    generated_levels: tuple[Level, ...]
    generated_quantiles: Annotated[tuple[tuple[Tokens, ...], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if not len(self.minute_requests) == len(self.minute_first_s) == len(self.minute_last_s):
            raise ValueError("as many minute_first_s and minute_last_s as minute_requests")
        if sum(self.minute_requests) != self.requests:
            raise ValueError(f"minute_requests that add up to {self.requests} requests")
        if any(first > last for first, last in zip(self.minute_first_s, self.minute_last_s, strict=True)):
            raise ValueError("minute_first_s not after minute_last_s")
        tables = [(self.gap_levels, self.gap_quantiles), (self.prompt_levels, self.prompt_quantiles)]
        tables += [(self.generated_levels, row) for row in self.generated_quantiles]
        for levels, quantiles in tables:
            ordered = levels == tuple(sorted(set(levels))) and quantiles == tuple(sorted(quantiles))
            if len(levels) != len(quantiles) or levels[:1] != (0.0,) or levels[-1:] != (1.0,) or not ordered:
                raise ValueError("one quantile per level, both in order, levels from 0 to 1")
        return self

    def to_json(self) -> str:
        """One field per line."""
        fields = self.model_dump(mode="json").items()
        return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in fields) + "\n}\n"

    def sample(self, seed: int) -> Trace:
        """A trace with the profile's number of requests, minutes and span; the same for the same seed.

        Draws are stratified (one per n-th of the probability, shuffled), so that a sample's distribution is
        close to the profile's. Lengths are independent of arrivals.
        """
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        arrival_s = self._arrivals_s(generator)
        prompt_rank = _stratified(self.requests, generator)
        prompt = np.interp(prompt_rank, self.prompt_levels, self.prompt_quantiles)
        bands = len(self.generated_quantiles)
        band = (prompt_rank * bands).astype(np.int64)
        generated = np.empty(self.requests)
        for index, quantiles in enumerate(self.generated_quantiles):
            inside = band == index
            rank = _stratified(int(inside.sum()), generator)
            generated[inside] = np.interp(rank, self.generated_levels, quantiles)
        return Trace(
            name=self.name,
            sha256=content_id({"profile": self.model_dump(mode="json"), "seed": seed}, 64),
            start_utc=self.start_utc,
            arrival_s=arrival_s,
            prompt_tokens=np.rint(prompt).astype(np.int64),
            generated_tokens=np.rint(generated).astype(np.int64),
            source="profile",
        )

    def _arrivals_s(self, generator: np.random.Generator) -> FloatArray:
        arrivals = []
        for minute, count in enumerate(self.minute_requests):
            first_s, last_s = self.minute_first_s[minute], self.minute_last_s[minute]
            begun = np.zeros(min(count, 1))
            if count > 1:
                gaps = np.interp(_stratified(count - 1, generator), self.gap_levels, self.gap_quantiles)
                elapsed = np.cumsum(gaps + _LEAST_GAP)
                begun = np.append(begun, elapsed / elapsed[-1])
            arrivals.append(minute * _MINUTE_S + first_s + begun * (last_s - first_s))
        return np.asarray(np.rint(np.concatenate(arrivals) * TICKS_PER_S) / TICKS_PER_S)


def _stratified(count: int, generator: np.random.Generator) -> FloatArray:
    """`count` numbers in [0, 1), one in each of `count` equal parts, in random order."""
    order = np.argsort(generator.random(count), kind="stable")
    return (order + generator.random(count)) / max(count, 1)


def fit_profile(trace: Trace) -> Profile:
    """The profile of a trace; its name is the trace's with `-profile` behind it."""
    minute = (trace.arrival_s // _MINUTE_S).astype(np.int64)
    requests = np.bincount(minute)
    first_s, last_s = np.zeros(len(requests)), np.zeros(len(requests))
    gaps = [np.ones(1)]
    for index in np.flatnonzero(requests):
        inside_s = trace.arrival_s[minute == index] - index * _MINUTE_S
        # Rounded down, so that both stay within the minute.
        first_s[index], last_s[index] = np.floor(inside_s[[0, -1]] * _MS_PER_S) / _MS_PER_S
        if inside_s[-1] > inside_s[0]:
            gap_s = np.diff(inside_s)
            gaps.append(gap_s / gap_s.mean())
    bands = min(_PROMPT_BANDS, max(len(trace) // _REQUESTS_PER_BAND, 1))
    by_prompt = np.argsort(trace.prompt_tokens, kind="stable")
    generated = [
        _quantiles(part, _GENERATED_LEVELS) for part in np.array_split(trace.generated_tokens[by_prompt], bands)
    ]
    return Profile(
        form=1,
        name=f"{trace.name}-profile",
        fitted_to_sha256=trace.sha256,
        start_utc=trace.start_utc,
        requests=len(trace),
        minute_requests=tuple(requests.tolist()),
        minute_first_s=tuple(first_s.tolist()),
        minute_last_s=tuple(last_s.tolist()),
        gap_levels=_rounded(_GAP_LEVELS),
        gap_quantiles=_quantiles(np.concatenate(gaps), _GAP_LEVELS),
        prompt_levels=_rounded(_PROMPT_LEVELS),
        prompt_quantiles=_quantiles(trace.prompt_tokens, _PROMPT_LEVELS),
        generated_levels=_rounded(_GENERATED_LEVELS),
        generated_quantiles=tuple(generated),
    )


def _quantiles(values: FloatArray | IntArray, levels: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in np.quantile(values, levels))


def _rounded(levels: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(float(level), 6) for level in levels)


def load_profile(path: Path) -> Profile:
    """A profile from its file.

    Raises:
        BadInput: the file cannot be read or is no profile.
    """
    return read_datafile(path, Profile)


@click.command()
@click.argument("csv_file", metavar="CSV")
@click.argument("name")
def main(csv_file: str, name: str) -> None:
    """Print the profile of the trace in CSV as JSON; NAME is the trace's."""
    click.echo(fit_profile(load_trace(csv_file, name)).to_json(), nl=False)


if __name__ == "__main__":
    main()
