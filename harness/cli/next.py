"""`harness next`: what a sweep would measure next, and why."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from harness.agent import MeasuringAgent
from harness.cli.sweep import default_results, learner, sweep_file, with_rules
from harness.clock import WallClock
from harness.cluster.nodes import open_nodes
from harness.controller import Controller
from harness.deployment.sweepfile import Sweep, load_sweep
from harness.plan import Probes
from harness.rounds import Rounds
from harness.space import Space, build_space
from harness.store import read_ledger
from harness.sweep import SweepOrder
from harness.workload.library import find_trace


@click.command("next", short_help="the next points of a sweep, and why")
@click.argument("file", metavar="SWEEP.yaml", type=click.Path(path_type=Path))
@click.option("--results", type=click.Path(path_type=Path), help="results folder [results/SOURCE/SWEEP]")
@click.option("--repetitions", type=click.IntRange(1, 100), help="as given to sweep [the file's, or 5]")
@click.option("--cluster", default="local", show_default=True, help="where nodes are: local or ray[:HOST:PORT]")
@click.option("--points", type=click.IntRange(1, 100_000), default=10, show_default=True, help="how many")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="as given to sweep")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def next_points(
    file: Path, results: Path | None, repetitions: int | None, cluster: str, points: int, seed: int, as_json: bool
) -> None:
    """Print the points that a sweep would measure next, grouped by launch, and why each was picked.

    Of a sweep in rounds: what is left of the round that was begun; then what a further round would take, by the
    predictor as it was last trained.

    \b
    Example:
        harness next deployments/simulated-dgx.yaml --points 5
    """
    loaded = with_rules(load_sweep(sweep_file(file)), repetitions)
    folder = results or default_results(loaded)
    space = build_space(loaded, lambda name: find_trace(name, seed), seed)
    with open_nodes(cluster, loaded, seed, folder, lambda line: click.echo(line, err=True)) as (agents, _):
        rounds = Rounds(SweepOrder(loaded, folder, seed, points), space, agents, learner, click.echo, WallClock())
        begun = rounds.unfinished()
        if begun is None:
            picks = _picks(loaded, space, folder, seed, agents, points)
        else:
            # Probes come after the last round.
            points_only = replace(loaded, rules=replace(loaded.rules, probes=Probes()))
            picks = _picks(points_only, begun, folder, seed, agents, points)
            picks = picks or _picks(points_only, rounds.upcoming(), folder, seed, agents, points)
    if as_json:
        click.echo(json.dumps(picks))
        return
    if not picks:
        click.echo(f"Nothing left to measure of {loaded.name} in {folder}.")
    for pick in picks:
        click.echo(f"{pick['node']}  {pick['point']}  {pick['runs']} runs  ({pick['why']})")


def _picks(
    sweep: Sweep, space: Space, folder: Path, seed: int, agents: Sequence[MeasuringAgent], points: int
) -> list[dict[str, object]]:
    controller = Controller(sweep.name, space, sweep.rules, seed)
    if folder.exists():
        controller.tell(read_ledger(folder))
    return [
        {"node": agent.name, "point_id": point.point_id, "point": point.label, "runs": missing, "why": why}
        for agent in agents
        for point, why, missing in controller.preview(agent, points)
    ][:points]
