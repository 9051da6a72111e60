"""What generated cases have found, each as small as it is; all of it ends with one line that says what is wrong."""

import gzip
import os
from pathlib import Path

import pytest
import yaml

from tests.fuzz.cases import Ended, check_outcome, run
from tests.fuzz.documents import DEPLOYMENTS
from tests.fuzz.folders import write_results
from tests.unit.builders import write_sweep

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def refused(folder: Path, *words: str) -> Ended:
    ended = run(*words, cwd=folder)
    check_outcome(ended, 2)
    return ended


@pytest.mark.parametrize("words", [
    ("traces", "describe", "./fifo.csv"), ("predict", "--in", "fifo.csv", "--out", "x.csv", "--predictor", "R"),
    ("replay", "sweep.yaml", "--trace", "./fifo.csv", "--dry-run"),
], ids=lambda words: words[0])  # fmt: skip
def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path: Path, words: tuple[str, ...]) -> None:
    os.mkfifo(tmp_path / "fifo.csv")
    write_sweep(tmp_path)
    assert "not a regular file" in refused(tmp_path, *words).err


def test_a_megabyte_of_values_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("- x\n" * 100_000)
    assert "more than 20000 values" in refused(tmp_path, "sweep", "sweep.yaml").err


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("sweep: small", "sweep: small\n'': 1"), "sweep.yaml: '': 1; accepted: no such field here"),
        (("sweep: small", 'sweep: small\n"\\e[1m": 1'), "sweep.yaml: '\\x1b[1m': 1; accepted: no such field here"),
        (("nodes: [dgx-h100]", "nodes: [8]"), "nodes[0]: 8; accepted: text: in quotes where it looks like a number"),
        (("sizes: [1, 8]", "sizes: [x]"), "batches[0].sizes[0]: 'x'; accepted: a whole number"),
        (("repetitions: 2", f"repetitions: {'9' * 5000}"), "(4300 digits) for integer string conversion"),
    ],
)
def test_lines_name_what_is_wrong_in_a_sweep_file(tmp_path: Path, change: tuple[str, str], line: str) -> None:
    write_sweep(tmp_path, change)
    assert line in refused(tmp_path, "sweep", "sweep.yaml").err


@pytest.mark.parametrize(
    ("path", "value", "accepted"),
    [
        ("cpu.package_wrap_j", 1e300, "less than or equal to 1000000000000"),
        ("gpu.memory_gib", 1e300, "equal to 100000"),
        ("gpu.peak_tflops", 1e-300, "greater than or equal to 0.01"),
        ("cpu.idle_w", 1e-300, "greater than or equal to 0.1"),
    ],
)  # fmt: skip
def test_hardware_that_no_counter_or_clock_can_hold(tmp_path: Path, path: str, value: float, accepted: str) -> None:
    node = yaml.safe_load((DEPLOYMENTS / "nodes" / "dgx-a100.yaml").read_text())
    part, name = path.split(".")
    node[part][name] = value
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(node))
    write_sweep(tmp_path, ("[dgx-h100]", "[./node.yaml]"))
    line = refused(tmp_path, "sweep", "sweep.yaml", "--dry-run").err
    assert f"node.yaml: {path}: {value}; accepted: " in line
    assert accepted in line


def test_what_cannot_be_read_is_not_called_a_fix(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "in.csv").write_bytes(b"gpu,model\n\xff,x\n")
    for words in (
        ("predict", "--model", "./config.json", "--gpu", "a100", "--batch", "1", "--prompt", "1", "--generate", "1"),
        ("predict", "--in", "in.csv", "--out", "x.csv"),
    ):
        assert "; fix: " not in refused(tmp_path, *words).err


def test_a_trace_under_a_name_that_commands_a_terminal(tmp_path: Path) -> None:
    name = "x\x1b[31m\u202e.csv"
    (tmp_path / name).write_bytes(gzip.compress((HEAD + "2023-11-16 18:15:46.6805900,100,4\n").encode()))
    ended = run("traces", "describe", f"./{name}", cwd=tmp_path)
    check_outcome(ended, 0)
    assert "x\ufffd[31m\ufffd" in ended.out


def test_stamps_that_lie_millennia_apart_take_no_more_memory_than_others(tmp_path: Path) -> None:
    (tmp_path / "far.csv").write_text(HEAD + "0001-01-01 00:00:00,100,4\n9999-12-31 23:59:59,100,5\n")
    write_sweep(tmp_path)
    described = run("traces", "describe", "./far.csv", cwd=tmp_path)
    check_outcome(described, 0)
    assert "5258964960, 5258964958 of them empty; 1 requests in the busiest minute" in described.out
    words = ("replay", "sweep.yaml", "--trace", "./far.csv", "--duration", "1s", "--dry-run")
    check_outcome(run(*words, cwd=tmp_path), 0)


def test_a_table_of_results_that_links_to_itself(tmp_path: Path) -> None:
    write_results(tmp_path / "R")
    (tmp_path / "R" / "runs").unlink()
    (tmp_path / "R" / "runs").symlink_to("runs")
    ended = run("status", "--results", "R", cwd=tmp_path)
    check_outcome(ended, 1)
    assert "R/runs: cannot be followed" in ended.err


def test_a_pipe_among_the_segments_of_results(tmp_path: Path) -> None:
    write_results(tmp_path / "R")
    os.mkfifo(tmp_path / "R" / "runs" / "000002.parquet")
    ended = run("status", "--results", "R", cwd=tmp_path)
    check_outcome(ended, 1)
    assert "000002.parquet: not one of the harness's segments" in ended.err


def test_a_trace_with_fewer_lengths_than_deployments_ask_for(tmp_path: Path) -> None:
    """Deployments share what there is; only what one of them asks for must be there."""
    rows = "".join(f"2023-11-16 18:15:{second}.0,{100 + second},4\n" for second in range(10, 13))
    (tmp_path / "day.csv").write_text(HEAD + rows)
    for count, code in ((3, 0), (4, 2)):
        grid = "grid: {prompt_tokens: [128], generated_tokens: [16]}"
        write_sweep(tmp_path, (grid, f"sampled: {{trace: ./day.csv, per_deployment: {count}}}"))
        ended = run("sweep", "sweep.yaml", "--dry-run", cwd=tmp_path)
        check_outcome(ended, code)
        assert (
            code == 0 or "batches[0].sampled: per_deployment: 4; accepted: at most the 3 different lengths" in ended.err
        )


@pytest.mark.parametrize("name", [" ", "./ "])
def test_a_name_of_nothing_but_a_blank_is_still_seen(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path, "sweep", name).err.startswith("harness: ' ': ")
    (tmp_path / " ").mkdir()
    assert refused(tmp_path, "sweep", name).err.startswith("harness: ' ': ")


def test_no_number_for_an_option(tmp_path: Path) -> None:
    line = refused(tmp_path, "sweep", "sweep.yaml", "--points", "five").err
    assert "'five'" in line
    assert "accepted: a whole number from 1 to 10000000" in line
