"""Where a predictor is wrong: readable regions of configurations, from errors on points that it had not seen.

A subgroup search (Klösgen 1996; Wrobel 1997), not a regression tree: a tree must put its first cut everywhere, so that
a few points more move all its leaves. Here each region is found on its own, among bounds at powers of two and single
names: that with the largest product of how much its mean error is surely (`SURE`) above that of all points, and of the
root of its share of traffic. With the share itself, regions are as wide as half of the space and hardly worse than it;
without it they are a handful of points. What a region covers counts no more for the next one.

What repetitions scatter by is no error of the predictor: it is subtracted from each point's error before anything else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness.errors import BadInput
from harness.points import BoolArray, FloatArray, StrArray
from harness.trainer import Condition, ErrorRegion
from harness_analysis.configurations import Configurations

LEAST_POINTS = 20
"""A region of fewer measured points says more of the points than of the predictor."""
MOST_REGIONS = 8
MOST_CONDITIONS = 4
SURE = 4.0
"""Standard errors by which a region's mean error must be above that of all points: of the many regions that are
looked at the worst is that many above by chance."""
LEAST_RATIO = 1.25
"""A region's mean error is at least so many times that of all points."""
SIZE = "billion_parameters"
"""Column of the size of models, beside those of `Configurations`."""
_BEAM = 24
_MOST_BOUNDS = MOST_CONDITIONS + 2
"""Two bounds of one column are one condition."""
_WORTH = 1.1
"""A further condition must make a region this much better."""
_NAMES = ("model", "gpu", "engine")
_NUMBERS = (SIZE, "tp", "pp", "bits", "token_budget", "batch_size", "prompt_tokens", "generated_tokens")
_LABELS = {
    SIZE: "parameters",
    "batch_size": "batch",
    "prompt_tokens": "prompt",
    "generated_tokens": "generated",
    "token_budget": "token budget",
}


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """What is asked of the predictor: configurations and (n,) how much of the traffic each stands for.

    Raises:
        ValueError: not one share for each, or shares that are negative or all zero.
    """

    configurations: Configurations
    prevalence: FloatArray

    def __post_init__(self) -> None:
        if len(self.prevalence) != len(self.configurations):
            raise ValueError("traffic has one share for each configuration")
        if not (self.prevalence >= 0).all() or not self.prevalence.sum() > 0:
            raise ValueError("shares of traffic are at least 0, and not all 0")


def error_regions(
    configurations: Configurations,
    error: FloatArray,
    noise: FloatArray,
    traffic: Traffic | None = None,
    least_points: int = LEAST_POINTS,
    most: int = MOST_REGIONS,
) -> tuple[ErrorRegion, ...]:
    """Regions where a predictor is wrong, those with the most error of traffic above the usual first.

    None where errors are the same everywhere, or no larger than what repetitions scatter by.

    Args:
        configurations: n measured points.
        error: (n,) predicted / measured total - 1, of a predictor that had not seen the point.
        noise: (n,) relative standard error of what was measured; NaN counts as none.
        traffic: None: the measured points themselves, each as much as another.
        least_points: no region has fewer.
        most: so many regions.

    Raises:
        BadInput: `least_points` below 2.
        ValueError: arrays of different lengths, errors that are not finite.
    """
    if least_points < 2:
        raise BadInput("least_points", least_points, "at least 2")
    if not len(configurations) == len(error) == len(noise):
        raise ValueError("one error and one noise for each configuration")
    if not np.isfinite(error).all():
        raise ValueError("errors are finite; leave out points that have none")
    if not len(configurations):
        return ()
    traffic = traffic or Traffic(configurations, np.ones(len(configurations)))
    search = _Search.of(configurations, np.abs(error), np.nan_to_num(noise), traffic, least_points)
    return tuple(search.regions(most))


def matches(conditions: Sequence[Condition], configurations: Configurations) -> BoolArray:
    """(n,) which configurations meet all conditions.

    Raises:
        BadInput: a column that conditions do not have.
    """
    inside = np.ones(len(configurations), bool)
    for condition in conditions:
        if condition.values:
            inside &= np.isin(_names(configurations, condition.column), condition.values)
        else:
            values = _numbers(configurations, condition.column)
            inside &= values > (-np.inf if condition.low is None else condition.low)
            inside &= values <= (np.inf if condition.high is None else condition.high)
    return inside


def _names(c: Configurations, column: str) -> StrArray:
    if column not in _NAMES:
        raise BadInput("condition", column, ", ".join((*_NAMES, *_NUMBERS)))
    names: StrArray = getattr(c, column)
    return names


def _numbers(c: Configurations, column: str) -> FloatArray:
    if column not in _NUMBERS:
        raise BadInput("condition", column, ", ".join((*_NAMES, *_NUMBERS)))
    if column == SIZE:
        size = {name: shape.parameters / 1e9 for name, shape in c.shapes.items()}
        names, position = np.unique(c.model, return_inverse=True)
        return np.array([size[str(name)] for name in names], np.float64)[position]
    values: FloatArray = getattr(c, column)
    return values


def _bounds(c: Configurations) -> Iterator[Condition]:
    """Every condition that divides the configurations: one name, or one side of a power of two."""
    for column in _NAMES:
        names = np.unique(_names(c, column))
        yield from (Condition(column, values=(str(name),)) for name in names if len(names) > 1)
    for column in _NUMBERS:
        values = _numbers(c, column)
        least, largest = float(values.min()), float(values[np.isfinite(values)].max(initial=1.0))
        if np.isinf(values).any() and least <= largest:
            yield Condition(column, low=largest)
        for power in range(int(np.floor(np.log2(least))), int(np.ceil(np.log2(max(largest, least)))) + 1):
            cut = 2.0**power
            if least <= cut < values.max():
                yield Condition(column, low=cut)
                yield Condition(column, high=cut)


def _merged(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """Two bounds of one column as one condition; none where they are too many, contradict or repeat one another."""
    found: dict[str, Condition] = {}
    for one in conditions:
        other = found.get(one.column)
        if other is None:
            found[one.column] = one
            continue
        if one.values or (one.low is None) == (other.low is None):
            return ()
        low, high = (one.low, other.high) if one.low is not None else (other.low, one.high)
        if low is None or high is None or low >= high:
            return ()
        found[one.column] = Condition(one.column, low, high)
    if len(found) > MOST_CONDITIONS:
        return ()
    order = (*_NAMES[:1], SIZE, *_NAMES[1:], *_NUMBERS[1:])
    return tuple(sorted(found.values(), key=lambda one: order.index(one.column)))


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """All that the search looks at: bounds, and which of n points and m kinds of traffic meet each of them."""

    configurations: Configurations
    traffic: Traffic
    error: FloatArray
    noise: FloatArray
    bounds: tuple[Condition, ...]
    points: FloatArray
    asked: FloatArray
    least_points: int

    @staticmethod
    def of(c: Configurations, error: FloatArray, noise: FloatArray, traffic: Traffic, least_points: int) -> "_Search":
        bounds = tuple(_bounds(c))
        points = np.array([matches([bound], c) for bound in bounds], np.float64).reshape(len(bounds), len(c))
        shared = traffic.configurations
        asked = np.array([matches([bound], shared) for bound in bounds], np.float64).reshape(len(bounds), len(shared))
        return _Search(c, traffic, error, noise, bounds, points, asked, least_points)

    def regions(self, most: int) -> list[ErrorRegion]:
        found: list[ErrorRegion] = []
        open_points, open_traffic = np.ones(len(self.error)), self.traffic.prevalence / self.traffic.prevalence.sum()
        while self.bounds and len(found) < most and (best := self._best(open_points, open_traffic)) is not None:
            region = self._region(best)
            found.append(region)
            open_points = open_points * ~matches(region.conditions, self.configurations)
            open_traffic = open_traffic * ~matches(region.conditions, self.traffic.configurations)
        usual = float(self._net.mean())
        return sorted(found, key=lambda one: -one.traffic_pct * (one.mape_pct - one.noise_pct - 100 * usual))

    @property
    def _net(self) -> FloatArray:
        """(n,) errors less what repetitions explain."""
        return self.error - self.noise

    def _best(self, open_points: FloatArray, open_traffic: FloatArray) -> tuple[int, ...] | None:
        """The bounds of the best region of what is not covered; None where none is surely worse than the usual."""
        net, usual = self._net, float(self._net.mean())
        spread = float(net.std())
        beam: list[tuple[int, ...]] = [()]
        best: tuple[float, tuple[int, ...]] = (0.0, ())
        seen: set[frozenset[int]] = set()
        for _ in range(_MOST_BOUNDS):
            inside = np.stack([open_points * self.points[list(chosen)].prod(axis=0) for chosen in beam])
            share = np.stack([open_traffic * self.asked[list(chosen)].prod(axis=0) for chosen in beam])
            n, sums, squares = self.points @ inside.T, self.points @ (inside * net).T, self.points @ (inside * net**2).T
            least, root = np.maximum(n, self.least_points), np.sqrt(self.asked @ share.T)
            # The spread of few points may be small by chance.
            own = np.maximum(np.sqrt(np.maximum(squares / least - (sums / least) ** 2, 0)), spread) / np.sqrt(least)
            above = sums / least - usual
            sure = (n >= self.least_points) & (sums >= LEAST_RATIO * usual * n)
            value = np.where(sure, root * (above - SURE * own), -np.inf)
            # Bounds that are not enough by themselves may be with others.
            hope = np.where(n >= self.least_points, root * (above - own), -np.inf)
            ahead: list[tuple[float, float, tuple[int, ...]]] = []
            for index, before in zip(*np.nonzero(hope > 0), strict=True):
                bounds = (*beam[before], int(index))
                key = frozenset(bounds)
                if key not in seen and _merged([self.bounds[one] for one in bounds]):
                    seen.add(key)
                    ahead.append((float(hope[index, before]), float(value[index, before]), bounds))
            if not ahead:
                break
            beam = [bounds for _, _, bounds in sorted(ahead, key=lambda item: (-item[0], item[2]))[:_BEAM]]
            _, top, bounds = min(ahead, key=lambda item: (-item[1], item[2]))
            if top > best[0] * _WORTH:
                best = top, bounds
        return best[1] or None

    def _region(self, bounds: tuple[int, ...]) -> ErrorRegion:
        conditions = _merged([self.bounds[one] for one in bounds])
        inside = matches(conditions, self.configurations)
        share = self.traffic.prevalence[matches(conditions, self.traffic.configurations)].sum()
        return ErrorRegion(
            label=", ".join(_said(condition, self.configurations) for condition in conditions),
            conditions=conditions,
            n=int(inside.sum()),
            mape_pct=float(100 * self.error[inside].mean()),
            noise_pct=float(100 * self.noise[inside].mean()),
            traffic_pct=float(100 * share / self.traffic.prevalence.sum()),
        )


def _said(condition: Condition, c: Configurations) -> str:
    """A condition in words; one that leaves a single value names it."""
    if condition.values:
        return " or ".join(condition.values)
    name = _LABELS.get(condition.column, condition.column)
    left = np.unique(_numbers(c, condition.column)[matches([condition], c)])
    unit = "B" if condition.column == SIZE else ""
    if len(left) == 1 and condition.column != SIZE:
        return f"{name} {left[0]:g}" if np.isfinite(left[0]) else f"no {name}"
    low = "" if condition.low is None else f"{name} > {condition.low:g}{unit}"
    high = "" if condition.high is None else f"{name} <= {condition.high:g}{unit}"
    if low and high:
        return f"{condition.low:g}{unit} < {high}"
    return low or high
