"""vLLM is started with every setting pinned that bears on batching, time or energy."""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness.engines.base import LaunchOptions
from harness.engines.commandline import ARGUMENTS, PLACEHOLDERS, fill
from harness.engines.launching import engine_version
from harness.engines.recipe import Part, Site
from harness.engines.recipes import recipe
from harness.engines.vllm import Vllm, omp_binds
from harness.errors import EngineUnavailable, WeightsUnavailable
from harness.points import Deployment, EngineLimits, ModelShape

DOCS = Path(__file__).parent.parent.parent / "docs" / "engines.md"
SHAPE = ModelShape("tiny", 128, 256, 2, 4, 2, 32, 1024, 8192)
H100 = Deployment("h100", SHAPE, 16, EngineLimits("vllm", 512, 128, 4096, False, 4), 4, 2, "dummy")
CPU = Deployment("none", SHAPE, 32, EngineLimits("vllm", 8192, 64, 2048), 1, 1, "dummy")


def site(folder: Path = Path("/w"), cpus: tuple[int, ...] = (0, 1)) -> Site:
    return Site(folder, 8123, (0, 1), cpus, 17)


def arguments(deployment: Deployment, options: LaunchOptions | None = None) -> list[str]:
    return Vllm().arguments(deployment, options or LaunchOptions(), site())


def value(words: list[str], name: str) -> str:
    assert words.count(name) == 1, name
    return words[words.index(name) + 1]


def test_each_machine_of_several_is_told_its_part() -> None:
    over_two = replace(H100, nodes=2)
    words = {}
    for rank, address in enumerate(("10.0.0.1", "10.0.0.2")):
        here = replace(site(), part=Part(rank, address, "10.0.0.1", 29500))
        words[rank] = Vllm().arguments(over_two, LaunchOptions(), here)
        pinned = {"--nnodes": "2", "--node-rank": str(rank), "--master-addr": "10.0.0.1", "--master-port": "29500"}
        assert {name: value(words[rank], name) for name in pinned} == pinned
        assert value(words[rank], "--distributed-executor-backend") == "mp"
        assert Vllm().environment(over_two, LaunchOptions(), here)["VLLM_HOST_IP"] == address
    assert "--headless" in words[1]
    assert "--headless" not in words[0]
    assert "--nnodes" not in arguments(H100)
    assert "VLLM_HOST_IP" not in Vllm().environment(H100, LaunchOptions(), site())


def test_limits_parallelism_and_seed_are_pinned() -> None:
    words = arguments(H100)
    pinned = {
        "--max-num-batched-tokens": "512",
        "--max-num-seqs": "128",
        "--max-model-len": "4096",
        "--tensor-parallel-size": "4",
        "--pipeline-parallel-size": "2",
        "--stream-interval": "4",
        "--dtype": "float16",
        "--seed": "17",
        "--generation-config": "vllm",
        "--host": "127.0.0.1",
        "--port": "8123",
        "--load-format": "dummy",
    }
    assert {name: value(words, name) for name in pinned} == pinned
    assert {"--enable-chunked-prefill", "--no-enable-prefix-caching", "--skip-tokenizer-init"} <= set(words)
    assert "--enforce-eager" not in words


def test_eager_bits_and_revision_follow_the_deployment(tmp_path: Path) -> None:
    assert "--enforce-eager" in arguments(replace(H100, limits=replace(H100.limits, enforce_eager=True)))
    assert value(arguments(replace(H100, bits=32)), "--dtype") == "float32"
    assert value(arguments(replace(H100, bits=8)), "--quantization") == "fp8"
    quantised = LaunchOptions(weights_path=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    real = replace(H100, bits=8, weights="real", revision="abc")
    words = arguments(real, quantised)
    assert "--quantization" not in words
    assert "--load-format" not in words
    assert value(words, "--revision") == "abc"


def test_without_a_gpu_it_computes_in_float32_with_a_bounded_cache() -> None:
    words = arguments(CPU)
    assert value(words, "--dtype") == "float32"
    assert "--gpu-memory-utilization" not in words
    assert "--enforce-eager" in words
    token_bytes = 2 * SHAPE.kv_bytes_per_token
    assert int(value(words, "--kv-cache-memory-bytes")) == 64 * 2048 * token_bytes
    staged = arguments(replace(CPU, pipeline_parallel=2))
    assert "--enforce-eager" not in staged
    assert "-cc.backend=eager" in staged


@pytest.mark.parametrize(
    ("cpus", "ranks", "expected"),
    [((0, 1), 1, "0,1"), ((0, 1), 2, "0|1"), ((0, 1), 4, "0|1|0|1"), ((2, 3, 4, 5, 6), 2, "2,3|4,5")],
)
def test_ranks_share_the_cpus(cpus: tuple[int, ...], ranks: int, expected: str) -> None:
    assert omp_binds(cpus, ranks) == expected


def test_variables_open_the_gate_and_keep_it_offline(tmp_path: Path) -> None:
    def variables(deployment: Deployment, options: LaunchOptions) -> Mapping[str, str]:
        return Vllm().environment(deployment, options, site())

    dummy = variables(H100, LaunchOptions())
    assert dummy["VLLM_SERVER_DEV_MODE"] == dummy["VLLM_NO_USAGE_STATS"] == dummy["HF_HUB_OFFLINE"] == "1"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in dummy
    real = replace(H100, weights="real")
    assert "HF_HUB_OFFLINE" not in variables(real, LaunchOptions(weights_path="meta-llama/Llama-2-7b-hf"))
    assert "HF_HUB_OFFLINE" in variables(real, LaunchOptions(weights_path=str(tmp_path)))
    assert variables(CPU, LaunchOptions())["VLLM_CPU_OMP_THREADS_BIND"] == "0,1"


def test_dummy_weights_get_a_folder_with_their_shape(tmp_path: Path) -> None:
    folder = Vllm().model(H100, LaunchOptions(), site(tmp_path))
    config = json.loads((Path(folder) / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["hidden_size"], config["num_key_value_heads"], config["vocab_size"]) == (128, 2, 1024)
    assert config["max_position_embeddings"] == 8192


def test_real_weights_have_to_be_somewhere(tmp_path: Path) -> None:
    real = replace(H100, weights="real")
    with pytest.raises(WeightsUnavailable, match="does not say where"):
        Vllm().model(real, LaunchOptions(), site(tmp_path))
    with pytest.raises(WeightsUnavailable, match=r"no config\.json"):
        Vllm().model(real, LaunchOptions(weights_path=str(tmp_path)), site(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert Vllm().model(real, LaunchOptions(weights_path=str(tmp_path)), site(tmp_path)) == str(tmp_path)


def test_the_version_is_asked_of_what_would_be_launched(tmp_path: Path) -> None:
    program = tmp_path / "vllm"
    program.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'noise' && echo 0.99.1\n")
    program.chmod(0o755)
    assert Vllm().version([str(program), "serve", "/m"], {"PATH": "/usr/bin:/bin"}) == "0.99.1"
    wrapped = ["env", "X=1", str(program), "serve", "/m"]
    assert Vllm().version(wrapped, {"PATH": "/usr/bin:/bin"}) == "0.99.1"


def test_a_container_is_asked_for_its_version_with_a_folder_and_a_gpu_that_are_there(tmp_path: Path) -> None:
    program = tmp_path / "docker"
    program.write_text('#!/bin/sh\n[ -d "$2" ] && [ "$3" = "device=0" ] && [ "$5" = --version ] && echo 1.2.3\n')
    program.chmod(0o755)
    command = (str(program), "run", "{workdir}", "device={gpus}", "vllm", "serve", "{model}")
    assert engine_version(CPU, LaunchOptions(command=command)) == "1.2.3"


def test_an_engine_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="no such program"):
        Vllm().version(["vllm", "serve"], {"PATH": str(tmp_path)})
    script = tmp_path / "vllm"
    script.write_text(f"#!{sys.executable}\n")
    script.chmod(0o755)
    with pytest.raises(EngineUnavailable, match="vllm"):
        Vllm().version([str(script), "serve"], {"PATH": "/usr/bin:/bin"})
    with pytest.raises(EngineUnavailable, match="not one of the engines"):
        recipe("tgi")


def commands_in_docs() -> list[list[str]]:
    blocks = DOCS.read_text("utf-8").split("```yaml\n")[1:]
    engines = [engine for block in blocks for engine in yaml.safe_load(block.partition("```")[0])["engines"]]
    return [engine["command"] for engine in engines if "command" in engine]


@pytest.mark.parametrize("command", commands_in_docs(), ids=lambda command: str(command[0]))
def test_every_command_in_the_docs_fills(command: list[str]) -> None:
    values = {name: f"<{name}>" for name in PLACEHOLDERS}
    words = fill(command, values, ["--port", "8123"])
    assert "--port" in words
    assert not any("{" in word for word in words if word != ARGUMENTS)
    if "serve" in words:
        assert words[words.index("serve") + 1] == "<model>"


def test_the_docs_show_every_way_to_start_an_engine() -> None:
    programs = {Path(command[0]).name for command in commands_in_docs()}
    assert {"vllm", "docker", "apptainer", "enroot", "srun"} <= programs
