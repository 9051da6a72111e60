"""How many points and GPU-hours targeted sampling saves, beside random and other ways to choose.

Pools are measured beforehand, so that thousands of points are "measured" in no time: (a) a simulated space, made by the
harness itself where it is not there yet (minutes, once), and (b) the data released with the LLMCO2 paper. Each strategy
chooses from the pool round by round; its predictor learns from what it chose and is scored on probes that no strategy
may choose. The accuracies to reach were fixed before the reported pool was made.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from common import RESULTS, report
from sampling.learners import Forest, Gnn, Learner, PhysicsForest
from sampling.pools import GPUS, Pool, Space, measured, released
from sampling.race import ONE_CAMPAIGN, Mark, curve, launches_one_by_one, needed
from sampling.strategies import Strategy, by_prevalence, random, space_filling, targeted, uncertainty_only

from harness.sampling.acquisition import choose
from harness.sampling.base import Candidates, Knowledge

PACKAGES = ["numpy", "scikit-learn", "torch"]
FIRST_SEED = 0
GNN_SEEDS = 2
"""A 2-GNN trains for up to half a minute, so fewer seeds, sizes and strategies show it."""
SIZES = (250, 500, 750, 1000, 1400, 2000, 2800, 3600)
"""Points after each round. Longer rounds than these save launches, shorter ones points."""
RELEASED_SIZES = (100, 200, 300, 450, 600, 1000, 1500, 2200)
GNN_SIZES = (250, 500, 1000, 2000, 3600)
GNN_RELEASED_SIZES = (50, 100, 200, 400)
ACCURACIES_PCT: dict[str, dict[str, tuple[float, ...]]] = {
    "simulated": {"usual": (3.5, 3.0, 2.5), "uniform": (4.5, 4.0, 3.5), "long": (7.0, 6.0)},
    "released": {"val": (5.0, 3.5, 2.5), "val, long": (3.0, 2.0)},
    "released, 2-GNN": {"val": (1.1, 0.9), "val, long": (0.9, 0.75)},
}
MOST_POINTS_RATIO = MOST_HOURS_RATIO = 0.5
MOST_LAUNCHES_RATIO = 0.2
MOST_ASK_S = 30.0
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Entry:
    """A strategy, and the probes that it is scored on; None: on all."""

    name: str
    strategy: Strategy
    probes: tuple[str, ...] | None = None


def entries(pool: str) -> list[Entry]:
    others = [Entry("random", random), Entry("space-filling", space_filling)]
    others += [Entry("uncertainty-only", uncertainty_only)]
    if pool != "simulated":
        return [Entry("targeted", targeted("uniform")), *others]
    # Told of the same traffic that the probes have.
    told = [Entry("targeted", targeted("usual"), ("usual", "long"))]
    told += [Entry("targeted", targeted("uniform"), ("uniform",))]
    few = "targeted, 2 a launch"
    told += [Entry(few, targeted("usual", 2), ("usual", "long")), Entry(few, targeted("uniform", 2), ("uniform",))]
    return [*told, *others, Entry("random by traffic", by_prevalence, ("usual", "long"))]


@dataclass(frozen=True, slots=True)
class Run:
    """One strategy with one learner and one seed on one pool."""

    pool: str
    learner: str
    strategy: str
    probes: tuple[str, ...]
    seed: int
    marks: tuple[Mark, ...]
    launches_one_by_one: int


def race(
    make_pool: Callable[[int], Pool],
    learner: Callable[[], Learner],
    sizes: Sequence[int],
    seed: int,
    only: Sequence[str] = (),
) -> list[Run]:
    """All strategies of one seed, or those named."""
    pool = make_pool(seed)
    found = []
    for entry in entries(pool.name):
        if only and entry.name not in only:
            continue
        marks, chosen = curve(pool, entry.strategy, entry.name in ONE_CAMPAIGN, learner, sizes, seed)
        single = launches_one_by_one(pool, chosen, pool.traffic["usual"]) if pool.gpu_s is not None else 0
        found.append(
            Run(
                pool.name,
                learner().name,
                entry.name,
                entry.probes or tuple(pool.probes),
                seed,
                tuple(marks),
                single,
            )
        )
    return found


def simulated_pool(folder: Path, seed: int) -> Pool:
    return Space.read(folder).pool(seed)


def released_pool(public: Path, seed: int) -> Pool:
    return released(public)


def accuracy_rows(runs: Sequence[Run]) -> Iterator[Row]:
    """Points and GPU-hours that each strategy needs for each accuracy, and their ratios to random's, seed by seed."""
    for pool, learner in dict.fromkeys((run.pool, run.learner) for run in runs):
        mine = [run for run in runs if (run.pool, run.learner) == (pool, learner)]
        key = f"{pool}, {learner}"
        for probes, accuracies in ACCURACIES_PCT.get(key, ACCURACIES_PCT[pool]).items():
            for mape_pct in accuracies:
                others = {run.seed: run for run in mine if run.strategy == "random"}
                for name in dict.fromkeys(run.strategy for run in mine if probes in run.probes):
                    chosen = [run for run in mine if run.strategy == name and probes in run.probes]
                    need = np.array([needed(run.marks, probes, mape_pct) for run in chosen])
                    ratio = need / np.array([_at_least(others[run.seed].marks, probes, mape_pct) for run in chosen])
                    yield {
                        "pool": pool,
                        "learner": learner,
                        "probes": probes,
                        "mape_pct": mape_pct,
                        "strategy": name,
                        "seeds": len(chosen),
                        "reached": int(np.isfinite(need[:, 0]).sum()),
                        "points": _mean(need[:, 0]),
                        "points_sd": _spread(need[:, 0]),
                        "gpu_h": _mean(need[:, 1]),
                        "gpu_h_sd": _spread(need[:, 1]),
                        "points_ratio": _mean(ratio[:, 0]),
                        "points_ratio_sd": _spread(ratio[:, 0]),
                        "hours_ratio": _mean(ratio[:, 1]),
                    }


def _at_least(marks: Sequence[Mark], probes: str, mape_pct: float) -> tuple[float, float]:
    """What `needed` says; all that was measured where that is not enough, so that no ratio looks better than it is."""
    found = needed(marks, probes, mape_pct)
    return found if np.isfinite(found[0]) else (float(marks[-1].points), marks[-1].gpu_h)


def curve_rows(runs: Sequence[Run]) -> Iterator[Row]:
    """Errors after each round, mean and spread over the seeds."""
    for key in dict.fromkeys((run.pool, run.learner, run.strategy, run.probes) for run in runs):
        several = [run.marks for run in runs if (run.pool, run.learner, run.strategy, run.probes) == key]
        for round_ in zip(*several, strict=True):
            for probes in key[3]:
                errors = np.array([mark.mape_pct[probes] for mark in round_])
                yield {
                    "pool": key[0],
                    "learner": key[1],
                    "probes": probes,
                    "strategy": key[2],
                    "points": round_[0].points,
                    "launches": _mean(np.array([mark.launches for mark in round_], np.float64)),
                    "gpu_h": _mean(np.array([mark.gpu_h for mark in round_])),
                    "mape_pct": _mean(errors),
                    "mape_sd": _spread(errors),
                }


def _mean(values: np.ndarray) -> float | None:
    """None where one seed has none."""
    return float(values.mean()) if np.isfinite(values).all() else None


def _spread(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 and np.isfinite(values).all() else None


def ask_rows() -> Iterator[Row]:
    """Time of one ask for 500 points, a fifth of the candidates measured."""
    random_ = np.random.default_rng(0)
    for count in (1_000, 10_000, 50_000, 100_000):
        launches = max(count // 12, 1)
        asked = Candidates(
            random_.integers(launches, size=count),
            random_.exponential(size=count) / count,
            random_.uniform(100, 800, count) * GPUS,
            np.full(launches, 600.0),
            random_.permutation(count) < count // 5,
        )
        known = Knowledge(random_.lognormal(-3, 0.5, count), np.full(count, 0.003), random_.normal(size=(count, 3)))
        started_s = time.perf_counter()
        choose(asked, known, 500)
        yield {"candidates": count, "measured": count // 5, "ask_s": time.perf_counter() - started_s}


def target_rows(accuracies: Sequence[Row], asks: Sequence[Row], runs: Sequence[Run]) -> Iterator[Row]:
    for row in accuracies:
        if row["strategy"] == "random":
            continue
        where = f"{row['pool']}, {row['learner']}, {row['probes']} {row['mape_pct']}%"
        if row["strategy"] == "targeted":
            if row["learner"] != Gnn.name:
                yield _target("points / random's", where, row["points_ratio"], MOST_POINTS_RATIO)
            if row["pool"] == "simulated":
                yield _target("GPU-hours / random's", where, row["hours_ratio"], MOST_HOURS_RATIO)
        if row["strategy"] == "uncertainty-only":
            ours = next(
                one
                for one in accuracies
                if one["strategy"] == "targeted"
                and all(one[key] == row[key] for key in ("pool", "learner", "probes", "mape_pct"))
            )
            # Where uncertainty-only does not get there, it needs more than all.
            if row["points"] is not None:
                spread = max(float(one["points_sd"] or 0.0) for one in (row, ours))  # type: ignore[arg-type]
                limit = float(row["points"]) + spread  # type: ignore[arg-type]
                yield _target("points, at most uncertainty-only's and its spread", where, ours["points"], limit)
    for run in runs:
        if run.pool == "simulated" and run.strategy == "targeted" and "usual" in run.probes:
            share = run.marks[-1].launches / max(run.launches_one_by_one, 1)
            yield _target("launches / those in order of acquisition", f"seed {run.seed}", share, MOST_LAUNCHES_RATIO)
    ask_s = next(row["ask_s"] for row in asks if row["candidates"] == 50_000)
    yield _target("ask, s", "50,000 candidates, 10,000 measured", ask_s, MOST_ASK_S)


def _target(name: str, where: str, figure: object, limit: float) -> Row:
    met = isinstance(figure, float) and figure <= limit
    return {
        "target": name,
        "where": where,
        "figure": figure if figure is not None else "not reached",
        "limit": f"at most {limit:.4g}",
        "verdict": "PASS" if met else "UNMET",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--public", type=Path, required=True, help="folder of public measurements")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--pool", type=Path, default=RESULTS / "sampling-pool", help="the simulated pool")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--no-gnn", action="store_true", help="without the 2-GNN, which takes most of the time")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    folder = measured(options.pool)
    jobs = [partial(race, partial(simulated_pool, folder), PhysicsForest, SIZES, seed) for seed in seeds]
    jobs += [partial(race, partial(released_pool, options.public), Forest, RELEASED_SIZES, seed) for seed in seeds]
    if not options.no_gnn:
        few = list(seeds)[:GNN_SEEDS]
        pools = partial(simulated_pool, folder), partial(released_pool, options.public)
        jobs += [partial(race, pools[0], Gnn, GNN_SIZES, seed, ("random", "targeted")) for seed in few]
        jobs += [partial(race, pools[1], Gnn, GNN_RELEASED_SIZES, seed) for seed in few]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as workers:
        runs = [run for found in [workers.submit(job) for job in jobs] for run in found.result()]
    accuracies, asks = list(accuracy_rows(runs)), list(ask_rows())
    title = "Points and GPU-hours that each strategy needs, 100 probes and all launches counted (simulated)"
    report("sampling", title, accuracies, PACKAGES, unprinted=("learner", "seeds", "gpu_h_sd"))
    report("sampling_curves", "Errors after each round", list(curve_rows(runs)), PACKAGES)
    report("sampling_ask", "Time of an ask", asks, PACKAGES)
    report("sampling_targets", "Targets", list(target_rows(accuracies, asks, runs)), PACKAGES)


if __name__ == "__main__":
    main()
