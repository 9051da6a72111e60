"""The nightly job of one results folder: resume and measure, probe, compact, train, compare, report.

    resume and measure within the budget | probe each node | compact | train, score | record and page

Nothing is kept between nights but runs, files of rounds, the predictor and the records of earlier nights, each written
whole. So whatever ends a night, also in mid-step, the next one goes on.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from harness import __version__
from harness.agent import Fleet, MeasuringAgent
from harness.clock import Clock
from harness.crew import Crew
from harness.deployment.sweepfile import Sweep
from harness.errors import StoreError, StoreRefused
from harness.nightprobes import MOST_POINTS, NightProbes, NodeProbes, probe_in_turn
from harness.nights import (
    FOLDER,
    Measured,
    Night,
    Stored,
    drop_old,
    last_learnt,
    stem,
    with_night,
    write_night,
)
from harness.plan import LaunchPlan
from harness.points import Source
from harness.probes import PROBE_REPETITIONS
from harness.records import RunRecord
from harness.report.data import read_results
from harness.report.page import page
from harness.retraining import keep, retrain
from harness.rounds import Learner, Rounds
from harness.schema import TABLES
from harness.space import Space
from harness.spending import LAUNCH_S, REPETITION_S, spending
from harness.store import Writer
from harness.store.files import check_writable, write_whole
from harness.store.layout import table_segments
from harness.store.lock import check_free
from harness.store.reader import row_count
from harness.sweep import SweepOrder, SweepOutcome, run_sweep

LOCK = ".collect.lock"
"""Held for all steps of a night; the tables have a lock of their own, which each writer holds while it writes."""


_LEAST_BUDGET_S = 1.0
"""What is left to measure in where the probes take all of a budget."""


@dataclass(frozen=True, slots=True)
class CollectOrder:
    """What a night is to do.

    Attributes:
        sweep: what to measure, with the budget of the whole night's measuring, probes included.
        drift_pct: a shift of a node's probes below this is no drift.
        since: probes before it are no reference for drifts (UTC); None: all are.
        pages: so many reports are kept as pages.
    """

    sweep: SweepOrder
    drift_pct: float
    since: datetime | None
    pages: int


class Unseen:
    """Progress that nobody watches."""

    def planned(self, runs: int) -> None: ...

    def launching(self, agent: MeasuringAgent, plan: LaunchPlan) -> None: ...

    def skipped(self, agent: MeasuringAgent, reasons: tuple[str, ...]) -> None: ...

    def measured(self, run: RunRecord) -> None: ...


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Who measures: the agents there are now, and, where they measure at the same time, the fleet that they are of."""

    agents: Sequence[MeasuringAgent]
    fleet: Fleet | None


OpenNodes = AbstractContextManager[tuple[Sequence[MeasuringAgent], Fleet | None]]
"""As `harness.cluster.nodes.open_nodes`: held while something is measured, and no longer."""


def collect(
    order: CollectOrder,
    space: Space,
    nodes: OpenNodes,
    learner: Callable[[], Learner],
    wall: Clock,
    owner: str,
    refused: Sequence[str] = (),
) -> tuple[Night, Path]:
    """One night, and where its record lies; the caller holds `LOCK`.

    Args:
        nodes: while they are open, what to look at of nodes that take no part is added to `refused`.
        learner: asked when there is something to learn from.
        wall: the clock of the budget and of the record.
        owner: how to name this process in the folder's locks.

    Raises:
        StoreRefused, StoreError: runs could not be stored, all before them are; or the record could not be written, and
            the message tells what there is to look at.
        Interrupted: every completed run is stored; no record is written.
    """
    results, started_at, begun_s = order.sweep.results, wall.utc(), wall.monotonic_s()
    last = last_learnt(results, order.sweep.sweep.name)
    look: list[str] = []
    if (results / FOLDER).exists():
        check_writable(results / FOLDER)
    # A sweep's engine would make the node look busy.
    check_free(results)
    with nodes as opened:
        here = _Nodes(*opened)
        skipped = _busy(here)
        outcome = None
        if len(skipped) < len(here.agents):
            outcome = _measure(order.sweep, space, here, learner, wall, owner)
            skipped |= {name: "; ".join(reasons) for name, reasons in outcome.skipped}
        look += [f"{name} was skipped: {reasons}" for name, reasons in skipped.items()]
        look += _failures(outcome)
        free = _Nodes([agent for agent in here.agents if agent.name not in skipped], here.fleet)
        probes = _probe(order, space, free, wall, owner, look)
    look += refused
    learnt = retrain(results, learner, last, order.sweep.seed)
    if learnt.regression:
        look.append(f"the predictor is worse than last night's: {learnt.regression}")
    name = stem(started_at)
    night = Night(
        sweep=order.sweep.sweep.name,
        source=_source(order.sweep.sweep),
        harness_version=__version__,
        started_at=started_at.isoformat(timespec="seconds"),
        took_s=round(wall.monotonic_s() - begun_s, 1),
        measured=None if outcome is None else _measured(outcome),
        skipped=tuple(skipped.items()),
        probes=probes,
        learnt=learnt,
        stored=_stored(results),
        look=tuple(look),
        page=f"{name}.html",
    )
    night = _with_page(results, night)
    try:
        record = write_night(results, name, night)
        drop_old(results, order.pages)
        keep(results)
    except StoreError as error:
        raise StoreError("; ".join((str(error), *night.look))) from error
    return night, record


def _with_page(results: Path, night: Night) -> Night:
    """Write the page; the night as it is recorded, since a page that finds no room is no reason to forget it."""
    content = with_night(page(read_results(results)), night).encode()
    try:
        write_whole(results / FOLDER / night.page, content)
    except StoreError as error:
        return replace(night, page="", look=(*night.look, f"no page was written: {error}"))
    return night


def _busy(nodes: _Nodes) -> dict[str, str]:
    """Preflight: the nodes in use by others, and why. Those of a fleet look before each launch.

    With all of them busy a sweep in rounds would go on to the next round without this one's points.
    """
    if nodes.fleet is not None:
        return {}
    looks = {agent.name: agent.wait_until_free() for agent in nodes.agents}
    return {name: "; ".join(reasons) for name, reasons in looks.items() if reasons}


def _measure(
    order: SweepOrder, space: Space, nodes: _Nodes, learner: Callable[[], Learner], wall: Clock, owner: str
) -> SweepOutcome:
    if order.budget_s is not None and not order.sweep.simulate:
        # The budget is of this machine's clock; simulated hours take seconds.
        times = expected_times(order.results, order.sweep)
        budget_s = max(order.budget_s - _probes_take_s(times, nodes), _LEAST_BUDGET_S)
        order = replace(order, budget_s=budget_s, expected_s=lambda plan: sum(times[plan.deployment.gpu]))
    in_rounds = None
    if order.points is not None and order.rounds > 1:
        in_rounds = Rounds(order, space, nodes.agents, learner, _unsaid, wall, nodes.fleet is not None)
    stages = None if in_rounds is None else in_rounds.stages
    return run_sweep(order, space, nodes.agents, Unseen(), wall, owner, stages, nodes.fleet)


def _unsaid(line: str) -> None:
    """The record tells what happened."""


def _probe(
    order: CollectOrder, space: Space, nodes: _Nodes, wall: Clock, owner: str, look: list[str]
) -> tuple[NodeProbes, ...]:
    """Probe the nodes and compact the tables, which one writer does; what to look at goes into `look`."""
    sweep, results = order.sweep.sweep, order.sweep.results
    try:
        with Writer(results, _source(sweep), owner, durable=not sweep.simulate) as writer:
            desk = NightProbes(space, sweep, results, writer, order.drift_pct, order.since)
            if nodes.fleet is None:
                probe_in_turn(desk, nodes.agents)
            else:
                Crew(desk, nodes.fleet, wall, most_losses=1).work()
            writer.compact()
    except StoreRefused as error:
        # A sweep that somebody began between two steps; what was measured before is stored.
        look.append(f"no probes were taken and nothing was compacted: {error}")
        return ()
    probes = tuple(desk.done.values())
    for one in probes:
        if one.drifts:
            shifts = "; ".join(drift.line for drift in one.drifts)
            look.append(f"{one.node} drifts: {shifts}; {one.points} probes of {one.deployment}")
        elif one.look:
            look.append(f"{one.node}: {one.note}")
    return probes


def _source(sweep: Sweep) -> Source:
    return "simulated" if sweep.simulate else "measured"


def _failures(outcome: SweepOutcome | None) -> list[str]:
    """Nodes that were lost, and what was tried as often as the rules allow."""
    if outcome is None:
        return []
    said = [f"{name} was lost: {reason}" for name, reason in outcome.lost]
    if outcome.withheld and outcome.runs_left and not outcome.runs_taken:
        label, reason = outcome.withheld[0]
        said.append(f"nothing was measured, {outcome.runs_left} runs are left: {label}: {reason}")
    fix = "given up; harness status says why, and --max-attempts allows more"
    if outcome.points_given_up:
        said.append(f"{outcome.points_given_up} point{'s' * (outcome.points_given_up != 1)} {fix}")
    if outcome.probes.given_up:
        said.append(f"{outcome.probes.given_up} runs of the sweep's own probes {fix}")
    return said


def _measured(outcome: SweepOutcome) -> Measured:
    return Measured(
        runs_taken=outcome.runs_taken,
        runs_left=outcome.runs_left,
        points_done=outcome.points_done,
        points_given_up=outcome.points_given_up,
        points_infeasible=outcome.points_infeasible,
        budget_spent=outcome.budget_spent,
        withheld=outcome.withheld,
    )


def expected_times(results: Path, sweep: Sweep) -> dict[str, tuple[float, float]]:
    """By kind of GPU, what a launch and a repetition of a batch take, s of node time, by the runs there are."""
    spent = spending(results, sweep.name, sweep.rules)
    found = {}
    for node in sweep.nodes:
        known = spent.get(node.kind)
        repetition_s = known.repetition_s if known is not None and known.repetition_s else REPETITION_S
        found[node.gpu_kind] = (LAUNCH_S if known is None else known.launch_s, repetition_s)
    return found


def _probes_take_s(times: Mapping[str, tuple[float, float]], nodes: _Nodes) -> float:
    """What is put by of the budget: a launch of probes for each node, with a warm-up of each point."""
    runs = MOST_POINTS * (PROBE_REPETITIONS + 1)
    each = [launch_s + runs * repetition_s for launch_s, repetition_s in (times[a.spec.gpu_kind] for a in nodes.agents)]
    return sum(each) if nodes.fleet is None else max(each)


def _stored(results: Path) -> Stored:
    segments = [segment for table in TABLES for segment in table_segments(results, table)]
    return Stored(
        runs=sum(row_count(segment) for segment in table_segments(results, "runs")),
        files=len(segments),
        table_bytes=sum(segment.path.stat().st_size for segment in segments),
        free_bytes=shutil.disk_usage(results).free,
    )
