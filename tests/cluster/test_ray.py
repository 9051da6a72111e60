"""A sweep on a real Ray cluster of several simulated nodes: all work, none is trusted, any may die."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from harness.store import read_table
from tests.cluster.support import (
    RealCluster,
    kill_node,
    real_cluster,
    start_sweep,
    stop,
    token,
    until,
)
from tests.conftest import REPOSITORY
from tests.integration.support import harness, read, write_sweep

pytestmark = pytest.mark.cluster

REPETITIONS = 5
POINTS = 144
LARGE = (
    ("[dgx-h100]", "[dgx-a100, dgx-h100]"),
    ("sizes: [1, 8]", "sizes: [1, 4, 8, 32]"),
    ("prompt_tokens: [128], generated_tokens: [16]", "prompt_tokens: [128, 512, 1024], generated_tokens: [64, 256]"),
    ("repetitions: 2, window: 500ms", f"repetitions: {REPETITIONS}, window: 2s"),
    ("[{tp: 1}, {tp: 2}]", "[{tp: 1}, {tp: 2}, {tp: 4}]"),
)
"""Two kinds of node x three parallelisms x 24 batches: some seconds of computation on each node."""


def measured(results: Path) -> pd.DataFrame:
    return read(results).query("purpose == 'sweep'")


def stored(results: Path, node: str) -> int:
    """Runs of a node so far, while the sweep is running."""
    if not (results / "runs").exists():
        return 0
    return read_table(results, "runs", ("node",)).column("node").to_pylist().count(node)


def finished(process: "subprocess.Popen[str]") -> tuple[int, dict[str, object], str]:
    out, err = process.communicate(timeout=900)
    return process.returncode, json.loads(out) if out else {}, err


def assert_once(runs: pd.DataFrame, points: int = POINTS, repetitions: int = REPETITIONS) -> None:
    """Every repetition of every point is there, and settled once."""
    settled = runs[runs["status"] == "ok"].groupby(["point_id", "environment_id", "repetition"]).size()
    assert set(settled) == {1}
    assert len(settled) == points * repetitions


def test_a_sweep_uses_all_nodes_and_agrees_with_the_local_one(tmp_path: Path, secret: dict[str, str]) -> None:
    file = write_sweep(tmp_path, *LARGE)
    assert harness("sweep", file, "--results", tmp_path / "local", cwd=tmp_path).returncode == 0
    with real_cluster(secret, "dgx-a100", "dgx-h100", "dgx-h100") as cluster:
        code, said, err = finished(start_sweep(cluster, file, "--results", tmp_path / "out", cwd=tmp_path))
        assert (code, said["runs_left"], said["lost"]) == (0, 0, []), err
        again = finished(start_sweep(cluster, file, "--results", tmp_path / "out", cwd=tmp_path))
        assert (again[0], again[1]["runs_taken"]) == (0, 0)
    runs, local = measured(tmp_path / "out"), measured(tmp_path / "local")
    assert_once(runs)
    where = set(zip(runs["node"], runs["gpu"], runs["node_kind"], strict=True))
    assert where == {
        ("sim-dgx-a100", "a100", "dgx-a100"),
        ("sim-dgx-h100", "h100", "dgx-h100"),
        ("sim-dgx-h100-2", "h100", "dgx-h100"),
    }
    assert all("ray_running" in flags for flags in runs["flags"]), "what the idle baselines hold is said"
    assert not any("ray_running" in flags for flags in local["flags"])
    assert set(runs["environment_id"]) == set(local["environment_id"])
    # Nodes of the local run's names have its boards; the third has boards of its own, whose counters read by their
    # own gains (sd 2%). Repetitions have an sd of about 0.5%.
    for domain, others in (("gpu", 0.10), ("gpu_prefill", 0.10), ("cpu", 0.02)):
        mean = [frame.groupby("point_id")[f"{domain}_energy_j"].mean() for frame in (runs, local)]
        off = (mean[0] / mean[1] - 1.0).abs()
        same = runs.groupby("point_id")["node"].first() != "sim-dgx-h100-2"
        assert len(off) == POINTS
        assert off[same].max() < 0.02, domain
        assert off[~same].max() < others, domain


def test_a_node_that_dies_in_mid_run_loses_and_doubles_nothing(tmp_path: Path, secret: dict[str, str]) -> None:
    """The only node of its kind is killed in its first launch; another that joins later takes its place."""
    file = write_sweep(tmp_path, *LARGE)
    results = tmp_path / "out"
    with real_cluster(secret, "dgx-a100") as cluster:
        raylet = cluster.add("dgx-h100")
        sweep = start_sweep(cluster, file, "--results", results, cwd=tmp_path)
        until(lambda: stored(results, "sim-dgx-h100") >= 5)
        kill_node(raylet)
        cluster.add("dgx-h100")
        code, said, err = finished(sweep)
        assert (code, said["runs_left"], said["points_given_up"]) == (0, 0, 0), err
        (lost,) = said["lost"]  # type: ignore[misc]
        assert lost["node"] == "sim-dgx-h100"
        assert "sim-dgx-h100 is skipped: lost: " in err
    runs = measured(results)
    assert_once(runs)
    failed = runs[runs["status"] == "failed"]
    assert len(failed) <= 1, "the repetition in hand, and no other"
    assert all(reason.startswith("node lost: sim-dgx-h100") for reason in failed["reason"])
    for row in failed.itertuples():
        tries = runs[(runs["point_id"] == row.point_id) & (runs["repetition"] == row.repetition)]
        assert dict(zip(tries["attempt"], tries["status"], strict=True)) == {1: "failed", 2: "ok"}
    assert runs[runs["gpu"] == "h100"]["launch_id"].nunique() > 3, "it went on in a launch of its own"


def test_an_agent_that_dies_alone_is_started_again(tmp_path: Path, secret: dict[str, str]) -> None:
    """The node and its Ray live on."""
    file = write_sweep(tmp_path, *LARGE, ("[dgx-a100, dgx-h100]", "[dgx-h100]"))
    results = tmp_path / "out"
    with real_cluster(secret) as cluster:
        raylet = cluster.add("dgx-h100")
        sweep = start_sweep(cluster, file, "--results", results, cwd=tmp_path)
        until(lambda: stored(results, "sim-dgx-h100") >= 5)
        agent = next(child for child in psutil.Process(raylet).children() if "RayNodeSide" in " ".join(child.cmdline()))
        agent.kill()
        code, said, err = finished(sweep)
    assert (code, said["runs_left"], len(said["lost"])) == (0, 0, 1), err  # type: ignore[arg-type]
    assert_once(measured(results), POINTS // 2)


def test_an_agent_that_dies_as_it_starts_is_started_again(tmp_path: Path, secret: dict[str, str]) -> None:
    """Refused for the call, its node's points would be left without a word."""
    file = write_sweep(tmp_path, *LARGE, ("[dgx-a100, dgx-h100]", "[dgx-h100]"))
    with real_cluster(secret) as cluster:
        raylet = psutil.Process(cluster.add("dgx-h100"))
        sweep = start_sweep(cluster, file, "--results", tmp_path / "out", cwd=tmp_path)
        agents: list[psutil.Process] = []

        def found() -> bool:
            agents[:] = [child for child in raylet.children() if "RayNodeSide" in " ".join(child.cmdline())]
            return bool(agents)

        until(found)
        agents[0].kill()
        code, said, err = finished(sweep)
    assert (code, said["runs_left"]) == (0, 0), err
    assert_once(measured(tmp_path / "out"), POINTS // 2)


def test_a_head_that_dies_between_rounds_loses_and_doubles_nothing(tmp_path: Path, secret: dict[str, str]) -> None:
    file = write_sweep(tmp_path, *LARGE)
    results = tmp_path / "out"
    with real_cluster(secret, "dgx-a100", "dgx-h100") as cluster:
        first = finished(start_sweep(cluster, file, "--results", results, "--points", 40, cwd=tmp_path))
        assert (first[0], first[1]["points_done"]) == (0, 40), first[2]
        for pids in cluster.head.values():
            for pid in pids:
                psutil.Process(pid).kill()
        gone = finished(start_sweep(cluster, file, "--results", results, cwd=tmp_path))
        assert gone[0] == 1
        assert "nothing listens at" in gone[2]
        assert "Traceback" not in gone[2]
    with real_cluster(secret, "dgx-h100", "dgx-a100") as cluster:
        code, said, err = finished(start_sweep(cluster, file, "--results", results, cwd=tmp_path))
    assert (code, said["runs_left"], said["runs_taken"]) == (0, 0, (POINTS - 40) * REPETITIONS), err
    assert_once(measured(results))


def test_a_head_that_dies_in_mid_run_ends_the_sweep_which_goes_on_later(tmp_path: Path, secret: dict[str, str]) -> None:
    file = write_sweep(tmp_path, *LARGE)
    results = tmp_path / "out"
    with real_cluster(secret, "dgx-a100", "dgx-h100") as cluster:
        sweep = start_sweep(cluster, file, "--results", results, cwd=tmp_path)
        until(lambda: stored(results, "sim-dgx-h100") >= 5)
        for pids in cluster.head.values():
            for pid in pids:
                psutil.Process(pid).kill()
        code, _, err = finished(sweep)
        assert code != 0, err
    with real_cluster(secret, "dgx-a100", "dgx-h100") as cluster:
        code, said, err = finished(start_sweep(cluster, file, "--results", results, cwd=tmp_path))
    assert (code, said["runs_left"]) == (0, 0), err
    assert_once(measured(results))


def test_a_stopped_sweep_frees_its_nodes_and_goes_on_later(tmp_path: Path, secret: dict[str, str]) -> None:
    file = write_sweep(tmp_path, *LARGE)
    results = tmp_path / "out"
    with real_cluster(secret, "dgx-a100", "dgx-h100") as cluster:
        sweep = start_sweep(cluster, file, "--results", results, cwd=tmp_path)
        until(lambda: stored(results, "sim-dgx-h100") >= 5)
        stop(sweep)
        code, _, err = finished(sweep)
        assert code == 130, err
        assert err.strip().splitlines()[-1].startswith("harness: ended by SIGTERM; run the same command again")
        until(lambda: not agents_of(cluster))
        code, said, err = finished(start_sweep(cluster, file, "--results", results, cwd=tmp_path))
    assert (code, said["runs_left"]) == (0, 0), err
    assert_once(measured(results))


def agents_of(cluster: RealCluster) -> list[int]:
    found = []
    for pid in cluster.pids():
        try:
            if "RayNodeSide" in " ".join(psutil.Process(pid).cmdline()):
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def test_nothing_listens_beyond_loopback(tmp_path: Path, secret: dict[str, str]) -> None:
    """Head, nodes, agents and the controller itself, while a sweep runs."""
    file = write_sweep(tmp_path, *LARGE)
    results = tmp_path / "out"
    with real_cluster(secret, "dgx-a100", "dgx-h100") as cluster:
        sweep = start_sweep(cluster, file, "--results", results, cwd=tmp_path)
        until(lambda: stored(results, "sim-dgx-h100") >= 5)
        addresses = listening(cluster.pids() | {sweep.pid})
        stop(sweep)
        finished(sweep)
    assert len(addresses) >= 10, "gcs, three raylets, two agents and the controller, at least"
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}


def listening(pids: set[int]) -> list[str]:
    """Addresses of TCP sockets on which these processes listen."""
    connections = psutil.net_connections("tcp")
    return [one.laddr.ip for one in connections if one.pid in pids and one.status == psutil.CONN_LISTEN]


def test_without_the_token_nobody_gets_in(tmp_path: Path, secret: dict[str, str]) -> None:
    """Neither a controller nor a node; and what they are told is one line with the fix."""
    file = write_sweep(tmp_path)
    other = token(tmp_path, "other")
    with real_cluster(secret, "dgx-h100") as cluster:
        good = cluster.environment
        cluster.environment = {**good, **other}
        code, _, err = finished(start_sweep(cluster, file, "--results", tmp_path / "out", cwd=tmp_path))
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert "the cluster has another token" in err
        stranger = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.nodes", cluster.address, "dgx-h100"], cwd=REPOSITORY,
            env={**good, **other}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        said, complaint = stranger.communicate(timeout=120)
        assert "node_id" not in said
        assert "InvalidAuthToken" in complaint
        cluster.environment = good
        code, said_json, err = finished(start_sweep(cluster, file, "--results", tmp_path / "out", cwd=tmp_path))
        assert (code, said_json["runs_left"]) == (0, 0), err
    assert set(read(tmp_path / "out")["node"]) == {"sim-dgx-h100"}


def test_a_cluster_that_asks_for_no_token_is_not_used(tmp_path: Path, secret: dict[str, str]) -> None:
    file = write_sweep(tmp_path)
    with real_cluster({"RAY_AUTH_MODE": "disabled"}, "dgx-h100") as cluster:
        cluster.environment = {**cluster.environment, **secret}
        code, _, err = finished(start_sweep(cluster, file, "--results", tmp_path / "out", cwd=tmp_path))
    assert code == 2, err
    assert "it asks for no token" in err
    assert not (tmp_path / "out").exists()


def test_a_cluster_without_a_measuring_node_says_how_to_start_one(tmp_path: Path, secret: dict[str, str]) -> None:
    file = write_sweep(tmp_path)
    with real_cluster(secret) as cluster:
        code, _, err = finished(start_sweep(cluster, file, "--results", tmp_path / "out", cwd=tmp_path))
    assert code == 1
    assert "no node of the Ray cluster measures" in err
    assert "harness-node" in err


def test_a_node_of_no_kind_of_the_sweep_is_named(tmp_path: Path, secret: dict[str, str]) -> None:
    file = write_sweep(tmp_path, ("[dgx-h100]", "[dgx-a100, dgx-h100]"))
    with real_cluster(secret, "dgx-h100", "dgx-h200") as cluster:
        code, said, err = finished(start_sweep(cluster, file, "--results", tmp_path / "out", cwd=tmp_path))
    assert (code, said["runs_left"]) == (0, 0)
    assert "A node does not measure: " in err
    assert "'dgx-h200'; accepted: dgx-a100, dgx-h100" in err
    assert np.all(read(tmp_path / "out")["gpu"] == "h100")


def test_an_agent_that_hangs_is_lost_and_replaced(tmp_path: Path, secret: dict[str, str]) -> None:
    """It is neither dead nor does it answer: after the stated minute another takes its place on the same node."""
    file = write_sweep(tmp_path, *LARGE, ("[dgx-a100, dgx-h100]", "[dgx-h100]"))
    results = tmp_path / "out"
    with real_cluster(secret, "dgx-h100") as cluster:
        sweep = start_sweep(cluster, file, "--results", results, cwd=tmp_path)
        until(lambda: stored(results, "sim-dgx-h100") >= 5)
        (agent,) = agents_of(cluster)
        psutil.Process(agent).suspend()
        code, said, err = finished(sweep)
        assert not psutil.pid_exists(agent) or psutil.Process(agent).status() == psutil.STATUS_ZOMBIE
    assert (code, said["runs_left"]) == (0, 0), err
    assert "sim-dgx-h100 did not answer within 61 s" in err
    assert_once(measured(results), POINTS // 2)
