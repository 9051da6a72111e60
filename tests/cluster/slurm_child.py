"""`harness sweep --cluster slurm` with submitit's own local executor: jobs run on this machine, without Slurm.

Arguments: sweep file, results, nodes, and `preempt` to have the first job preempted once it has measured something.
"""

import json
import sys
import threading
import time
from pathlib import Path

import psutil
import submitit

from harness.clock import WallClock
from harness.cluster import slurm
from harness.cluster.nodes import open_nodes
from harness.deployment.sweepfile import load_sweep
from harness.space import build_space
from harness.store import read_table
from harness.sweep import SweepOrder, run_sweep
from tests.unit.test_cluster_crew import Silent

JOBS: list[submitit.Job[int]] = []


def preempt(results: Path) -> None:
    """As Slurm does: a signal to the job's process, which has itself queued again."""
    while not (results / "runs").exists() or read_table(results, "runs", ("node",)).num_rows < 5:
        time.sleep(0.05)
    (task,) = psutil.Process(JOBS[0]._process.pid).children()
    task.send_signal(submitit.JobEnvironment._usr_sig())


def main() -> None:
    file, results, nodes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    submit = slurm._submit

    def noted(*arguments: object) -> object:
        JOBS.append(submit(*arguments))  # type: ignore[arg-type]
        return JOBS[-1]

    slurm._submit = noted  # type: ignore[assignment]
    sweep = load_sweep(file)
    order = slurm.SlurmOrder(nodes, budget_s=3600.0, executor="local")
    progress = Silent()
    space = build_space(sweep, lambda name: sys.exit(name), 0)
    with open_nodes("slurm", sweep, 0, results, print, order) as (agents, fleet):
        if "preempt" in sys.argv:
            threading.Thread(target=preempt, args=(results,), daemon=True).start()
        done = run_sweep(SweepOrder(sweep, results, 0), space, agents, progress, WallClock(), "test", fleet=fleet)
        tokens = list((results / slurm.FOLDER).glob("token*"))
        modes = [f"{path.stat().st_mode & 0o777:o}" for path in tokens]
        secrets = [path.read_text() for path in tokens]
    lost = [name for name, _ in done.lost]
    said = {"left": done.runs_left, "lost": lost, "launched": progress.launched, "modes": modes, "tokens": secrets}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
