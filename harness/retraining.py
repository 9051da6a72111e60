"""The predictor of a night: trained on all runs, and compared with last night's on the same test points.

Which configurations test follows from their content, so last night's predictor has not learnt from tonight's either. It
is kept as `predictor/last-night` until a night ends whole.
"""

from collections.abc import Callable
from pathlib import Path

from harness import roundfiles
from harness.errors import BadInput
from harness.nights import Learnt
from harness.predictorfiles import predictor_of
from harness.rounds import LEAST_TESTS, Learner
from harness.store import read_ledger
from harness.store.files import write_whole
from harness.trainer import Accuracy, ScoreOrder, Scores, Trainer, TrainOrder

KEPT = "last-night"
"""Name of last night's predictor, beside that of tonight."""
_SUFFIXES = (".safetensors", ".errors.parquet", ".json")
"""Of a predictor's files; the last one is written last, here too."""


def retrain(results: Path, find_learner: Callable[[], Learner], last: Learnt | None, seed: int) -> Learnt:
    """Train where there are new runs, and say how good the predictor is beside last night's.

    Args:
        find_learner: asked only where there is something to learn: a trainer takes seconds to load.
        last: what was learnt last night.
    """
    fingerprint = runs_fingerprint(results)
    tonight, kept = predictor_of((results,)), _kept(results)
    if last is not None and last.fingerprint == fingerprint and last.accuracy and _is_there(tonight):
        return Learnt(fingerprint, last.accuracy, note="no new runs: last night's predictor stays")
    learner = find_learner()
    trainer = learner.trainer
    if trainer is None:
        return Learnt(fingerprint, note=f"not trained: {learner.missing}")
    try:
        accuracy = trainer.train(TrainOrder((results,), tonight, seed), learner.watch).accuracy
    except BadInput as error:
        return Learnt(fingerprint, note=f"not trained: {error}")
    if accuracy is None or not _is_there(kept):
        note = "no test points yet" if accuracy is None else "no predictor of a night before to compare with"
        return Learnt(fingerprint, accuracy, note=note)
    try:
        before = _scores_of(trainer, results, kept, learner)
    except BadInput as error:
        return Learnt(fingerprint, accuracy, note=f"not compared with last night's predictor: {error}")
    mape_pct, eba10_pct = over_points(before)
    return Learnt(fingerprint, accuracy, mape_pct, eba10_pct, "", regression(accuracy, mape_pct, eba10_pct))


def keep(results: Path) -> None:
    """Tonight's predictor is last night's from now on; called when all else of the night is done.

    A kill between the files leaves some that are not of one training; they are refused when they are asked, and the
    next night says that it compared nothing.
    """
    tonight, kept = predictor_of((results,)), _kept(results)
    if not _is_there(tonight):
        return
    for suffix in _SUFFIXES:
        source, target = tonight.with_name(tonight.name + suffix), kept.with_name(kept.name + suffix)
        if source.is_file():
            write_whole(target, source.read_bytes())


def regression(tonight: Accuracy, last_mape_pct: float, last_eba10_pct: float) -> str:
    """In words, how last night's predictor was better than tonight's 95% interval allows; "" where it was not.

    Both are asked for the same points, so their difference is surer than the interval of either one: a regression that
    is said is one, a small one may stay unsaid.
    """
    if tonight.n < LEAST_TESTS:
        return ""
    if last_mape_pct < tonight.mape_low_pct:
        spread = f"{tonight.mape_low_pct:.1f} to {tonight.mape_high_pct:.1f}"
        return f"MAPE {tonight.mape_pct:.1f}% ({spread}) on {tonight.n} test points, last night's {last_mape_pct:.1f}%"
    if last_eba10_pct > tonight.eba10_high_pct:
        spread = f"{tonight.eba10_low_pct:.0f} to {tonight.eba10_high_pct:.0f}"
        shown = f"EBA10 {tonight.eba10_pct:.0f}% ({spread})"
        return f"{shown} on {tonight.n} test points, last night's {last_eba10_pct:.0f}%"
    return ""


def over_points(scores: Scores) -> tuple[float, float]:
    """MAPE and EBA10 in percent with every point counted once, as `Trained.accuracy` does; 0 points have none."""
    each = scores.per_model.values()
    n = sum(one.n for one in each)
    return sum(one.n * one.mape_pct for one in each) / n, sum(one.n * one.eba10_pct for one in each) / n


def runs_fingerprint(results: Path) -> str:
    """Of all settled repetitions; nightly probes, which hardly teach, left out."""
    every = frozenset(row.point_id for row in read_ledger(results))
    return roundfiles.runs_fingerprint(results, every)


def _scores_of(trainer: Trainer, results: Path, predictor: Path, learner: Learner) -> Scores:
    order = ScoreOrder((results,), predictor, ("test",), ("ours",))
    (scores,) = trainer.score(order, learner.watch).splits["test"]
    return scores


def _kept(results: Path) -> Path:
    return predictor_of((results,)).with_name(KEPT)


def _is_there(predictor: Path) -> bool:
    return predictor.with_name(f"{predictor.name}.json").is_file()
