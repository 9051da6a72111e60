"""Whatever a person gets wrong on the command line: one line, exit code 2, no run recorded."""

import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.integration.support import harness, write_sweep

TRACE_HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def assert_one_line(done: subprocess.CompletedProcess[str], *expected: str) -> None:
    assert done.returncode == 2, done.stderr + done.stdout
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("harness: ")
    for text in expected:
        assert text in lines[0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sweep", "none.yaml"], "an existing sweep file"),
        (["sweep"], "harness sweep deployments/simulated-dgx.yaml"),
        (["sweep", "sweep.yaml", "--budget", "5x"], "5x"),
        (["sweep", "sweep.yaml", "--budget", "-1h"], "--budget"),
        (["sweep", "sweep.yaml", "--points", "0"], "--points"),
        (["sweep", "sweep.yaml", "--repetitions", "five"], "--repetitions"),
        (["sweep", "sweep.yaml", "--cluster", "mesos"], "mesos"),
        (["sweep", "sweep.yaml", "--seed", "-1"], "--seed"),
        (["sweep", "sweep.yaml", "--results", "sweep.yaml"], "sweep.yaml"),
        (["sweep", "sweep.yaml", "--results", "/proc/nowhere"], "/proc/nowhere"),
        (["sweep", "sweep.yaml", "--nonsense"], "--nonsense"),
        (["frobnicate"], "frobnicate"),
        (["replay", "sweep.yaml", "--trace", "empty.csv"], "empty.csv"),
        (["replay", "sweep.yaml", "--trace", "long.csv"], "context"),
        (["replay", "sweep.yaml", "--trace", "nan.csv"], "line 2"),
        (["replay", "sweep.yaml", "--trace", "azure2023-chat"], "azure2023-conv"),
        (["replay", "sweep.yaml", "--trace", "good.csv", "--duration", "nan"], "--duration"),
        (["replay", "sweep.yaml", "--trace", "good.csv", "--start", "999999"], "slice"),
        (["replay", "sweep.yaml", "--trace", "good.csv", "--rate-scale", "0"], "--rate-scale: '0'"),
        (["replay", "sweep.yaml", "--trace", "good.csv", "--rate-scale", "capacity:-1"], "capacity:-1"),
        (["replay", "sweep.yaml"], "--trace"),
        (["status", "--results", "nowhere"], "nowhere"),
        (["status"], "--results"),
        (["merge", "--results", "x"], "DIR"),
        (["merge", "nowhere", "--results", "x"], "nowhere"),
        (["traces", "describe", "none.csv"], "none.csv"),
        (["traces", "fetch", "azure1999"], "azure1999"),
        (["next", "sweep.yaml", "--points", "-3"], "--points"),
    ],
)  # fmt: skip
def test_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], expected: str) -> None:
    write_sweep(tmp_path)
    (tmp_path / "empty.csv").write_text(TRACE_HEAD)
    (tmp_path / "nan.csv").write_text(TRACE_HEAD + "2023-11-16 18:15:46.6805900,nan,4\n")
    rows = "2023-11-16 18:15:46.6805900,100,4\n2023-11-16 18:17:50.6805900,100,4\n"
    (tmp_path / "good.csv").write_text(TRACE_HEAD + rows)
    sweep = "".join((tmp_path / "sweep.yaml").read_text())
    if "long.csv" in arguments:
        # Every request over the context, and a policy that drops such requests.
        replays = "replays:\n  - {trace: long.csv, duration: 1s, context_policy: drop}\nmeasurement"
        (tmp_path / "sweep.yaml").write_text(sweep.replace("measurement", replays))
        (tmp_path / "long.csv").write_text(TRACE_HEAD + "2023-11-16 18:15:46.6805900,9000,4\n")
        arguments = ["sweep", "sweep.yaml"]
    assert_one_line(harness(*arguments, cwd=tmp_path), expected)
    assert not (tmp_path / "results").exists()


def test_a_simulated_sweep_into_measured_runs_is_refused(tmp_path: Path) -> None:
    from harness.store import Writer
    from tests.unit.store_factory import make_bundle

    bundle = make_bundle(source="measured")
    with Writer(tmp_path / "measured", source="measured", owner="test") as writer:
        writer.append([bundle])
    write_sweep(tmp_path)
    done = harness("sweep", "sweep.yaml", "--results", "measured", cwd=tmp_path)
    assert_one_line(done, "measured", "simulated")


def test_a_folder_of_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    assert harness("sweep", "sweep.yaml", "--results", "out", cwd=tmp_path).returncode == 0
    (segment,) = (tmp_path / "out" / "runs").glob("*.parquet")
    table = pq.read_table(segment)
    metadata = table.schema.metadata | {b"harness.schema_version": b"99"}
    pq.write_table(table.replace_schema_metadata(metadata), segment)
    before = segment.read_bytes()
    for arguments in (["sweep", "sweep.yaml", "--results", "out"], ["status", "--results", "out"]):
        assert_one_line(harness(*arguments, cwd=tmp_path), "version 99", "upgrade")
    assert segment.read_bytes() == before


def test_a_folder_in_use_names_its_owner(tmp_path: Path) -> None:
    import os

    from harness.store import Writer

    write_sweep(tmp_path)
    with Writer(tmp_path / "busy", source="simulated", owner="the other sweep"):
        done = harness("sweep", "sweep.yaml", "--results", "busy", cwd=tmp_path)
    assert_one_line(done, "the other sweep", str(os.getpid()))
