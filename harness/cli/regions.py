"""`harness regions`: where the trained predictor is wrong."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from harness.cli.folders import RESULTS
from harness.predictorfiles import only_predictor, trained_predictor
from harness.texts import printable
from harness.trainer import ErrorRegion, find_trainer


@click.command(short_help="where the trained predictor is wrong")
@click.option("--results", type=click.Path(path_type=Path), help="results folder that it was trained on [the only one]")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def regions(results: Path | None, as_json: bool) -> None:
    """Name the regions of configurations where the trained predictor is wrong, from points that it had not seen.

    \b
    Example:
        harness regions --results results/simulated/simulated-dgx
    """
    predictor = only_predictor(RESULTS) if results is None else trained_predictor(results)
    found = find_trainer().regions(predictor)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "source": list(found.provenance.source),
                    "points": found.n,
                    "traffic": found.traffic,
                    "mape_pct": found.mape_pct,
                    "regions": [asdict(region) for region in found.regions],
                },
                allow_nan=False,
            )
        )
        return
    for region in found.regions:
        click.echo(printable(region_line(region, found.traffic)))
    if not found.regions:
        click.echo("No region stands out: errors are about the same everywhere, or no larger than the noise.")
    click.echo(printable(f"all {found.n:,} points: MAPE {_percent(found.mape_pct)}; {found.provenance.line}"))


def region_line(region: ErrorRegion, traffic: str) -> str:
    """Such as "70B, tp 8, batch > 16: MAPE 23% on 41 points, 3.1% of the measured points"."""
    noise = f" ({region.noise_pct:.1f}% is noise)" if region.noise_pct >= 0.05 * region.mape_pct else ""
    share = f"{region.traffic_pct:.1f}% of {traffic}"
    return f"{region.label}: MAPE {_percent(region.mape_pct)}{noise} on {region.n} points, {share}"


def _percent(value: float) -> str:
    return f"{value:.1f}%" if value < 10 else f"{value:.0f}%"
