"""`harness sweep` and `harness replay`: measure, resumably, and close with a table."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import click

from harness.bundled import bundled_path
from harness.cli.console import console
from harness.cli.curve import print_rounds, rounds_json
from harness.cli.progress import sweep_progress
from harness.clock import WallClock
from harness.cluster.nodes import check_cluster, open_nodes
from harness.cluster.slurm import SlurmOrder
from harness.deployment.sweepfile import DEFAULT_DRAIN, ReplaySpec, Sweep, load_sweep
from harness.errors import BadInput, HarnessError, TrainerMissing
from harness.estimate import estimate_sweep, print_estimate
from harness.machine import find_gpus
from harness.rounds import Learner, Rounds
from harness.space import build_space, in_looks
from harness.store import read_table
from harness.summary import COLUMNS, print_summary, summarise
from harness.sweep import SweepOrder, SweepOutcome, run_sweep
from harness.trainer import find_trainer
from harness.units import parse_duration_s
from harness.workload.library import find_trace
from harness.workload.slices import parse_rate

_EXIT_WITH_FAILURES = 3


def default_results(sweep: Sweep) -> Path:
    """Simulated and measured runs never share a folder, nor a root."""
    return Path("results") / ("simulated" if sweep.simulate else "measured") / sweep.name


def sweep_file(given: Path | None) -> Path:
    """The sweep file to use: the given one, or the one that matches this node's GPUs.

    A bundled file's name is enough, wherever it is installed.

    Raises:
        BadInput: none was given and there is no GPU to match; never a silent simulation.
    """
    if given is not None:
        bundled = bundled_path("deployments", given.name)
        return bundled if not given.exists() and bundled.is_file() else given
    gpus = find_gpus()
    names = sorted(path.name for path in bundled_path("deployments").glob("*.yaml"))
    if gpus.node_kind and (match := f"{gpus.node_kind}.yaml") in names:
        return bundled_path("deployments", match)
    found = gpus.name
    raise BadInput(
        "SWEEP.yaml", f"(none given; found {found})", f"a sweep file: {', '.join(names)}, or your own",
        "to simulate: harness sweep deployments/simulated-dgx.yaml",
    )  # fmt: skip


def with_rules(sweep: Sweep, repetitions: int | None, max_attempts: int | None = None) -> Sweep:
    """The sweep with what the command line says instead of the file."""
    rules = sweep.rules
    return replace(
        sweep,
        rules=replace(
            rules,
            repetitions=repetitions or rules.repetitions,
            max_attempts=max_attempts or rules.max_attempts,
        ),
    )


@click.command(short_help="measure a sweep; run it again to resume")
@click.argument("file", metavar="[SWEEP.yaml]", required=False, type=click.Path(path_type=Path))
@click.option("--results", type=click.Path(path_type=Path), help="results folder [results/SOURCE/SWEEP]")
@click.option("--rounds", type=click.IntRange(1, 1000), default=1, show_default=True, help="rounds of --points each")
@click.option("--points", type=click.IntRange(1, 10_000_000), help="feasible points per round [all]")
@click.option("--repetitions", type=click.IntRange(1, 100), help="valid repetitions per point [the file's, or 5]")
@click.option("--max-attempts", type=click.IntRange(1, 1000), help="tries at a repetition [the file's, or 3]")
@click.option("--budget", help="stop before a run begins after this long, such as 6h or 90m")
@click.option("--cluster", default="local", show_default=True, help="where nodes are: local, ray[:HOST:PORT], slurm")
@click.option("--slurm-nodes", type=click.IntRange(1, 1024), help="nodes to ask Slurm for [1]")
@click.option("--slurm-partition", metavar="NAME", help="partition to ask for [Slurm's default]")
@click.option("--slurm-set", multiple=True, metavar="OPTION=VALUE", help="further option of sbatch; may be repeated")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="order and prompts")
@click.option("--dry-run", is_flag=True, help="print points, feasibility, launches and GPU-hours; measure nothing")
@click.option("--json", "as_json", is_flag=True, help="close with JSON instead of tables")
def sweep(
    file: Path | None,
    results: Path | None,
    rounds: int,
    points: int | None,
    repetitions: int | None,
    max_attempts: int | None,
    budget: str | None,
    cluster: str,
    slurm_nodes: int | None,
    slurm_partition: str | None,
    slurm_set: tuple[str, ...],
    seed: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Measure every point of a sweep file, five repetitions each, into a results folder.

    Whatever ends it, running it again goes on where it was. With --rounds and --points, points are measured in rounds;
    where a trainer is installed (the extra analysis), each round after the first takes those that a predictor trained
    on the rounds before is expected to learn most from, for what they cost.

    \b
    Examples:
        harness sweep deployments/simulated-dgx.yaml
        harness sweep my.yaml --budget 6h --points 200
        harness sweep my.yaml --points 200 --rounds 5
        harness sweep my.yaml --cluster ray:10.0.0.1:6379
        harness sweep my.yaml --dry-run
    """
    loaded = with_rules(load_sweep(sweep_file(file)), repetitions, max_attempts)
    slurm = slurm_order(cluster, budget, slurm_nodes, slurm_partition, slurm_set)
    _measure(loaded, results or default_results(loaded), rounds, points, budget, cluster, seed, dry_run, as_json, slurm)


@click.command(short_help="replay a trace on every deployment of a sweep file")
@click.argument("file", metavar="SWEEP.yaml", type=click.Path(path_type=Path))
@click.option("--trace", required=True, metavar="NAME-or-FILE", help="a known trace, or a CSV in its format")
@click.option("--results", type=click.Path(path_type=Path), help="results folder [results/SOURCE/SWEEP]")
@click.option("--start", help="where the slice starts in the trace, such as 600 or 10m [the median slice]")
@click.option("--duration", default="60s", show_default=True, help="length of the slice, such as 60 or 2m")
@click.option("--rate-scale", "rate", default="1", show_default=True, help="factor on the rate, or capacity:0.8")
@click.option("--drain", default=DEFAULT_DRAIN, show_default=True, help="wait so long for the last requests")
@click.option("--budget", help="stop before a run begins after this long, such as 6h or 90m")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="order and prompts")
@click.option("--dry-run", is_flag=True, help="print points, feasibility, launches and GPU-hours; measure nothing")
@click.option("--json", "as_json", is_flag=True, help="close with JSON instead of tables")
def replay(
    file: Path,
    trace: str,
    results: Path | None,
    start: str | None,
    duration: str,
    rate: str,
    drain: str,
    budget: str | None,
    seed: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Replay a slice of a trace, five repetitions, on every deployment of a sweep file.

    \b
    Examples:
        harness replay deployments/simulated-dgx.yaml --trace azure2023-conv
        harness replay my.yaml --trace day.csv --start 600 --duration 120 --rate-scale capacity:0.8
    """
    duration_s = _seconds(duration, "--duration")
    start_s = None if start is None else 0.0 if start == "0" else _seconds(start, "--start")
    rate_scale, capacity_share = parse_rate(rate, "--rate-scale")
    loaded = load_sweep(sweep_file(file))
    spec = ReplaySpec(
        trace=trace,
        duration_s=duration_s,
        slice_rule="median" if start_s is None else f"start:{start_s:f}",
        rate_scale=rate_scale,
        capacity_share=capacity_share,
        context_policy="clip-prompt",
        drain_s=parse_duration_s(drain, "--drain"),
    )
    folder = results or default_results(loaded)
    # A name of its own, so that status tells the two apart.
    replays = replace(loaded, name=f"{loaded.name}-replay", batches=(), replays=(spec,))
    _measure(replays, folder, 1, None, budget, "local", seed, dry_run, as_json)


def _seconds(text: str, option: str) -> float:
    """A duration with its unit, or plain seconds."""
    return parse_duration_s(text if text[-1:].isalpha() else f"{text}s", option)


def slurm_order(
    cluster: str, budget: str | None, nodes: int | None, partition: str | None, parameters: tuple[str, ...]
) -> SlurmOrder | None:
    """What to ask Slurm for; None where it is not to be asked.

    Raises:
        BadInput: options of Slurm without it, or Slurm without a budget.
    """
    if cluster != "slurm":
        if nodes is not None or partition is not None or parameters:
            raise BadInput("--cluster", cluster, "slurm, where --slurm-... is given")
        return None
    if budget is None:
        raise BadInput("--budget", "(not given)", "a duration such as 6h with --cluster slurm: the jobs' time limit")
    pairs = [item.partition("=") for item in parameters]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise BadInput("--slurm-set", name, "OPTION=VALUE, such as gpus-per-node=8")
    return SlurmOrder(
        nodes=nodes or 1,
        budget_s=parse_duration_s(budget, "--budget"),
        partition=partition or "",
        parameters=tuple((name, value) for name, _, value in pairs),
    )


def _measure(
    sweep: Sweep,
    folder: Path,
    rounds: int,
    points: int | None,
    budget: str | None,
    cluster: str,
    seed: int,
    dry_run: bool,
    as_json: bool,
    slurm: SlurmOrder | None = None,
) -> None:
    check_cluster(cluster)
    budget_s = None if budget is None else parse_duration_s(budget, "--budget")
    space = build_space(sweep, lambda name: find_trace(name, seed), seed)
    if dry_run:
        planned = in_looks(space) if points is not None and rounds > 1 else space
        print_estimate(estimate_sweep(sweep, planned, points, rounds, seed), console(), as_json)
        if points is not None and rounds > 1 and not as_json:
            click.echo(
                "Rounds are chosen when they begin: of them the plan shows how many points there are and what so many"
                " cost, not which."
            )
        return
    order, wall = SweepOrder(sweep, folder, seed, points, rounds, budget_s), WallClock()
    with sweep_progress() as progress, open_nodes(cluster, sweep, seed, folder, progress.say, slurm) as (agents, fleet):
        in_rounds = None
        if points is not None and rounds > 1:
            in_rounds = Rounds(order, space, agents, learner, progress.say, wall, fleet is not None)
        stages = None if in_rounds is None else in_rounds.stages
        outcome = run_sweep(order, space, agents, progress, wall, shlex.join(sys.argv), stages, fleet)
    learnt = None if in_rounds is None else in_rounds.outcome()
    summary = summarise(read_table(folder, "runs", COLUMNS).to_pandas(), outcome.points)
    if as_json:
        curve = {} if learnt is None else {"rounds": rounds_json(learnt)}
        click.echo(json.dumps({"results": str(folder), **_outcome_json(outcome), **summary.as_json(), **curve}))
    else:
        print_summary(summary, outcome, folder, console())
        if learnt is not None:
            print_rounds(learnt, console())
    if outcome.budget_spent:
        click.echo(f"Budget spent: {outcome.runs_left} runs are left; run the same command again to go on.", err=True)
    for name, reasons in outcome.skipped:
        click.echo(f"harness: {name} was skipped: {'; '.join(reasons)}; run the same command again later", err=True)
    for name, reason in outcome.withheld:
        click.echo(f"harness: no further launch of {name} was begun: {reason}", err=True)
    if outcome.skipped and not outcome.runs_taken:
        raise click.exceptions.Exit(HarnessError.exit_code)
    lost = outcome.lost and outcome.runs_left and not outcome.budget_spent
    if lost:
        names = ", ".join(dict.fromkeys(name for name, _ in outcome.lost))
        click.echo(
            f"harness: {outcome.runs_left} runs are left, and {names} was lost; run the same command again", err=True
        )
    if outcome.skipped or outcome.points_given_up or outcome.probes.given_up or lost:
        raise click.exceptions.Exit(_EXIT_WITH_FAILURES)


def learner() -> Learner:
    """The installed trainer, or why there is none; trainings are silent, since the sweep tells of them."""
    try:
        return Learner(find_trainer(), "", _silent)
    except TrainerMissing as error:
        return Learner(None, str(error), _silent)


def _silent(done: int, total: int, what: str) -> None:
    """Watches nothing."""


def _outcome_json(outcome: SweepOutcome) -> dict[str, object]:
    return {
        "runs_taken": outcome.runs_taken,
        "runs_left": outcome.runs_left,
        "points_done": outcome.points_done,
        "points_given_up": outcome.points_given_up,
        "points_infeasible": outcome.points_infeasible,
        "probe_runs": {
            "settled": outcome.probes.settled,
            "wanted": outcome.probes.wanted,
            "given_up": outcome.probes.given_up,
        },
        "skipped": {name: list(reasons) for name, reasons in outcome.skipped},
        "lost": [{"node": name, "reason": reason} for name, reason in outcome.lost],
        "withheld": dict(outcome.withheld),
    }
