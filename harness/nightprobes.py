"""Probes of a night: the same few points of each node measured once more, so that a node that drifts is seen.

They are runs like any other (purpose `probe`), in a launch of their own, and numbered apart from the probes that a
sweep takes of its launches and boards. Which points a node's probes are is taken from the runs: those of its latest
night that measured all of them, while the sweep has them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow.compute as pc

from harness.agent import MeasuringAgent
from harness.deployment.sweepfile import Sweep
from harness.drift import COLUMNS, Comparison, compare
from harness.errors import AgentLost
from harness.plan import Assignment, LaunchPlan
from harness.points import BatchWorkload, content_id
from harness.probes import PROBE_REPETITIONS, probe_numbers
from harness.records import SETTLED, RunBundle, RunRecord
from harness.space import Candidate, Group, Space
from harness.store import Writer, read_table

FIRST_LAUNCH = 101
"""Of the probe launches of nights; a sweep's own probes have launches 1 to 100."""
FIRST_REPETITION = min(probe_numbers(FIRST_LAUNCH))
_STRIDE = probe_numbers(FIRST_LAUNCH + 1).start - FIRST_REPETITION
MOST_POINTS = 2
"""Of a node: a small batch and a large one."""
_DONE_COLUMNS = ("point_id", "environment_id", "purpose", "status")


@dataclass(frozen=True, slots=True)
class NodeProbes:
    """How a node's probes went tonight.

    Attributes:
        deployment: what was launched, in words; "" where nothing was.
        points: so many were measured.
        note: why there is no verdict, or "".
        look: whether a person should look at the note.
        comparisons: with the node's own history; empty where too little is known.
    """

    node: str
    deployment: str
    points: int
    note: str = ""
    look: bool = False
    comparisons: tuple[Comparison, ...] = ()

    @property
    def drifts(self) -> tuple[Comparison, ...]:
        """The quantities that are not what they were."""
        return tuple(one for one in self.comparisons if one.drifts)


def read_night_probes(results: Path, sweep: str) -> pd.DataFrame:
    """All runs of nightly probes of a sweep, settled or not, with the columns that drifts are told from."""
    rows = (
        (pc.field("purpose") == "probe") & (pc.field("repetition") >= FIRST_REPETITION) & (pc.field("sweep") == sweep)
    )
    frame: pd.DataFrame = read_table(results, "runs", COLUMNS, rows).to_pandas()
    return frame


def plan_probes(
    space: Space, sweep: Sweep, agent: MeasuringAgent, results: Path, begun: dict[str, int]
) -> LaunchPlan | None:
    """Tonight's launch of probes on a node; None while no batch of it is measured.

    The points are those of the node's latest whole night. In their place, and on the first night, come the smallest
    and the largest measured batch of one deployment: of those on the most GPUs, so that one launch holds as many boards
    as can be, the one with the smallest model.

    Args:
        begun: by environment, the latest launch of tonight; nodes of one kind get numbers of their own.
    """
    known = read_night_probes(results, sweep.name)
    group = _same_as(space, agent, known[known["node"] == agent.name]) or _chosen(space, agent, results)
    if group is None:
        return None
    environment_id = agent.environment(group.deployment).environment_id
    taken = known.loc[known["environment_id"] == environment_id, "repetition"]
    stored = FIRST_LAUNCH - 1 if taken.empty else (int(taken.max()) - FIRST_REPETITION) // _STRIDE + FIRST_LAUNCH
    launch = begun[environment_id] = max(stored, begun.get(environment_id, 0)) + 1
    return LaunchPlan(
        sweep=sweep.name,
        deployment=group.deployment,
        assignments=tuple(
            Assignment(item.point, number, 1, purpose="probe", lengths_from=item.lengths_from)
            for item in group.candidates
            for number in probe_numbers(launch)
        ),
        rules=sweep.rules,
        # An even seed for each night: where a launch holds some of the boards only, the next night takes others.
        seed=2 * (int(content_id([group.deployment.deployment_id, "night"], 12), 16) + launch),
    )


class NightProbes:
    """Tonight's probes of all nodes: a desk (`harness.crew.Desk`) at which each gets one launch.

    Args:
        writer: of `results`.
        threshold_pct: a smaller shift is no drift.
        since: runs before it are no reference.
    """

    def __init__(
        self,
        space: Space,
        sweep: Sweep,
        results: Path,
        writer: Writer,
        threshold_pct: float,
        since: datetime | None = None,
    ) -> None:
        self._space, self._sweep, self._results, self._writer = space, sweep, results, writer
        self._threshold_pct, self._since = threshold_pct, since
        self._runs: dict[str, list[RunRecord]] = defaultdict(list)
        self._begun: dict[str, int] = {}
        self.done: dict[str, NodeProbes] = {}
        """By node."""

    def join(self, agent: MeasuringAgent) -> None:
        """A node of the night."""

    def has_work(self, agent: MeasuringAgent) -> bool:
        return agent.nodes == 1 and agent.name not in self.done

    def waits_for_more(self, agents: Sequence[MeasuringAgent]) -> bool:
        """Each node is probed alone."""
        return False

    def skip(self, agent: MeasuringAgent, reasons: tuple[str, ...]) -> None:
        note = f"not probed, the node is in use: {'; '.join(reasons)}"
        self.done[agent.name] = NodeProbes(agent.name, "", 0, note, look=True)

    def next_launch(self, agent: MeasuringAgent) -> LaunchPlan | None:
        if not self.has_work(agent):
            return None
        plan = plan_probes(self._space, self._sweep, agent, self._results, self._begun)
        if plan is None:
            self.done[agent.name] = NodeProbes(agent.name, "", 0, "not probed: no batch is measured on it yet")
        return plan

    def take(self, bundle: RunBundle) -> None:
        """Store a run before the next one begins.

        Raises:
            StoreError: it could not be stored.
        """
        self._writer.append([bundle])
        if bundle.run.purpose != "warmup":
            self._runs[bundle.run.node].append(bundle.run)

    def ended(self, agent: MeasuringAgent, plan: LaunchPlan) -> None:
        runs = self._runs[agent.name]
        made = NodeProbes(agent.name, plan.deployment.label, len(plan.points))
        bad = [run for run in runs if run.status not in SETTLED]
        if bad or len(runs) < len(plan.assignments):
            # The first line: an engine's reason holds the end of its log, too.
            reason = f"{bad[0].status}: {bad[0].reason.partition(chr(10))[0]}" if bad else "it ended early"
            self.done[agent.name] = replace(made, note=f"probes are not complete ({reason})", look=True)
            return
        history = read_night_probes(self._results, self._sweep.name)
        history = history[history["status"].isin(SETTLED)]
        if self._since is not None:
            history = history[history["started_at"] >= self._since]
        found = compare(history, runs[0].launch_id, PROBE_REPETITIONS, self._threshold_pct)
        self.done[agent.name] = replace(
            made, comparisons=found, note="" if found else "too few nights yet to tell a drift"
        )

    def lose(self, agent: MeasuringAgent, plan: LaunchPlan | None, error: AgentLost) -> None:
        self.done[agent.name] = NodeProbes(agent.name, "", 0, f"lost while it was probed: {error}", look=True)

    def out_of_time(self) -> bool:
        """Never: what is left of the night is short, and time was put by for it."""
        return False


def probe_in_turn(desk: NightProbes, agents: Iterable[MeasuringAgent]) -> None:
    """Probe nodes that this process measures itself, one after another.

    Raises:
        StoreError: a run could not be stored.
    """
    for agent in agents:
        reasons = agent.wait_until_free()
        if reasons:
            desk.skip(agent, reasons)
            continue
        plan = desk.next_launch(agent)
        if plan is None:
            continue
        bundles = agent.measure(plan)
        try:
            for bundle in bundles:
                desk.take(bundle)
        finally:
            # Closing the generator stops the engine, whatever ended the loop.
            bundles.close()
        desk.ended(agent, plan)


def _same_as(space: Space, agent: MeasuringAgent, known: pd.DataFrame) -> Group | None:
    """The points of the node's latest whole launch of probes, if the sweep has all of them for this node.

    One that was cut may lack points, and the nights before it would be no reference of what is left.
    """
    settled = known["status"].isin(SETTLED)
    of_points = known.assign(settled=settled).groupby(["launch_id", "point_id"])["settled"].sum()
    whole = (of_points >= PROBE_REPETITIONS).groupby("launch_id").all()
    known = known[known["launch_id"].map(whole).astype(bool)]
    if known.empty:
        return None
    latest = known.sort_values("started_at", kind="stable").iloc[-1]["launch_id"]
    wanted = set(known.loc[known["launch_id"] == latest, "point_id"])
    for group, candidates in _batches(space, agent, lambda item: item.point.point_id in wanted):
        if len(candidates) == len(wanted):
            return Group(group.deployment, candidates)
    return None


def _chosen(space: Space, agent: MeasuringAgent, results: Path) -> Group | None:
    done = read_table(results, "runs", _DONE_COLUMNS, pc.field("status").isin(list(SETTLED))).to_pandas()
    measured = set(zip(done["point_id"], done["environment_id"], strict=True))

    def is_measured(item: Candidate) -> bool:
        return (item.point.point_id, agent.environment(item.point.deployment).environment_id) in measured

    widest: tuple[Group, tuple[Candidate, ...]] | None = None
    for group, candidates in _batches(space, agent, is_measured):
        if widest is None or _width(group) > _width(widest[0]):
            widest = (group, candidates)
    if widest is None:
        return None
    group, candidates = widest
    by_size = sorted(candidates, key=_size)
    return Group(group.deployment, (by_size[0], by_size[-1])[: min(MOST_POINTS, len(by_size))])


def _batches(
    space: Space, agent: MeasuringAgent, wanted: Callable[[Candidate], bool]
) -> Iterable[tuple[Group, tuple[Candidate, ...]]]:
    """Groups of the space for an agent, with their batches that can run there and are wanted; each point once."""
    by_deployment: dict[str, tuple[Group, dict[str, Candidate]]] = {}
    for group in space.groups:
        if agent.hosts(group.deployment):
            _, found = by_deployment.setdefault(group.deployment.deployment_id, (group, {}))
            for item in group.candidates:
                is_batch = isinstance(item.point.workload, BatchWorkload)
                if is_batch and wanted(item) and not agent.obstacle(item.point):
                    found.setdefault(item.point.point_id, item)
    return [(group, tuple(found.values())) for group, found in by_deployment.values() if found]


def _width(group: Group) -> tuple[int, int]:
    return group.deployment.gpus, -group.deployment.model.parameters


def _size(item: Candidate) -> tuple[int, int]:
    workload = item.point.workload
    assert isinstance(workload, BatchWorkload)
    return workload.batch_size, workload.prompt_tokens + workload.generated_tokens
