"""A server around Sarathi-Serve's engine; run by the Python of Sarathi's environment, with this folder on its path.

    python -m sarathi_shim --port 8000 --model_config_model DIR ...

Sarathi's own server cannot be used for measurements: it does not serve PP = 1, takes no token ids, has no /health,
spins when idle, and goes on computing what its clients gave up (microsoft/sarathi-serve at 96f9911).

Every option of Sarathi's configuration is offered under its own name, `--SECTION_FIELD VALUE` (`--model_config_model`,
`--parallel_config_pipeline_parallel_size`, `--sarathi_scheduler_config_chunk_size`, ...), `worker_config_*` included,
which Sarathi's own command line drops. Booleans: `1` or `true`, `0`, `false` or an empty string. Options not given keep
Sarathi's defaults, but for `PINNED`.
"""

import argparse
import enum
import importlib
import importlib.util
import os
import subprocess
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.engines.inside.http_front import run
    from harness.engines.inside.sarathi_engine import SarathiBackend
    from harness.engines.inside.sarathi_version import installed_version
else:
    from http_front import run
    from sarathi_engine import SarathiBackend
    from sarathi_version import installed_version

SECTIONS = {
    "model_config": "ModelConfig",
    "worker_config": "WorkerConfig",
    "cache_config": "CacheConfig",
    "parallel_config": "ParallelConfig",
    "sarathi_scheduler_config": "SarathiSchedulerConfig",
    "metrics_config": "MetricsConfig",
    "replica_config": "ReplicaConfig",
}
"""Prefix of the options: name of the class in `sarathi.config`."""
PINNED = {
    # Sarathi's default is 2.
    "parallel_config_pipeline_parallel_size": "1",
    # Its metrics are never written by a server; gathering them costs processor time in every step. Ours are in the log.
    "metrics_config_write_metrics": "",
    "metrics_config_enable_chrome_trace": "",
    # Code that comes with a model's files is not run.
    "model_config_trust_remote_code": "",
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


class NoTokenizer:
    """For a folder that holds none: prompts come as ids, and nobody reads the text."""

    eos_token_id = 0


def field_types(section: type) -> dict[str, Any]:
    """Fields of a configuration class that can be given as text, and their types (that within, where optional)."""
    types = {}
    for name, hint in typing.get_type_hints(section).items():
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)] or [hint]
        if len(kinds) == 1 and isinstance(kinds[0], type) and issubclass(kinds[0], str | int | float | enum.Enum):
            types[name] = kinds[0]
    return types


def convert(kind: Any, text: str) -> Any:
    """An option's text as its type. Raises ValueError."""
    if kind is bool:
        words = {"": False, "0": False, "false": False, "1": True, "true": True}
        if text.lower() not in words:
            raise ValueError(f"not a boolean: {text!r}")
        return words[text.lower()]
    if issubclass(kind, enum.Enum):
        if text.upper() not in kind.__members__:
            raise ValueError(f"{text!r} is none of {', '.join(kind.__members__)}")
        return kind[text.upper()]
    return kind(text)


def system_config(config_module: Any, given: dict[str, str], gpus: list[int] | None) -> Any:
    """Sarathi's `SystemConfig` from options by name. Raises ValueError for a value that its field cannot take."""
    parts: dict[str, Any] = {}
    unknown = set(given)
    for section, class_name in SECTIONS.items():
        section_class = getattr(config_module, class_name)
        types = field_types(section_class)
        values = {}
        for name, kind in types.items():
            option = f"{section}_{name}"
            if option in given:
                unknown.discard(option)
                try:
                    values[name] = convert(kind, given[option])
                except ValueError as error:
                    raise ValueError(f"--{option}: {error}") from error
        parts[section] = section_class(**values)
    if unknown:
        raise ValueError(f"unrecognized arguments: --{min(unknown)}: Sarathi has no such option")
    parts["scheduler_config"] = parts.pop("sarathi_scheduler_config")
    if gpus is not None:
        if len(gpus) != parts["parallel_config"].world_size:
            raise ValueError(f"{len(gpus)} GPUs are visible, tp x pp is {parts['parallel_config'].world_size}")
        # Sarathi clears CUDA_VISIBLE_DEVICES and takes the first GPUs; a mapping is the only way to name others.
        parts["replica_config"].resource_mapping = [(None, gpu) for gpu in gpus]
    return config_module.SystemConfig(**parts)


def visible_gpus() -> list[int] | None:
    """Indices, in the order of the bus, of the GPUs that CUDA_VISIBLE_DEVICES names; None where it is not set.

    Raises ValueError for a name that is no GPU of this machine.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not named:
        return None
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    names = [name.strip() for name in named.split(",")]
    if all(name.isdigit() for name in names):
        return [int(name) for name in names]
    query = ["nvidia-smi", "--query-gpu=uuid,index", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, check=True).stdout  # noqa: S603 - fixed words
    indices = {uuid: int(index) for uuid, index in (line.split(", ") for line in listed.splitlines())}
    unknown = [name for name in names if name not in indices]
    if unknown:
        raise ValueError(f"CUDA_VISIBLE_DEVICES: {unknown[0]} is none of {', '.join(indices)}")
    return [indices[name] for name in names]


def make_backend(given: dict[str, str]) -> SarathiBackend:
    """Start Sarathi: Ray on this machine alone, the workers, the engine. Raises ValueError for wrong options."""
    installed_version()  # not some other project of that name
    gpus = visible_gpus()
    # Bare `ray.init()`, as Sarathi calls it, would join any cluster that it finds; and its dashboard costs energy.
    os.environ["RAY_ADDRESS"] = "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    close = lambda: None  # noqa: E731
    if importlib.util.find_spec("ray"):
        ray = importlib.import_module("ray")
        ray.init(address="local", include_dashboard=False)
        close = ray.shutdown
    config = system_config(importlib.import_module("sarathi.config"), given, gpus)
    base: Any = importlib.import_module("sarathi.engine.base_llm_engine")
    model = Path(config.model_config.model)
    without_tokenizer = model.is_dir() and not any((model / name).is_file() for name in TOKENIZER_FILES)
    if without_tokenizer:
        base.get_tokenizer = lambda *_, **__: NoTokenizer()
    sarathi: Any = importlib.import_module("sarathi")
    engine = sarathi.LLMEngine.from_system_config(config)
    if without_tokenizer:
        # The hook that turns each new token into text.
        engine.seq_manager._on_append_token = lambda _: None
    return SarathiBackend(engine, sarathi.SamplingParams, close)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--stream-interval", type=int, default=1, help="tokens per streamed event")
    options, rest = parser.parse_known_args()
    given = dict(PINNED)
    for flag, value in zip(rest[::2], rest[1::2], strict=False):
        name = flag.removeprefix("--")
        if name == flag or not name.startswith(tuple(f"{section}_" for section in SECTIONS)):
            parser.error(f"unrecognized arguments: {flag}")
        given[name] = value
    if len(rest) % 2:
        parser.error(f"{rest[-1]} has no value")
    run(lambda: make_backend(given), options.host, options.port, options.stream_interval)


if __name__ == "__main__":
    main()
