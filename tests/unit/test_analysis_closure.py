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
from harness_analysis.closure import closed, closures, within
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


def batches() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Eight batches of different sizes and lengths, with their full and prefill-only windows."""
    runs, steps = [], []
    for number, (size, prompt, generated) in enumerate(
        [(1, 100, 20), (1, 2000, 5), (8, 300, 60), (8, 900, 10), (32, 100, 90), (32, 40, 9), (64, 64, 30), (4, 3000, 3)]
    ):
        prefill = (0.0, 1, 0.1, size, size * prompt, 0, size * prompt)
        decode = (0.1, generated - 1, 0.02 * generated, 0, 0, size, size * (prompt + generated / 2))
        full = rows(prefill, decode, run_id=f"b{number}", window="full")
        only = rows(prefill, run_id=f"b{number}", window="prefill")
        steps += [full, only]
        full_s, only_s = full["duration_s"].sum() + GAP_S, only["duration_s"].sum() + GAP_S
        runs.append(
            {
                "run_id": f"b{number}", "gpu_loaded_idle_w": IDLE_W,
                "duration_s": full_s, "gap_fraction": GAP_S / full_s,
                "gpu_energy_j": true_j(full).sum() + IDLE_W * GAP_S,
                "prefill_s": only_s, "prefill_gap_fraction": GAP_S / only_s,
                "gpu_prefill_energy_j": true_j(only).sum() + IDLE_W * GAP_S,
            }
        )  # fmt: skip
    return pd.DataFrame(runs), pd.concat(steps, ignore_index=True)


def replay(duration_s: float, gap_s: float, energy_j: float, run_id: str = "a") -> pd.DataFrame:
    columns = {"run_id": run_id, "duration_s": duration_s, "gap_fraction": gap_s / duration_s}
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


def test_recorded_durations_are_used_only_if_asked_for() -> None:
    """A slower clock shows in durations alone: composition cannot see it."""
    runs, steps = batches()
    untimed, timed = fit_steps(runs, steps), fit_steps(runs, steps, timed=True)
    asked = StepRows.of(rows((0.0, 1, 0.2, 3, 700, 11, 9000)))
    slower = replace(asked, duration_s=asked.duration_s * 2)
    assert untimed.step_j(asked) == untimed.step_j(slower)
    assert len(timed.factors) == len(untimed.factors) + 1


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
    found = within(steps, np.full(4, 10.0))
    assert found["decode_requests"].tolist() == [2, 3, 4]
    assert found["n_steps"].tolist() == pytest.approx([2, 1, 2])
    assert found["duration_s"].tolist() == pytest.approx([1, 1, 1])
    assert found["context_tokens"].tolist() == pytest.approx([20, 10, 20])


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
    assert found == pytest.approx([60, 30 * 7, 10 + 4, 30 * 7])
    assert predictor.asked == 2 + 2 * 2
    only_prefill = PredictedSteps(predictor, deployment).step_j(StepRows.of(steps[:1]))
    assert only_prefill == pytest.approx([60])


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated sweep: two deployments, twelve batches and two replays each."""
    folder = tmp_path_factory.mktemp("closure")
    write_sweep(folder, ("measurement", REPLAYS), *BATCHES)
    done = harness("sweep", "sweep.yaml", "--results", "here", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "here"


def test_simulated_replays_of_chat_and_code_close(swept: Path) -> None:
    """Within 5% of the measured window, from what batches of the same deployment teach."""
    found = closures(swept)
    assert len(found.models) == 2
    assert found.skipped == ()
    assert set(found.replays["trace"].str.contains("code")) == {True, False}
    assert found.replays["error_pct"].abs().max() < 5
    assert (found.replays["steps_j"] < found.replays["measured_j"]).all()


def test_the_report_names_every_replay(swept: Path) -> None:
    done = CliRunner().invoke(reports, ["closure", "--results", str(swept)], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.count("capacity:0.4") == done.output.count("capacity:0.8") == 2
    assert "source: simulated" in done.output


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="results"):
        closures(tmp_path)
