"""What the race draws from: measured pools, with their traffic, their cost, and the probes that score.

The simulated pool is measured by the harness itself, once, and found again in the results of benchmarks.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harness.deployment.sweepfile import load_sweep
from harness.plan import MeasurementRules
from harness.points import BoolArray, FloatArray, IntArray
from harness.spending import spending
from harness.store import read_table
from harness_analysis.baselines.whitebox import levels
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples, from_released, from_runs

SPACE = Path(__file__).parents[2] / "deployments" / "simulated-space.yaml"
POOL_SEED = 7
"""Of the pool that is reported. Constants of the acquisition were chosen on another one, made with seed 0."""
POINTS = 14_000
PER_DEPLOYMENT = {"per_deployment: 3": "per_deployment: 12", "per_deployment: 2": "per_deployment: 8"}
"""So many of each trace's lengths on every deployment, instead of the few of the sweep file."""
REPETITIONS = 5
"""A pool holds one repetition of each point; what is counted is the cost of five, and of their warm-up."""
GPUS = 8
"""A launch has its node alone."""
PROBES = 3_000
"""Withheld from the pool to score on: many, so that scores do not scatter."""
PAID_PROBES = 100
"""Probes that a lab would measure to know its accuracy: points of every strategy include them."""
LONG_PROMPT_TOKENS, LONG_GENERATED_TOKENS = 4096, 512
"""Longer requests are in no pool of the simulated space: they are for extrapolation."""
RELEASED_LONG = (2000, 400)
"""The same, of the released data: its extrapolation set. They stay in its pool."""


@dataclass(frozen=True, slots=True, eq=False)
class Probes:
    """(n,) configurations with known totals, and the share of each in a mean error."""

    configurations: Configurations
    total_j: FloatArray
    share: FloatArray

    def mape_pct(self, predicted_j: FloatArray) -> float:
        error = np.abs(predicted_j / self.total_j - 1)
        return float(100 * (self.share * error).sum() / self.share.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Points that may be measured, and what scores the predictor that learns from them.

    Attributes:
        launch: (n,) number of the deployment.
        gpu_s, launch_gpu_s: (n,) of all repetitions of a point, (launches,) of a launch; None: not known.
        traffic: (n,) share of each point, by the name of the prior.
        place: (n, d) coordinates within a deployment; about 1 apart, points say little of one another.
        whole: (n, d) coordinates in the whole space.
        probes: by name.
        paid: number of probes that count as measured, and `paid_gpu_h` their GPU-hours.
    """

    name: str
    examples: Examples
    launch: IntArray
    gpu_s: FloatArray | None
    launch_gpu_s: FloatArray | None
    traffic: Mapping[str, FloatArray]
    place: FloatArray
    whole: FloatArray
    probes: Mapping[str, Probes]
    paid: int = 0
    paid_gpu_h: float = 0.0

    def __len__(self) -> int:
        return len(self.launch)


def measured(folder: Path, seed: int = POOL_SEED) -> Path:
    """The simulated pool's results folder; minutes where it is not there yet (resumed where it was interrupted)."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    text = SPACE.read_text("utf-8").replace("probes: {points: 2, launches: 4}", "probes: {points: 0}")
    for few, many in PER_DEPLOYMENT.items():
        text = text.replace(few, many)
    sweep = folder.parent / f"{folder.name}.yaml"
    sweep.write_text(text, "utf-8")
    command = [sys.executable, "-m", "harness", "sweep", str(sweep), "--results", str(folder)]
    command += ["--points", str(POINTS), "--repetitions", "1", "--seed", str(seed)]
    if not (folder / "runs").exists() or _points(folder) < POINTS:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def _points(folder: Path) -> int:
    runs = read_table(folder, "runs", ("purpose", "status")).to_pandas()
    return int(((runs["purpose"] == "sweep") & (runs["status"] == "ok")).sum())


def place_of(c: Configurations) -> FloatArray:
    """(n, 3) two doublings of a size or of a length are 1 apart."""
    return np.log2(np.stack([c.batch_size, c.prompt_tokens, c.generated_tokens], axis=1)) / 2


def whole_of(c: Configurations) -> FloatArray:
    """(n, 13) hardware, shape, division and lengths, each about as wide as another."""
    size = {name: shape.parameters for name, shape in c.shapes.items()}
    parameters = np.array([size[str(name)] for name in c.model], np.float64)
    kv_heads, heads, layers = c.shape_values("kv_heads", "heads", "layers")
    peak, bandwidth = c.gpu_values("peak_flops", "memory_bandwidth_bytes_per_s")
    logarithms = np.log2(
        np.stack([parameters, kv_heads / heads, layers, peak, bandwidth, c.tp, c.pp, c.token_budget], axis=1)
    ) / np.array([2, 2, 1, 1, 1, 1.5, 1.5, 4])
    names = np.stack([c.bits / 8, c.engine == "sarathi"], axis=1)
    return np.concatenate([np.nan_to_num(logarithms, posinf=0.0), names, place_of(c) / 1.25], axis=1)


def usual_traffic(c: Configurations) -> FloatArray:
    """(n,) that of `harness.sampling.candidates`: equal over kinds of GPU and models; it halves with each doubling of
    GPUs beyond the fewest that fit a model, and again with a pipeline."""
    gpus = pd.Series(c.tp * c.pp)
    fewest = gpus.groupby([c.model, c.gpu, c.bits]).transform("min")
    share = fewest / gpus * np.where(c.pp > 1, 0.5, 1.0)
    share /= share.groupby([c.model, c.gpu]).transform("sum")
    models = pd.Series(c.model).groupby(c.gpu).transform("nunique")
    return (share / models).to_numpy(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """All of the simulated pool, before probes are withheld from it."""

    examples: Examples
    launch: IntArray
    gpu_s: FloatArray
    launch_gpu_s: float

    @staticmethod
    def read(folder: Path) -> "Space":
        examples = from_runs(folder)
        c = examples.configurations
        names = pd.DataFrame({"deployment": levels(c)[-1], "engine": c.engine, "budget": c.token_budget})
        gpu_s, launch_gpu_s = _costs(folder, examples)
        return Space(examples, names.groupby(list(names)).ngroup().to_numpy(), gpu_s, launch_gpu_s)

    def pool(self, seed: int) -> Pool:
        """What may be measured, and the probes of this seed."""
        c = self.examples.configurations
        traffic = {"usual": usual_traffic(c), "uniform": np.ones(len(c))}
        is_long = (c.prompt_tokens > LONG_PROMPT_TOKENS) | (c.generated_tokens > LONG_GENERATED_TOKENS)
        short = np.random.default_rng(1000 + seed).permutation(np.flatnonzero(~is_long))
        withheld, open_ = short[:PROBES], np.sort(short[PROBES:])
        probes = {name: self._probes(withheld, share) for name, share in traffic.items()}
        probes["long"] = self._probes(np.flatnonzero(is_long), traffic["usual"])
        paid = withheld[:PAID_PROBES]
        paid_s = self.gpu_s[paid].sum() + self.launch_gpu_s * len(np.unique(self.launch[paid]))
        kept = c.take(open_)
        return Pool(
            "simulated",
            self.examples.take(open_),
            np.unique(self.launch[open_], return_inverse=True)[1],
            self.gpu_s[open_],
            np.full(len(np.unique(self.launch[open_])), self.launch_gpu_s),
            {name: share[open_] / share[open_].sum() for name, share in traffic.items()},
            place_of(kept),
            whole_of(kept),
            probes,
            PAID_PROBES,
            float(paid_s) / 3600,
        )

    def _probes(self, positions: IntArray, share: FloatArray) -> Probes:
        examples = self.examples.take(positions)
        return Probes(examples.configurations, examples.total_j, share[positions])


def _costs(folder: Path, examples: Examples) -> tuple[FloatArray, float]:
    """(n,) GPU-seconds of a point's five repetitions, and those of a launch, the mean over kinds of node.

    A run lasts until the next of its launch begins: a pool that was interrupted has two times of day for one node.
    """
    runs = read_table(folder, "runs", ("point_id", "launch_id", "purpose", "status", "started_at")).to_pandas()
    runs = runs[runs["status"] == "ok"].sort_values(["launch_id", "started_at"])
    taken = runs.assign(node_s=-runs.groupby("launch_id")["started_at"].diff(-1).dt.total_seconds())
    warm, swept = (taken[taken["purpose"] == purpose] for purpose in ("warmup", "sweep"))
    warm_s = warm.groupby("point_id")["node_s"].sum(min_count=1).reindex(examples.point_id)
    swept_s = swept.groupby("point_id")["node_s"].sum(min_count=1).reindex(examples.point_id)
    # Nothing follows the last run of a launch: it is taken to last as long as the others do.
    point_s = warm_s.fillna(warm_s.median()) + REPETITIONS * swept_s.fillna(swept_s.median())
    spent = spending(folder, load_sweep(SPACE).name, MeasurementRules()).values()
    launch_s = sum(one.launches * one.launch_s for one in spent) / sum(one.launches for one in spent)
    return GPUS * point_s.to_numpy(np.float64), GPUS * launch_s


def released(public: Path) -> Pool:
    """The released data: its training set to draw from, its validation set as probes; no cost is known."""
    examples, tests = from_released(public, "train"), from_released(public, "val")
    c, asked = examples.configurations, tests.configurations
    is_long = (asked.prompt_tokens > RELEASED_LONG[0]) | (asked.generated_tokens > RELEASED_LONG[1])
    probes = {
        "val": Probes(asked, tests.total_j, np.ones(len(tests))),
        "val, long": Probes(asked, tests.total_j, is_long.astype(np.float64)),
    }
    model = np.unique(c.model, return_inverse=True)[1]
    # All three models are on one GPU, each with one batch size. Roots: relative errors are largest at few tokens.
    roots = np.sqrt(np.stack([c.prompt_tokens, c.generated_tokens], axis=1)) / 30
    whole = np.concatenate([roots, np.eye(3)[model]], axis=1)
    share = {"uniform": np.full(len(c), 1 / len(c))}
    return Pool("released", examples, model, None, None, share, roots, whole, probes)


def drawn(pool: Pool, positions: IntArray) -> BoolArray:
    """(n,) whether a point of the pool is among those."""
    found = np.zeros(len(pool), bool)
    found[positions] = True
    return found
