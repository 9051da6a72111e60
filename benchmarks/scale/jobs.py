"""What is measured on one folder, each in a process of its own, so that its peak memory is its own.

    python -m scale.jobs NAME '{"folder": ..., "runs": ..., ...}'      from the folder benchmarks

prints JSON: for each measure its seconds of wall clock and of processor time, and the peak memory of the process.
"""

import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from harness.clock import WallClock
from harness.controller import Controller
from harness.desk import Budget, Desk
from harness.order import Stage, SweepOrder
from harness.plan import LaunchPlan
from harness.records import RunBundle, RunRecord
from harness.shelf import Shelf
from harness.standing import folder_standing
from harness.store import Writer, read_ledger, read_table
from harness.store.compact import compact_table
from harness.store.files import write_parquet
from harness.store.layout import file_schema, segment_name, table_segments
from harness.store.reader import run_ids, stream
from scale.lab import SEED, Machines, WaitingAgent, crew, lab_space, lab_sweep, measured_bundles

SMALL_SEGMENTS, RUNS_PER_SMALL = 40, 1_000
APPENDS = 100


@dataclass
class Measures:
    """What a job found; `others` are not times."""

    seconds: dict[str, tuple[float, float]] = field(default_factory=dict)
    others: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str, parts: int = 1) -> Iterator[None]:
        """Wall clock and processor time of what is within, for each of so many parts."""
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = (time.perf_counter() - wall_s) / parts, (time.process_time() - cpu_s) / parts


@dataclass(frozen=True)
class Asked:
    """One folder, and what a job wants to know beside it."""

    folder: Path
    runs: int
    predictor: Path
    most_examples: int
    launch_s: float
    repetition_s: float
    held_s: float
    lasts_s: float


class Unwatched:
    """Progress that nobody looks at."""

    def planned(self, runs: int) -> None: ...

    def launching(self, agent: object, plan: LaunchPlan) -> None: ...

    def skipped(self, agent: object, reasons: tuple[str, ...]) -> None: ...

    def measured(self, run: RunRecord) -> None: ...


def status(asked: Asked, found: Measures) -> None:
    with found.timed("harness status"):
        (standing,) = folder_standing(asked.folder)
    found.others["points done"] = standing.points_done


def ledger(asked: Asked, found: Measures) -> None:
    with found.timed("read the ledger"):
        assert sum(row.status == "ok" for row in read_ledger(asked.folder)) >= 0.9 * asked.runs


def all_columns(asked: Asked, found: Measures) -> None:
    """What `harness sweep` reads at its end, and a user with pandas."""
    with found.timed("all columns of runs into pandas"):
        frame = read_table(asked.folder, "runs").to_pandas()
    found.others["frame MB"] = frame.memory_usage(deep=True).sum() / 2**20


def append(asked: Asked, found: Measures) -> None:
    """As a sweep of a real node does: each run on the disk before the next begins."""
    with found.timed("open the folder for writing"):
        writer = Writer(asked.folder, "simulated", "benchmark of scale", durable=True)
    sweep = lab_sweep(1_000)
    agent = WaitingAgent(sweep.nodes[0], "node-00", measured_bundles(1), 0.0, 0.0)
    bundles = _brought(agent, sweep.name, lab_space(sweep), sweep)[:APPENDS]
    with writer, found.timed("append a run, durable", len(bundles)):
        for bundle in bundles:
            writer.append([bundle])
            writer.compact()


def _brought(agent: WaitingAgent, name: str, space: Any, sweep: Any) -> list[RunBundle]:
    controller = Controller(name, space, sweep.rules, SEED)
    found: list[RunBundle] = []
    while len(found) < APPENDS and (plan := controller.ask(agent)) is not None:
        found += agent.measure(plan)
    return found


def compaction(asked: Asked, found: Measures) -> None:
    """Joins what a sweep has written since the last time; then all of `runs` anew, as a new schema asks for."""
    rows = next(iter(stream(table_segments(asked.folder, "runs"), "runs", "simulated")))
    with Writer(asked.folder, "simulated", "benchmark of scale", durable=False) as writer:
        for number in range(SMALL_SEGMENTS):
            taken = rows.slice(0, min(RUNS_PER_SMALL, len(rows)))
            launch = taken.schema.get_field_index("launch_id")
            named = pc.binary_join_element_wise(taken["launch_id"], f"small-{number}", "-")
            taken = taken.set_column(launch, taken.schema.field(launch), named)
            taken = taken.set_column(1, taken.schema.field(1), run_ids(taken))
            parts = {table: [taken] if table == "runs" else [] for table in ("requests", "iterations", "power", "runs")}
            writer.append_parts(taken["run_id"].to_pylist(), parts)
        with found.timed(f"compaction of {SMALL_SEGMENTS} small segments"):
            writer.compact()
    parts = stream(table_segments(asked.folder, "runs"), "runs", "simulated")
    with found.timed("rewrite all of runs"):
        write_parquet(asked.folder / ".all", file_schema("runs", "simulated"), parts, small=False, durable=False)
    (asked.folder / ".all").unlink()


def segments(asked: Asked, found: Measures) -> None:
    """A table of `runs` segments, as `power` has thousands after months: what opening and a compaction take then.

    All but the first are links to it: only what a segment says of itself is read, and new links are made.
    """
    asked.folder.mkdir()
    with Writer(asked.folder, "simulated", "benchmark of scale", durable=False) as writer:
        writer.append(measured_bundles(1))
    first = table_segments(asked.folder, "power")[0].path
    for number in range(2, asked.runs + 1):
        (first.parent / segment_name(number, number)).hardlink_to(first)
    with found.timed("many segments: open the folder for writing"):
        writer = Writer(asked.folder, "simulated", "benchmark of scale", durable=False)
    with writer, found.timed("many segments: look whether there is something to compact"):
        compact_table(asked.folder, "power", "simulated", 1, False)
    with found.timed("many segments: a new generation of links"):
        relink(asked.folder)


def relink(folder: Path) -> None:
    """The links that a compaction makes of the segments that it leaves as they are."""
    target = folder / ".links"
    target.mkdir()
    for segment in table_segments(folder, "power"):
        (target / segment.path.name).hardlink_to(segment.path)


def plan(asked: Asked, found: Measures) -> None:
    """The space, and the controller over it as a sweep begins; then asks, by one agent and by 64."""
    with found.timed("build the space"):
        sweep = lab_sweep(asked.runs)
        space = lab_space(sweep)
    with found.timed("ids of all points"):
        found.others["points"] = len({item.point.point_id for group in space.groups for item in group.candidates})
    controller = Controller(sweep.name, space, sweep.rules, SEED)
    with found.timed("tell the controller all runs"):
        controller.tell(read_ledger(asked.folder))
    agents = crew(sweep, [], 0.0, 0.0)
    with found.timed("first ask of the first agent"):
        plans = [(agents[0], controller.ask(agents[0]))]
    with found.timed("first ask of each of the 63 others", len(agents) - 1):
        plans += [(agent, controller.ask(agent)) for agent in agents[1:]]
    rounds = 5
    with found.timed("ask", rounds * len(agents)):
        for _ in range(rounds):
            for agent, asked_for in plans:
                if asked_for is not None:
                    controller.finished(asked_for, agent)
            plans = [(agent, controller.ask(agent)) for agent in agents]
    found.others["launches in hand"] = sum(item is not None for _, item in plans)


def examples(asked: Asked, found: Measures) -> None:
    from harness_analysis.examples import from_runs

    with found.timed("runs into examples"):
        found.others["examples"] = len(from_runs(asked.folder))


def train(asked: Asked, found: Measures) -> None:
    """The networks and their rehearsals, on at most so many examples."""
    import numpy as np

    from harness_analysis.examples import from_runs
    from harness_analysis.gnn.ours import Ours

    examples = from_runs(asked.folder)
    drawn = np.random.default_rng(SEED).permutation(len(examples))[: asked.most_examples]
    taught = examples.take(np.sort(drawn))
    with found.timed("train the predictor"):
        Ours().fit(taught, SEED)
    found.others["examples taught"] = len(taught)


def predictor(asked: Asked, found: Measures) -> None:
    """What `harness train` does, all of it; `targeted` chooses with what it leaves."""
    from harness.trainer import TrainOrder
    from harness_analysis.trainer import TwoGnnTrainer

    with found.timed("harness train"):
        TwoGnnTrainer().train(TrainOrder((asked.folder,), asked.predictor, SEED), lambda done, total, what: None)


def targeted(asked: Asked, found: Measures) -> None:
    """The choice of 200 further points among all of the space."""
    from harness.sampling.candidates import Cost
    from harness.targeting import targeted as choose
    from harness.trainer import find_trainer

    sweep = lab_sweep(asked.runs)
    space = lab_space(sweep)
    agents = crew(sweep, [], 0.0, 0.0, len(sweep.nodes))
    taken = frozenset(row.point_id for row in read_ledger(asked.folder))
    costs = {agent.spec.gpu_kind: Cost(600.0, 400.0) for agent in agents}

    def feasible(point: Any) -> bool:
        return any(agent.hosts(point.deployment) and not agent.obstacle(point) for agent in agents)

    trainer = find_trainer()
    with found.timed("choose 200 points, targeted"):
        picks, _ = choose(space, feasible, taken, trainer, asked.predictor, costs, 200, sweep.sampling)
    found.others["picked"] = len(picks)


class TimedDesk(Desk):
    """Counts what the crew's thread does at its desk: all of this keeps agents waiting."""

    own_s = 0.0

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.taken_s: list[float] = []

    def _timed(self, action: Callable[..., Any], *given: Any) -> Any:
        began_s = time.perf_counter()
        try:
            return action(*given)
        finally:
            self.own_s += time.perf_counter() - began_s

    def has_work(self, agent: Any) -> bool:
        return bool(self._timed(super().has_work, agent))

    def next_launch(self, agent: Any) -> LaunchPlan | None:
        found: LaunchPlan | None = self._timed(super().next_launch, agent)
        return found

    def take(self, bundle: RunBundle) -> None:
        self.taken_s.append(time.monotonic())
        self._timed(super().take, bundle)

    def ended(self, agent: Any, plan: LaunchPlan) -> None:
        self._timed(super().ended, agent, plan)


def cluster(asked: Asked, found: Measures) -> None:
    """64 agents that wait as long as measuring would take, over what is stored: shares of their time and the desk's."""
    templates = measured_bundles(1)
    sweep = lab_sweep(asked.runs)
    space = lab_space(sweep)
    agents = crew(sweep, templates, asked.launch_s, asked.repetition_s)
    wall = WallClock()
    gc.freeze()
    began_s, began_cpu_s = time.monotonic(), time.thread_time()
    order = SweepOrder(sweep, asked.folder, SEED, budget_s=None)
    with Writer(asked.folder, "simulated", "benchmark of scale", durable=asked.held_s == 0.0) as writer:
        shelf = Shelf(writer, Unwatched(), wall, asked.held_s)
        budget = Budget(None, wall)
        desk = TimedDesk(order, Stage(space, probing=False), 0, agents, shelf, Unwatched(), budget)
        deadline = Deadline(agents, asked.lasts_s)
        desk.out_of_time = deadline.passed  # type: ignore[method-assign]
        desk.take_together(Machines(agents), wall)
    cpu_s = time.thread_time() - began_cpu_s
    all_busy_s = max(agent.busy[0][0] for agent in agents)
    ends_s = all_busy_s + asked.lasts_s
    waited_s = sum(_within(agent.busy, all_busy_s, ends_s) for agent in agents)
    found.seconds["64 agents: until all are busy"] = all_busy_s - began_s, 0.0
    found.seconds["64 agents: the controller's own time per run"] = (
        desk.own_s / len(desk.taken_s),
        cpu_s / len(desk.taken_s),
    )
    found.others |= {
        "agents busy, %": 100 * waited_s / (len(agents) * asked.lasts_s),
        "runs per s": sum(all_busy_s <= taken_s <= ends_s for taken_s in desk.taken_s) / asked.lasts_s,
    }


class Deadline:
    """So long after the last agent has begun."""

    def __init__(self, agents: Sequence[WaitingAgent], lasts_s: float) -> None:
        self._agents, self._lasts_s = agents, lasts_s

    def passed(self) -> bool:
        if not all(agent.busy for agent in self._agents):
            return False
        return time.monotonic() > max(agent.busy[0][0] for agent in self._agents) + self._lasts_s


def _within(waits: Sequence[tuple[float, float]], start_s: float, end_s: float) -> float:
    """Of waits, as long as they were meant to be, what lies in between."""
    return sum(max(min(began_s + lasts_s, end_s) - max(began_s, start_s), 0.0) for began_s, lasts_s in waits)


JOBS: dict[str, Callable[[Asked, Measures], None]] = {
    job.__name__: job
    for job in (
        status,
        ledger,
        all_columns,
        append,
        compaction,
        segments,
        plan,
        examples,
        train,
        predictor,
        targeted,
        cluster,
    )
}


def main() -> None:
    name, given = sys.argv[1:]
    content = json.loads(given)
    asked = Asked(**{**content, "folder": Path(content["folder"]), "predictor": Path(content["predictor"])})
    found = Measures()
    JOBS[name](asked, found)
    status_lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    peak_kb = next(int(line.split()[1]) for line in status_lines if line.startswith("VmHWM"))
    print(json.dumps({"seconds": found.seconds, "others": found.others, "peak_mb": peak_kb / 1024}))


if __name__ == "__main__":
    main()
