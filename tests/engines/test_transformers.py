"""The plain PyTorch engine: right tokens, real weights, what it refuses."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from harness.engines.base import LaunchOptions
from harness.engines.kit import INSIDE
from harness.engines.modelfolder import llama_config
from harness.engines.recipe import Site
from harness.engines.steps import read_description
from harness.engines.transformers import Transformers
from harness.errors import EngineUnavailable, VersionUnsupported, WeightsUnavailable
from tests.engines.servers import SHAPE, TRANSFORMERS_PYTHON, Server, deployment, until

needs_torch = [
    pytest.mark.engines,
    pytest.mark.skipif(not TRANSFORMERS_PYTHON.is_file(), reason="no Python with transformers"),
]
SITE = Site(Path(), 1, (), (0, 1), 1)


class TestRunning:
    pytestmark = needs_torch

    def test_tokens_are_those_of_generate(self, tmp_path: Path) -> None:
        """Batched, in chunks of prompts and in pieces of one, with requests that leave; weights from safetensors."""
        (tmp_path / "config.json").write_text(json.dumps(llama_config(SHAPE, 32)))
        check = Path(__file__).with_name("check_tokens.py")
        words = [str(TRANSFORMERS_PYTHON), str(check), str(INSIDE), str(tmp_path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.stdout == "same 24\n", done.stdout + done.stderr[-2000:]

    def test_what_was_resolved_is_described(self, tmp_path: Path) -> None:
        with Server(deployment("transformers"), tmp_path) as server:
            server.wait_ready()
            described = read_description(server.log)
        assert described["token_budget"] == 64
        assert described["threads"] == 1
        assert described["dtype"] in ("float32", "float16")
        found = Transformers().version([str(TRANSFORMERS_PYTHON), "-m", "transformers_server"], {})
        assert found == f"{described['transformers']}+torch{described['torch']}"

    def test_another_architecture_is_refused_in_one_line(self, tmp_path: Path) -> None:
        content = {**llama_config(SHAPE, 16), "architectures": ["MixtralForCausalLM"]}
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "config.json").write_text(json.dumps(content))
        arguments = ["--model", str(tmp_path / "other")]
        with Server(deployment("transformers"), tmp_path, arguments=arguments) as server:
            until(lambda: server.process.exit_code is not None, "ended")
            last = server.process.tail().splitlines()[-1]
            assert "only LlamaForCausalLM is served, not ['MixtralForCausalLM']" in last

    def test_real_weights_that_are_not_there_are_said(self, tmp_path: Path) -> None:
        with Server(deployment("transformers"), tmp_path, arguments=["--real-weights"]) as server:
            until(lambda: server.process.exit_code is not None, "ended")
            assert "safetensors" in server.process.tail()


def test_several_gpus_are_refused_in_one_line() -> None:
    served = replace(deployment("transformers"), tensor_parallel=2)
    with pytest.raises(VersionUnsupported, match="serves tp 1 pp 1, not tp 2 pp 1"):
        Transformers().arguments(served, LaunchOptions(), SITE)
    with pytest.raises(VersionUnsupported, match="16 or 32 bits, not 8"):
        Transformers().arguments(replace(deployment("transformers"), bits=8), LaunchOptions(), SITE)


def test_weights_that_are_no_folder_are_refused() -> None:
    served = replace(deployment("transformers"), weights="real")
    with pytest.raises(WeightsUnavailable, match=r"meta-llama/Llama-2-7b: no config\.json there"):
        Transformers().model(served, LaunchOptions(weights_path="meta-llama/Llama-2-7b"), SITE)


def test_a_python_without_transformers_is_said(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'PackageNotFoundError: transformers' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(EngineUnavailable, match="PackageNotFoundError: transformers; install the extra `transformers`"):
        Transformers().version([str(python), "-m", "transformers_server"], {})
