"""The trainer that `harness` finds: the bundled 2-GNN (`gnn.ours`), trained on results folders, kept in files."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from harness.errors import BadInput
from harness.points import BoolArray
from harness.predictorfiles import TRAIN_FIRST
from harness.sampling.base import Knowledge
from harness.store.files import make_folder, write_parquet
from harness.store.lock import hold_lock
from harness.trainer import (
    Accuracy,
    Answer,
    Answers,
    Question,
    Regions,
    Scored,
    ScoreOrder,
    Scores,
    Trained,
    TrainOrder,
    Watch,
)
from harness_analysis import cards, outlook
from harness_analysis.cards import Card
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples, from_runs
from harness_analysis.gnn.files import load, save
from harness_analysis.gnn.member import Settings
from harness_analysis.gnn.ours import Ours
from harness_analysis.gpus import known_gpus
from harness_analysis.metrics import mape_pct, relative_error
from harness_analysis.parts import TEST, TRAIN, UNSEEN, part_of
from harness_analysis.predictor import Prediction, Predictor
from harness_analysis.questions import as_learnt, configurations_of, differences, obstacle
from harness_analysis.regions import error_regions
from harness_analysis.scoreboard import makes_named, scoreboard, splits_named

_RESAMPLES = 1000
LEAST_CONFIGURATIONS = 40
"""Different ones that teach: below, four folds and their intervals mean nothing."""


class TwoGnnTrainer:
    """Implements `harness.trainer.Trainer`.

    Args:
        settings: of the networks; None: the usual ones.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings

    def train(self, order: TrainOrder, watch: Watch) -> Trained:
        """Learns from the train part of the results, scores on their test part, and writes three files.

        Raises:
            BadInput: too few configurations, results that cannot be used, another training into the same files.
            StoreError: no space left, or files that cannot be read.
        """
        examples = from_runs(order.results, order.mix_sources)
        part = part_of(examples.configurations)
        train, test = examples.take(part == TRAIN), examples.take(part == TEST)
        different = len(np.unique(train.groups))
        if different < LEAST_CONFIGURATIONS:
            shown = ", ".join(map(str, order.results))
            raise BadInput(
                "--results",
                f"{shown}: {len(examples)} points, {different} different configurations to learn from",
                f"at least {LEAST_CONFIGURATIONS}",
                "measure more points",
            )
        make_folder(order.predictor.parent)
        with hold_lock(order.predictor.parent, f"harness train --out {order.predictor}"):
            ours = Ours(self.settings)
            ours.watch = lambda done, total: watch(done, total, "networks trained")
            started_s = time.monotonic()
            ours.fit(train, order.seed)
            fit_s = time.monotonic() - started_s
            scores = _scored(ours, examples) if len(test) else None
            accuracy = _accuracy(ours, test, order)
            errors = _write_errors(order.predictor, train, ours)
            card = Card(
                **cards.learnt_from(examples, part, order.results),
                torch_version=str(torch.__version__),
                seed=order.seed,
                trained_at=datetime.now(UTC).isoformat(timespec="seconds"),
                scores={} if scores is None else {"test": {**asdict(scores), "predictor": "ours"}},
                fit_s=round(fit_s, 3),
                errors_sha256=_sha256(errors),
            )
            files = save(ours, order.predictor, card.as_json())
        counts = {name: int((part == name).sum()) for name in (TRAIN, TEST, UNSEEN)}
        written = (*files, errors)
        return Trained(card.source, counts[TRAIN], counts[TEST], counts[UNSEEN], scores, fit_s, written, accuracy)

    def score(self, order: ScoreOrder, watch: Watch) -> Scored:
        """The saved predictor on the split `test`, all else fitted anew.

        Raises:
            BadInput: names that are not known, splits that the results do not allow, results or predictors that cannot
                be used.
        """
        makes = makes_named(order.predictors)
        examples = from_runs(order.results, order.mix_sources)
        splits = splits_named(order.splits, examples)
        saved: dict[tuple[str, str], Predictor] = {}
        trained_on: tuple[str, ...] = ()
        if order.predictor is not None and "ours" in makes and "test" in splits:
            ours, card = _loaded(order.predictor)
            trained_on = card.source
            saved["test", "ours"] = ours
        board = scoreboard(examples, splits, makes, saved, order.seed, watch)
        return Scored(tuple(np.unique(examples.source).tolist()), trained_on, board)

    def regions(self, predictor: Path) -> Regions:
        """Where the out-of-fold errors of the train part are large.

        Raises:
            BadInput: a predictor or its errors that cannot be used.
        """
        _, card = _loaded(predictor)
        frame = _read_errors(predictor, card)
        configurations = Configurations.from_frame(frame, card.models, known_gpus())
        measured_j, predicted_j = (frame[name].to_numpy(np.float64) for name in ("measured_j", "predicted_j"))
        noise = frame["noise"].to_numpy(np.float64)
        found = error_regions(configurations, predicted_j / measured_j - 1, noise)
        return Regions(card.provenance, len(frame), mape_pct(measured_j, predicted_j), "the measured points", found)

    def predict(self, predictor: Path, questions: tuple[Question, ...]) -> Answers:
        """Energies of batches, for those that can run.

        Raises:
            BadInput: a predictor that cannot be used, or a question that is none.
        """
        ours, card = _loaded(predictor)
        asked = [as_learnt(question, card) for question in questions]
        if not asked or ours.fitted is None:
            return Answers(card.provenance, ())
        c = configurations_of(asked)
        found, outside = ours.predict(c), differences(c, ours.fitted.covered, card)
        answers = tuple(_answer(question, found.take(np.array([at])), outside[at]) for at, question in enumerate(asked))
        return Answers(card.provenance, answers)

    def teaches(self, questions: Sequence[Question]) -> BoolArray:
        """Those of the train part.

        Raises:
            BadInput: a question that is none.
        """
        if not questions:
            return np.zeros(0, np.bool_)
        found: BoolArray = part_of(configurations_of(questions)) == TRAIN
        return found

    def knowledge(self, predictor: Path, questions: Sequence[Question]) -> Knowledge:
        """Errors as wide as the predictor's intervals, noise of what was measured, and where lengths lie.

        Raises:
            BadInput: a predictor that cannot be used, or a question that is none.
        """
        ours, card = _loaded(predictor)
        frame = _read_errors(predictor, card)
        measured = Configurations.from_frame(frame, card.models, known_gpus())
        return outlook.knowledge(ours, card, questions, measured, frame["noise"].to_numpy(np.float64))


def _scored(ours: Ours, examples: Examples) -> Scores:
    splits = splits_named(("test",), examples)
    ((scores,),) = scoreboard(examples, splits, makes_named(("ours",)), {("test", "ours"): ours}, 0, _nobody).values()
    return scores


def _accuracy(ours: Ours, test: Examples, order: TrainOrder) -> Accuracy | None:
    """Weighted by the traffic, with percentile intervals of a bootstrap over configurations."""
    weight = np.ones(len(test))
    if order.traffic is not None:
        weight = np.array([order.traffic.get(str(point_id), 0.0) for point_id in test.point_id], np.float64)
    test, weight = test.take(weight > 0), weight[weight > 0]
    if not len(test):
        return None
    error = np.abs(relative_error(test.total_j, ours.predict(test.configurations).total_j))
    values = np.stack([error, error <= 0.1, np.ones(len(test))])
    group = np.unique(test.groups, return_inverse=True)[1]
    sums = np.stack([np.bincount(group, weight * one) for one in values])
    drawn = len(sums[0])
    times = np.random.default_rng(order.seed).multinomial(drawn, np.full(drawn, 1 / drawn), _RESAMPLES)
    mape, eba10 = 100 * (sums[:2].sum(axis=1) / sums[2].sum())
    again = times @ sums.T
    (mape_low, eba10_low), (mape_high, eba10_high) = np.quantile(
        100 * again[:, :2] / again[:, 2:], (0.025, 0.975), axis=0
    )
    shares = mape, mape_low, mape_high, eba10, eba10_low, eba10_high
    return Accuracy(len(test), *(float(share) for share in shares))


def _nobody(done: int, total: int, what: str) -> None:
    """Watches nothing."""


def _answer(question: Question, found: Prediction, outside: tuple[str, ...]) -> Answer:
    """Of one question; no energies where the batch cannot run."""
    why_not = obstacle(question)
    total_j, prefill_j, low_j, high_j = (
        None if why_not else float(values[0]) for values in (found.total_j, found.prefill_j, found.low_j, found.high_j)
    )
    token_j = None if total_j is None else total_j / (question.batch_size * question.generated_tokens)
    engine, token_budget = question.engine or "", question.token_budget or 0
    return Answer(total_j, prefill_j, token_j, low_j, high_j, engine, token_budget, outside, why_not)


def _loaded(path: Path) -> tuple[Ours, Card]:
    ours, content = load(path)
    return ours, Card.from_json(content, path)


def _errors_path(predictor: Path) -> Path:
    return predictor.with_name(f"{predictor.name}.errors.parquet")


def _write_errors(predictor: Path, train: Examples, ours: Ours) -> Path:
    """What the networks that had not seen a point said of it."""
    held = ours.held_out
    if held is None:
        raise ValueError("not fitted")
    frame = train.configurations.to_frame()
    columns: dict[str, npt.NDArray[Any]] = {
        "point_id": train.point_id,
        "environment_id": train.environment_id,
        "source": train.source,
        "measured_j": train.total_j,
        "predicted_j": held.total_j,
        "low_j": held.low_j,
        "high_j": held.high_j,
        "noise": train.noise,
    }
    table = pa.Table.from_pandas(frame.assign(**columns), preserve_index=False).replace_schema_metadata(None)
    path = _errors_path(predictor)
    write_parquet(path, table.schema, [table], small=False, durable=True)
    return path


def _read_errors(predictor: Path, card: Card) -> pd.DataFrame:
    path = _errors_path(predictor)
    if not path.is_file() or _sha256(path) != card.errors_sha256:
        raise BadInput(
            str(path), "missing, damaged, or of another training", "the one that training wrote", TRAIN_FIRST
        )
    frame: pd.DataFrame = pq.read_table(path).to_pandas()
    return frame


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
