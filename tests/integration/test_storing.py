"""When runs reach the store: measured ones one by one, simulated ones of a launch together."""

from collections.abc import Generator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pytest

from harness.agent import Agent
from harness.clock import Clock, VirtualClock
from harness.deployment.sweepfile import load_sweep
from harness.errors import Interrupted
from harness.plan import LaunchPlan
from harness.points import Source
from harness.records import RunBundle, RunRecord
from harness.simulator.node import SimulatedNode
from harness.space import build_space
from harness.sweep import HELD_S, SweepOrder, SweepOutcome, run_sweep
from tests.integration.support import read, write_sweep


class Standing(VirtualClock):
    """A clock on which computing takes no time."""

    def __init__(self) -> None:
        super().__init__(datetime(2026, 1, 1, tzinfo=UTC))


class Slow(Standing):
    """A clock on which every run takes as long as one may be held back."""

    def monotonic_s(self) -> float:
        self.sleep(HELD_S)
        return super().monotonic_s()


class Measuring(SimulatedNode):
    """A node whose runs count as measured."""

    @property
    def source(self) -> Source:
        return "measured"


class Interrupting(Agent):
    """An agent that is interrupted in its first launch, after three runs."""

    def measure(self, plan: LaunchPlan) -> Generator[RunBundle]:
        yield from islice(super().measure(plan), 3)
        raise Interrupted("ended by SIGINT")


class Watching:
    """Progress that looks into the folder whenever it is told of a run, and keeps how many of its launch are there."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self.expected: list[int] = []
        self.stored: dict[str, list[int]] = {}

    def planned(self, runs: int) -> None: ...

    def launching(self, agent: Agent, plan: LaunchPlan) -> None:
        self.expected.append(len(plan.assignments) + len(plan.points))

    def skipped(self, agent: Agent, reasons: tuple[str, ...]) -> None: ...

    def measured(self, run: RunRecord) -> None:
        runs = read(self._results)
        of_launch = runs[runs["launch_id"] == run.launch_id]
        assert run.run_id in set(of_launch["run_id"]), "told of a run that is not stored"
        assert {run.run_id} <= set(read(self._results, "requests")["run_id"]), "its details are there as well"
        self.stored.setdefault(run.launch_id, []).append(len(of_launch))


def swept(
    folder: Path, wall: Clock, node: type[SimulatedNode] = SimulatedNode, agent: type[Agent] = Agent
) -> tuple[SweepOutcome, Watching]:
    sweep = load_sweep(write_sweep(folder))
    space = build_space(sweep, lambda name: pytest.fail(f"no trace {name} is needed"), 0)
    watching = Watching(folder / "out")
    order = SweepOrder(sweep, folder / "out", seed=0)
    outcome = run_sweep(order, space, [agent(node(sweep.nodes[0], "n", seed=0))], watching, wall, "test")
    return outcome, watching


def test_simulated_runs_of_a_launch_are_stored_together_when_it_ends(tmp_path: Path) -> None:
    outcome, watching = swept(tmp_path, Standing())
    assert outcome.points_done == 4
    assert len(watching.stored) == 2, "one launch for each deployment"
    for counts, expected in zip(watching.stored.values(), watching.expected, strict=True):
        assert set(counts) == {expected}, "at the first word of a launch all of it is there"


def test_simulated_runs_are_not_held_back_for_long(tmp_path: Path) -> None:
    _, watching = swept(tmp_path, Slow())
    for counts in watching.stored.values():
        assert counts == sorted(set(counts)), "each is stored before the next is there"


def test_measured_runs_are_stored_before_the_next_begins(tmp_path: Path) -> None:
    _, watching = swept(tmp_path, Standing(), node=Measuring)
    for counts in watching.stored.values():
        assert counts == sorted(set(counts))
    assert set(read(tmp_path / "out")["source"]) == {"measured"}


def test_what_was_complete_before_an_interrupt_is_stored(tmp_path: Path) -> None:
    """Held back or not: only a killed process loses what it held."""
    with pytest.raises(Interrupted):
        swept(tmp_path, Standing(), agent=Interrupting)
    assert len(read(tmp_path / "out")) == 3
