"""One deployment over two nodes: simulated ones, and a real engine on two that share this machine."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.support import RealCluster, real_cluster, start_sweep, until
from tests.cluster.test_ray import assert_once, finished, measured, stored
from tests.conftest import REPOSITORY
from tests.integration.support import harness, write_sweep

pytestmark = pytest.mark.cluster
VLLM = Path(os.environ.get("HARNESS_VLLM", "missing")).absolute()
OVER_TWO = ("[{tp: 1}, {tp: 2}]", "[{tp: 2}, {tp: 8, pp: 2, nodes: 2}]")
REAL = f"""\
sweep: two
simulate: false
nodes: [cpu-only]
models: [tiny-llama]
bits: [32]
parallelism: [{{tp: 1, pp: 2, nodes: 2}}]
engines:
  - name: vllm
    token_budget: 256
    max_sequences: 8
    max_context_tokens: 256
    command: [{VLLM}, serve, "{{model}}", "{{arguments}}"]
    environment: {{GLOO_SOCKET_IFNAME: lo}}
batches:
  - sizes: [1, 4]
    grid: {{prompt_tokens: [16], generated_tokens: [4]}}
measurement: {{repetitions: 3, window: 500ms, idle: 500ms, foreign_cores: 1000, max_attempts: 9}}
"""


def test_simulated_nodes_measure_together_as_they_do_locally(tmp_path: Path, secret: dict[str, str]) -> None:
    file = write_sweep(tmp_path, OVER_TWO, ("[dgx-h100]", "[dgx-a100, dgx-h100]"))
    local = harness("sweep", file, "--results", tmp_path / "local", cwd=tmp_path)
    assert local.returncode == 0, local.stderr
    with real_cluster(secret, "dgx-h100", "dgx-a100", "dgx-h100") as cluster:
        code, said, err = finished(start_sweep(cluster, file, "--results", tmp_path / "out", cwd=tmp_path))
    assert (code, said["runs_left"]) == (0, 0), err
    assert "No 2 nodes with a100 together measured: what the sweep asks of that kind is left." in err
    runs, here = measured(tmp_path / "out"), measured(tmp_path / "local")
    assert_once(runs, points=6, repetitions=2)
    together, here = runs[runs["n_nodes"] == 2], here[(here["n_nodes"] == 2) & (here["gpu"] == "h100")]
    assert set(together["node"]) == {"sim-dgx-h100+sim-dgx-h100-2"} == set(here["node"])
    for domain in ("gpu", "cpu", "dram"):
        mean = [frame.groupby("point_id")[f"{domain}_energy_j"].mean() for frame in (together, here)]
        assert (mean[0] / mean[1] - 1.0).abs().max() < 0.03, domain


@contextlib.contextmanager
def another_machine(cluster: RealCluster, name: str) -> Iterator[None]:
    """A measuring node with a host name of its own: as far as the harness can tell, another machine."""
    inside = 'hostname "$0" && exec "$@"'
    words = ["unshare", "--uts", "sh", "-c", inside, name, sys.executable, "-m", "tests.cluster.nodes"]
    process = subprocess.Popen(
        [*words, cluster.address, ""], cwd=REPOSITORY, env=cluster.environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline(), "the node did not start"
        yield
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def parts(word: str) -> list[psutil.Process]:
    """Engine processes that were started with this word."""
    return [one for one in psutil.process_iter(["cmdline"]) if word in (one.info["cmdline"] or [])]


def _may_unshare() -> bool:
    return (
        shutil.which("unshare") is not None and not subprocess.run(["unshare", "--uts", "true"], check=False).returncode
    )


@pytest.mark.skipif(not VLLM.is_file(), reason="no vLLM: HARNESS_VLLM names its command")
def test_a_real_engine_serves_over_two_nodes_and_may_lose_its_second_part(
    tmp_path: Path, secret: dict[str, str]
) -> None:
    if not _may_unshare():
        pytest.skip("a second host name needs `unshare --uts`, which is not allowed here")
    (tmp_path / "sweep.yaml").write_text(REAL)
    results = tmp_path / "out"
    with real_cluster(secret, "") as cluster, another_machine(cluster, "second"):
        sweep = start_sweep(cluster, "sweep.yaml", "--results", results, cwd=tmp_path)
        pair = "+".join(sorted((os.uname().nodename, "second")))
        until(lambda: stored(results, pair) >= 2 or sweep.poll() is not None, 1200)
        assert parts("--headless"), finished(sweep)
        for part in parts("--headless"):
            part.kill()
        code, said, err = finished(sweep)
        assert (code, said["runs_left"], said["points_given_up"], said["lost"]) == (0, 0, 0, []), err
        until(lambda: not parts("--nnodes"))
    runs = measured(results)
    assert_once(runs, points=2, repetitions=3)
    assert set(runs["node"]) == {pair}
    good = runs[runs["status"] == "ok"]
    assert set(good["n_nodes"]) == {2}
    assert good["clock_uncertainty_s"].between(1e-6, 5e-3).all()
    failed = runs[runs["status"] == "failed"]["reason"]
    assert len(failed), "the repetition in hand, or those of a point that was being warmed up"
    assert all("its part on" in reason and "ended by signal 9" in reason for reason in failed)
    launch = json.loads(good["launch"].iloc[0])
    (follower,) = launch["followers"].values()
    assert {"--headless", "--node-rank"} <= set(follower["argv"])
    assert "--headless" not in launch["argv"]
    assert len(list((results / "logs").glob("vllm-*/engine.log"))) >= 4
