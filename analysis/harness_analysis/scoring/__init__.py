"""How good predictors are: what is asked (`tasks`), of whom (`predictors`), the answers (`pooled`), their tables.

`python -m harness_analysis.scoring TABLE` prints the tables; `--help` has their names.
"""

from harness_analysis.scoring.pooled import Line, Make, Pooled, line_of, model_lines, pooled, scored
from harness_analysis.scoring.predictors import ABLATION, BASELINES, OURS, PAPER
from harness_analysis.scoring.tasks import (
    Task,
    argonne_tasks,
    mlenergy_tasks,
    released_tasks,
    results_tasks,
)

__all__ = [
    "ABLATION",
    "BASELINES",
    "OURS",
    "PAPER",
    "Line",
    "Make",
    "Pooled",
    "Task",
    "argonne_tasks",
    "line_of",
    "mlenergy_tasks",
    "model_lines",
    "pooled",
    "released_tasks",
    "results_tasks",
    "scored",
]
