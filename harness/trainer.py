"""What the harness asks of a trainer of predictors, and how it finds one.

`harness` holds no predictor: it finds a trainer by its entry point (group `harness.trainer`), so that a node that only
measures needs no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Protocol

from harness.errors import TrainerMissing
from harness.points import BoolArray, ModelShape
from harness.sampling.base import Knowledge

GROUP = "harness.trainer"
EXTRA = "pip install 'llm-energy-harness[analysis]'"
PACKAGES = ("torch", "scikit-learn", "safetensors", "threadpoolctl")
"""What training and prediction need of that extra."""

SPLITS = ("test", "lengths", "model", "parallelism", "gpu")
"""Ways to divide points for scores: the part that no training sees; long requests from short ones; one model, one
TP x PP, one kind of GPU left out in turn."""


class Watch(Protocol):
    """Told how far something long is, in parts of about the same size."""

    def __call__(self, done: int, total: int, what: str) -> None: ...


@dataclass(frozen=True, slots=True)
class TrainOrder:
    """Learn from the batches in `results`.

    Attributes:
        predictor: where the files go, without a suffix.
        mix_sources: take simulated and measured folders together.
        traffic: by point id, how much it counts in `Trained.accuracy`, others nothing; None: each as much as another.
    """

    results: tuple[Path, ...]
    predictor: Path
    seed: int = 0
    mix_sources: bool = False
    traffic: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Of one predictor on n examples: mean absolute percentage error, and shares within 10% and 30%."""

    n: int
    mape_pct: float
    eba10_pct: float
    eba30_pct: float


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one predictor on one split; in `mean` every model counts once, and its `n` is the sum."""

    predictor: str
    per_model: Mapping[str, Score]
    mean: Score


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Weighted means over n points; in 95 of 100 samples like these they lie between low and high."""

    n: int
    mape_pct: float
    mape_low_pct: float
    mape_high_pct: float
    eba10_pct: float
    eba10_low_pct: float
    eba10_high_pct: float


@dataclass(frozen=True, slots=True)
class Trained:
    """What training yielded.

    Attributes:
        source: simulated, measured or both.
        train_points, test_points, unseen_points: how many of the results taught, test, and are kept for later.
        test: of the saved predictor; None without any test point.
        fit_s: how long training took.
        files: written, all beside one another.
        accuracy: over the test points that count (`TrainOrder.traffic`); None without any.
    """

    source: tuple[str, ...]
    train_points: int
    test_points: int
    unseen_points: int
    test: Scores | None
    fit_s: float
    files: tuple[Path, ...]
    accuracy: Accuracy | None = None


@dataclass(frozen=True, slots=True)
class ScoreOrder:
    """Score predictors on splits (of `SPLITS`) of the batches in `results`.

    Attributes:
        predictor: trained one, without a suffix; asked on the split `test` only. None: ours is fitted anew there too.
        splits, predictors: names; on other splits, and of other predictors, all are fitted anew.
    """

    results: tuple[Path, ...]
    predictor: Path | None
    splits: tuple[str, ...]
    predictors: tuple[str, ...]
    seed: int = 0
    mix_sources: bool = False


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores by split, in the order of the predictors that were asked for.

    Attributes:
        source: of the rows that were scored.
        trained_on: of those that taught the saved predictor; empty where it was not asked.
    """

    source: tuple[str, ...]
    trained_on: tuple[str, ...]
    splits: Mapping[str, tuple[Scores, ...]]


@dataclass(frozen=True, slots=True)
class Condition:
    """One bound of a region: low < column <= high, or column is one of `values`."""

    column: str
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ErrorRegion:
    """Where a predictor is wrong.

    Attributes:
        label: for people, such as "llama-2-70b, tp 8, batch > 16, prompt <= 256".
        conditions: all of them hold in the region.
        n: measured points in it, each predicted by a model that had not seen it.
        mape_pct: mean absolute percentage error of the total energy over these points.
        noise_pct: how much of that the spread of repetitions explains (mean relative standard error).
        traffic_pct: share of the candidates' prevalence that lies in the region.
    """

    label: str
    conditions: tuple[Condition, ...]
    n: int
    mape_pct: float
    noise_pct: float
    traffic_pct: float


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a trained predictor has learnt from: `points` of `source`, `trained_at` (UTC, ISO 8601)."""

    source: tuple[str, ...]
    points: int
    trained_at: str

    @property
    def line(self) -> str:
        """One line for people; it says so when no machine stands behind the figures."""
        what = f"{self.points:,} points, {self.trained_at[:10]}"
        if "simulated" not in self.source:
            return f"trained on {' and '.join(self.source)} runs: {what}"
        told = "no machine was measured" if self.source == ("simulated",) else "not only on measurements"
        return f"trained on {' and '.join(self.source)} runs: {what}; {told}"


@dataclass(frozen=True, slots=True)
class Regions:
    """Where the trained predictor is wrong, worst first, among the `n` points that taught it.

    Attributes:
        mape_pct: over all of them, each predicted by a network that had not seen it.
        traffic: what `ErrorRegion.traffic_pct` is a share of, in words.
    """

    provenance: Provenance
    n: int
    mape_pct: float
    traffic: str
    regions: tuple[ErrorRegion, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A batch on a deployment. An engine or token budget that is None is the commonest of training."""

    gpu: str
    model: ModelShape
    batch_size: int
    prompt_tokens: int
    generated_tokens: int
    tp: int = 1
    pp: int = 1
    bits: int = 16
    engine: str | None = None
    token_budget: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Energy of all GPUs for one batch, gross; None where the batch cannot run.

    Attributes:
        total_j, prefill_j: of the batch, J.
        token_j: total per generated token, J.
        low_j, high_j: 90 of 100 true totals are to lie between them.
        engine, token_budget: as asked, or as taken for granted.
        outside: how the question differs from all that taught; empty within the range of training.
        infeasible: why it cannot run, or "".
    """

    total_j: float | None
    prefill_j: float | None
    token_j: float | None
    low_j: float | None
    high_j: float | None
    engine: str
    token_budget: int
    outside: tuple[str, ...]
    infeasible: str


@dataclass(frozen=True, slots=True)
class Answers:
    """One for each question, in their order."""

    provenance: Provenance
    answers: tuple[Answer, ...]


class Trainer(Protocol):
    """Trains, scores and asks predictors; every method raises BadInput for what it cannot use."""

    def train(self, order: TrainOrder, watch: Watch) -> Trained: ...

    def score(self, order: ScoreOrder, watch: Watch) -> Scored: ...

    def regions(self, predictor: Path) -> Regions: ...

    def predict(self, predictor: Path, questions: tuple[Question, ...]) -> Answers: ...

    def teaches(self, questions: Sequence[Question]) -> BoolArray:
        """(n,) whether training would learn from it; the others it keeps for tests, whatever is measured."""
        ...

    def knowledge(self, predictor: Path, questions: Sequence[Question]) -> Knowledge:
        """What the trained predictor knows of n questions; thousands of them a second."""
        ...


def find_trainer() -> Trainer:
    """The installed trainer.

    Raises:
        TrainerMissing: none is there, or a package that it needs is not.
    """
    found = entry_points(group=GROUP)
    if not found:
        raise TrainerMissing(f"no trainer is installed: needs {EXTRA}")
    try:
        trainer: Trainer = next(iter(found)).load()()
    except ModuleNotFoundError as error:
        raise TrainerMissing(f"{error.name} is not installed: needs {EXTRA}") from error
    except (ImportError, OSError) as error:
        raise TrainerMissing(f"the trainer cannot be loaded: {error}; install it again: {EXTRA}") from error
    return trainer


def missing_packages() -> tuple[str, ...]:
    """Which of `PACKAGES` are not installed."""
    missing = []
    for name in PACKAGES:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    return tuple(missing)
