"""What goes wrong ends in a named outcome, is tried again, and takes nothing from the rest."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness.agent import Agent
from harness.clock import WallClock
from harness.deployment.sweepfile import Sweep, load_sweep
from harness.plan import LaunchPlan
from harness.records import RunRecord
from harness.simulator.faults import Faults
from harness.simulator.node import SimulatedNode
from harness.space import build_space
from harness.sweep import SweepOrder, SweepOutcome, run_sweep
from tests.conftest import REPOSITORY
from tests.integration.support import environment, harness, read, write_sweep

FOREVER_S = (0.0, 1e9)


class Silent:
    """A progress that shows nothing, counts launches, and keeps what was skipped."""

    def __init__(self) -> None:
        self.launches = 0
        self.skips: list[tuple[str, tuple[str, ...]]] = []

    def planned(self, runs: int) -> None: ...

    def launching(self, agent: Agent, plan: LaunchPlan) -> None:
        self.launches += 1

    def skipped(self, agent: Agent, reasons: tuple[str, ...]) -> None:
        self.skips.append((agent.name, reasons))

    def measured(self, run: RunRecord) -> None: ...


def swept(folder: Path, faults: Faults, *changes: tuple[str, str]) -> tuple[SweepOutcome, pd.DataFrame, int]:
    """Sweep the small sweep on one faulty node; the outcome, its runs, and how many launches it took."""
    sweep: Sweep = load_sweep(write_sweep(folder, *changes))
    agent = Agent(SimulatedNode(sweep.nodes[0], "n", seed=0, faults=faults))
    order, progress = SweepOrder(sweep, folder / "out", seed=0), Silent()
    outcome = run_sweep(order, build_space(sweep, _no_trace, 0), [agent], progress, WallClock(), "test")
    return outcome, read(folder / "out").query("purpose == 'sweep'"), progress.launches


def _no_trace(name: str) -> object:
    raise AssertionError(name)


def outcomes(runs: pd.DataFrame) -> set[str]:
    return set(runs["status"])


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (Faults(foreign_process_s=FOREVER_S), "foreign process"),
        (Faults(thermal_slowdown_s=FOREVER_S), "thermal_slowdown"),
        (Faults(counter_lost_s=0.0), "CounterLost"),
    ],
)
def test_a_lasting_fault_makes_runs_invalid_and_is_given_up_after_three_attempts(
    tmp_path: Path, faults: Faults, reason: str
) -> None:
    outcome, runs, _ = swept(tmp_path, faults)
    assert outcomes(runs) == {"invalid"}
    assert runs["reason"].str.contains(reason).all()
    assert (outcome.points_given_up, outcome.points_done, outcome.runs_left) == (4, 0, 0)
    assert runs.groupby(["point_id", "repetition"])["attempt"].apply(list).tolist() == [[1, 2, 3]] * 8


def test_a_fault_that_passes_costs_attempts_only(tmp_path: Path) -> None:
    # The first launch takes about a minute of virtual time; the stranger leaves in its middle.
    outcome, runs, _ = swept(tmp_path, Faults(foreign_process_s=(0.0, 75.0)))
    assert outcomes(runs) == {"ok", "invalid"}
    assert (outcome.points_done, outcome.points_given_up) == (4, 0)
    valid = runs[runs["status"] == "ok"]
    assert not valid.duplicated(["point_id", "repetition"]).any()


def test_a_driver_reload_invalidates_the_windows_that_it_hits(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    _, untroubled, _ = swept(tmp_path / "before", Faults())
    third_s = sorted(untroubled["window_started_s"])[2]
    outcome, runs, _ = swept(tmp_path, Faults(driver_reload_s=third_s + 0.2))
    invalid = runs[runs["status"] == "invalid"]
    assert len(invalid) == 1
    assert invalid["reason"].str.contains("CounterWentBack").all()
    assert outcome.points_done == 4


def test_a_crash_fails_one_repetition_and_the_rest_is_taken_in_a_new_launch(tmp_path: Path) -> None:
    # Batches are counted over the node's life: the fifth is in the first point's second window.
    outcome, runs, launches = swept(tmp_path, Faults(crash_at=frozenset({5})))
    failed = runs[runs["status"] == "failed"]
    assert len(failed) == 1
    assert failed["reason"].str.contains("EngineCrashed").all()
    assert failed["reason"].iloc[0].count("\n") >= 1, "the log's tail is kept"
    assert outcome.points_done == 4
    assert launches == 3, "two deployments, one of them twice"


def test_an_engine_that_does_not_start_fails_its_points_three_times_and_no_others(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path))
    broken = next(item for item in sweep.deployments if item.tensor_parallel == 2)
    outcome, runs, launches = swept(tmp_path, Faults(failing_deployments=frozenset({broken.deployment_id})))
    assert set(runs[runs["tp"] == 2]["status"]) == {"failed"}
    assert runs[runs["tp"] == 2]["reason"].str.contains("LaunchFailed").all()
    assert set(runs[runs["tp"] == 1]["status"]) == {"ok"}
    assert (outcome.points_done, outcome.points_given_up, launches) == (2, 2, 4)


def test_a_point_that_kills_the_engine_costs_the_others_little(tmp_path: Path) -> None:
    """Every warm-up of one point crashes; the others of its deployment are done after a handful of launches."""
    sweep = load_sweep(
        write_sweep(tmp_path, ("sizes: [1, 8]", "sizes: [1, 2, 4, 8]"), ("[{tp: 1}, {tp: 2}]", "[{tp: 1}]"))
    )
    node = SimulatedNode(sweep.nodes[0], "n", seed=0)
    launch = node.launch

    def fragile(deployment, seed):  # type: ignore[no-untyped-def]
        engine = launch(deployment, seed)
        prepare = engine.prepare_batches

        def prepare_batches(workload, batches, seed):  # type: ignore[no-untyped-def]
            from harness.errors import EngineCrashed

            if workload.batch_size == 4:
                engine.stop()
                raise EngineCrashed("the engine died")
            return prepare(workload, batches, seed)

        engine.prepare_batches = prepare_batches
        return engine

    node.launch = fragile  # type: ignore[method-assign]
    progress = Silent()
    order = SweepOrder(sweep, tmp_path / "out", seed=0)
    outcome = run_sweep(order, build_space(sweep, _no_trace, 0), [Agent(node)], progress, WallClock(), "test")
    assert (outcome.points_done, outcome.points_given_up) == (3, 1)
    assert progress.launches <= 4
    failed = read(tmp_path / "out").query("status == 'failed'")
    assert set(failed["batch_size"]) == {4}


def test_a_budget_of_a_moment_still_gets_forward(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, ("[{tp: 1}, {tp: 2}]", "[{tp: 1}]")))
    left = []
    for _ in range(4):
        order = SweepOrder(sweep, tmp_path / "out", seed=0, budget_s=1e-3)
        agent = Agent(SimulatedNode(sweep.nodes[0], "n", seed=0))
        outcome = run_sweep(order, build_space(sweep, _no_trace, 0), [agent], Silent(), WallClock(), "test")
        left.append(outcome.runs_left)
    assert left == [3, 2, 1, 0]


def test_corrected_figures_of_a_node_are_another_environment(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path))
    spec = sweep.nodes[0]
    small = replace(spec, gpu=replace(spec.gpu, memory_bytes=4 << 30))
    counts = []
    for figures in (small, spec):
        agent = Agent(SimulatedNode(figures, "n", seed=0))
        order = SweepOrder(sweep, tmp_path / "out", seed=0)
        outcome = run_sweep(order, build_space(sweep, _no_trace, 0), [agent], Silent(), WallClock(), "test")
        counts.append((outcome.points_infeasible, outcome.points_done))
    assert counts == [(4, 0), (0, 4)]


def test_a_busy_node_is_skipped_with_the_reason_and_the_others_go_on(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, ("[dgx-h100]", "[dgx-a100, dgx-h100]")))
    busy, free = (SimulatedNode(spec, spec.kind, seed=0, faults=faults) for spec, faults in
                  zip(sweep.nodes, (Faults(busy_until_s=1e9), Faults()), strict=True))  # fmt: skip
    order, progress = SweepOrder(sweep, tmp_path / "out", seed=0), Silent()
    space = build_space(sweep, _no_trace, 0)
    outcome = run_sweep(order, space, [Agent(busy), Agent(free)], progress, WallClock(), "test")
    assert outcome.skipped == tuple(progress.skips) == (("dgx-a100", (f"{busy.gpu_uuids[0]} is used by pid 4242",)),)
    assert (outcome.points_done, outcome.runs_taken, outcome.runs_left, progress.launches) == (4, 8, 8, 2)
    assert set(read(tmp_path / "out")["node"]) == {"dgx-h100"}
    assert busy.clock.monotonic_s() < 60, "it was looked at for half a minute, no longer"
    again = run_sweep(order, space, [Agent(SimulatedNode(sweep.nodes[0], "later", seed=0))], progress, WallClock(), "t")
    assert (again.runs_taken, again.runs_left, again.skipped) == (8, 0, ())


def test_a_node_that_becomes_free_within_half_a_minute_is_measured(tmp_path: Path) -> None:
    outcome, runs, launches = swept(tmp_path, Faults(busy_until_s=20.0))
    assert (outcome.points_done, outcome.skipped, launches) == (4, (), 2)
    assert outcomes(runs) == {"ok"}


def test_a_node_with_nothing_left_to_measure_is_not_looked_at(tmp_path: Path) -> None:
    swept(tmp_path, Faults())
    outcome, _, launches = swept(tmp_path, Faults(busy_until_s=1e9))
    assert (outcome.skipped, outcome.runs_left, launches) == ((), 0, 0)


FAULTY = """
import functools
import harness.cluster.local as local
from harness.simulator.faults import Faults
local.SimulatedNode = functools.partial(local.SimulatedNode, faults=Faults(FAULTS))
from harness.cli.main import main
main()
"""
SLOWED_DOWN = FAULTY.replace("FAULTS)", "thermal_slowdown_s=(0.0, 1e9))")
BUSY = FAULTY.replace("FAULTS)", "busy_until_s=1e9)")
BUSY_AFTER_ONE_LAUNCH = """
from harness.simulator.node import SimulatedNode
launch = SimulatedNode.launch
def launch_once(node, *arguments):
    SimulatedNode.busy = lambda node: ("others came",)
    return launch(node, *arguments)
SimulatedNode.launch = launch_once
from harness.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [(BUSY, 1, "sim-dgx-h100 was skipped: GPU-sim-"), (BUSY_AFTER_ONE_LAUNCH, 3, "was skipped: others came")],
)
def test_the_exit_code_says_whether_anything_was_measured_beside_a_busy_node(
    tmp_path: Path, code: str, exit_code: int, words: str
) -> None:
    write_sweep(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep", "sweep.yaml", "--results", "out"], cwd=tmp_path,
        env=environment(PYTHONPATH=str(REPOSITORY)), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == exit_code, done.stderr
    assert words in done.stderr
    assert "Nothing left to do" not in done.stdout


def test_points_that_were_given_up_end_in_exit_code_3_and_say_how_to_retry(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    command = [sys.executable, "-c", SLOWED_DOWN, "sweep", "sweep.yaml", "--results", "out"]
    for _ in range(2):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(PYTHONPATH=str(REPOSITORY)), capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 3, done.stderr
        assert "4 points were given up" in done.stdout
        assert "--max-attempts" in done.stdout
        assert "Nothing left to do" not in done.stdout
    again = harness("sweep", "sweep.yaml", "--results", "out", "--max-attempts", 4, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "4 done" in again.stdout


def _wait_until_caught(pid: int, number: int) -> None:
    """Until the process has a handler of its own for the signal."""
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1]
        if int(caught, 16) >> (number - 1) & 1:
            return
        time.sleep(0.005)
    raise AssertionError("no handler after 30 s")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("after_s", [0.0, 3.0])
def test_a_signal_ends_in_one_line_and_130_and_the_sweep_resumes(tmp_path: Path, number: int, after_s: float) -> None:
    write_sweep(tmp_path, ("repetitions: 2", "repetitions: 100"), ("sizes: [1, 8]", "sizes: [1, 2, 3, 4, 5, 6, 7, 8]"))
    child = subprocess.Popen(
        [sys.executable, "-m", "harness", "sweep", "sweep.yaml", "--results", "out"], cwd=tmp_path, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _wait_until_caught(child.pid, signal.SIGTERM)  # Before the interpreter itself is up no program can answer.
    time.sleep(after_s)
    os.kill(child.pid, number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130, said
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("harness: ended by SIG")
    done = harness("sweep", "sweep.yaml", "--results", "out", "--repetitions", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
