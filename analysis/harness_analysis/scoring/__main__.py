"""Prints a table of scores: `python -m harness_analysis.scoring TABLE [--public DIR | --results DIR...] [--seeds 3]`.

Of published data (`--public`): `released` (random and extrapolation splits of the data released with the LLMCO2 paper),
`mlenergy` (leave-one-model-out on measured joules per token), `argonne` (measured, learnt from the other source),
`ablation` (what the parts of the 2-GNNs are worth), `speed`.

Of results folders (`--results`): `results` (all splits), and the tables of the LLMCO2 paper on the random split, or on
those of `--splits`: `table3` (MAPE of each model and predictor), `table4` (their EBA(10) and EBA(30)), `table5`
(ablation: phases apart, chaining, roofline, estimate; on random and lengths; that of targeted sampling is a comparison
of sweeps, which the benchmark of sampling makes).

Every figure is a mean over seeds with its spread (standard deviation); every table ends with what beat ours, if
anything did. Times are processor seconds, which do not depend on what else the machine does.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from harness.errors import BadInput
from harness_analysis.examples import from_released
from harness_analysis.gnn.speed import speeds
from harness_analysis.scoring.pooled import Make, Task
from harness_analysis.scoring.predictors import ABLATION, BASELINES, OURS, PAPER
from harness_analysis.scoring.tables import PAPER_TABLES, Say, paper_tables, scored_all
from harness_analysis.scoring.tasks import (
    LENGTHS,
    RANDOM,
    argonne_tasks,
    mlenergy_tasks,
    named,
    released_tasks,
    results_tasks,
)

_EVERY: Mapping[str, Make] = {**OURS, **PAPER, **BASELINES}
_OF_RESULTS: Mapping[str, tuple[str, ...]] = {
    "results": (),
    "table3": (RANDOM,),
    "table4": (RANDOM,),
    "table5": (RANDOM, LENGTHS),
}
"""Tables of results folders, with the splits that they have if none are named; none: all."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m harness_analysis.scoring",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", choices=("released", "mlenergy", "argonne", "ablation", "speed", *_OF_RESULTS))
    parser.add_argument("--public", type=Path, default=Path("public"), help="folder of published measurements")
    parser.add_argument("--results", type=Path, nargs="*", default=[], help="results folders")
    parser.add_argument("--splits", nargs="*", default=[], help="of results folders, such as random, lengths")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time; each takes one core [1]")
    parser.add_argument("--only", nargs="*", default=[], help=f"of {', '.join(_EVERY)}")
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
    tasks = _tasks(asked)
    makes = _makes(asked)
    if asked.table in PAPER_TABLES:
        return [
            asdict(line) for line in paper_tables(tasks, makes, asked.seeds, PAPER_TABLES[asked.table], say, asked.jobs)
        ]
    return [asdict(line) for line in scored_all(tasks, makes, asked.seeds, say, asked.jobs)]


def _tasks(asked: argparse.Namespace) -> tuple[Task, ...]:
    if asked.table in _OF_RESULTS:
        return named(results_tasks(asked.results), asked.splits or _OF_RESULTS[asked.table])
    of_public = {"mlenergy": mlenergy_tasks, "argonne": argonne_tasks}
    return of_public.get(asked.table, released_tasks)(asked.public)


def _makes(asked: argparse.Namespace) -> Mapping[str, Make]:
    """Raises BadInput for a name that the table does not have."""
    makes = ABLATION if asked.table in ("ablation", "table5") else _EVERY
    if asked.table in ("mlenergy", "argonne"):
        makes = {name: make for name, make in _EVERY.items() if name not in PAPER}
    unknown = sorted(set(asked.only) - set(makes))
    if unknown:
        raise BadInput("--only", unknown[0], ", ".join(makes))
    return {name: make for name, make in makes.items() if not asked.only or name in asked.only}


if __name__ == "__main__":
    sys.exit(main())
