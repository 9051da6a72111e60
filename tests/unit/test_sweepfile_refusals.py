"""Sweep files that contradict themselves, or what the harness pins, are refused when they are read."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from harness.deployment.sweepfile import load_sweep
from harness.engines.base import LaunchOptions
from harness.engines.recipe import Site
from harness.engines.recipes import recipe
from harness.errors import BadInput, VersionUnsupported
from harness.points import NO_GPU
from tests.unit.builders import write_sweep

ENGINE = "{name: vllm, token_budget: 8192, max_sequences: 128, max_context_tokens: 4096}"
SIZES = ENGINE.removeprefix("{name: vllm, ").removesuffix("}")
MODULES = {"sarathi": "sarathi_shim", "transformers": "transformers_server"}


def engine(name: str = "vllm", more: str = "") -> tuple[str, str]:
    return ENGINE, f"{{name: {name}, {SIZES}{', ' if more else ''}{more}}}"


def replay(fields: str) -> tuple[str, str]:
    good = "replays:\n  - {trace: azure2023-conv}\n"
    return "measurement:", f"{good}  - {{trace: azure2023-conv, {fields}}}\nmeasurement:"


def rules(fields: str) -> tuple[str, str]:
    return "idle: 1s", f"idle: 1s, {fields}"


def twice(more: str) -> tuple[str, str]:
    return f"  - {ENGINE}", f"  - {ENGINE}\n  - {engine(more=more)[1]}"


@pytest.mark.parametrize(
    ("change", "field", "accepted"),
    [
        (twice(""), "engines[1]: ", "other limits than engines[0]"),
        (twice("arguments: [--x, '1']"), "engines[1]: 'vllm'", "other limits than engines[0]"),
        (twice("command: [/opt/vllm, serve, '{model}']"), "engines[1]: ", "other limits than engines[0]"),
        (twice("environment: {A: b}"), "engines[1]: ", "other limits than engines[0]"),
        (twice("ready_limit: 5m"), "engines[1]: ", "other limits than engines[0]"),
        (twice("stream_interval: 2, ready_limit: 5x"), "engines[1].ready_limit: '5x'", "duration"),
        (engine(more="ready_limit: 5h"), "engines[0].ready_limit: '5h'", "1s to 4h"),
        (engine(more="arguments: [--tensor-parallel-size, '2']"),
         "engines[0].arguments[0]: '--tensor-parallel-size'", "fix: take it out"),
        (engine(more="arguments: [--x, '--max_num_seqs=4']"), "engines[0].arguments[1]: '--max_num_seqs=4'", "pin"),
        (engine(more="arguments: [-tp, '2']"), "engines[0].arguments[0]: '-tp'", "pin"),
        (engine(more="arguments: [--no-enable-chunked-prefill]"), "engines[0].arguments[0]", "pin"),
        (engine(more="arguments: [--enforce-eager]"), "engines[0].arguments[0]", "pin"),
        (engine(more="arguments: [--load-format, auto]"), "engines[0].arguments[0]", "pin"),
        (engine("sarathi", "arguments: [--model_config_dtype, float32]"), "engines[0].arguments[0]", "pin"),
        (engine("transformers", "arguments: [--token-budget, '1']"), "engines[0].arguments[0]", "pin"),
        (engine("sarathi", "enforce_eager: true"), "engines[0].enforce_eager: True", "no CUDA graphs"),
        (engine("transformers", "enforce_eager: true"), "engines[0].enforce_eager: True", "no CUDA graphs"),
        (engine(more="enforce_eager: maybe"), "engines[0].enforce_eager: 'maybe'", "accepted: true or false"),
        (engine(more="command: []"), "engines[0].command: []", "fix: leave it out for [vllm, serve"),
        (engine(more="command: [vllm, serve, '{modell}']"), "engines[0].command[2]: '{modell}'", "{python}, {model}"),
        (engine(more="command: [vllm, serve, 'x{arguments}']"), "engines[0].command[2]", "word of its own"),
        (engine(more="command: [vllm, '{model}']"), "engines[0].command: 'vllm {model}'", "`serve`"),
        (engine(more="command: [serve, '{model}']"), "engines[0].command: ", "`serve`"),
        (engine(more="command: [vllm, serve]"), "engines[0].command: 'vllm serve'", "{model}"),
        *((engine(name, "command: [py, -m, other, '{model}']"), "engines[0].command: ", f"`-m {module}`")
          for name, module in MODULES.items()),
        *((engine(name, f"command: [py, -m, {module}]"), "engines[0].command: ", "{model}")
          for name, module in MODULES.items()),
        (replay("rate: fast"), "replays[1].rate: 'fast'", "a factor"),
        (replay("rate: 0"), "replays[1].rate: '0'", "a factor"),
        (replay("rate: 'capacity:8'"), "replays[1].rate: 'capacity:8'", "at most 2"),
        (replay("slice: middle"), "replays[1].slice: 'middle'", "median, busiest"),
        (replay("duration: 500ms"), "replays[1].duration: '500ms'", "at least 1s"),
        (replay("length_scale: 11"), "replays[1].length_scale: 11", "0.001 to 10"),
        (replay("length_scale: .nan"), "replays[1].length_scale: nan", "0.001 to 10"),
        (rules("window_limit: 300ms"), "measurement.window_limit: '300ms'", "fix: window_limit: 500ms"),
        (rules("most_repetitions: 1"), "measurement.most_repetitions: 1", "fix: most_repetitions: 2"),
        (rules("node_power: 'http://'"), "measurement.node_power: 'http://'", "HOST"),
        (rules("node_power: 'ftp://bmc'"), "measurement.node_power: 'ftp://bmc'", "HOST"),
        (rules("node_power: 'https://me:word@bmc'"), "measurement.node_power: ", "no user"),
        (rules("node_power: 'https://bmc:notaport'"), "measurement.node_power: ", "HOST"),
        (rules("estimate_dram: 3"), "measurement.estimate_dram: 3", "accepted: true or false"),
    ],
)  # fmt: skip
def test_refused_with_file_field_value_and_what_is_accepted(
    tmp_path: Path, change: tuple[str, str], field: str, accepted: str
) -> None:
    path = write_sweep(tmp_path, change)
    with pytest.raises(BadInput) as caught:
        load_sweep(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: {field}")
    assert accepted in line
    assert "\n" not in line
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("bits", ["", "\nbits: [16]", "\nbits: [32, 8]"])
def test_a_node_without_gpus_serves_32_bits_only(tmp_path: Path, bits: str) -> None:
    path = write_sweep(tmp_path, ("simulate: true", "simulate: false"), ("[dgx-h100]", f"[cpu-only]{bits}"),
                       (", {tp: 2}", ""))  # fmt: skip
    with pytest.raises(BadInput) as caught:
        load_sweep(path)
    index = 1 if "32" in bits else 0
    assert str(caught.value).startswith(f"{path}: bits[{index}]: {8 if index else 16}; accepted: 32 on cpu-only")
    assert caught.value.fix == "bits: [32]"


@pytest.mark.parametrize(
    "change",
    [
        twice("enforce_eager: true"),
        engine(more="arguments: [--max-logprobs, '-1'], command: [vllm, serve, '{model}', '{arguments}']"),
        engine("sarathi", "command: [py, -m, sarathi_shim, --model_config_model, '{model}']"),
        engine("transformers", "command: [py, -m, transformers_server, --model, '{model}']"),
        ("[dgx-h100]", "[dgx-h100]\nbits: [32, 16]"),
        replay("rate: 'capacity:0.8', slice: 'start:10', length_scale: 10"),
        rules("window_limit: 500ms, most_repetitions: 2, node_power: 'https://bmc:8443/'"),
        rules("node_power: ipmi"),
        ("repetitions: 2", "repetitions: 25"),
    ],
)
def test_what_stands_beside_it_is_accepted(tmp_path: Path, change: tuple[str, str]) -> None:
    assert load_sweep(write_sweep(tmp_path, change)).deployments


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="accepted: an existing sweep file; fix: check the path"):
        load_sweep(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["vllm", "sarathi", "transformers"])
@pytest.mark.parametrize("weights", ["dummy", "real"])
def test_every_argument_that_an_engine_is_given_counts_as_pinned(
    tmp_path: Path, name: str, weights: Literal["dummy", "real"]
) -> None:
    (first, *_) = load_sweep(write_sweep(tmp_path)).deployments
    site = Site(tmp_path, 1, (0,), (0,), 0)
    given: set[str] = set()
    for gpu, bits, eager in ((first.gpu, 16, True), (first.gpu, 8, False), (NO_GPU, 32, False)):
        limits = replace(first.limits, engine=name, enforce_eager=eager)
        made = replace(first, gpu=gpu, bits=bits, limits=limits, weights=weights, revision="abc", tensor_parallel=1)
        try:
            words = recipe(name).arguments(made, LaunchOptions(), site)
        except VersionUnsupported:
            continue
        given |= {word.lstrip("-").replace("_", "-").removeprefix("no-") for word in words if word.startswith("-")}
    assert len(given) >= 8
    assert given <= recipe(name).pinned(weights == "dummy")
