"""Why an engine did not start, read from its log: known texts, most telling first, as typed errors."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import (
    DiskTooSmall,
    KvCacheOutOfMemory,
    LaunchFailed,
    PortTaken,
    VersionUnsupported,
    WeightsOutOfMemory,
    WeightsUnavailable,
)

LONGEST_LINE = 240


@dataclass(frozen=True, slots=True)
class Symptom:
    """A text in a log, what it means, and what to do; checked against the engines and versions in `seen_in`."""

    pattern: str
    error: type[LaunchFailed]
    fix: str
    seen_in: str


# In this order: a cause is often followed by the texts of its consequences.
SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        r"harness: this version of .* is not supported",
        VersionUnsupported,
        "use a version whose scheduler has the watched methods",
        "our plug-in",
    ),
    Symptom(
        r"GatedRepoError|gated repo|Access to model .* is restricted|401 Client Error",
        WeightsUnavailable,
        "download the weights, and give their folder as `weights` of the model in the sweep file",
        "huggingface_hub 0.20 to 1.0",
    ),
    Symptom(
        r"RepositoryNotFoundError|Repository Not Found|RevisionNotFoundError|is not a valid model identifier"
        r"|LocalEntryNotFoundError|outgoing traffic has been disabled|Can't load the configuration of"
        r"|does not appear to have a file named|Cannot find any model weights|Invalid repository ID or local directory",
        WeightsUnavailable,
        "check `weights` of the model in the sweep file: a folder with config.json, weights and tokenizer",
        "transformers 4.40 to 5, vLLM 0.6 to 0.32",
    ),
    Symptom(
        r"No space left on device|\[Errno 28\]|not enough free disk space",
        DiskTooSmall,
        "free space for weights (HF_HOME), caches (~/.cache/vllm) and shared memory",
        "Linux",
    ),
    Symptom(
        r"\[Errno 98\]|[Aa]ddress already in use|EADDRINUSE",
        PortTaken,
        "launch again: another port is chosen",
        "vLLM 0.32, uvicorn, torch 2.13",
    ),
    Symptom(
        r"unrecognized arguments:|error: argument |invalid choice:|[Nn]o such option",
        VersionUnsupported,
        "an argument is unknown to this version: check `arguments` and the engine's version",
        "argparse; vLLM 0.32",
    ),
    Symptom(
        r"No available memory for the cache blocks|KV cache is needed, which is larger than the available KV"
        r"|The model's max seq len \(\d+\) is larger than the maximum number of tokens"
        r"|Not enough available memory to schedule a request",
        KvCacheOutOfMemory,
        "more GPUs, fewer bits, or a smaller max_context_tokens",
        "vLLM 0.6 to 0.32, Sarathi-Serve",
    ),
    Symptom(
        r"is less than desired (?:GPU|CPU) memory utilization",
        LaunchFailed,
        "another process holds the device's memory: see nvidia-smi",
        "vLLM 0.10 to 0.32",
    ),
    Symptom(
        r"not enough GPU memory|CUDA out of memory|torch\.OutOfMemoryError|OutOfMemoryError: CUDA|HIP out of memory",
        WeightsOutOfMemory,
        "more GPUs (tensor or pipeline parallel) or fewer bits",
        "vLLM 0.32, torch 2.1 to 2.13",
    ),
    Symptom(
        r"Unable to allocate .* for an array|DefaultCPUAllocator: can't allocate memory|Cannot allocate memory",
        WeightsOutOfMemory,
        "more memory on the host",
        "torch 2.13 on a CPU",
    ),
)


def launch_failure(
    happened: str, log: str, log_tail: str, log_path: str, symptoms: Sequence[Symptom] = SYMPTOMS
) -> LaunchFailed:
    """The error that the text of a log stands for; a plain LaunchFailed where it says nothing known.

    Args:
        happened: what was seen from outside ("exited with status 1", "not ready within 30 s").
    """
    for symptom in symptoms:
        found = re.search(symptom.pattern, log)
        if found:
            begin = log.rfind("\n", 0, found.start()) + 1
            line = " ".join(log[begin:].partition("\n")[0].split())
            if len(line) > LONGEST_LINE:
                # Without what stands before it: process, time, name of a source file.
                line = " ".join(log[found.start() :].partition("\n")[0].split())[:LONGEST_LINE] + "..."
            return symptom.error(f"{line} ({happened}); fix: {symptom.fix}", log_tail, log_path)
    last = next((line.strip() for line in reversed(log_tail.splitlines()) if line.strip()), "an empty log")
    return LaunchFailed(f"the engine {happened}; its last line: {last[-LONGEST_LINE:]}", log_tail, log_path)
