"""Traces with whatever can be wrong in them: described, replayed, and sampled from."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import tracefiles
from tests.fuzz.amounts import cases, slow_if_large
from tests.fuzz.cases import Ended, case_folder, check_outcome, run, tree
from tests.fuzz.documents import damaged
from tests.unit.builders import write_sweep

Counts = Counter[tuple[str, str]]
NAMES = (
    "day.csv",
    "day.csv",
    "day.csv.gz",
    "day.gz.csv",
    "a b.csv",
    "day\x1b[31m.csv",
    "day.CSV",
    "azure2023-conv.csv",
    "x\u202e.csv",
)
PARTS = (
    ("1s", "0", "1"), ("60s", "", "1"), ("2m", "", "capacity:0.8"), ("1s", "1", "x0.5"), ("1", "3.5", "1000"),
    ("4h", "", "1"), ("3000d", "", "1"), ("30s", "1h", "1"), ("1s", "0.0000001s", "0.01"),
)  # fmt: skip


def no_constant(text: str) -> float:
    raise AssertionError(f"{text} is no JSON")


def looked_at(folder: Path, name: str, part: tuple[str, str, str]) -> Ended:
    """How `traces describe` of a file ends; a replay and a sweep that use it must not do worse."""
    duration, start, rate = part
    before = tree(folder)
    ended = run("traces", "describe", f"./{name}", "--json", cwd=folder)
    check_outcome(ended, 0, 2)
    if ended.code == 0:
        figures = json.loads(ended.out, parse_constant=no_constant)
        assert figures["requests"] >= 1
        assert 0 <= figures["empty_minutes"] < figures["minutes"]
        assert all(math.isfinite(value) for value in figures["prompt_tokens"].values())
        check_outcome(run("traces", "describe", f"./{name}", cwd=folder), 0)
    where = ("--start", start) if start else ()
    words = ("--trace", f"./{name}", "--duration", duration, *where, "--rate-scale", rate)
    replayed = run("replay", "sweep.yaml", *words, "--dry-run", cwd=folder)
    check_outcome(replayed, 0, 2)
    if ended.code == 2:
        assert replayed.code == 2
        # Nor does the replay itself get further.
        check_outcome(run("replay", "sweep.yaml", *words, "--results", "results", cwd=folder), 2)
    assert tree(folder) == before
    return ended


@cases(14)
@given(data=st.data())
def test_odd_traces(made: Path, counted: Counts, data: st.DataObject) -> None:
    content = data.draw(tracefiles.odd_traces())
    if data.draw(st.integers(0, 5)) == 0:
        content = data.draw(damaged(content))
    name = data.draw(st.sampled_from(NAMES))
    with case_folder(made) as folder:
        write_sweep(folder)
        (folder / name).write_bytes(content)
        ended = looked_at(folder, name, data.draw(st.sampled_from(PARTS)))
    counted["trace", ended.kind] += 1


@cases(3)
@given(data=st.data())
def test_batches_drawn_from_odd_traces(made: Path, counted: Counts, data: st.DataObject) -> None:
    """Also: more lengths than the trace has, and a sweep file whose line names the entry that names the trace."""
    content = data.draw(tracefiles.odd_traces())
    drawn = f"sampled: {{trace: ./day.csv, per_deployment: {data.draw(st.sampled_from((1, 3, 60, 10_000)))}}}"
    with case_folder(made) as folder:
        write_sweep(folder, ("grid: {prompt_tokens: [128], generated_tokens: [16]}", drawn))
        (folder / "day.csv").write_bytes(content)
        before = tree(folder)
        ended = run("sweep", "sweep.yaml", "--dry-run", "--points", "2", cwd=folder)
        check_outcome(ended, 0, 2)
        if ended.code == 2:
            assert ended.err.startswith("harness: sweep.yaml: batches[0].sampled")
            check_outcome(run("sweep", "sweep.yaml", "--results", "results", cwd=folder), 2)
        assert tree(folder) == before
    counted["trace: batches drawn", ended.kind] += 1


@cases(2)
@given(rows=tracefiles.good_rows(), name=st.sampled_from(NAMES), packed=st.booleans())
def test_a_good_trace_is_taken(made: Path, counted: Counts, rows: list[list[str]], name: str, packed: bool) -> None:
    """Whatever its name says of how it is packed: the content counts."""
    import gzip

    content = tracefiles.written(",".join(tracefiles.HEAD), rows).encode()
    with case_folder(made) as folder:
        write_sweep(folder)
        (folder / name).write_bytes(gzip.compress(content) if packed else content)
        ended = looked_at(folder, name, PARTS[0])
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["requests"] == len(rows)
    counted["trace: good", ended.kind] += 1


@pytest.mark.parametrize("index", [slow_if_large(index, one) for index, one in enumerate(tracefiles.WHOLE_FILES)])
def test_files_that_are_something_else(made: Path, counted: Counts, index: int) -> None:
    with case_folder(made) as folder:
        write_sweep(folder)
        (folder / "day.csv").write_bytes(tracefiles.WHOLE_FILES[index])
        ended = looked_at(folder, "day.csv", PARTS[0])
    assert ended.code == 2
    counted["trace: something else", ended.kind] += 1


@pytest.mark.parametrize("kind", ["folder", "fifo", "loop", "dangling", "device", "process"])
def test_paths_that_are_no_file(made: Path, counted: Counts, kind: str) -> None:
    import os

    with case_folder(made) as folder:
        write_sweep(folder)
        path = folder / "day.csv"
        match kind:
            case "folder":
                path.mkdir()
            case "fifo":
                os.mkfifo(path)
            case "loop":
                path.symlink_to("day.csv")
            case "dangling":
                path.symlink_to("nowhere")
            case "device":
                path.symlink_to("/dev/zero")
            case _:
                path.symlink_to("/proc/self/mem")
        ended = looked_at(folder, "day.csv", PARTS[0])
    assert ended.code == 2
    counted["trace: no file", ended.kind] += 1
