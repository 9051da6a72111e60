"""Bundled sweep files, kinds of node and shapes of models, and what is made of them: one thing wrong, or several."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from tests.fuzz import values

Place = tuple[str | int, ...]
"""Keys and indices that lead from a document's top to a value in it."""

DEPLOYMENTS = REPOSITORY / "deployments"
_LONGEST_LIST = 3

_TOKENS = (0, 1, 2, 127, 4096, 10**7, 10**7 + 1, -1, 1.5, "8192")
_BY_FIELD: dict[str, tuple[Any, ...]] = {
    "sweep": ("", "x" * 81, "a/b", "../x", ".hidden", "-x", "a b", "Ünï", "x\n"),
    "simulate": ("yes", "true", 1, 0, None),
    "nodes": ([], ["dgx-x100"], ["dgx-h100", "dgx-h100"], "dgx-h100", ["cpu-only"], ["./node.yaml"],
              ["./fifo/"], [None], 0, 2, 17, "2"),
    "models": ([], ["gpt-5"], ["llama-2-7b", "llama-2-7b"], [{"shape": "llama-2-7b", "weights": "/nowhere"}],
               ["./folder"], [{"shape": "tiny-llama", "weights": "", "revision": "\x1b[0m"}], ["./fifo"], ["./"], [{}],
               ["./loop/"]),
    "bits": ([], [5], [16, 16], [32, 16, 8], [16.0], ["16"], 16, [True]),
    "parallelism": ([], [{"tp": 3}], [{"tp": 1, "pp": 0}], [{"tp": 0}], [{"tp": 1024}], [{"tp": 2, "pp": 1024}],
                    [{"tp": 1}, {"tp": 1}], [{"tp": 1}, {"tp": 1, "pp": 1}], [{"pp": 1}], [1],
                    [{"tp": 8, "pp": 2, "nodes": 2}], [{"tp": 1, "pp": 3, "nodes": 2}], [{"tp": 1, "nodes": 16}],
                    [{"tp": 1, "pp": 4, "nodes": 4}, {"tp": 1, "pp": 4}], [{"tp": 1, "pp": 17, "nodes": 17}]),
    "tp": (0, 3, 5, 7, 16, 64, 1024, 1025, -1, 1.5, "2"),
    "pp": (0, 3, 5, 7, 16, 64, 1024, 1025, -1, 1.5, "2"),
    "engines": ([], [{}], [{"name": "vllm"}], ["vllm"], [{"name": "trt"}]),
    "name": ("trt", "VLLM", "", "sarathi", "transformers"),
    "token_budget": _TOKENS, "max_sequences": _TOKENS, "max_context_tokens": _TOKENS,
    "stream_interval": (0, 1, 10_000, 10_001),
    "command": ([], ["vllm"], ["vllm", "serve", "{model}"], ["vllm", "serve", "{modell}"], ["{"], "vllm serve",
                ["\x00"]),
    "arguments": (["--tensor-parallel-size=2"], ["-tp", "2"], [1], ["\x00"], ["--x", "\x1b[31m"], "--x"),
    "environment": ({"A": 1}, {"": "x"}, {"A=B": "x"}, {"A": "\x00"}, []),
    "ready_limit": values.DURATIONS,
    "batches": ([], [{}], [{"sizes": [1]}], [{"sizes": [], "grid": {"prompt_tokens": [1], "generated_tokens": [1]}}]),
    "sizes": ([], [0], [1, 1], [10**7], [10**8], [-1], [1.0], list(range(1, 500))),
    "sampled": ({}, {"trace": "azure2023-conv", "per_deployment": 0}, {"trace": "", "per_deployment": 1}, None,
                {"trace": "azure2023-conv", "per_deployment": 10_000},
                {"trace": "azure2023-conv", "per_deployment": 10_001}),
    "grid": ({"prompt_tokens": [], "generated_tokens": [1]}, {"prompt_tokens": [10**7], "generated_tokens": [10**7]},
             {"prompt_tokens": list(range(1, 300)), "generated_tokens": list(range(1, 300))}, {}, None),
    "per_deployment": (0, 1, 10_000, 10_001, -1),
    "trace": ("", "azure1999", "azure2023-conv-profile", "azure2023-code", "./trace.csv", "./fifo.csv", "./empty.csv",
              "./bad.csv", "/dev/zero/", "./folder/", "-profile", "azure2023-conv\n", "\x00.csv"),
    "duration": values.DURATIONS, "drain": values.DURATIONS, "slice": values.SLICES,
    "rate": (*values.RATES, 0, -1, 1e9, float("nan"), 1),
    "length_scale": (0, -1, 11, float("nan"), 0.001, 10, 1e-9, "1"),
    "context_policy": ("drop", "clip", "", None),
    "measurement": ({}, {"repetition": 5}, [], {"window": 2}),
    "repetitions": (0, 1, 100, 101, -1, "5", 2.0), "half_width": (0, 1e-3, 1, 2, float("nan"), "5%"),
    "most_repetitions": (0, 1, 1000, 1001), "max_attempts": (0, 1, 20, 21),
    "window": values.DURATIONS, "window_limit": values.DURATIONS, "idle": values.DURATIONS,
    "uncertainty": (0, 1, 2, 1e-5, float("nan")), "foreign_cores": (0, -1, 10_001, float("inf"), float("nan")),
    "node_power": ("ipmi", "http://", "https://a:b@c", "https://[::1", "ftp://x", "https://x:99999", "https://\x1b/"),
    "probes": ({"points": -1}, {"points": 100, "launches": 100}, {"launches": 0}, 2, {}),
    "points": (-1, 0, 100, 101), "launches": (0, 1, 100, 101),
    "sampling": ({"traffic": "x"}, {"target_mape": "5"}, {"target_mape": "0%"}, {"target_eba10": "101%"}, []),
    # Of shapes of models and kinds of node
    "hidden_size": _TOKENS, "intermediate_size": _TOKENS, "num_hidden_layers": (0, 1, 10**8, 10**8 + 1, -1, 32.0, "32"),
    "num_attention_heads": (0, 1, 3, 7, 10**8, -1), "num_key_value_heads": (0, 1, 3, 7, 10**8, None),
    "vocab_size": _TOKENS,
    "max_position_embeddings": (0, 1, 2, 10**8, -1, "4096"), "head_dim": (0, 1, 10**8, None),
    "num_local_experts": (0, 1, 8), "kind": ("", "none", "a b", "x" * 81), "gpus": (0, 1, 64, 65, -1),
    "ranks": (0, 1, 65),
    "memory_gib": (0, 1e300, 0.1, 1e5, 20, 1000), "tdp_w": (0, 1e300, 1e5, -1, 500), "idle_w": (0, 1e300, 0.1, 50),
    "peak_tflops": (1e-300, 0.01, 1, 1e6), "package_wrap_j": (1e-9, 100, 1e12), "sockets": (0, 17, 1, 16),
    "memory_bandwidth_gb_per_s": (0, 0.01, 1, 1e6), "link_bandwidth_gb_per_s": (0, 0.01, 1, 1e6),
    "dram_wrap_j": (1e300, 100, 1e12), "dram_idle_w": (0, 1e5), "dram_tdp_w": (0, 1e5), "has_dram_counter": (True, 0),
}  # fmt: skip
"""What is wrong, or at the edge of what is right, for a field of that name."""

_TEXT_DAMAGE = (
    b"\x00", b"\t", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"!!python/object/apply:os.system [id]",
    b"!!python/name:os.x ",
    b"&a [*a]", b"*unknown", b"<<: *x", b"---\n", b"...\n", b"{", b"]", b": ", b"- ", b"? ", b"|", b">", b"%YAML 9.9\n",
    b"\xc3\x28", b"\xed\xa0\x80", b"\x1b[2J", b"\xe2\x80\xa8", b"\xc2\x85", b"!!binary aGk=", b"2026-11-21", b"1:30:00",
    b"!!set {a, b}", b"!!timestamp x", b"!!int x", b"!!float x", b"\n\t- x\n", b"#", b"'", b'"', b"@", b"`", b"!<!> x",
    b"0b2", b"9" * 5000, b"=",
)  # fmt: skip

_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
WHOLE_FILES: tuple[bytes, ...] = (
    b"", b"\n", b"null", b"[]", b"3", b"text", b"\x00" * 100, b"\xff\xfe\x00x", b"--- a\n--- b\n", b"sweep: [\n" * 400,
    _BOMB.encode(), b"[" * 5000, b"{a: " * 3000, b"- " * 3000, b"a: &a\n  b: *a\n", b"? [a, b]\n: c\n", b"1: 2\n",
    b"sweep: x\n" * 100_000, b"#" + b"x" * (10 << 20), b"a: " + b"x" * (10 << 20), b"\x1f\x8b" + b"\x00" * 30,
    b"PAR1" + bytes(range(256)), b"<html><script>alert(1)</script></html>", b"sweep: !!python/object:os.system x\n",
    "\u202e: x\n".encode(), "sweep: x\n".encode("utf-16"), b"\xef\xbb\xbf", b"a: 1\na: 2\n", b"key: \x1b[31mred\n",
    b"%TAG ! tag:x,2000:\n---\n!x a\n", b"a: " + b"9" * 5000, b"a: 0x" + b"f" * 5000, b"a: 1" + b":59" * 2000,
)  # fmt: skip


def sweeps() -> dict[str, dict[str, Any]]:
    """The bundled sweep files, long lists shortened: what is wrong shows as well in three models as in twenty."""
    found = {}
    for path in sorted(DEPLOYMENTS.glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        found[path.stem] = {key: one[:_LONGEST_LIST] if isinstance(one, list) else one for key, one in content.items()}
    return found


def shapes() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((DEPLOYMENTS / "models").glob("*.json"))}


def nodes() -> dict[str, dict[str, Any]]:
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted((DEPLOYMENTS / "nodes").glob("*.yaml"))}


def places(document: Any, before: Place = ()) -> Iterator[Place]:
    """Where there are values: of every entry, on every level."""
    entries: Any = ()
    if isinstance(document, dict):
        entries = document.items()
    elif isinstance(document, list):
        entries = enumerate(document)
    for key, inner in entries:
        yield (*before, key)
        yield from places(inner, (*before, key))


def value_at(document: Any, place: Place) -> Any:
    for key in place:
        document = document[key]
    return document


def with_value(document: Any, place: Place, value: Any) -> Any:
    """A copy with another value at a place that is there."""
    made = copy.deepcopy(document)
    value_at(made, place[:-1])[place[-1]] = value
    return made


def shown_place(place: Place) -> str:
    """As messages write it: `engines[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


@st.composite
def mutated(draw: st.DrawFn, bases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One of the documents with one to three entries changed, dropped, renamed, doubled or added."""
    document = copy.deepcopy(bases[draw(st.sampled_from(sorted(bases)))])
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        found = list(places(document))
        if not found:
            break
        place = draw(st.sampled_from(found))
        holder, last = value_at(document, place[:-1]), place[-1]
        field = next((part for part in reversed(place) if isinstance(part, str)), "")
        match draw(st.sampled_from(("change", "change", "change", "odd", "drop", "rename", "double", "add", "known"))):
            case "change" if field in _BY_FIELD and last == field:
                holder[last] = copy.deepcopy(draw(st.sampled_from(_BY_FIELD[field])))
            case "change" | "odd":
                holder[last] = draw(values.anything)
            case "drop":
                del holder[last]
            case "rename" if isinstance(holder, dict):
                holder[draw(values.texts)] = holder.pop(last)
            case "double" if isinstance(holder, list) and isinstance(last, int):
                holder.insert(last, copy.deepcopy(holder[last]))
            case "known":
                # A field with a value of its own, where it may not belong.
                name = draw(st.sampled_from(sorted(_BY_FIELD)))
                target = holder if isinstance(holder, dict) else document
                target[name] = copy.deepcopy(draw(st.sampled_from(_BY_FIELD[name])))
            case _:
                target = holder if isinstance(holder, dict) else document
                target[draw(values.texts)] = draw(values.anything)
    return document


@st.composite
def written(draw: st.DrawFn, document: Any) -> bytes:
    """A document as YAML, in block or flow style or as JSON (which is YAML as well)."""
    style = draw(st.sampled_from(("block", "block", "flow", "json")))
    if style == "json":
        return json.dumps(document).encode()
    return yaml.safe_dump(document, default_flow_style=style == "flow", allow_unicode=True, sort_keys=False).encode()


@st.composite
def damaged(draw: st.DrawFn, text: bytes) -> bytes:
    """A file with one to four accidents: bytes put in, taken out, doubled or changed; lines moved; cut short."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.integers(1, 40)))
        match draw(
            st.sampled_from(("put", "put", "take", "double", "flip", "cut", "indent", "line", "shuffle", "newline"))
        ):
            case "put":
                text = text[:at] + draw(st.sampled_from(_TEXT_DAMAGE)) + text[at:]
            case "take":
                text = text[:at] + text[end:]
            case "double":
                text = text[:end] + text[at:end] + text[end:]
            case "flip":
                text = text[:at] + bytes([draw(st.integers(0, 255))]) + text[at + 1 :]
            case "cut":
                text = text[:at]
            case "indent":
                text = text.replace(b"\n", b"\n ", draw(st.integers(0, 5)))
            case "line":
                lines = text.splitlines(keepends=True) or [b""]
                index = draw(st.integers(0, len(lines) - 1))
                text = b"".join([*lines[:index], lines[index], *lines[index:]])
            case "shuffle":
                lines = text.splitlines(keepends=True)
                random.Random(draw(st.integers(0, 99))).shuffle(lines)
                text = b"".join(lines)
            case "newline":
                text = text.replace(b"\n", draw(st.sampled_from((b"\r\n", b"\r", "\x85".encode(), "\u2028".encode()))))
    return text


def furnish(folder: Path) -> None:
    """What files of a case may refer to by path: good and bad traces, a folder, a pipe, a link to itself, nothing."""
    import os

    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    os.mkfifo(folder / "fifo.csv")
    (folder / "loop").symlink_to("loop")
    (folder / "empty").touch()
    (folder / "empty.csv").touch()
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    rows = "".join(f"2023-11-16 18:{15 + index // 60:02d}:{index % 60:02d}.5,{100 + index},{4 + index % 30}\n"
                   for index in range(0, 300, 3))  # fmt: skip
    (folder / "trace.csv").write_text(head + rows)
    (folder / "bad.csv").write_text(head + "2023-11-16 18:15:46.6805900,nan,4\n")
