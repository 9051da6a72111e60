"""What is kept beside a trained predictor's weights, so that a reader knows what it has learnt from."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harness import __version__
from harness.errors import BadInput
from harness.points import ModelShape, StrArray
from harness.predictorfiles import TRAIN_FIRST
from harness.store import read_table
from harness.trainer import Provenance
from harness_analysis.examples import Examples
from harness_analysis.parts import RULE, TEST, TRAIN, UNSEEN

Value = TypeVar("Value")
_ENVIRONMENT = ("environment_id", "gpu", "gpu_name", "driver_version", "engine", "engine_version", "weights")


@dataclass(frozen=True, slots=True)
class Card:
    """Of one training.

    Attributes:
        source: simulated, measured or both.
        points: how many taught (`train`), test (`test`), and stay for later (`unseen`).
        fingerprint: `fingerprint` of all points of the folders, whichever part they are of.
        results: the folders.
        environments: of the points: GPU, driver, engine and its version, real or dummy weights.
        shapes: dimensions of the models that taught, by name.
        token_budgets: of the engines that taught; the commonest engine and the commonest budget of each come first.
        harness_versions: that wrote the runs.
        harness_version, torch_version, seed, trained_at: of the training (UTC).
        split: the rule of `parts` by which points were divided.
        saved: what the weights are: those of the predictor that was scored, which only the train part taught.
        scores: on the test part, such as {"test": {"per_model": {...}, "mean": {...}}}; empty without one.
        fit_s: time that training took, s.
        errors_sha256: of the file with out-of-fold errors.
    """

    source: tuple[str, ...]
    points: Mapping[str, int]
    fingerprint: str
    results: tuple[str, ...]
    environments: tuple[Mapping[str, str], ...]
    shapes: Mapping[str, Mapping[str, Any]]
    token_budgets: Mapping[str, tuple[int, ...]]
    harness_versions: tuple[str, ...]
    torch_version: str
    seed: int
    trained_at: str
    scores: Mapping[str, Any]
    fit_s: float
    errors_sha256: str
    harness_version: str = __version__
    split: str = RULE
    saved: str = "the predictor that was scored; fitted on the train part only"

    @property
    def provenance(self) -> Provenance:
        return Provenance(self.source, self.points[TRAIN], self.trained_at)

    @property
    def models(self) -> dict[str, ModelShape]:
        """Shapes of the models that taught."""
        return {name: ModelShape(**shape) for name, shape in self.shapes.items()}

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    @staticmethod
    def from_json(content: Mapping[str, Any], path: Path) -> "Card":
        """Raises BadInput for a card of something else, or of another way to divide points."""
        names = {item.name for item in fields(Card)}
        if set(content) != names:
            raise BadInput(
                str(path), "its card is of another version, or not of harness train", "one of this version", TRAIN_FIRST
            )
        if content["split"] != RULE:
            raise BadInput(str(path), f"divided by {content['split']}", f"points divided by {RULE}", TRAIN_FIRST)
        lists = {name: tuple(content[name]) for name in ("source", "results", "environments", "harness_versions")}
        budgets = {engine: tuple(values) for engine, values in content["token_budgets"].items()}
        return Card(**{**content, **lists, "token_budgets": budgets})


def learnt_from(examples: Examples, part: StrArray, folders: Sequence[Path]) -> dict[str, Any]:
    """Fields of `Card` that follow from the points and their folders; `part` (n,) is `part_of` them."""
    is_train = part == TRAIN
    taught = examples.configurations.take(is_train)
    served = [(str(engine), int(budget)) for engine, budget in zip(taught.engine, taught.token_budget, strict=True)]
    environments, versions = _environments(folders, set(examples.environment_id.tolist()))
    return {
        "source": tuple(np.unique(examples.source).tolist()),
        "points": {name: int((part == name).sum()) for name in (TRAIN, TEST, UNSEEN)},
        "fingerprint": fingerprint(examples),
        "results": tuple(str(folder) for folder in folders),
        "environments": environments,
        "shapes": {str(name): asdict(taught.shapes[name]) for name in np.unique(taught.model)},
        "token_budgets": {
            name: _commonest_first(budget for engine, budget in served if engine == name)
            for name in _commonest_first(engine for engine, _ in served)
        },
        "harness_versions": versions,
    }


def _commonest_first(values: Iterable[Value]) -> tuple[Value, ...]:
    return tuple(value for value, _ in Counter(values).most_common())


def fingerprint(examples: Examples) -> str:
    """sha256 of all points with their environments and labels, in the order of their ids."""
    columns = (examples.point_id, examples.environment_id, examples.prefill_j, examples.total_j)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    lines = sorted(" ".join(map(str, row)) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _environments(folders: Sequence[Path], wanted: set[str]) -> tuple[tuple[dict[str, str], ...], tuple[str, ...]]:
    """What the runs of these environments say of them, and which versions of the harness wrote them."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    versions: set[str] = set()
    for folder in folders:
        runs = read_table(folder, "runs", (*_ENVIRONMENT, "harness_version")).to_pandas()
        runs = runs[runs["environment_id"].isin(wanted)]
        versions |= set(runs["harness_version"])
        for row in runs[list(_ENVIRONMENT)].drop_duplicates().itertuples(index=False, name=None):
            found[row] = dict(zip(_ENVIRONMENT, map(str, row), strict=True))
    return tuple(found[key] for key in sorted(found)), tuple(sorted(versions))
