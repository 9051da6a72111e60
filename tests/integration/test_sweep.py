"""The main job from outside: a sweep on simulated nodes, its tables, its resumption."""

import json
from pathlib import Path

import pandas as pd
import pytest

from harness.schema import RUN_COLUMNS
from tests.integration.support import harness, outcome_json, read, write_sweep

REPLAYS = "replays:\n  - {trace: azure2023-conv, duration: 10s, rate: 'capacity:0.5', drain: 20s}\nmeasurement"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small sweep was measured once, into `out`."""
    folder = tmp_path_factory.mktemp("sweep")
    write_sweep(folder, ("[dgx-h100]", "[dgx-h100, dgx-a100]"), ("measurement", REPLAYS), ("repetitions: 2,", ""))
    done = harness("sweep", "sweep.yaml", "--results", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "closing.txt").write_text(done.stdout)
    return folder


def test_runs_have_the_contracts_columns(swept: Path) -> None:
    runs = read(swept / "out")
    assert list(runs.columns) == list(RUN_COLUMNS)
    assert set(runs["source"]) == {"simulated"}
    assert set(runs["gpu_source"].dropna()) == {"simulated"}


def test_five_valid_repetitions_per_point(swept: Path) -> None:
    runs = read(swept / "out").query("purpose == 'sweep'")
    assert set(runs["status"]) == {"ok"}
    assert (runs.groupby("point_id")["repetition"].apply(sorted).map(tuple) == (1, 2, 3, 4, 5)).all()
    points = runs.drop_duplicates("point_id")
    assert points.groupby(["gpu", "tp", "workload"]).size().to_dict() == {
        (gpu, tp, workload): count for gpu in ("a100", "h100") for tp in (1, 2)
        for workload, count in (("batch", 2), ("replay", 1))
    }  # fmt: skip


def test_energies_are_plausible_and_add_up(swept: Path) -> None:
    runs = read(swept / "out").query("purpose == 'sweep' and workload == 'batch'")
    assert (runs["gpu_prefill_energy_j"] > 0).all()
    assert (runs["gpu_energy_j"] > runs["gpu_prefill_energy_j"]).all()
    total = runs["gpu_prefill_energy_j"] + runs["gpu_decode_energy_j"]
    pd.testing.assert_series_equal(total, runs["gpu_energy_j"], check_names=False)
    assert (runs["gpu_energy_by_gpu_j"].map(sum) - runs["gpu_energy_j"]).abs().max() < 1e-6
    mean_w = runs["gpu_energy_j"] / runs["duration_s"] / runs["n_gpus"]
    assert mean_w.between(50, 700).all()
    assert (runs["window_s"] >= 0.5).all()
    assert (runs["gpu_cold_idle_w"] < runs["gpu_loaded_idle_w"]).all()
    assert (runs["gpu_net_energy_j"] < runs["gpu_energy_j"]).all()


def test_absent_domains_are_null_with_a_reason(swept: Path) -> None:
    runs = read(swept / "out").query("purpose == 'sweep'")
    a100, h100 = runs[runs["gpu"] == "a100"], runs[runs["gpu"] == "h100"]
    assert a100["dram_energy_j"].isna().all()
    assert a100["dram_reason"].str.contains("DRAM").all()
    assert h100["dram_energy_j"].notna().all()
    assert h100["dram_reason"].isna().all()
    assert runs["rest_energy_j"].isna().all()
    assert runs["rest_reason"].notna().all()


def test_details_belong_to_runs_and_sum_to_what_was_asked(swept: Path) -> None:
    runs = read(swept / "out").query("purpose == 'sweep'")
    keys = ["point_id", "environment_id", "launch_id", "repetition", "attempt"]
    ids = set(runs[keys].astype(str).agg(".".join, axis=1))
    for table in ("requests", "iterations", "power"):
        assert set(read(swept / "out", table)["run_id"]) == ids
    requests = read(swept / "out", "requests")
    assert (requests["generated_tokens"] == requests["asked_tokens"]).all()
    steps = read(swept / "out", "iterations")
    produced = steps.eval("n_steps * decode_requests").groupby([steps["run_id"], steps["window"]]).sum()
    decoded = (requests["generated_tokens"] - 1).groupby([requests["run_id"], requests["window"]]).sum()
    pd.testing.assert_series_equal(produced, decoded, check_names=False, check_dtype=False)
    prefilled = (steps["prefill_tokens"]).groupby([steps["run_id"], steps["window"]]).sum()
    prompts = requests["prompt_tokens"].groupby([requests["run_id"], requests["window"]]).sum()
    pd.testing.assert_series_equal(prefilled, prompts, check_names=False, check_dtype=False)


def test_the_trace_is_named_for_what_it_is(swept: Path) -> None:
    assert set(read(swept / "out").query("workload == 'replay'")["trace"]) == {"azure2023-conv-profile"}


def test_the_real_trace_is_used_and_named_when_its_csv_is_there(tmp_path: Path, data_dir: Path) -> None:
    write_sweep(tmp_path, ("[{tp: 1}, {tp: 2}]", "[{tp: 1}]"), ("measurement", REPLAYS))
    done = harness("sweep", "sweep.yaml", "--results", "out", cwd=tmp_path, HARNESS_TRACES=str(data_dir / "azure"))
    assert done.returncode == 0, done.stderr
    assert set(read(tmp_path / "out").query("workload == 'replay'")["trace"]) == {"azure2023-conv"}


def test_again_there_is_nothing_left(swept: Path) -> None:
    before = read(swept / "out")
    done = harness("sweep", "sweep.yaml", "--results", "out", cwd=swept)
    assert done.returncode == 0
    assert "Nothing left to do" in done.stdout
    pd.testing.assert_frame_equal(read(swept / "out"), before)


def test_the_closing_table_names_every_deployment_and_says_simulated(swept: Path) -> None:
    text = (swept / "closing.txt").read_text()
    for label in ("a100 llama-2-7b tp1 pp1 vllm", "h100 llama-2-7b tp2 pp1 vllm"):
        assert label in text
    assert "Every number above is simulated" in text
    assert "harness traces fetch azure2023-conv" in text
    assert max(map(len, text.splitlines())) <= 160


def test_more_repetitions_are_added_to_those_there_are(swept: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(swept / "out", tmp_path / "out", symlinks=True)
    write_sweep(tmp_path, ("[dgx-h100]", "[dgx-h100, dgx-a100]"), ("measurement", REPLAYS), ("repetitions: 2,", ""))
    outcome = outcome_json(
        harness("sweep", "sweep.yaml", "--results", "out", "--repetitions", 6, "--json", cwd=tmp_path)
    )
    assert (outcome["runs_taken"], outcome["runs_left"]) == (12, 0)


def test_infeasible_points_are_recorded_once_with_their_reason(tmp_path: Path) -> None:
    write_sweep(tmp_path, ("[llama-2-7b]", "[llama-2-70b]"), ("[{tp: 1}, {tp: 2}]", "[{tp: 1}, {tp: 8}]"))
    for _ in range(2):
        done = harness("sweep", "sweep.yaml", "--results", "out", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    infeasible = read(tmp_path / "out").query("status == 'infeasible'")
    assert infeasible["tp"].tolist() == [1, 1]
    assert infeasible["reason"].str.contains("weights need").all()
    assert infeasible["gpu_energy_j"].isna().all()


def test_saturation_is_an_outcome(tmp_path: Path) -> None:
    replays = "replays:\n  - {trace: azure2023-conv, duration: 20s, rate: '200', drain: 1s}\nmeasurement"
    write_sweep(tmp_path, ("measurement", replays), ("[{tp: 1}, {tp: 2}]", "[{tp: 1}]"))
    done = harness("sweep", "sweep.yaml", "--results", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    replayed = read(tmp_path / "out").query("workload == 'replay' and purpose == 'sweep'")
    assert set(replayed["status"]) == {"saturated"}
    assert replayed["reason"].str.contains("not yet begun").all()
    assert (replayed["requests_unfinished"] > 0).all()
    assert "saturated" in done.stdout


def test_a_budget_stops_between_runs_and_the_rest_is_taken_later(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    done = harness("sweep", "sweep.yaml", "--results", "out", "--budget", "1ms", "--json", cwd=tmp_path)
    first = outcome_json(done)
    assert first["runs_left"] == 8 - first["runs_taken"] > 0
    assert "Budget spent" in done.stderr
    assert outcome_json(harness("sweep", "sweep.yaml", "--results", "out", "--json", cwd=tmp_path))["runs_left"] == 0
    assert len(read(tmp_path / "out").query("purpose == 'sweep'")) == 8


def test_dry_run_measures_nothing_and_shows_the_cost(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    done = harness("sweep", "sweep.yaml", "--dry-run", "--json", cwd=tmp_path)
    plan = outcome_json(done)
    assert (plan["points"], plan["runs"], plan["launches"]) == (4, 8, 2)
    assert plan["source"] == "estimated by simulation"
    assert plan["gpu_hours"] == pytest.approx(plan["node_s"] * 8 / 3600)
    assert not (tmp_path / "results").exists()
    shown = harness("sweep", "sweep.yaml", "--dry-run", cwd=tmp_path).stdout
    assert "GPU-hours" in shown


def test_the_same_seed_gives_the_same_energies(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    for name in ("one", "two"):
        assert harness("sweep", "sweep.yaml", "--results", name, cwd=tmp_path).returncode == 0
    one, two = (
        read(tmp_path / name).sort_values(["point_id", "repetition"])["gpu_energy_j"].dropna().tolist()
        for name in ("one", "two")
    )
    assert one == two


def test_next_lists_what_is_missing_and_why(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    done = harness("next", "sweep.yaml", "--json", "--points", 3, cwd=tmp_path)
    picks = json.loads(done.stdout)
    assert [pick["runs"] for pick in picks] == [2, 2, 2]
    assert all(pick["why"] for pick in picks)
    assert harness("sweep", "sweep.yaml", cwd=tmp_path).returncode == 0
    assert "Nothing left" in harness("next", "sweep.yaml", cwd=tmp_path).stdout


def test_status_shows_progress(swept: Path) -> None:
    (standing,) = json.loads(harness("status", "--results", "out", "--json", cwd=swept).stdout)
    assert (standing["points_done"], standing["progress"], standing["source"]) == (12, 1.0, "simulated")
    assert "small" in harness("status", "--results", "out", cwd=swept).stdout


def test_merge_of_two_nodes_has_each_run_once(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    for name, nodes in (("a", "[dgx-h100]"), ("b", "[dgx-a100]")):
        write_sweep(tmp_path, ("[dgx-h100]", nodes))
        assert harness("sweep", "sweep.yaml", "--results", name, cwd=tmp_path).returncode == 0
    for _ in range(2):
        assert harness("merge", "a", "b", "--results", "lab", cwd=tmp_path).returncode == 0
    merged = read(tmp_path / "lab")
    assert len(merged) == len(read(tmp_path / "a")) + len(read(tmp_path / "b"))
    assert not merged.duplicated(["point_id", "environment_id", "launch_id", "repetition", "attempt"]).any()
