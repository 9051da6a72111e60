"""Agents of a real Ray cluster on this machine, killed at random moments."""

import contextlib
import importlib.util
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.cluster.support import RealCluster, real_cluster, token
from tests.faults.amounts import dice, kills
from tests.faults.table import Faults
from tests.faults.trial import Child, Nursery, Trial, killed_in_the_end

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: the extra ray"),
]
SWEEP = (
    ("sizes: [1, 8, 16]", "sizes: [1, 2, 4, 8, 16, 32]"),
    ("generated_tokens: [16]", "generated_tokens: [64, 128]"),
    ("repetitions: 5", "repetitions: 5, max_attempts: 20"),
)
RUNS = 2 * 2 * 24 * 5


def agents_of(cluster: RealCluster) -> list[int]:
    found = []
    for pid in cluster.pids():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RayNodeSide" in " ".join(psutil.Process(pid).cmdline()):
                found.append(pid)
    return found


def test_agents_killed_at_any_moment(faults: Faults, nursery: Nursery, tmp_path: Path) -> None:
    """What an agent had in hand is failed and taken again; what the one writer has of it stays."""
    rng, wanted = dice("agent"), kills("agent")
    with (
        faults.of("kill -9 of an agent of a Ray cluster at any moment") as row,
        real_cluster(token(tmp_path), "dgx-a100", "dgx-h100") as cluster,
    ):
        command = ("sweep", "sweep.yaml", "--results", "out", "--cluster", f"ray:{cluster.address}", "--json")
        command += ("--max-attempts", "1000")
        number = lost = 0
        while row.times < wanted:
            number += 1
            assert number <= 10 * wanted, "the sweep ends before an agent can be killed"
            trial = Trial(
                tmp_path / str(number), nursery, *SWEEP, expected=RUNS, command=command, variables=cluster.environment
            )
            with killed_in_the_end(trial.start()) as child:
                killed: set[int] = set()
                while row.times < wanted and (pid := next_agent(cluster, child, killed)) is not None:
                    time.sleep(rng.uniform(0.0, 4.0))
                    if child.ended(0.0) is None and psutil.pid_exists(pid):
                        with contextlib.suppress(psutil.NoSuchProcess):
                            psutil.Process(pid).kill()
                            row.happened(
                                "what it had in hand is failed: node lost; another one measures it; exit 0, or 3"
                            )
                    killed.add(pid)
                ended = child.whole()
            # A node whose agent is killed three times in a row as it starts is left out, and said so; the next call
            # has it.
            assert ended.code in (0, 3), ended
            runs = pd.read_parquet(trial.results / "runs")
            failed = runs[runs["status"] == "failed"]
            assert failed["reason"].str.startswith("node lost: ").all()
            lost += len(failed)
            row.finished(trial.resume())
        assert row.times < 8 or lost > 0, "no kill came while something was measured"


def next_agent(cluster: RealCluster, child: Child, known: set[int]) -> int | None:
    """One that was not killed yet, as soon as there is one; None if the sweep ends."""
    while child.ended(0.1) is None:
        for pid in agents_of(cluster):
            if pid not in known:
                return pid
    return None
