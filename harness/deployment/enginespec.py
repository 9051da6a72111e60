"""The entries under `engines` of a sweep file: which engine, its limits, and how it is started."""

from typing import Annotated, Literal

from pydantic import Field

from harness.deployment.validation import PositiveInt, Strict, bounded_s
from harness.engines.base import LaunchOptions
from harness.engines.commandline import check_placeholders
from harness.engines.recipes import recipe
from harness.errors import BadInput
from harness.points import EngineLimits, ModelShape

_MOST_READY_S = 4 * 3600.0


class EngineEntry(Strict):
    """One entry, as it is written; docs/sweep-files.md explains the fields."""

    name: Literal["vllm", "sarathi", "transformers"]
    token_budget: PositiveInt
    max_sequences: PositiveInt
    max_context_tokens: PositiveInt
    clip_context_to_model: bool = False
    enforce_eager: bool = False
    stream_interval: Annotated[int, Field(ge=1, le=10_000)] = 1
    command: list[str] | None = None
    arguments: list[str] = Field(default_factory=list)
    environment: dict[str, str] = Field(default_factory=dict)
    ready_limit: str = "30m"


def check_engines(entries: list[EngineEntry], shapes: list[ModelShape], field: str, dummy_weights: bool) -> None:
    """Refuse what could not be launched, or would be recorded as something else than it is.

    Args:
        field: of the whole list.
        dummy_weights: some model of the sweep runs them.

    Raises:
        BadInput: with the entry's index.
    """
    first: dict[tuple[str, EngineLimits], int] = {}
    for index, entry in enumerate(entries):
        where = f"{field}[{index}]"
        _check_context(entry, shapes, where)
        _check_characters(entry, where)
        if entry.enforce_eager and entry.name != "vllm":
            accepted = f"false: {entry.name} has no CUDA graphs to switch off"
            raise BadInput(f"{where}.enforce_eager", True, accepted, "leave it out")
        if entry.command is not None:
            _check_command(entry.name, entry.command, f"{where}.command")
        _check_arguments(entry, where, dummy_weights)
        for shape in shapes:
            earlier = first.setdefault((shape.name, engine_limits(entry, shape)), index)
            if earlier != index:
                same = f"the two make the same deployments of {shape.name}"
                accepted = f"another name or other limits than engines[{earlier}]: {same}"
                raise BadInput(where, entry.name, accepted, "take one out, or give it a sweep file of its own")


def engine_limits(entry: EngineEntry, shape: ModelShape) -> EngineLimits:
    """What of an entry is part of a deployment of the model; its context is at most the model's where that is asked."""
    context = entry.max_context_tokens
    return EngineLimits(
        engine=entry.name,
        token_budget=entry.token_budget,
        max_sequences=entry.max_sequences,
        max_context_tokens=min(context, shape.max_context_tokens) if entry.clip_context_to_model else context,
        enforce_eager=entry.enforce_eager,
        stream_interval=entry.stream_interval,
    )


def launch_options(entry: EngineEntry, weights_path: str, field: str) -> LaunchOptions:
    """What of an entry only says how it is started.

    Raises:
        BadInput: its ready_limit is no duration, or out of range.
    """
    return LaunchOptions(
        weights_path=weights_path,
        command=tuple(entry.command or ()),
        arguments=tuple(entry.arguments),
        environment=dict(entry.environment),
        ready_limit_s=bounded_s(entry.ready_limit, f"{field}.ready_limit", 1.0, _MOST_READY_S),
    )


def _check_context(entry: EngineEntry, shapes: list[ModelShape], field: str) -> None:
    where, asked = f"{field}.max_context_tokens", entry.max_context_tokens
    if asked < 2:
        raise BadInput(where, asked, "at least 2")
    least = min(shape.max_context_tokens for shape in shapes)
    if asked > least and not entry.clip_context_to_model:
        raise BadInput(where, asked, f"at most the models' {least}", "or clip_context_to_model: true")


def _check_characters(entry: EngineEntry, field: str) -> None:
    words = {"command": entry.command or [], "arguments": entry.arguments}
    words["environment"] = [*entry.environment, *entry.environment.values()]
    for name, parts in words.items():
        for part in parts:
            if "\0" in part:
                raise BadInput(f"{field}.{name}", part, "words without NUL characters")


def _check_command(engine: str, command: list[str], field: str) -> None:
    made = recipe(engine)
    usual = "[" + ", ".join(made.command) + "]"
    if not command:
        raise BadInput(field, command, "the words that start the engine", f"leave it out for {usual}")
    for index, word in enumerate(command):
        check_placeholders(word, f"{field}[{index}]")
    marker = list(made.marker)
    if not any(command[at : at + len(marker)] == marker for at in range(1, len(command))):
        accepted = f"a program, then `{' '.join(marker)}` as {'words' if len(marker) > 1 else 'a word'} of its own"
        raise BadInput(field, " ".join(command), accepted, f"such as {usual}")
    if not any("{model}" in word for word in command):
        raise BadInput(field, " ".join(command), "a command with {model}", f"such as {usual}")


def _check_arguments(entry: EngineEntry, field: str, dummy_weights: bool) -> None:
    pinned = recipe(entry.name).pinned(dummy_weights)
    for index, word in enumerate(entry.arguments):
        name = word.partition("=")[0].lstrip("-").replace("_", "-")
        if word.startswith("-") and (name in pinned or name.removeprefix("no-") in pinned):
            accepted = "arguments that the harness does not pin itself"
            fix = "take it out; limits, parallelism, bits and weights have fields of their own"
            raise BadInput(f"{field}.arguments[{index}]", word, accepted, fix)
