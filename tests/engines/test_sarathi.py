"""The shim around Sarathi's engine: repairs, pipeline stages, options; against a stand-in of that engine."""

import http.client
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.engines.base import LaunchOptions
from harness.engines.inside.steplog import request_id
from harness.engines.kit import INSIDE
from harness.engines.sarathi import Sarathi
from harness.engines.steps import read_description
from harness.errors import EngineUnavailable, VersionUnsupported
from tests.engines.servers import STAND_IN, Server, check_sums, deployment, until


def test_it_is_not_healthy_before_the_engine_stands(tmp_path: Path) -> None:
    with Server(deployment("sarathi"), tmp_path, {"STAND_IN_BUILD_S": "1.5"}) as server:
        until(lambda: server.health() != 0, "listening")
        assert server.health() == 503
        assert server.complete([1], 1).status == 503
        server.wait_ready()
        assert server.complete([1], 1).status == 200


def test_an_engine_that_cannot_be_built_ends_the_process(tmp_path: Path) -> None:
    with Server(deployment("sarathi"), tmp_path, {"STAND_IN_FAIL": "build"}) as server:
        until(lambda: server.process.exit_code is not None, "ended")
        assert server.process.exit_code == 1
        assert "No available memory for the cache blocks" in server.process.tail()


@pytest.mark.parametrize("stages", [1, 2])
def test_an_engine_that_fails_ends_the_process_with_its_trace(tmp_path: Path, stages: int) -> None:
    with Server(deployment("sarathi", stages), tmp_path, {"STAND_IN_FAIL": "5"}) as server:
        server.wait_ready()
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            server.complete([1], 50, stream=False)
        until(lambda: server.process.exit_code is not None, "ended")
        assert server.process.exit_code == 1
        assert "illegal memory access" in server.process.tail()


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with Server(deployment("sarathi"), tmp_path / "first") as first:
        first.wait_ready()
        with Server(deployment("sarathi"), tmp_path / "second", arguments=["--port", str(first.port)]) as second:
            until(lambda: second.process.exit_code is not None, "ended")
            assert "ddress already in use" in second.process.tail()


def test_sigterm_ends_it_cleanly_and_what_was_under_way_is_logged(tmp_path: Path) -> None:
    with Server(deployment("sarathi"), tmp_path) as server:
        server.wait_ready()
        connection, response = server.open([1] * 5, 900, number=4)
        response.readline()
        os.kill(server.process.pid, 15)
        until(lambda: server.process.exit_code is not None, "ended")
        response.close()
        connection.close()
        assert server.process.exit_code == 0
        assert server.records(requests=1).requests["finished"].tolist() == [0]


@pytest.mark.parametrize("stages", [1, 2])
def test_preempted_requests_get_exactly_what_they_asked_for(tmp_path: Path, stages: int) -> None:
    """The cache holds 40 blocks of 16 tokens: less than half of what eight requests of 40 + 120 need in the end."""
    small = ["--cache_config_num_gpu_blocks", "40"]
    served = deployment("sarathi", stages, max_context_tokens=512)
    with Server(served, tmp_path, {"STAND_IN_STEP_S": "0.0005"}, small) as server:
        server.wait_ready()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda number: server.complete([2] * 40, 120, number), range(8)))
        assert [answer.generated_tokens for answer in answers] == [120] * 8
        assert [answer.prompt_tokens for answer in answers] == [40] * 8
        records = server.records(requests=8)
        assert records.steps["prefill_tokens"].sum() > 8 * 40, "nothing was preempted"
        assert server.complete([2] * 400, 30).generated_tokens == 30


@pytest.mark.parametrize("stages", [1, 2])
def test_a_request_that_fills_the_cache_alone_is_finished(tmp_path: Path, stages: int) -> None:
    """Sarathi wants a free block for every token, and preempts the only sequence for want of it."""
    exact = ["--cache_config_num_gpu_blocks", "32"]
    with Server(deployment("sarathi", stages, max_context_tokens=512), tmp_path, arguments=exact) as server:
        server.wait_ready()
        assert server.complete([2] * 480, 32, number=1).generated_tokens == 32
        assert server.records(requests=1).steps["prefill_tokens"].sum() > 480, "it was not preempted"
        assert server.complete([2] * 40, 3).generated_tokens == 3


@pytest.mark.parametrize("stages", [1, 2])
def test_blocks_of_given_up_requests_are_free_again_on_both_sides(tmp_path: Path, stages: int) -> None:
    """The stand-in's worker ends the process where its blocks and the scheduler's differ, or do not suffice."""
    small = ["--cache_config_num_gpu_blocks", "64"]
    with Server(deployment("sarathi", stages), tmp_path, {"STAND_IN_STEP_S": "0.0005"}, small) as server:
        server.wait_ready()
        for round_ in range(8):
            open_ = [server.open([round_ + 1] * 200, 500) for _ in range(3)]
            for connection, response in open_:
                server.give_up(connection, response)
            assert server.complete([1] * 500, 20).generated_tokens == 20
        assert server.process.exit_code is None


@pytest.mark.parametrize("stages", [1, 2])
def test_the_end_of_a_given_up_request_is_logged_after_its_last_step(tmp_path: Path, stages: int) -> None:
    with Server(deployment("sarathi", stages), tmp_path, {"STAND_IN_STEP_S": "0.1"}) as server:
        server.wait_ready()
        server.give_up(*server.open([5] * 20, 900, number=1))
        assert server.records(requests=1).requests["finished"].tolist() == [0]
        time.sleep(0.5)
        assert server.complete([5] * 20, 1, number=2).generated_tokens == 1
        assert len(server.records(requests=1).steps) == 1


def test_stages_of_a_pipeline_work_at_the_same_time(tmp_path: Path) -> None:
    with Server(deployment("sarathi", 2), tmp_path, {"STAND_IN_STEP_S": "0.02"}) as server:
        server.wait_ready()
        server.complete([1] * 640, 1, number=0)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: server.complete([1] * 60, 10, number), range(1, 9)))
        records = server.records(requests=9)
        check_sums(records, 64, 8)
        steps = records.steps
        overlapping = (steps["start_s"][1:] < steps["end_s"][:-1]).mean()
        assert overlapping > 0.3


def test_under_load_a_pipeline_neither_loses_nor_doubles_a_sequence(tmp_path: Path) -> None:
    """One thread books tokens, each a little at a time, while another schedules."""
    variables = {"STAND_IN_STEP_S": "0.0002", "STAND_IN_BOOK_S": "0.0001"}
    with Server(deployment("sarathi", 2), tmp_path, variables) as server:
        server.wait_ready()
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda number: server.complete([1] * (1 + number % 70), 20, number), range(160)))
        assert all(answer.generated_tokens == 20 for answer in answers)
        check_sums(server.records(requests=160), 64, 8)


def test_streamed_tokens_come_in_the_interval_that_was_asked(tmp_path: Path) -> None:
    with Server(deployment("sarathi", stream_interval=5), tmp_path) as server:
        server.wait_ready()
        # After tokens 1, 6, 11, 16 and 21.
        assert server.complete([1], 21).token_events == 5
        assert server.complete([1], 22).token_events == 6


def test_what_was_resolved_is_described(tmp_path: Path) -> None:
    options = ["--worker_config_attention_backend", "no_op", "--metrics_config_enable_chrome_trace", "1"]
    with Server(deployment("sarathi"), tmp_path, {"CUDA_VISIBLE_DEVICES": "5"}, options) as server:
        server.wait_ready()
        described = read_description(server.log)
    assert described["parallel_config"] == {"pipeline_parallel_size": 1, "tensor_parallel_size": 1}
    assert described["scheduler_config"] == {
        "chunk_size": 64,
        "max_num_seqs": 8,
        "enable_dynamic_chunking_schedule": False,
    }
    model = json.loads(json.dumps(described["model_config"]))
    assert (model["dtype"], model["load_format"], model["trust_remote_code"]) == ("float16", "dummy", False)
    worker = json.loads(json.dumps(described["worker_config"]))
    assert worker == {"gpu_memory_utilization": 0.9, "attention_backend": 2}
    replica = json.loads(json.dumps(described["replica_config"]))
    assert replica["resource_mapping"] == [[None, 5]]
    metrics = json.loads(json.dumps(described["metrics_config"]))
    assert metrics["write_metrics"] is False
    assert metrics["enable_chrome_trace"] is True


@pytest.mark.parametrize(
    ("options", "variables", "said"),
    [
        (["--sarathi_scheduler_config_chunksize", "4"], {}, "no such option"),
        (["--chunk_size", "4"], {}, "unrecognized arguments: --chunk_size"),
        (["--model_config_trust_remote_code", "maybe"], {}, "not a boolean: 'maybe'"),
        (["--worker_config_attention_backend", "XFORMERS"], {}, "none of FLASHINFER, NO_OP"),
        ([], {"CUDA_VISIBLE_DEVICES": "0,1"}, "2 GPUs are visible, tp x pp is 1"),
    ],
)
def test_wrong_options_end_it_with_one_line(
    tmp_path: Path, options: list[str], variables: dict[str, str], said: str
) -> None:
    with Server(deployment("sarathi"), tmp_path, variables, options) as server:
        until(lambda: server.process.exit_code is not None, "ended")
        assert said in server.process.tail().splitlines()[-1]


def run_version(path: Path, python: str = sys.executable) -> str:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(path)}
    return Sarathi().version([python, "-m", "sarathi_shim", "--model_config_model", ""], environment)


def test_the_version_is_found_without_importing_it(tmp_path: Path) -> None:
    assert run_version(STAND_IN) == "0.1.8"
    package = tmp_path / "source" / "sarathi" / "engine"
    package.mkdir(parents=True)
    (package / "llm_engine.py").write_text("raise SystemExit('imported')")
    (package.parent / "__init__.py").write_text('__version__ = "0.2"\nraise SystemExit("imported")\n')
    assert run_version(tmp_path / "source") == "0.2"
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path / "source"), *words], check=True, env=environment)
    said = ["git", "-C", str(tmp_path / "source"), "rev-parse", "HEAD"]
    commit = subprocess.run(said, check=True, capture_output=True, text=True).stdout[:12]
    assert run_version(tmp_path / "source") == f"0.2+{commit}"


def test_what_is_not_sarathi_serve_is_said(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"not installed in this environment.*`command` names the Python"):
        run_version(tmp_path)
    (tmp_path / "sarathi").mkdir()
    (tmp_path / "sarathi" / "__init__.py").write_text("")
    with pytest.raises(EngineUnavailable, match="another project of that name"):
        run_version(tmp_path)
    with pytest.raises(EngineUnavailable, match="No such file"):
        run_version(tmp_path, str(tmp_path / "python"))
    with pytest.raises(EngineUnavailable, match="the words `-m sarathi_shim` are missing"):
        Sarathi().version(["sarathi"], {})


def test_what_sarathi_cannot_serve_is_refused_before_it_is_started() -> None:
    from dataclasses import replace

    from harness.engines.recipe import Site

    served, site = deployment("sarathi"), Site(Path(), 1, (), (0,), 1)
    for changed, said in [
        (replace(served, bits=8), "not 8"),
        (replace(served, gpu="none"), "NVIDIA GPUs only"),
        (replace(served, model=replace(served.model, head_dim=32)), "heads of 32"),
    ]:
        with pytest.raises(VersionUnsupported, match=said):
            Sarathi().arguments(changed, LaunchOptions(), site)


def test_the_shim_needs_nothing_but_its_own_folder(tmp_path: Path) -> None:
    """As in Sarathi's environment, where neither the harness nor its libraries are."""
    words = [sys.executable, "-I", "-S", "-c"]
    code = f"import sys; sys.path[:0] = [{str(INSIDE)!r}]; import sarathi_shim, http_front, steplog"
    subprocess.run([*words, code + "; assert 'harness' not in sys.modules"], check=True, cwd=tmp_path)


def test_an_id_that_is_not_the_harness_s_is_served_and_not_logged(tmp_path: Path) -> None:
    with Server(deployment("sarathi"), tmp_path) as server:
        server.wait_ready()
        assert server.complete([1], 3).generated_tokens == 3
        server.complete([1], 3, number=9)
        time.sleep(0.05)
        records = server.records(requests=1)
        assert records.requests["number"].tolist() == [9]
        assert records.steps["decode_requests"].sum() == 4
        assert request_id(9) == "harness-9"
