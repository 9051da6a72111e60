"""Steps' energies from batches and from predictors, windows that cut steps, and replays that add up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from harness.deployment.catalog import model_shape
from harness.errors import BadInput
from harness.points import FloatArray
from harness.store import read_table
from harness_analysis.closure import closed, closures, valid_runs, within
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples
from harness_analysis.gpus import known_gpus
from harness_analysis.predictor import Prediction
from harness_analysis.reports import reports
from harness_analysis.steps import PredictedSteps, StepRows, fit_steps
from tests.integration.support import harness, write_sweep

IDLE_W = 100.0
FACTORS: FloatArray = np.array([3.0, 0.02, 0.05, 1e-4, 1e-6])
GAP_S = 0.5
REPLAYS = """\
replays:
  - {trace: azure2023-conv, duration: 15s, slice: median, rate: 'capacity:0.4'}
  - {trace: azure2023-code, duration: 15s, slice: median, rate: 'capacity:0.8'}
measurement"""
PARALLELISM = ("[{tp: 1}, {tp: 2}]", "[{tp: 1}, {tp: 2}, {tp: 1, pp: 2}, {tp: 2, pp: 4}]")
BATCHES = (("[1, 8]", "[1, 4, 32]"), ("[128]", "[100, 1500]"), ("[16]", "[8, 100]"))


def rows(*steps: tuple[float, ...], run_id: str = "a", window: str = "replay") -> pd.DataFrame:
    """Each (start, steps, duration, prompt chunks, prompt tokens, decoding, keys), the last three of one step."""
    found = pd.DataFrame(
        steps, columns=["start_s", "n_steps", "duration_s", "prefill_requests", "prefill_tokens", "decode_requests",
                        "context_tokens"],
    )  # fmt: skip
    found["context_tokens"] *= found["n_steps"]
    return found.assign(run_id=run_id, window=window)


def true_j(steps: pd.DataFrame) -> FloatArray:
    """What the steps of each row take, by `FACTORS`."""
    n, tokens = steps["n_steps"], steps["prefill_tokens"]
    pairs = tokens**2 / (2 * steps["prefill_requests"].clip(lower=1))
    per_step = [1 + 0 * n, tokens, steps["decode_requests"], steps["context_tokens"] / n, pairs]
    energy_j: FloatArray = n.to_numpy() * (np.stack([np.asarray(one, float) for one in per_step], axis=1) @ FACTORS)
    return energy_j


def batches(stages: int = 1, under_way_w: float = 0.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Eight batches of different sizes and lengths, with their full and prefill-only windows.

    Args:
        under_way_w: drawn for as long as steps are under way, which is longer than composition says by another share
            in each batch: stages wait for one another.
    """
    runs, steps = [], []
    for number, (size, prompt, generated) in enumerate(
        [(1, 100, 20), (1, 2000, 5), (8, 300, 60), (8, 900, 10), (32, 100, 90), (32, 40, 9), (64, 64, 30), (4, 3000, 3)]
    ):
        prefill = (0.0, 1, 0.1, size, size * prompt, 0, size * prompt)
        decode = (0.1, generated - 1, 0.02 * generated, 0, 0, size, size * (prompt + generated / 2))
        full = rows(prefill, decode, run_id=f"b{number}", window="full")
        only = rows(prefill, run_id=f"b{number}", window="prefill")
        steps += [full, only]
        full_s, only_s = ((1 + number % 3) * one["duration_s"].sum() + GAP_S for one in (full, only))
        runs.append(
            {
                "run_id": f"b{number}", "gpu_loaded_idle_w": IDLE_W, "pp": stages,
                "duration_s": full_s, "gap_fraction": GAP_S / full_s,
                "gpu_energy_j": true_j(full).sum() + IDLE_W * GAP_S + under_way_w * (full_s - GAP_S),
                "prefill_s": only_s, "prefill_gap_fraction": GAP_S / only_s,
                "gpu_prefill_energy_j": true_j(only).sum() + IDLE_W * GAP_S + under_way_w * (only_s - GAP_S),
            }
        )  # fmt: skip
    return pd.DataFrame(runs), pd.concat(steps, ignore_index=True)


def replay(duration_s: float, gap_s: float, energy_j: float, stages: int = 1) -> pd.DataFrame:
    columns = {"run_id": "a", "pp": stages, "duration_s": duration_s, "gap_fraction": gap_s / duration_s}
    return pd.DataFrame([{**columns, "gpu_loaded_idle_w": IDLE_W, "gpu_energy_j": energy_j}])


def test_steps_are_recovered_from_batches_and_add_up_to_a_replay() -> None:
    """Composition seen in no batch: mixed steps, other sizes, and gaps of seconds."""
    model = fit_steps(*batches())
    assert model.factors == pytest.approx(FACTORS, rel=1e-6)
    assert (model.n, round(model.fit_mape_pct, 6)) == (16, 0)
    steps = rows((0.0, 1, 0.2, 3, 700, 11, 9000), (0.5, 40, 2.0, 0, 0, 14, 12000), (4.0, 1, 0.1, 0, 0, 5, 900))
    measured_j = true_j(steps).sum() + 1.7 * IDLE_W
    (found,) = closed(replay(4.0 + 0.1, 1.7, measured_j), steps, model).to_dict("records")
    assert found["error_pct"] == pytest.approx(0, abs=1e-6)
    assert found["idle_j"] == pytest.approx(170)
    assert found["steps"] == 42


def test_in_a_pipeline_stages_that_wait_take_energy_for_as_long_as_steps_are_under_way() -> None:
    """The same composition lasts longer where stages wait: time says it, and only there."""
    model = fit_steps(*batches(stages=4, under_way_w=800.0))
    assert model.under_way_w == pytest.approx(800, rel=1e-6)
    assert model.factors == pytest.approx(FACTORS, rel=1e-6)
    steps = rows((0.0, 1, 0.2, 3, 700, 0, 700), (0.0, 8, 0.2, 0, 0, 14, 12000))
    for under_way_s in (0.2, 0.8):
        measured_j = true_j(steps).sum() + 800 * under_way_s + 1.7 * IDLE_W
        (found,) = closed(replay(1.7 + under_way_s, 1.7, measured_j, 4), steps, model).to_dict("records")
        assert found["error_pct"] == pytest.approx(0, abs=1e-6)


def test_without_a_pipeline_composition_alone_says_what_steps_take() -> None:
    """Durations may be wrong without harm, and no power is fitted for them."""
    runs, steps = batches()
    assert fit_steps(runs, steps).under_way_w == 0
    asked = StepRows.of(rows((0.0, 1, 0.2, 3, 700, 11, 9000)))
    slower = replace(asked, duration_s=asked.duration_s * 2)
    assert fit_steps(runs, steps).step_j(asked) == fit_steps(runs, steps).step_j(slower)


def test_batches_without_an_energy_teach_nothing_and_too_few_are_refused() -> None:
    runs, steps = batches()
    runs.loc[0, ["gpu_energy_j", "gpu_prefill_energy_j"]] = np.nan
    assert fit_steps(runs, steps).n == 14
    with pytest.raises(BadInput, match="2 windows"):
        fit_steps(runs[1:2], steps[steps["run_id"] == "b1"])


def test_a_window_takes_its_part_of_the_steps_that_it_cuts() -> None:
    """Energies of a saturated replay are of its steady state; its steps begin before and end after."""
    steps = rows(
        (-3.0, 2, 2.0, 0, 0, 1, 10), (-1.0, 4, 2.0, 0, 0, 2, 10),
        (5.0, 1, 1.0, 0, 0, 3, 10), (9.0, 10, 5.0, 0, 0, 4, 10),
    )  # fmt: skip
    found = within(steps, np.full(4, 10.0), np.ones(4))
    assert found["decode_requests"].tolist() == [2, 3, 4]
    assert found["n_steps"].tolist() == pytest.approx([2, 1, 2])
    assert found["duration_s"].tolist() == pytest.approx([1, 1, 1])
    assert found["context_tokens"].tolist() == pytest.approx([20, 10, 20])


def test_rows_of_a_pipeline_last_no_longer_than_its_stages_take() -> None:
    """Four steps at once in four stages: 8 s of them end after 2 s, within the window."""
    steps = rows((8.0, 4, 8.0, 0, 0, 1, 10), (9.0, 1, 1.0, 1, 50, 0, 50), (9.5, 4, 4.0, 0, 0, 1, 10))
    assert within(steps, np.full(3, 10.0), np.full(3, 4.0))["n_steps"].tolist() == pytest.approx([4, 1, 2])
    assert within(steps, np.full(3, 10.0), np.ones(3))["n_steps"].tolist() == pytest.approx([1, 1, 0.5])


def test_a_replay_without_any_step_is_all_idle() -> None:
    nothing = rows((0.0, 1, 1.0, 0, 0, 1, 1)).iloc[:0]
    (found,) = closed(replay(10, 10, 1000.0), nothing, fit_steps(*batches())).to_dict("records")
    assert (found["steps_j"], found["error_pct"]) == (0, pytest.approx(0))


class _Known:
    """A predictor that knows: 0.1 J per prompt token, 2 J per decode step, 0.5 J per sequence and step."""

    name = "known"

    def __init__(self) -> None:
        self.asked = 0

    def fit(self, examples: Examples, seed: int) -> None:
        raise NotImplementedError

    def predict(self, configurations: Configurations) -> Prediction:
        c = configurations
        self.asked += len(c)
        prefill_j = 0.1 * c.batch_size * c.prompt_tokens
        return Prediction.without_interval(prefill_j + (c.generated_tokens - 1) * (2 + 0.5 * c.batch_size))


def test_a_predictor_of_batches_says_what_steps_take() -> None:
    """Prefill chunks as a batch of one token each, decode steps as what further tokens add; equal steps asked once."""
    frame = pd.DataFrame(
        [{"gpu": "h100", "model": "llama-2-7b", "bits": 16, "tp": 1, "pp": 1, "batch_size": 7, "prompt_tokens": 9,
          "generated_tokens": 5, "engine": "vllm", "token_budget": 8192}]
    )  # fmt: skip
    deployment = Configurations.from_frame(frame, {"llama-2-7b": model_shape("llama-2-7b")}, known_gpus())
    predictor = _Known()
    steps = rows(
        (0, 1, 0.1, 2, 600, 0, 600), (1, 30, 0.3, 0, 0, 10, 5000),
        (2, 1, 0.1, 1, 100, 4, 2100), (3, 30, 0.3, 0, 0, 10, 5000),
    )  # fmt: skip
    found = PredictedSteps(predictor, deployment).step_j(StepRows.of(steps))
    assert found == pytest.approx([60, 30 * 7, 10 + 1.5, 30 * 7]), "a mixed step reads the weights once"
    assert predictor.asked == 2 + 2 * 2 + 2
    only_prefill = PredictedSteps(predictor, deployment).step_j(StepRows.of(steps[:1]))
    assert only_prefill == pytest.approx([60])


def test_a_predictor_of_batches_is_not_asked_about_pipelines(swept: Path) -> None:
    """What a batch takes while its stages wait would be counted for each step: several times too much."""
    found = closures(swept, _Known())
    assert {"pp1" in name for name in found.models} == {True}
    assert [why.startswith("pp: ") for why in found.skipped.values()] == [True, True]
    assert set(found.replays["pp"]) == {1}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated sweep: four deployments, two of them pipelines, twelve batches and two replays each."""
    folder = tmp_path_factory.mktemp("closure")
    write_sweep(folder, ("measurement", REPLAYS), PARALLELISM, *BATCHES)
    done = harness("sweep", "sweep.yaml", "--results", "here", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "here"


def test_simulated_replays_of_chat_and_code_close(swept: Path) -> None:
    """Within 5% of the measured window, from what batches of the same deployment teach."""
    found = closures(swept)
    assert len(found.models) == 4
    assert found.skipped == {}
    assert set(found.replays["trace"].str.contains("code")) == {True, False}
    assert found.replays["error_pct"].abs().max() < 5
    waiting = {name: model.under_way_w > 0 for name, model in found.models.items()}
    assert waiting == {name: "pp1" not in name for name in found.models}


def test_pipelines_would_not_close_by_composition_alone(swept: Path) -> None:
    """Else the time that steps are under way would be a term too many."""
    runs = valid_runs(swept)
    pipelines = runs[runs["pp"] > 1]
    for name, mine in pipelines.groupby("tp"):
        replays, batches = mine[mine["workload"] == "replay"], mine[mine["workload"] == "batch"].assign(pp=1)
        steps = read_table(swept, "iterations").to_pandas()
        model = fit_steps(batches, steps[steps["run_id"].isin(batches["run_id"])])
        found = closed(replays, steps[steps["run_id"].isin(replays["run_id"])], model)
        assert found["error_pct"].abs().max() > 5, name


def test_the_report_names_every_replay(swept: Path) -> None:
    done = CliRunner().invoke(reports, ["closure", "--results", str(swept)], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.count("capacity:0.4") == done.output.count("capacity:0.8") == 4
    assert "source: simulated" in done.output


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="results"):
        closures(tmp_path)
