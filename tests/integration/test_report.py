"""`harness report` of a small simulated sweep, and of folders that are not what they should be."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.integration.support import harness, outcome_json, read, write_sweep

REPLAYS = "replays:\n  - {trace: azure2023-conv, duration: 20s, slice: median, rate: 'capacity:0.5'}\nmeasurement"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    write_sweep(folder, ("measurement", REPLAYS))
    done = harness("sweep", "sweep.yaml", "--results", "here", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_terminal_and_the_page_begin_with_the_source(swept: Path) -> None:
    shown = harness("report", "here", cwd=swept)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[0].startswith("SIMULATED: no hardware was measured")
    written = harness("report", "here", "--out", "report.html", cwd=swept)
    assert (written.returncode, written.stdout, written.stderr) == (0, "report.html: written\n", "")
    text = (swept / "report.html").read_text("utf-8")
    assert "SIMULATED: no hardware was measured" in text
    assert text.count("<img ") == 6
    assert not list(swept.glob(".report*"))


def test_json_agrees_with_the_runs_themselves(swept: Path) -> None:
    tables = outcome_json(harness("report", "here", "--json", cwd=swept))["tables"]
    assert isinstance(tables, dict)
    runs = read(swept / "here")
    replays = runs[(runs["workload"] == "replay") & (runs["purpose"] != "warmup")]
    composed = {row["deployment"]: row for row in tables["decode_batches"]["rows"]}
    energies = {row["deployment"]: row for row in tables["replay_energy"]["rows"]}
    assert len(composed) == len(energies) == 2
    for tp, of_tp in replays.groupby("tp"):
        name = f"h100 llama-2-7b tp{tp} pp1 vllm@8192"
        steps = pd.read_parquet(swept / "here" / "iterations")
        steps = steps[steps["run_id"].isin(of_tp["run_id"])]
        decoding = steps[steps["decode_requests"] > 0]
        mean = (decoding["decode_requests"] * decoding["n_steps"]).sum() / decoding["n_steps"].sum()
        assert composed[name]["mean"] == pytest.approx(mean)
        assert composed[name]["mean"] == pytest.approx(of_tp["decode_batch_mean"].mean(), rel=0.05)
        assert energies[name]["j_per_request"] == pytest.approx((of_tp["gpu_energy_j"] / of_tp["requests"]).mean())
    served = sum(row["finished"] for row in tables["outcomes"]["rows"])
    assert served == replays["requests"].sum()
    profile = [row for row in tables["length_quantiles"]["rows"] if row["of"] == "trace's profile"]
    assert {row["n"] for row in profile} == {19366}


def test_without_a_folder_the_only_one_is_taken(swept: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "one").symlink_to(swept / "here")
    assert harness("report", cwd=tmp_path).returncode == 0
    (tmp_path / "results" / "two").symlink_to(swept / "here")
    done = harness("report", cwd=tmp_path)
    assert done.returncode == 2
    assert "results/one, results/two" in done.stderr


def test_an_empty_folder_has_an_empty_report(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shown = harness("report", "empty", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("No runs: nothing was measured yet.")
    report = json.loads(harness("report", "empty", "--json", cwd=tmp_path).stdout)
    assert (report["sources"], report["tables"]) == ([], {})
    assert harness("report", "empty", "--out", "e.html", cwd=tmp_path).returncode == 0
    assert "No runs: nothing was measured yet." in (tmp_path / "e.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "nowhere"),
        (["file.txt"], "file.txt"),
        (["."], "a results folder, which holds a table `runs`"),
        ([], "none found under results/"),
        ([".", "--out", "no/such/report.html"], "mkdir no/such"),
        ([".", "--nonsense"], "--nonsense"),
    ],
)
def test_what_is_no_results_folder_is_refused_in_one_line(tmp_path: Path, arguments: list[str], expected: str) -> None:
    (tmp_path / "file.txt").write_text("mine")
    done = harness("report", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert expected in done.stderr
