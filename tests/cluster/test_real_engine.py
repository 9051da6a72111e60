"""A real engine process on this machine's processors, launched by an agent that lives in a Ray actor."""

import json
import os
from pathlib import Path

import psutil
import pytest

from tests.cluster.support import real_cluster, start_sweep, until
from tests.cluster.test_ray import agents_of, assert_once, finished
from tests.integration.support import read

PYTHON = Path(os.environ.get("HARNESS_TRANSFORMERS_PYTHON", "missing")).absolute()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not PYTHON.is_file(), reason="no Python with transformers: HARNESS_TRANSFORMERS_PYTHON"),
]
SWEEP = f"""\
sweep: real
simulate: false
nodes: [cpu-only]
models: [tiny-llama]
bits: [32]
parallelism: [{{tp: 1}}]
engines:
  - name: transformers
    token_budget: 64
    max_sequences: 4
    max_context_tokens: 256
    command: [{PYTHON}, -m, transformers_server, --model, "{{model}}", "{{arguments}}"]
batches:
  - sizes: [1, 2]
    grid: {{prompt_tokens: [16], generated_tokens: [4]}}
measurement: {{repetitions: 2, window: 500ms, idle: 500ms, foreign_cores: 1000}}
"""


def engines() -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if "transformers_server" in (one.info["cmdline"] or [])]


def test_an_engine_is_launched_measured_and_stopped(tmp_path: Path, secret: dict[str, str]) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    results = tmp_path / "out"
    with real_cluster(secret, "") as cluster:
        code, said, err = finished(start_sweep(cluster, "sweep.yaml", "--results", results, cwd=tmp_path))
        assert (code, said["runs_left"]) == (0, 0), err
        until(lambda: not engines())
    runs = read(results).query("purpose == 'sweep'")
    assert set(runs["source"]) == {"measured"}
    assert_once(runs, points=2, repetitions=2)
    not_ok = runs[runs["status"] != "ok"]  # a busy machine may make a window too short: refused, and taken again
    assert not_ok["reason"].str.startswith("WindowTooShort").all(), not_ok["reason"].tolist()
    assert all("ray_running" in flags for flags in runs["flags"])
    launch = json.loads(runs["launch"].iloc[0])
    assert not [name for name in launch["environment"] if name.startswith("RAY_")], "a token is none of its business"
    assert list((results / "logs").glob("transformers-*/engine.log"))


def test_an_engine_does_not_outlive_its_agent(tmp_path: Path, secret: dict[str, str]) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP.replace("repetitions: 2", "repetitions: 50"))
    with real_cluster(secret, "") as cluster:
        sweep = start_sweep(cluster, "sweep.yaml", "--results", tmp_path / "out", cwd=tmp_path)
        until(lambda: bool(engines()))
        first = {one.pid for one in engines()}
        (agent,) = agents_of(cluster)
        psutil.Process(agent).kill()
        until(lambda: not first & {one.pid for one in engines()})
        sweep.kill()
        sweep.communicate()
        until(lambda: not engines())
