"""Texts of logs, as the named versions print them, become the typed errors of a launch."""

import pytest

from harness.engines.failures import launch_failure
from harness.errors import (
    DiskTooSmall,
    KvCacheOutOfMemory,
    LaunchFailed,
    PortTaken,
    VersionUnsupported,
    WeightsOutOfMemory,
    WeightsUnavailable,
)

CORE = "(EngineCore pid=4711) ERROR 11-21 05:59:11 [core.py:1174] "
TEXTS = {
    # vLLM 0.32.0+cpu, made to fail on a CPU.
    "vllm: error: unrecognized arguments: --no-such-argument 1": VersionUnsupported,
    "vllm serve: error: argument --dtype: invalid choice: 'int7'": VersionUnsupported,
    "OSError: [Errno 98] Address already in use": PortTaken,
    CORE + "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
    "initializing the engine": KvCacheOutOfMemory,
    CORE + "ValueError: To serve at least one request with the model's max seq len (2048), (2.0 GiB KV cache is "
    "needed, which is larger than the available KV cache memory (0.1 GiB).": KvCacheOutOfMemory,
    CORE + "RuntimeError: Cannot find any model weights with `/models/empty`": WeightsUnavailable,
    # vLLM 0.32, sources.
    CORE + "Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization to free memory for "
    "weights, increasing --tensor-parallel-size, or using --quantization.": WeightsOutOfMemory,
    CORE + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has a total capacity of "
    "79.11 GiB of which 91.19 MiB is free.": WeightsOutOfMemory,
    CORE + "ValueError: Free memory on device cuda:0 (10.3/79.1 GiB) on startup is less than desired GPU memory "
    "utilization (0.9, 71.2 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.": (
        LaunchFailed
    ),
    # vLLM 0.6.
    "ValueError: The model's max seq len (4096) is larger than the maximum number of tokens that can be stored in KV "
    "cache (1408). Try increasing `gpu_memory_utilization`": KvCacheOutOfMemory,
    # huggingface_hub 0.34, transformers 4.57.
    "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-66)": WeightsUnavailable,
    "OSError: You are trying to access a gated repo.\nMake sure to have access to it at https://huggingface.co/meta-"
    "llama/Llama-2-7b-hf.": WeightsUnavailable,
    "OSError: /models/x does not appear to have a file named config.json.": WeightsUnavailable,
    "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.": WeightsUnavailable,
    "OSError: [Errno 28] No space left on device: '/cache/hub/x.incomplete'": DiskTooSmall,
    "RuntimeError: harness: this version of vLLM is not supported: no Scheduler.schedule": VersionUnsupported,
    "Segmentation fault (core dumped)": LaunchFailed,
}


@pytest.mark.parametrize(("text", "expected"), TEXTS.items(), ids=[text[:50] for text in TEXTS])
def test_a_known_text_is_its_error(text: str, expected: type[LaunchFailed]) -> None:
    log = (
        f"INFO starting\n{text}\nTraceback (most recent call last):\nRuntimeError: Engine core initialization failed.\n"
    )
    error = launch_failure("exited with status 1", log, log[-80:], "/logs/engine.log")
    assert type(error) is expected
    assert error.log_tail == log[-80:]
    assert error.log_path == "/logs/engine.log"
    assert "\n" not in str(error)
    assert "exited with status 1" in str(error)


def test_the_cause_wins_over_what_it_leads_to() -> None:
    log = "OSError: [Errno 28] No space left on device\ntorch.OutOfMemoryError: CUDA out of memory.\n"
    assert type(launch_failure("ended", log, "", "")) is DiskTooSmall


def test_a_long_line_is_shown_from_what_was_recognised() -> None:
    log = "x" * 500 + " ValueError: No available memory for the cache blocks. " + "y" * 500
    assert str(launch_failure("ended", log, "", "")).startswith("No available memory for the cache blocks.")


def test_an_unknown_end_shows_the_last_line() -> None:
    error = launch_failure("ended by signal 11", "a\nb\n", "a\nthe last words\n\n", "/x")
    assert str(error) == "the engine ended by signal 11; its last line: the last words"
