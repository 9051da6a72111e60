"""`harness train`: a predictor of energy, learnt from results folders."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from harness.cli.console import console
from harness.cli.folders import chosen_folders
from harness.cli.scores import print_scores
from harness.cli.watching import watching
from harness.predictorfiles import predictor_of, without_suffix
from harness.trainer import Trained, TrainOrder, find_trainer


@click.command(short_help="learn a predictor from results folders")
@click.option("--results", multiple=True, type=click.Path(path_type=Path), help="results folder [all under results/]")
@click.option("--out", type=click.Path(path_type=Path), help="predictor to write [RESULTS/predictor/two-gnn]")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="folds, first weights")
@click.option("--mix-sources", is_flag=True, help="learn from simulated and measured runs together")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def train(results: tuple[Path, ...], out: Path | None, seed: int, mix_sources: bool, as_json: bool) -> None:
    """Train the 2-GNN energy predictor on the batches of results folders, and score it on a part it never sees.

    Which configurations test follows from their content: they stay the same as the results grow.

    \b
    Example:
        harness train --results results/simulated/simulated-dgx
    """
    folders = chosen_folders(results)
    predictor = predictor_of(folders) if out is None else without_suffix(out)
    trainer = find_trainer()
    with watching() as watch:
        trained = trainer.train(TrainOrder(folders, predictor, seed, mix_sources), watch)
    if as_json:
        click.echo(json.dumps(_as_json(trained), allow_nan=False))
        return
    out_ = console()
    if trained.test is not None:
        print_scores({"test": (trained.test,)}, out_)
    else:
        out_.print("No configuration of the results belongs to the test part yet: measure more to have scores.")
    out_.print(
        f"Learnt from {trained.train_points:,} {' and '.join(trained.source)} points in {trained.fit_s:.0f} s;"
        f" {trained.test_points:,} test, {trained.unseen_points:,} stay unseen."
    )
    for path in trained.files:
        out_.print(f"  {path}", soft_wrap=True)


def _as_json(trained: Trained) -> dict[str, object]:
    scores = {} if trained.test is None else {"test": asdict(trained.test)}
    return {
        "source": list(trained.source),
        "points": {"train": trained.train_points, "test": trained.test_points, "unseen": trained.unseen_points},
        "fit_s": trained.fit_s,
        "splits": scores,
        "files": [str(path) for path in trained.files],
    }
