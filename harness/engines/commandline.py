"""How an engine is started: words with placeholders filled in, and the variables of its process."""

import os
import re
from collections.abc import Mapping, Sequence

from harness.errors import BadInput

ARGUMENTS = "{arguments}"
PLACEHOLDERS = ("python", "model", "workdir", "port", "gpus")
_PLACEHOLDER = re.compile(r"\{([a-z_]*)\}")

PASSED_ON = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "CC", "CXX"),
    *("CUDA_HOME", "CUDA_PATH", "HF_HOME", "HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "VIRTUAL_ENV"),
)
"""Variables of the harness that an engine's process gets as well, where they are set."""
PASSED_ON_PREFIXES = ("LC_", "XDG_", "NCCL_", "SLURM_", "SINGULARITY", "APPTAINER", "ENROOT_", "DOCKER_", "PMIX_")
_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|API_?KEYS?|ACCESS_?KEY|PRIVATE_?KEY)$", re.IGNORECASE)
SET = "(set, not stored)"


def fill(command: Sequence[str], values: Mapping[str, str], arguments: Sequence[str]) -> list[str]:
    """The words of `command` with {placeholders} replaced.

    Args:
        values: of every one of PLACEHOLDERS.
        arguments: take the place of the word {arguments}; appended where there is none.

    Raises:
        BadInput: an unknown placeholder, or {arguments} within a word.
    """
    words: list[str] = []
    for word in command:
        if word == ARGUMENTS:
            words += arguments
            continue
        check_placeholders(word, "command")
        words.append(_PLACEHOLDER.sub(lambda found: values[found[1]], word))
    return words if ARGUMENTS in command else [*words, *arguments]


def check_placeholders(word: str, field: str) -> None:
    """Refuse a word of a command that `fill` could not fill.

    Raises:
        BadInput: an unknown placeholder, or {arguments} within the word.
    """
    if word != ARGUMENTS and any(name not in PLACEHOLDERS for name in _PLACEHOLDER.findall(word)):
        accepted = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
        raise BadInput(field, word, f"{accepted}, and {ARGUMENTS} as a word of its own")


def process_environment(own: Mapping[str, str], added: Mapping[str, str], gpus: Sequence[int]) -> dict[str, str]:
    """Variables of an engine's process: little of the harness's `own`, its GPUs by index, then what is `added`."""
    kept = {name: value for name, value in own.items() if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)}
    visible = ",".join(str(index) for index in gpus)
    # vLLM parses indices, not UUIDs; PCI order is NVML's.
    return {**kept, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible, **added}


def with_search_path(environment: Mapping[str, str], folder: str) -> dict[str, str]:
    """The same with `folder` first among those that Python searches."""
    others = environment.get("PYTHONPATH", "")
    return {**environment, "PYTHONPATH": folder + (os.pathsep + others if others else "")}


def redacted(environment: Mapping[str, str]) -> dict[str, str]:
    """The same without the values of secrets."""
    return {name: SET if _SECRET.search(name) else value for name, value in sorted(environment.items())}


def redacted_words(words: Sequence[str]) -> list[str]:
    """A command without the values of options and assignments that hold secrets."""
    shown: list[str] = []
    for word in words:
        name, equals, _ = word.partition("=")
        if shown and shown[-1].startswith("-") and "=" not in shown[-1] and _SECRET.search(shown[-1].replace("-", "_")):
            shown.append(SET)
        elif equals and _SECRET.search(name.replace("-", "_")):
            shown.append(f"{name}={SET}")
        else:
            shown.append(word)
    return shown
