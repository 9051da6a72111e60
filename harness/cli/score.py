"""`harness score`: how far predictors are off, by model and by how far they have to reach."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from harness.cli.console import console
from harness.cli.folders import chosen_folders
from harness.cli.scores import OURS, print_scores
from harness.cli.watching import watching
from harness.errors import BadInput
from harness.predictorfiles import predictor_of, trained_predictor
from harness.trainer import SPLITS, ScoreOrder, Scores, find_trainer


@click.command(short_help="errors of the predictor and of baselines, by split and model")
@click.option("--results", multiple=True, type=click.Path(path_type=Path), help="results folder [all under results/]")
@click.option("--model", type=click.Path(path_type=Path), help="trained predictor [RESULTS/predictor/two-gnn]")
@click.option("--splits", default="test", show_default=True, help=f"of {','.join(SPLITS)}")
@click.option("--predictors", default=OURS, show_default=True, help="such as ours,boosting-raw (docs/predictor.md)")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="of what is fitted anew")
@click.option("--mix-sources", is_flag=True, help="score simulated and measured runs together")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def score(
    results: tuple[Path, ...],
    model: Path | None,
    splits: str,
    predictors: str,
    seed: int,
    mix_sources: bool,
    as_json: bool,
) -> None:
    """Score the trained predictor on the test part of results folders, which it has never seen.

    On other splits, and of other predictors, all are fitted anew, which takes a training for each.

    \b
    Examples:
        harness score --results results/simulated/simulated-dgx
        harness score --splits test,gpu --predictors ours,boosting-raw --json
    """
    asked_splits, asked_predictors = _listed(splits, "--splits"), _listed(predictors, "--predictors")
    for name in asked_splits:
        if name not in SPLITS:
            raise BadInput("--splits", name, ", ".join(SPLITS))
    folders = chosen_folders(results)
    saved = None
    if "test" in asked_splits and OURS in asked_predictors:
        saved = trained_predictor(model or predictor_of(folders).parent)
    trainer = find_trainer()
    with watching() as watch:
        scored = trainer.score(ScoreOrder(folders, saved, asked_splits, asked_predictors, seed, mix_sources), watch)
    if as_json:
        found = {name: _as_json(lines) for name, lines in scored.splits.items()}
        click.echo(
            json.dumps(
                {"splits": found, "source": list(scored.source), "trained_on": list(scored.trained_on)}, allow_nan=False
            )
        )
        return
    out = console()
    print_scores(scored.splits, out)
    out.print(f"scored on {' and '.join(scored.source)} runs")
    if scored.trained_on and scored.trained_on != scored.source:
        out.print(f"the trained predictor has learnt from {' and '.join(scored.trained_on)} runs")


def _listed(text: str, option: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise BadInput(option, text, "names joined by commas")
    return names


def _as_json(lines: Sequence[Scores]) -> dict[str, object]:
    """The first predictor's scores directly, as where only one is asked; those of all by name."""
    each = {one.predictor: {key: asdict(one)[key] for key in ("per_model", "mean")} for one in lines}
    return {**each[lines[0].predictor], "predictor": lines[0].predictor, "predictors": each}
