"""What predictors are asked: examples of one origin, and one or more splits of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.errors import BadInput
from harness_analysis.examples import concatenated, from_argonne, from_mlenergy, from_released, from_runs
from harness_analysis.scoring.pooled import Task
from harness_analysis.splits import (
    Split,
    few_shot,
    leave_one_gpu_out,
    leave_one_model_out,
    leave_one_parallelism_out,
    length_extrapolation,
    random_split,
)

__all__ = ["Task", "argonne_tasks", "mlenergy_tasks", "named", "released_tasks", "results_tasks"]
RANDOM, LENGTHS = "random", "lengths"
SHOTS = 50


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
    """All splits of own runs that they have enough for; `seed` draws the random split and the few shots."""
    examples = from_runs(folders)
    gpus = leave_one_gpu_out(examples)
    families = {
        RANDOM: (random_split(examples, seed),),
        LENGTHS: (length_extrapolation(examples),),
        "leave one model out": leave_one_model_out(examples, twins_too=True),
        "leave one parallelism out": leave_one_parallelism_out(examples),
        "leave one GPU out": gpus,
        f"leave one GPU out, k = {SHOTS}": tuple(
            few_shot(one, examples, SHOTS, seed) for one in gpus if len(one.test) > SHOTS and len(one.train)
        ),
    }
    usable = {name: tuple(one for one in found if len(one.train) and len(one.test)) for name, found in families.items()}
    return tuple(Task(name, examples, found) for name, found in usable.items() if found)


def named(tasks: Sequence[Task], names: Sequence[str]) -> tuple[Task, ...]:
    """Those of `names`; all, if there are none.

    Raises:
        BadInput: a name that no task has.
    """
    known = {task.name: task for task in tasks}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BadInput("--splits", unknown[0], ", ".join(known))
    return tuple(known[name] for name in names) if names else tuple(tasks)
