"""Tables that say how good predictors are: `python -m harness_analysis.scoring TABLE --public DIR [--seeds 3]`.

Tables: `released` (random and extrapolation splits of the data released with the LLMCO2 paper), `mlenergy`
(leave-one-model-out on measured joules per token), `argonne` (measured, learnt from the other source), `ablation` (what
the parts of the 2-GNNs are worth), `results` (all splits of own results folders), `speed`.

Every figure is a mean over seeds with its spread (standard deviation); every table ends with what beat ours, if
anything did. Times are processor seconds, which do not depend on what else the machine does.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from harness.errors import BadInput
from harness_analysis.baselines import trees
from harness_analysis.baselines.kernelsums import KernelSums
from harness_analysis.baselines.llmcarbon import LlmCarbon
from harness_analysis.baselines.whitebox import WhiteBox
from harness_analysis.examples import Examples, concatenated, from_argonne, from_mlenergy, from_released, from_runs
from harness_analysis.gnn.member import Settings
from harness_analysis.gnn.ours import Ours
from harness_analysis.gnn.paper import Nnlqp, PaperSettings, PaperTwoGnn
from harness_analysis.gnn.speed import speeds
from harness_analysis.metrics import coverage_pct, scores
from harness_analysis.predictor import Prediction, Predictor
from harness_analysis.splits import (
    Split,
    few_shot,
    leave_one_gpu_out,
    leave_one_model_out,
    leave_one_parallelism_out,
    length_extrapolation,
    random_split,
)

Make = Callable[[], Predictor]
Say = Callable[[str], None]
OURS: Mapping[str, Make] = {"ours": Ours}
PAPER: Mapping[str, Make] = {"llmco2": PaperTwoGnn}
"""Needs the prefill's energy, which the measured public data do not have."""
BASELINES: Mapping[str, Make] = {
    "white-box": WhiteBox,
    "boosting-residual": trees.residual_boosting,
    "boosting-physical": trees.physical_boosting,
    "boosting-raw": trees.raw_boosting,
    "forest-residual": trees.residual_forest,
    "forest-raw": trees.raw_forest,
    "deepen": trees.deepen,
    "nn-meter": KernelSums,
    "nnlqp": Nnlqp,
    "llmcarbon": LlmCarbon,
}
ABLATION: Mapping[str, Make] = {
    "ours": Ours,
    "ours, not chained": lambda: Ours(Settings(chained=False), "ours, not chained"),
    "ours, phases not apart": lambda: Ours(Settings(apart=False), "ours, phases not apart"),
    "ours, no estimate": lambda: Ours(Settings(estimate=False), "ours, no estimate"),
    "ours, no roofline": lambda: Ours(Settings(estimate=False, roofline=False), "ours, no roofline"),
    "llmco2": PaperTwoGnn,
    "llmco2, not chained": lambda: PaperTwoGnn(PaperSettings(chained=False), "LLMCO2, not chained"),
    "llmco2, phases not apart": lambda: PaperTwoGnn(PaperSettings(apart=False), "LLMCO2, phases not apart"),
    "llmco2, no roofline": lambda: PaperTwoGnn(PaperSettings(roofline=False), "LLMCO2, no roofline"),
}
RANDOM = "random"
SHOTS = 50


@dataclass(frozen=True, slots=True)
class Task:
    """What is scored together: predictions of all splits are pooled, and compared with what is known of their tests."""

    name: str
    examples: Examples
    splits: tuple[Split, ...]
    per_token: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One predictor on one task: means over seeds, and the spread of the first score."""

    task: str
    predictor: str
    seeds: int
    n: int
    mape_pct: float
    mape_spread_pct: float
    median_ape_pct: float
    eba5_pct: float
    eba10_pct: float
    eba30_pct: float
    bias_pct: float
    rank_correlation: float
    coverage_pct: float
    fit_s: float
    predict_s: float


def scored(task: Task, make: Make, seeds: Sequence[int]) -> Line:
    """Fits and predicts every split of `task` with every seed; times are those of one seed, all splits together."""
    rows: list[dict[str, float]] = []
    for seed in seeds:
        predicted: list[Prediction] = []
        fit_s = predict_s = 0.0
        for split in task.splits:
            predictor = make()
            start_s = time.process_time()
            predictor.fit(task.examples.take(split.train), seed)
            fitted_s = time.process_time()
            predicted.append(predictor.predict(task.examples.configurations.take(split.test)))
            fit_s, predict_s = fit_s + fitted_s - start_s, predict_s + time.process_time() - fitted_s
        asked = task.examples.take(np.concatenate([split.test for split in task.splits]))
        total_j, low_j, high_j = (
            np.concatenate([getattr(one, name) for one in predicted]) for name in ("total_j", "low_j", "high_j")
        )
        # Joules per token and joules have the same relative errors, but not the same ranks.
        unit = asked.total_j / asked.token_j if task.per_token else np.ones(len(asked))
        found = scores(asked.total_j / unit, total_j / unit, seed, resamples=1).as_dict()
        covers = coverage_pct(asked.total_j, low_j, high_j) if np.isfinite(low_j).all() else float("nan")
        rows.append({**found, "coverage_pct": covers, "fit_s": fit_s, "predict_s": predict_s})
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    spread = float(np.std([row["mape_pct"] for row in rows]))
    kept = {name: mean[name] for name in Line.__dataclass_fields__ if name in mean and name != "n"}
    return Line(task.name, predictor.name, len(seeds), int(mean["n"]), mape_spread_pct=spread, **kept)


def scored_all(tasks: Iterable[Task], makes: Mapping[str, Make], seeds: int, say: Say) -> list[Line]:
    """A line for each task and predictor; `say` gets each as it is ready, and what beats ours after each task."""
    lines: list[Line] = []
    for task in tasks:
        say(f"\n{task.name}: {len(task.splits)} split(s), {len(task.examples)} examples\n{HEADER}")
        mine: list[Line] = []
        for make in makes.values():
            mine.append(scored(task, make, range(seeds)))
            say(shown(mine[-1]))
        say(verdict(mine))
        lines += mine
    return lines


HEADER = (
    f"{'predictor':30} {'n':>6} {'MAPE %':>14} {'median':>7} {'EBA5':>6} {'EBA10':>6} {'EBA30':>6} "
    f"{'bias':>7} {'rank':>7} {'cover':>6} {'fit s':>7} {'ask s':>6}"
)


def shown(line: Line) -> str:
    """One row under `HEADER`."""
    return (
        f"{line.predictor:30} {line.n:6} {line.mape_pct:7.2f} ±{line.mape_spread_pct:5.2f} {line.median_ape_pct:7.2f} "
        f"{line.eba5_pct:6.1f} {line.eba10_pct:6.1f} {line.eba30_pct:6.1f} {line.bias_pct:7.2f} "
        f"{line.rank_correlation:7.4f} {line.coverage_pct:6.1f} {line.fit_s:7.1f} {line.predict_s:6.2f}"
    )


def verdict(lines: Sequence[Line]) -> str:
    """Which predictors have a smaller MAPE than ours."""
    ours = next((line for line in lines if line.predictor == "ours"), None)
    if ours is None:
        return ""
    better = [f"{line.predictor} ({line.mape_pct:.2f}%)" for line in lines if line.mape_pct < ours.mape_pct]
    return f"better than ours: {', '.join(better) or 'none'}"


def released_tasks(public: Path) -> tuple[Task, ...]:
    """Train on 8,000, score on 1,000; and from short requests to long ones."""
    train, validation = from_released(public, "train"), from_released(public, "val")
    both = concatenated([train, validation])
    at = Split(RANDOM, np.arange(len(train)), np.arange(len(train), len(both)))
    return (
        Task("released, random", both, (at,)),
        Task("released, extrapolation", train, (length_extrapolation(train),)),
    )


def mlenergy_tasks(public: Path) -> tuple[Task, ...]:
    """Joules per token of models that were left out: by name, and with all others of the same dimensions."""
    examples = from_mlenergy(public)
    return (
        Task("mlenergy, leave one model out", examples, leave_one_model_out(examples), True),
        Task("mlenergy, leave one shape out", examples, leave_one_model_out(examples, twins_too=True), True),
    )


def argonne_tasks(public: Path) -> tuple[Task, ...]:
    """Argonne's rows from ML.ENERGY's: other engines' versions, other lengths, single cards."""
    known, asked = from_mlenergy(public), from_argonne(public)
    both = concatenated([known, asked])
    split = Split("argonne", np.arange(len(known)), np.arange(len(known), len(both)))
    return (Task("argonne from mlenergy", both, (split,), True),)


def results_tasks(folders: Sequence[Path], seed: int = 0) -> tuple[Task, ...]:
    """All splits of own runs that they have enough for."""
    examples = from_runs(folders)
    gpus = leave_one_gpu_out(examples)
    families = {
        "random": (random_split(examples, seed),),
        "lengths": (length_extrapolation(examples),),
        "leave one model out": leave_one_model_out(examples, twins_too=True),
        "leave one parallelism out": leave_one_parallelism_out(examples),
        "leave one GPU out": gpus,
        f"leave one GPU out, k = {SHOTS}": tuple(few_shot(one, examples, SHOTS, seed) for one in gpus),
    }
    usable = {name: tuple(one for one in found if len(one.train) and len(one.test)) for name, found in families.items()}
    return tuple(Task(name, examples, found) for name, found in usable.items() if found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table; exit code 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m harness_analysis.scoring", description=__doc__)
    parser.add_argument("table", choices=("released", "mlenergy", "argonne", "ablation", "results", "speed"))
    parser.add_argument("--public", type=Path, default=Path("public"), help="folder of published measurements")
    parser.add_argument("--results", type=Path, nargs="*", default=[], help="results folders")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help=f"of {', '.join({**OURS, **PAPER, **BASELINES})}")
    parser.add_argument("--out", type=Path, help="write the lines as JSON")
    asked = parser.parse_args(arguments)
    try:
        lines = _table(asked, lambda text: print(text, flush=True))
    except BadInput as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if asked.out:
        asked.out.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    return 0


def _table(asked: argparse.Namespace, say: Say) -> list[dict[str, object]]:
    if asked.table == "speed":
        found = speeds(from_released(asked.public, "train"))
        for name, value in asdict(found).items():
            say(f"{name:32} {value:10.3g}")
        return [asdict(found)]
    makes: Mapping[str, Make] = {**OURS, **PAPER, **BASELINES}
    tasks: tuple[Task, ...]
    if asked.table == "released":
        tasks = released_tasks(asked.public)
    elif asked.table == "ablation":
        tasks, makes = released_tasks(asked.public), ABLATION
    elif asked.table == "results":
        tasks = results_tasks(asked.results)
    else:
        tasks = (mlenergy_tasks if asked.table == "mlenergy" else argonne_tasks)(asked.public)
        makes = {**OURS, **BASELINES}
    unknown = sorted(set(asked.only) - set(makes))
    if unknown:
        raise BadInput("--only", unknown[0], ", ".join(makes))
    chosen = {name: make for name, make in makes.items() if not asked.only or name in asked.only}
    return [asdict(line) for line in scored_all(tasks, chosen, asked.seeds, say)]


if __name__ == "__main__":
    sys.exit(main())
