"""Batch formation and the serving engine's energy: definitions, fits, and the tables beside the paper's figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from harness.errors import BadInput
from harness_analysis.engine_energy import (
    as_published,
    engine_table,
    fit_engine,
    formation,
    formation_table,
    held_out,
    idle_j,
    measured_j,
    task_of,
)
from harness_analysis.reports import reports
from tests.integration.support import harness, write_sweep

GPU_W, CPU_W, DRAM_W = 70.0, 150.0, 20.0
SECOND_W, TOKEN_J, REQUEST_J, STEP_J = 8.0, 0.01, 0.5, 0.02
REPLAYS = """\
replays:
  - {trace: azure2023-conv, duration: 15s, slice: median, rate: 'capacity:0.4'}
  - {trace: azure2023-code, duration: 15s, slice: median, rate: 'capacity:0.9'}
measurement"""
SWEEP = (("[{tp: 1}, {tp: 2}]", "[{tp: 1}]"), ("[1, 8]", "[1, 4, 32]"), ("[128]", "[100, 1500]"), ("[16]", "[8, 100]"))


def replays(**changes: Any) -> pd.DataFrame:
    """Six replays of one deployment, three loads of chat and of code, whose engine takes just what the terms say."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "deployment": "one",
            "trace": ["azure2023-conv"] * 3 + ["azure2023-code"] * 3,
            "load": ["capacity:0.3", "capacity:0.6", "capacity:0.9"] * 2,
            "slice_start_s": 0.0,
            "slice_duration_s": 60.0,
            "length_scale": 1.0,
            "duration_s": random.uniform(50, 400, 6),
            "tokens_generated": random.uniform(1e4, 1e5, 6),
            "requests": random.uniform(200, 900, 6),
            "steps": random.uniform(1e3, 3e4, 6),
            "gap_s": random.uniform(1, 20, 6),
            "formation_mean_s": random.uniform(0.5, 5, 6),
            "steps_j": random.uniform(1e4, 1e5, 6),
            "gpu_loaded_idle_w": GPU_W,
            "cpu_loaded_idle_w": CPU_W,
            "dram_loaded_idle_w": DRAM_W,
        }
    )
    counts = frame[["duration_s", "tokens_generated", "requests", "steps"]].to_numpy()
    form_j = counts @ np.array([SECOND_W, TOKEN_J, REQUEST_J, STEP_J])
    frame["idle_j"] = GPU_W * frame["gap_s"]
    frame["gpu_energy_j"] = frame["steps_j"] + frame["idle_j"]
    frame["dram_energy_j"] = DRAM_W * frame["duration_s"]
    frame["cpu_energy_j"] = CPU_W * frame["duration_s"] + form_j
    return frame.assign(**changes)


def test_serving_energy_is_what_steps_do_not_take() -> None:
    """GPUs outside steps, and the host throughout; P_idle x t is the part that an idle engine takes too."""
    made = replays()
    host_j = made["cpu_energy_j"] + made["dram_energy_j"]
    assert measured_j(made) == pytest.approx((host_j + GPU_W * made["gap_s"]).to_numpy())
    idle = GPU_W * made["gap_s"] + (CPU_W + DRAM_W) * made["duration_s"]
    assert idle_j(made) == pytest.approx(idle.to_numpy())


def test_memory_that_is_not_counted_is_on_neither_side() -> None:
    """EPYC hosts have no counter of DRAM: its idle power must not be taken off the processors' energy."""
    without = replays(dram_energy_j=np.nan, dram_loaded_idle_w=np.nan)
    assert idle_j(without) == pytest.approx(idle_j(replays()) - DRAM_W * without["duration_s"].to_numpy())
    assert measured_j(without) - idle_j(without) == pytest.approx(measured_j(replays()) - idle_j(replays()))


def test_formation_energy_is_found_and_predicts_loads_that_were_not_fitted_on() -> None:
    assert fit_engine(replays()).factors == pytest.approx([SECOND_W, TOKEN_J, REQUEST_J, STEP_J], rel=1e-6)
    found = held_out(replays())
    assert found["predicted_serv_j"].to_numpy() == pytest.approx(found["serving_j"].to_numpy(), rel=1e-6)
    assert found["node_error_pct"].abs().max() < 1e-6


def test_a_prediction_knows_nothing_of_its_own_replay() -> None:
    """Repetitions of one load go out together: what only that load shows cannot be known."""
    made = pd.concat([replays(), replays()], ignore_index=True)
    odd = (made["load"] == "capacity:0.9") & (made["trace"] == "azure2023-code")
    made.loc[odd, "cpu_energy_j"] *= 2
    found = held_out(made)
    wrong = (found["predicted_serv_j"] / found["serving_j"])[odd.to_numpy()]
    assert len(wrong) == 2
    assert (wrong < 0.8).all()


def test_few_loads_make_few_terms() -> None:
    """Two loads cannot tell four terms apart: only those that come first are fitted."""
    factors = fit_engine(replays()[:2]).factors
    assert (factors[2:] == 0).all()
    assert factors[0] > 0


def test_replays_that_do_not_suffice_are_refused() -> None:
    with pytest.raises(BadInput, match="processors"):
        fit_engine(replays(cpu_energy_j=np.nan))
    with pytest.raises(BadInput, match="none"):
        fit_engine(replays()[:0])
    with pytest.raises(BadInput, match="at least two"):
        held_out(replays()[:1])


def test_as_published_counts_the_wait_of_every_request() -> None:
    made = replays()
    wait_j = ((GPU_W + CPU_W) * made["formation_mean_s"] * made["requests"]).to_numpy()
    assert (as_published(made, made) >= wait_j * (1 - 1e-12)).all()
    short = replays(formation_mean_s=0.0)
    each_j = float((measured_j(short) / short["requests"]).mean())
    assert as_published(short, short) == pytest.approx(each_j * short["requests"].to_numpy())


def test_the_table_counts_what_is_within_a_tenth_by_task() -> None:
    found = held_out(replays())
    found.loc[found.index[found["task"] == "code"][0], "predicted_serv_j"] *= 1.2
    table = engine_table(found).set_index("task")
    assert table.loc["chat", ["replays", "eba10_pct", "form_pct", "paper_pct"]].tolist() == [3, 100, 100, 89.2]
    assert table.loc["code", "eba10_pct"] == pytest.approx(200 / 3)
    assert table.loc["code", "paper_pct"] == 98.8


def test_a_difference_that_came_out_negative_is_never_met() -> None:
    """Where steps are predicted to take more than GPUs took, there is nothing to be near to."""
    found = held_out(replays()).assign(serving_j=-10.0, predicted_serv_j=-10.0)
    assert engine_table(found)["eba10_pct"].tolist() == [0, 0]


def test_shares_are_summed_up_beside_the_papers() -> None:
    requests = pd.DataFrame({"task": "code", "load": "x1", "share_pct": [10.0, 20.0, 90.0], "formation_s": [1.0, 2, 9],
                             "inference_s": 10.0})  # fmt: skip
    (row,) = formation_table(requests, ("task", "load")).to_dict("records")
    assert (row["requests"], row["mean_pct"], row["p50_pct"]) == (3, pytest.approx(40), 20)
    assert (row["formation_s"], row["paper_mean_pct"], row["paper_p50_pct"]) == (pytest.approx(4), 1300, 1100)
    (own,) = formation_table(requests.assign(task="mine"), ("task", "load")).to_dict("records")
    assert np.isnan(own["paper_mean_pct"])


@pytest.mark.parametrize(
    ("trace", "task"),
    [("azure2023-conv-profile", "chat"), ("AzureLLMInferenceTrace_code", "code"), ("mychat", "chat"), ("own", "own")],
)
def test_tasks_are_told_by_the_traces_name(trace: str, task: str) -> None:
    assert task_of(trace) == task


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated sweep: one deployment, twelve batches, a replay of chat and one of code near capacity."""
    folder = tmp_path_factory.mktemp("engine")
    write_sweep(folder, ("measurement", REPLAYS), *SWEEP)
    done = harness("sweep", "sweep.yaml", "--results", "here", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "here"


def test_formation_of_stored_replays_is_that_of_their_runs(swept: Path) -> None:
    """Requests and runs are tables of their own; code near capacity waits longer for its share than chat."""
    requests = formation(swept)
    runs = pd.read_parquet(swept / "runs").set_index("run_id")
    each = requests.groupby("run_id")["formation_s"].mean()
    assert len(each) == 4
    assert each.to_numpy() == pytest.approx(runs.loc[each.index, "formation_mean_s"].to_numpy())
    assert (requests["inference_s"] > 0).all()
    share = requests.groupby("task")["share_pct"].median()
    assert share["code"] > share["chat"] > 0


def test_the_report_has_both_tables_and_its_source(swept: Path) -> None:
    done = CliRunner().invoke(reports, ["formation", "--results", str(swept)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "paper_mean_pct" in done.output
    assert "paper_pct" in done.output
    assert "source: simulated" in done.output


def test_a_folder_without_replays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="results"):
        formation(tmp_path)
