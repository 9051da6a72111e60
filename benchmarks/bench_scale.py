"""What grows with the runs that are stored, from a thousand to a million, and whether 64 agents are kept busy.

    python benchmarks/bench_scale.py [--sizes 1000 10000 100000 1000000] [--folder DIR]

Folders are written by the store from some hundred simulated runs (`scale.stored`), each job runs in a process of its
own (`scale.jobs`), all sizes of a job one after another. Prints processor time, which other work on the machine changes
least; results/bench/scale.json has the wall clock as well. A year of 64 nodes follows by calculation (`scale.paper`).
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import RESULTS, report
from scale import paper
from scale.lab import AGENTS, measured_bundles
from scale.stored import bytes_per_run, runs_bytes, store

SIZES = (1_000, 10_000, 100_000, 1_000_000)
LAUNCHES_PER_KIND = 8


@dataclass(frozen=True, slots=True)
class Pace:
    """How agents wait; a real launch takes 75 s and a repetition 10 s (`harness.spending`).

    Attributes:
        held_s: so long a run may wait for others, so that they are stored together; 0: each is on the disk at once.
        lasts_s: for so long agents are watched.
        sizes: over folders of so many runs; of fewer, too little would be left to measure.
    """

    launch_s: float
    repetition_s: float
    held_s: float
    lasts_s: float
    sizes: tuple[int, ...]


MOST_EXAMPLES = 8_000
"""Training is shown up to here: it takes minutes, and more examples in proportion."""
PREDICTOR_RUNS = 10_000
"""The predictor that chooses is trained on the folder of so many runs (or the smallest)."""
ALONE = ("status", "ledger", "all_columns", "plan", "examples", "targeted", "append")
"""Jobs in this order; `targeted` needs the predictor, `compaction` comes last, since it adds runs."""
PACES: Mapping[str, Pace] = {
    "real nodes, at their own speed, each run on the disk": Pace(75.0, 10.0, 0.0, 330.0, (100_000,)),
    "real nodes, 10 times as fast, each run on the disk": Pace(7.5, 1.0, 0.0, 45.0, (100_000,)),
    "real nodes, 10 times as fast, stored together": Pace(7.5, 1.0, 0.5, 45.0, (100_000, 1_000_000)),
    "launch 0.5 s, repetition 0.2 s, stored together": Pace(0.5, 0.2, 0.5, 30.0, (100_000,)),
}
SEGMENTS = (100, 1_000, 10_000)
"""Of one table. A year of 64 nodes gives `power` some thousands."""
PACKAGES = ["pyarrow", "pandas", "numpy", "torch"]
Found = dict[str, dict[int, dict[str, float]]]
"""By measure and number of stored runs: wall_s and cpu_s, or value; and peak_mb."""


class Bench:
    """Runs jobs over folders of all sizes, and keeps what they found."""

    def __init__(self, folder: Path, sizes: Sequence[int]) -> None:
        self.folder, self.sizes = folder, sizes
        self.found: Found = {}

    def job(self, name: str, sizes: Sequence[int] | None = None, label: str = "", **more: float) -> None:
        for runs in self.sizes if sizes is None else sizes:
            asked: dict[str, Any] = {
                "folder": str(self.folder / str(runs)), "runs": runs, "predictor": str(self.folder / "predictor" / "p"),
                "most_examples": MOST_EXAMPLES, "launch_s": 0.0, "repetition_s": 0.0, "held_s": 0.0, "lasts_s": 0.0,
            }  # fmt: skip
            command = [sys.executable, "-m", "scale.jobs", name, json.dumps(asked | more)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                command, cwd=Path(__file__).parent, env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            self._keep(json.loads(done.stdout.splitlines()[-1]), runs, label)
            print(f"{name} {label} {runs:,}: {done.stdout.splitlines()[-1]}", file=sys.stderr, flush=True)

    def _keep(self, found: Mapping[str, Any], runs: int, label: str) -> None:
        for name, (wall_s, cpu_s) in found["seconds"].items():
            self._one(f"{name}{label}", runs, {"wall_s": wall_s, "cpu_s": cpu_s, "peak_mb": found["peak_mb"]})
        for name, value in found["others"].items():
            self._one(f"{name}{label}", runs, {"value": value, "peak_mb": found["peak_mb"]})

    def _one(self, name: str, runs: int, values: dict[str, float]) -> None:
        self.found.setdefault(name, {})[runs] = values

    def rows(self) -> list[dict[str, object]]:
        found = []
        for name, by_runs in self.found.items():
            timed = "cpu_s" in next(iter(by_runs.values()))
            values = {runs: one["cpu_s" if timed else "value"] for runs, one in by_runs.items()}
            row: dict[str, object] = {"what": name, "unit": "CPU s" if timed else ""}
            row |= {f"{runs:,}": values.get(runs, "-") for runs in self.sizes}
            row["per tenfold"] = " ".join(_ratios(values)) if timed else ""
            row["exponent"] = _exponent(values) if timed else ""
            row["peak MB"] = max(one["peak_mb"] for one in by_runs.values())
            row["by_runs"] = {str(runs): one for runs, one in by_runs.items()}
            found.append(row)
        return found

    def growth(self, name: str, key: str) -> paper.Growth:
        """Between the two largest sizes."""
        by_runs = self.found[name]
        small, large = sorted(by_runs)[-2:]
        return paper.Growth(small, by_runs[small][key], large, by_runs[large][key])


def _ratios(values: Mapping[int, float]) -> list[str]:
    """Of each size to the one before it."""
    known = sorted(values)
    return [f"{values[more] / values[less]:.2g}" for less, more in pairwise(known) if values[less]]


def _exponent(values: Mapping[int, float]) -> float | str:
    """Of a power law through the two largest: 1 is in proportion, 0 is no growth."""
    known = sorted(values)
    if len(known) < 2 or min(values[runs] for runs in known[-2:]) <= 0:
        return ""
    less, more = known[-2:]
    return math.log(values[more] / values[less]) / math.log(more / less)


def measure(bench: Bench, training: bool) -> list[dict[str, object]]:
    """Everything, on all sizes; returns what a run weighs, by table."""
    templates = measured_bundles(LAUNCHES_PER_KIND)
    weights = list(bytes_per_run(bench.folder / "weights", templates))
    for runs in bench.sizes:
        stored = store(bench.folder / str(runs), runs, templates)
        print(f"stored {stored:,}: {runs_bytes(bench.folder / str(runs)) / stored:.0f} B", file=sys.stderr, flush=True)
    small = [runs for runs in bench.sizes if runs <= PREDICTOR_RUNS] or [bench.sizes[0]]
    (bench.folder / "predictor").mkdir()
    if training:
        bench.job("predictor", small[-1:])
    for name in ALONE:
        if name == "targeted" and not training:
            continue
        bench.job(name)
    for label, pace in PACES.items():
        given = {name: value for name, value in asdict(pace).items() if name != "sizes"}
        bench.job("cluster", [runs for runs in bench.sizes if runs in pace.sizes], f" ({label})", **given)
    if training:
        bench.job("train", bench.sizes[:3:2])
    bench.job("compaction")
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="stored runs, least first; two at least")
    parser.add_argument("--folder", type=Path, help="where folders are made, and removed again: 2 GB [temporary]")
    parser.add_argument("--no-training", action="store_true", help="leave out what needs the predictor")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="scale-") as folder:
        bench = Bench(Path(folder), given.sizes)
        weights = measure(bench, not given.no_training)
        many = Bench(Path(folder) / "segments", SEGMENTS)
        many.folder.mkdir()
        many.job("segments")
    unprinted = ("by_runs",)
    report("scale", f"What grows with stored runs; {AGENTS} agents", bench.rows(), PACKAGES, unprinted)
    report("scale-segments", "A table of many segments", many.rows(), PACKAGES, unprinted)
    report("scale-weights", "What a run weighs", weights, PACKAGES)
    title = f"{AGENTS} nodes, nights of 6 h, by calculation"
    report("scale-rows", f"{title}: rows and bytes", list(paper.rows_and_bytes(weights)))
    measures = {
        "status, CPU s": bench.growth("harness status", "cpu_s"),
        "status, GB": _gigabytes(bench.growth("harness status", "peak_mb")),
        "open to write, CPU s": bench.growth("open the folder for writing", "cpu_s"),
        "ledger to controller, CPU s": bench.growth("tell the controller all runs", "cpu_s"),
        "sweep's space and state, GB": _gigabytes(bench.growth("tell the controller all runs", "peak_mb")),
        "rewrite runs, CPU s": bench.growth("rewrite all of runs", "cpu_s"),
        "read to train, CPU s": bench.growth("runs into examples", "cpu_s"),
        "read to train, GB": _gigabytes(bench.growth("runs into examples", "peak_mb")),
    }
    report("scale-times", f"{title}: times and memory", list(paper.times(measures)))
    print(f"Written to {RESULTS}/scale*.json")


def _gigabytes(growth: paper.Growth) -> paper.Growth:
    return paper.Growth(growth.small_runs, growth.small / 1024, growth.large_runs, growth.large / 1024)


if __name__ == "__main__":
    main()
