"""Sweep files, and the kinds of node and shapes of models that they name by path, with whatever can be wrong in them.

Each ends with code 0 where it is in fact good, and otherwise with one line that names the field, its value and what is
accepted; nothing hangs, and nothing is recorded: neither by a dry run nor by the sweep itself.
"""

import contextlib
import json
import os
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.amounts import cases, slow_if_large
from tests.fuzz.cases import Ended, case_folder, check_outcome, run, tree
from tests.fuzz.documents import (
    WHOLE_FILES,
    damaged,
    furnish,
    mutated,
    nodes,
    places,
    shapes,
    shown_place,
    sweeps,
    with_value,
    written,
)
from tests.unit.builders import SMALL_SWEEP

Counts = Counter[tuple[str, str]]
BASES = {**sweeps(), "small": yaml.safe_load(SMALL_SWEEP)}
SMALL = yaml.safe_load(SMALL_SWEEP)
EVEN = [name for name, shape in shapes().items() if shape["num_attention_heads"] % 8 == 0 and name != "tiny-llama"]
"""Models that can be split eight ways."""
DRY = ("--dry-run", "--points", "2", "--repetitions", "1", "--max-attempts", "1")


def looked_at(folder: Path, *more: str) -> Ended:
    """How a dry run of sweep.yaml ends; where it is refused the sweep itself is tried too, and ends alike."""
    before = tree(folder)
    ended = run("sweep", "sweep.yaml", *DRY, *more, cwd=folder)
    check_outcome(ended, 0, 2)
    if ended.code == 2:
        done = run("sweep", "sweep.yaml", "--results", "results", cwd=folder)
        check_outcome(done, 2)
        assert done.err == ended.err
    assert tree(folder) == before
    return ended


@cases(12)
@given(data=st.data())
def test_entries_of_sweep_files(made: Path, counted: Counts, data: st.DataObject) -> None:
    with case_folder(made) as folder:
        furnish(folder)
        document = data.draw(mutated(BASES))
        (folder / "sweep.yaml").write_bytes(data.draw(written(document)))
        ended = looked_at(folder)
    counted["sweep file: entries", ended.kind] += 1


@cases(8)
@given(data=st.data())
def test_damaged_text_of_sweep_files(made: Path, counted: Counts, data: st.DataObject) -> None:
    with case_folder(made) as folder:
        furnish(folder)
        text = data.draw(written(BASES[data.draw(st.sampled_from(sorted(BASES)))]))
        (folder / "sweep.yaml").write_bytes(data.draw(damaged(text)))
        ended = looked_at(folder)
    counted["sweep file: text", ended.kind] += 1


@cases(5)
@given(data=st.data())
def test_a_wrong_type_is_named_with_its_place_and_value(made: Path, counted: Counts, data: st.DataObject) -> None:
    """A mapping with an unknown key fits nowhere but under `environment`, so the line must name it there or in it."""
    document = BASES[data.draw(st.sampled_from(sorted(BASES)))]
    place = data.draw(st.sampled_from([one for one in places(document) if "environment" not in one]))
    with case_folder(made) as folder:
        (folder / "sweep.yaml").write_bytes(data.draw(written(with_value(document, place, {"no such": "entry"}))))
        ended = looked_at(folder)
    assert ended.code == 2
    assert f"harness: sweep.yaml: {shown_place(place)}" in ended.err
    assert "no such" in ended.err or "(missing)" in ended.err
    counted["sweep file: wrong type", ended.kind] += 1


@cases(4)
@given(data=st.data())
def test_shapes_of_models(made: Path, counted: Counts, data: st.DataObject) -> None:
    text = json.dumps(data.draw(mutated(shapes()))).encode()
    if data.draw(st.integers(0, 3)) == 0:
        text = data.draw(damaged(text) | st.sampled_from(WHOLE_FILES))
    with case_folder(made) as folder:
        (folder / "config.json").write_bytes(text)
        (folder / "sweep.yaml").write_text(yaml.safe_dump({**SMALL, "models": ["./config.json"]}))
        ended = looked_at(folder)
    counted["model's config.json", ended.kind] += 1


@cases(4)
@given(data=st.data())
def test_kinds_of_node(made: Path, counted: Counts, data: st.DataObject) -> None:
    text = data.draw(mutated(nodes()).flatmap(written))
    if data.draw(st.integers(0, 3)) == 0:
        text = data.draw(damaged(text) | st.sampled_from(WHOLE_FILES))
    with case_folder(made) as folder:
        (folder / "node.yaml").write_bytes(text)
        (folder / "sweep.yaml").write_text(yaml.safe_dump({**SMALL, "nodes": ["./node.yaml"]}))
        ended = looked_at(folder)
    counted["kind of node", ended.kind] += 1


@pytest.mark.parametrize("index", [slow_if_large(index, one) for index, one in enumerate(WHOLE_FILES)])
def test_files_that_are_something_else(made: Path, counted: Counts, index: int) -> None:
    """Empty, binary, ten megabytes, bombs of aliases, endless nesting, tags of Python, other encodings."""
    with case_folder(made) as folder:
        (folder / "sweep.yaml").write_bytes(WHOLE_FILES[index])
        ended = looked_at(folder)
    assert ended.code == 2
    counted["sweep file: something else", ended.kind] += 1


@pytest.mark.parametrize("kind", ["folder", "fifo", "loop", "dangling", "socket", "device", "unreadable"])
def test_paths_that_are_no_file(made: Path, counted: Counts, kind: str) -> None:
    with case_folder(made) as folder, socket.socket(socket.AF_UNIX) as listening:
        path = folder / "sweep.yaml"
        match kind:
            case "folder":
                path.mkdir()
            case "fifo":
                os.mkfifo(path)
            case "loop":
                path.symlink_to("sweep.yaml")
            case "dangling":
                path.symlink_to("nowhere")
            case "socket":
                with contextlib.chdir(folder):  # the name of a socket is short
                    listening.bind("sweep.yaml")
            case "device":
                path.symlink_to("/dev/zero")
            case _:
                path.symlink_to("/proc/self/mem")
        ended = looked_at(folder)
    assert ended.code == 2
    counted["sweep file: no file", ended.kind] += 1


def good() -> st.SearchStrategy[dict[str, Any]]:
    """Sweep files in which nothing is wrong."""
    engine = st.fixed_dictionaries(
        {
            "name": st.sampled_from(("vllm", "sarathi", "transformers")),
            "token_budget": st.integers(128, 16_384),
            "max_sequences": st.integers(1, 128),
            "max_context_tokens": st.integers(64, 2048),
        },
        optional={"stream_interval": st.integers(1, 100), "ready_limit": st.sampled_from(("1s", "5m", "4h"))},
    )
    tokens = st.lists(st.integers(1, 900), min_size=1, max_size=3)
    grid = st.fixed_dictionaries({"prompt_tokens": tokens, "generated_tokens": tokens})
    sampled = st.fixed_dictionaries(
        {"trace": st.sampled_from(("azure2023-conv", "azure2023-code")), "per_deployment": st.integers(1, 4)}
    )
    sizes = {"sizes": st.lists(st.integers(1, 64), min_size=1, max_size=4)}
    batch = st.fixed_dictionaries({**sizes, "grid": grid}) | st.fixed_dictionaries({**sizes, "sampled": sampled})
    split = st.sampled_from([{"tp": 1}, {"tp": 2}, {"tp": 8}, {"tp": 1, "pp": 2}, {"tp": 2, "pp": 4}])
    return st.fixed_dictionaries(
        {
            "sweep": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True),
            "simulate": st.just(True),
            "nodes": st.lists(st.sampled_from(sorted({"dgx-a100", "dgx-h100", "dgx-h200"})), min_size=1, unique=True),
            "models": st.lists(st.sampled_from(EVEN), min_size=1, max_size=3, unique=True),
            "bits": st.lists(st.sampled_from((32, 16, 8)), min_size=1, max_size=2, unique=True),
            "parallelism": st.lists(split, min_size=1, max_size=3, unique_by=str),
            "engines": st.lists(engine, min_size=1, max_size=2, unique_by=lambda one: one["name"]),
            "batches": st.lists(batch, min_size=1, max_size=2),
        },
        optional={
            "measurement": st.fixed_dictionaries(
                {}, optional={"repetitions": st.integers(1, 9), "window": st.sampled_from(("500ms", "2s")),
                              "probes": st.fixed_dictionaries({"points": st.integers(0, 2)})}),
            "sampling": st.fixed_dictionaries({}, optional={"target_mape": st.sampled_from(("5%", "0.5 %"))}),
        },
    )  # fmt: skip


def reordered(document: Any, data: st.DataObject) -> Any:
    """The same mapping with its keys in another order, on every level."""
    if isinstance(document, dict):
        keys = data.draw(st.permutations(list(document)))
        return {key: reordered(document[key], data) for key in keys}
    if isinstance(document, list):
        return [reordered(one, data) for one in document]
    return document


@cases(2)
@given(data=st.data())
def test_a_good_file_is_taken_and_its_points_do_not_depend_on_how_it_is_written(
    made: Path, counted: Counts, data: st.DataObject
) -> None:
    from harness.deployment.sweepfile import load_sweep
    from harness.space import build_space
    from harness.workload.library import find_trace

    document = data.draw(good())
    with case_folder(made) as folder:
        texts = (data.draw(written(document)), data.draw(written(reordered(document, data))))
        found = []
        for text in texts:
            (folder / "sweep.yaml").write_bytes(text)
            loaded = load_sweep(folder / "sweep.yaml")
            space = build_space(loaded, find_trace, 0)
            found.append([item.point.point_id for group in space.groups for item in group.candidates])
        assert found[0] == found[1]
        assert found[0]
        ended = looked_at(folder)
    assert ended.code == 0, ended.err
    counted["sweep file: good", ended.kind] += 1
