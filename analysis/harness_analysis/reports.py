"""Tables for the terminal: `python -m harness_analysis.reports COMMAND --help`."""

import sys
from pathlib import Path

import click
import numpy as np
import pandas as pd

from harness.errors import HarnessError, TrainerMissing
from harness.predictorfiles import trained_predictor
from harness.trainer import EXTRA
from harness_analysis import closure, engine_energy, steps, workload_models
from harness_analysis.predictor import Predictor
from harness_analysis.public import wilkins

RESULTS = click.option("--results", required=True, type=click.Path(path_type=Path), help="Results folder.")
R_SQUARED = {"r2": "about the mean", "r2_uncentered": "about zero", "r2_held_out": "held out, about the mean"}
"""Definitions of R^2 that the workload models' report counts by."""
CLOSURE_BOUND_PCT = 5.0
"""How far a replay's predicted energy may be from the measured one."""


@click.group()
def reports() -> None:
    """Tables about what batches teach of serving, of a results folder or of published measurements.

    \b
    Examples:
      python -m harness_analysis.reports closure --results results/simulated/simulated-dgx
      python -m harness_analysis.reports formation --results results/simulated/simulated-dgx
      python -m harness_analysis.reports wilkins --public $HARNESS_TEST_DATA/public
    """


def shown(table: pd.DataFrame, decimals: int = 2) -> str:
    """A table in full, whatever the terminal's width."""
    return table.to_string(index=False, float_format=lambda value: f"{value:.{decimals}f}", na_rep="-")


@reports.command("wilkins")
@click.option("--public", required=True, type=click.Path(path_type=Path), help="Folder with wilkins.parquet.")
def wilkins_command(public: Path) -> None:
    """R^2 of energy and runtime from lengths, for each model, by each definition.

    \b
    Example:
      python -m harness_analysis.reports wilkins --public $HARNESS_TEST_DATA/public
    """
    rows = wilkins.read(public)
    paper = rows[rows["gpu"] == workload_models.PAPER_GPU]
    bound = workload_models.PAPER_R_SQUARED
    sections = {
        f"The paper's system ({workload_models.PAPER_GPU}), all lengths": (paper, ("model",)),
        "Every system": (rows, ("model", "gpu")),
        "Every system, prompts varied and outputs varied apart": (rows, ("model", "notes")),
    }
    for title, (chosen, by) in sections.items():
        found = workload_models.fits(chosen, by)
        click.echo(f"\n{title}")
        click.echo(shown(_workload_table(found), 4))
        for form in workload_models.FORMS:
            mine = [one for one in found if one.form == form]
            below = [f"{' '.join(one.group)} {one.target} {one.r2:.3f}" for one in mine if not one.met]
            counts = ", ".join(
                f"{sum(getattr(one, column) > bound for one in mine)} of {len(mine)} {how}"
                for column, how in R_SQUARED.items()
            )
            click.echo(f"{form}: R^2 over {bound} in {counts}")
            if below and len(below) < len(mine):
                click.echo("  not, about the mean: " + "; ".join(below))


@reports.command("formation")
@RESULTS
def formation_command(results: Path) -> None:
    """Batch formation in replays, and the serving engine's energy, beside the LLMCO2 paper's.

    The folder needs batches and replays of the same deployments.

    \b
    Example:
      python -m harness_analysis.reports formation --results results/simulated/simulated-dgx
    """
    click.echo("Batch formation as a share of inference latency, % (beside the LLMCO2 paper's)")
    requests = engine_energy.formation(results)
    click.echo(shown(engine_energy.formation_table(requests)))
    click.echo("\nThe same, all deployments together")
    click.echo(shown(engine_energy.formation_table(requests, ("task", "load"))))
    found = closure.closures(results)
    predictions = engine_energy.held_out(found.replays)
    click.echo(
        "\nServing-engine energy, each replay predicted from the others of its deployment: within 10%, % of runs"
    )
    click.echo(shown(engine_energy.engine_table(predictions), 1))
    worst_pct = predictions.groupby("deployment")["error_pct"].transform(lambda errors: errors.abs().max())
    closing = predictions[worst_pct <= CLOSURE_BOUND_PCT]
    if 0 < len(closing) < len(predictions):
        click.echo(f"Deployments whose replays all close within {CLOSURE_BOUND_PCT:g}%")
        click.echo(shown(engine_energy.engine_table(closing), 1))
    node_pct = float(predictions["node_error_pct"].abs().max())
    click.echo(f"steps and serving engine together, beside GPU and host energy: worst run {node_pct:.1f}% off")
    _say_skipped(found)


@reports.command("closure")
@RESULTS
@click.option(
    "--predictor",
    type=click.Path(path_type=Path),
    help="Trained predictor, or the results folder that it is in, to ask what steps take  [fitted on batches]",
)
def closure_command(results: Path, predictor: Path | None) -> None:
    """Replays' GPU energy from the records of their steps, beside the measured one.

    The folder needs batches and replays of the same deployments.

    \b
    Examples:
      python -m harness_analysis.reports closure --results results/simulated/simulated-dgx
      python -m harness_analysis.reports closure --results DIR --predictor results/simulated/simulated-dgx
    """
    found = closure.closures(results, None if predictor is None else _trained(predictor))
    for name, model in found.models.items():
        if isinstance(model, steps.LinearSteps):
            factors = ", ".join(f"{factor:.3g}" for factor in (*model.factors, model.under_way_w))
            click.echo(f"{name}: {factors} (fitted on {model.n} windows of batches, MAPE {model.fit_mape_pct:.1f}%)")
    if predictor is None:
        click.echo(f"J for each {', '.join(steps.TERMS)}; W in a pipeline while any step is under way\n")
    table = closure_table(found.replays)
    click.echo(shown(table))
    within = int((table["worst_pct"].abs() <= CLOSURE_BOUND_PCT).sum())
    click.echo(f"every run within {CLOSURE_BOUND_PCT:g}%: {within} of {len(table)} replays")
    _say_skipped(found)


def _trained(path: Path) -> Predictor:
    try:
        from harness_analysis.gnn.files import load  # the other tables do without torch
    except ModuleNotFoundError as error:
        raise TrainerMissing(f"{error.name} is not installed: needs {EXTRA}") from error
    return load(trained_predictor(path))[0]


def closure_table(replays: pd.DataFrame) -> pd.DataFrame:
    """`Closures.replays` by deployment, trace and load: means over runs, and of the errors the worst."""
    keys = ["deployment", "trace", "load"]
    grouped = replays.groupby(keys, sort=True)
    means = grouped[["duration_s", "gap_s", "measured_j", "predicted_j", "error_pct"]].mean()
    worst = grouped["error_pct"].agg(lambda errors: float(errors.iloc[int(np.argmax(np.abs(errors)))]))
    counts = grouped.agg(runs=("error_pct", "size"), saturated=("status", lambda status: int((status != "ok").sum())))
    return counts.join(means).assign(worst_pct=worst).reset_index()


def _say_skipped(found: closure.Closures) -> None:
    for label, why in found.skipped.items():
        click.echo(f"left out: {label}: {why}")
    sources = sorted(set(found.replays["source"]))
    click.echo(f"source: {', '.join(sources)}")


def _workload_table(found: list[workload_models.Fit]) -> pd.DataFrame:
    rows = [
        {
            "group": " ".join(one.group),
            "form": one.form,
            "target": one.target,
            "n": one.n,
            "r2": one.r2,
            "r2_uncentered": one.r2_uncentered,
            "r2_held_out": one.r2_held_out,
            "median_ape_pct": one.median_ape_pct,
        }
        for one in found
    ]
    return pd.DataFrame(rows)


def main() -> None:
    """Run a command; exit codes as of `harness`."""
    try:
        reports(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except HarnessError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
