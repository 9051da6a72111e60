"""`harness collect`: the nightly job, quiet but for one line."""

import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from harness.cli.sweep import default_results, learner, slurm_order, sweep_file, with_rules
from harness.clock import WallClock
from harness.cluster.nodes import check_cluster, open_nodes
from harness.collect import LOCK, CollectOrder, collect
from harness.deployment.sweepfile import load_sweep
from harness.errors import BadInput
from harness.nights import summary_line
from harness.space import build_space
from harness.store.files import check_writable, make_folder
from harness.store.lock import hold_lock
from harness.sweep import SweepOrder
from harness.texts import printable
from harness.units import parse_duration_s
from harness.workload.library import find_trace

_EXIT_WITH_FINDINGS = 3


@click.command("collect", short_help="the nightly job: resume, probe, train, report")
@click.argument("file", metavar="SWEEP.yaml", type=click.Path(path_type=Path))
@click.option("--budget", required=True, help="begin no run after this long, such as 6h or 90m")
@click.option("--results", type=click.Path(path_type=Path), help="results folder [results/SOURCE/SWEEP]")
@click.option("--rounds", type=click.IntRange(1, 1000), default=1, show_default=True, help="rounds of --points each")
@click.option("--points", type=click.IntRange(1, 10_000_000), help="feasible points per round [all]")
@click.option("--repetitions", type=click.IntRange(1, 100), help="valid repetitions per point [the file's, or 5]")
@click.option("--max-attempts", type=click.IntRange(1, 1000), help="tries at a repetition [the file's, or 3]")
@click.option("--cluster", default="local", show_default=True, help="where nodes are: local, ray[:HOST:PORT], slurm")
@click.option("--slurm-nodes", type=click.IntRange(1, 1024), help="nodes to ask Slurm for [1]")
@click.option("--slurm-partition", metavar="NAME", help="partition to ask for [Slurm's default]")
@click.option("--slurm-set", multiple=True, metavar="OPTION=VALUE", help="further option of sbatch; may be repeated")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="order and prompts")
@click.option("--drift", default="3%", show_default=True, help="a node's probes that shift by less do not drift")
@click.option("--since", metavar="DATE", help="probes before this day (UTC) are no reference for drifts")
@click.option("--keep", type=click.IntRange(1, 100_000), default=30, show_default=True, help="reports kept as pages")
@click.option("--json", "as_json", is_flag=True, help="close with the night's record as JSON instead of a line")
def nightly(
    file: Path,
    budget: str,
    results: Path | None,
    rounds: int,
    points: int | None,
    repetitions: int | None,
    max_attempts: int | None,
    cluster: str,
    slurm_nodes: int | None,
    slurm_partition: str | None,
    slurm_set: tuple[str, ...],
    seed: int,
    drift: str,
    since: str | None,
    keep: int,
    as_json: bool,
) -> None:
    """Go on with a sweep for a night: measure, probe each node, compact, train, compare with last night, report.

    Prints one line; what a person should look at goes to standard error. Whatever ends it, the next night goes on.

    \b
    Exit codes: 0 all is well (also when nothing was left to do), 1 failed, 2 bad input or a folder in use, 3 there is
    something to look at (a node skipped or drifting, points given up, a worse predictor), 130 interrupted.

    \b
    Example:
        harness collect my.yaml --budget 6h
    """
    check_cluster(cluster)
    sweep = with_rules(load_sweep(sweep_file(file)), repetitions, max_attempts)
    slurm = slurm_order(cluster, budget, slurm_nodes, slurm_partition, slurm_set)
    folder = results or default_results(sweep)
    order = CollectOrder(
        SweepOrder(sweep, folder, seed, points, rounds, parse_duration_s(budget, "--budget")),
        drift_pct=_percent(drift),
        since=_day(since),
        pages=keep,
    )
    space = build_space(sweep, lambda name: find_trace(name, seed), seed)
    owner = shlex.join(sys.argv)
    make_folder(folder)
    check_writable(folder)
    with hold_lock(folder, owner, LOCK):
        # That Slurm lets nodes wait is no problem to be told of each night.
        refused: list[str] = []
        say = _problem if slurm is None else _unsaid
        nodes = open_nodes(cluster, sweep, seed, folder, say, slurm, refused=refused.append)
        night, record = collect(order, space, nodes, learner, WallClock(), owner, refused)
    click.echo(json.dumps(night.as_json(), allow_nan=False) if as_json else _one_line(summary_line(night, record)))
    for line in night.look:
        _problem(line)
    if night.look:
        raise click.exceptions.Exit(_EXIT_WITH_FINDINGS)


def _problem(line: str) -> None:
    click.echo(_one_line(f"harness: {line}"), err=True)


def _one_line(text: str) -> str:
    """Reasons may hold the lines of an engine's log."""
    return printable(" ".join(text.split()))


def _unsaid(line: str) -> None:
    """Nobody is there to hear it."""


def _percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = 0.0
    if not text.endswith("%") or not 0 < value <= 100:
        raise BadInput("--drift", text, "a percentage over 0% and up to 100%, such as 3%")
    return value


def _day(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise BadInput("--since", text, "a day such as 2026-11-21") from None
