"""Tables of scores: pooling over splits, what is said of a better baseline, what the command refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.deployment.catalog import model_shape
from harness.errors import BadInput
from harness.points import FloatArray
from harness_analysis import scoring
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples
from harness_analysis.gpus import known_gpus
from harness_analysis.predictor import Prediction
from harness_analysis.scoring import __main__ as command
from harness_analysis.scoring import tables, tasks
from harness_analysis.splits import Split

N = 12


class Fixed:
    """Predicts what the last fit's first example took, times `off`; its interval is 10% either way."""

    def __init__(self, name: str = "fixed", off: float = 1.0) -> None:
        self.name, self.off = name, off
        self.total_j: FloatArray = np.empty(0)

    def fit(self, examples: Examples, seed: int) -> None:
        self.total_j = examples.total_j[:1] * (self.off + 0.01 * seed)

    def predict(self, configurations: Configurations) -> Prediction:
        total_j = np.repeat(self.total_j, len(configurations))
        return Prediction(total_j, total_j, 0.9 * total_j, 1.1 * total_j)


def task(per_token: bool = False) -> scoring.Task:
    """Two splits: the first half is learnt and the second asked, and the other way round. All take 100 J."""
    frame = pd.DataFrame(
        {
            "gpu": "a100", "model": "llama-2-7b", "bits": 16, "tp": 1, "pp": 1, "batch_size": 2, "prompt_tokens": 8,
            "generated_tokens": np.arange(1, N + 1),
        }
    )  # fmt: skip
    configurations = Configurations.from_frame(frame, {"llama-2-7b": model_shape("llama-2-7b")}, known_gpus())
    examples = Examples(configurations, np.full(N, 50.0), np.full(N, 100.0), np.full(N, "made"))
    first, second = np.arange(N // 2), np.arange(N // 2, N)
    return scoring.Task("halves", examples, (Split("a", first, second), Split("b", second, first)), per_token)


def test_splits_are_pooled_and_seeds_averaged() -> None:
    """Every example is asked once; 0, 1 and 2% of error make a mean of 1% and their standard deviation."""
    line = scoring.scored(task(), Fixed, range(3))
    assert line.n == N
    assert line.mape_pct == pytest.approx(1)
    assert line.mape_spread_pct == pytest.approx(np.std([0, 1, 2]))
    assert line.coverage_pct == 100


def test_fits_side_by_side_answer_as_one_after_the_other() -> None:
    """Predictors, seeds and splits are put together again in their order, whichever fit is done first."""
    makes = {"ours": lambda: Fixed("ours", 1.05), "good": lambda: Fixed("good", 1.02)}
    alone, beside = (
        # Printed, because a rank that is not there is not equal to itself.
        [
            repr(replace(line, fit_s=0.0, predict_s=0.0))
            for line in tables.scored_all([two_models(), task()], makes, 2, lambda _: None, jobs)
        ]
        for jobs in (1, 2)
    )
    assert alone == beside


def test_ranks_are_of_what_is_asked() -> None:
    """Energies that are all the same have no order, joules per token of different lengths do."""
    assert np.isnan(scoring.scored(task(), Fixed, [0]).rank_correlation)
    assert scoring.scored(task(per_token=True), Fixed, [0]).rank_correlation == pytest.approx(1)


def test_a_better_baseline_is_named() -> None:
    """A table that hid it would be of no use."""
    said: list[str] = []
    makes = {"ours": lambda: Fixed("ours", 1.05), "good": lambda: Fixed("good", 1.02), "bad": lambda: Fixed("bad", 2.0)}
    lines = tables.scored_all([task()], makes, 1, said.append)
    assert [line.predictor for line in lines] == ["ours", "good", "bad"]
    assert said[-1] == "better than ours: good (2.00%)"


def two_models() -> scoring.Task:
    """As `task`, but the second half is of another model, of which each took 200 J."""
    halves = task()
    frame = halves.examples.configurations.to_frame()
    frame.loc[N // 2 :, "model"] = "llama-3-8b"
    shapes = {name: model_shape(name) for name in ("llama-2-7b", "llama-3-8b")}
    total_j = np.repeat([100.0, 200.0], N // 2)
    examples = replace(
        halves.examples, configurations=Configurations.from_frame(frame, shapes, known_gpus()), total_j=total_j
    )
    every = np.arange(N)
    return scoring.Task("two models", examples, (Split("a", every[: N // 2], every),))


def test_answers_are_kept_with_what_they_answer() -> None:
    """Another table needs no other fit: split, truth, interval and prediction lie beside each other."""
    found = scoring.pooled(task(per_token=True), lambda: Fixed(off=1.1), 0)
    assert found.split.tolist() == ["a"] * (N // 2) + ["b"] * (N // 2)
    np.testing.assert_array_equal(found.asked.configurations.generated_tokens[: N // 2], np.arange(N // 2 + 1, N + 1))
    np.testing.assert_allclose(found.predicted, 1.1 * found.asked.token_j)
    assert found.coverage_pct == 100
    assert found.scores(resamples=10).mape_pct == pytest.approx(10)


def test_every_model_counts_once_in_the_mean() -> None:
    """However many examples it has; and each seed counts once in each."""
    lines = scoring.model_lines([scoring.pooled(two_models(), Fixed, seed) for seed in (0, 2)], resamples=10)
    assert list(lines) == ["llama-2-7b", "llama-3-8b", "mean"]
    assert lines["llama-2-7b"].mape_pct == pytest.approx(1)
    assert lines["llama-3-8b"].mape_pct == pytest.approx(49.5)
    assert lines["mean"].mape_pct == pytest.approx((1 + 49.5) / 2)
    assert lines["mean"].mape_spread_pct == pytest.approx(0.25)
    assert (lines["mean"].eba10_pct, lines["mean"].n, lines["mean"].seeds) == (50, N, 2)


def test_the_interval_says_how_much_the_examples_matter() -> None:
    """Errors that are all the same leave no doubt, errors of 0 and 50% leave much."""
    sure, unsure = scoring.scored(task(), Fixed, [1]), scoring.scored(two_models(), Fixed, [0])
    assert (sure.mape_low_pct, sure.mape_high_pct) == pytest.approx((1, 1))
    assert 0 < unsure.mape_low_pct < 25 < unsure.mape_high_pct < 50


def test_the_paper_s_tables_have_a_column_for_each_model() -> None:
    """And their last line says who beats ours."""
    said: list[str] = []
    makes = {"ours": lambda: Fixed("ours", 1.05), "good": lambda: Fixed("good", 1.02)}
    lines = tables.paper_tables([two_models()], makes, 1, ("mape_pct", "eba10_pct"), said.append)
    assert len(lines) == 2 * 3
    assert said[0] == "\ntwo models: MAPE in %, mean of 1 seed(s)"
    assert said[1].split() == ["predictor", "llama-2-7b", "llama-3-8b", "mean"]
    assert said[2].split()[:4] == ["ours", "5.00", "47.50", "26.25"]
    assert [row.split() for row in said[5:8]][1:] == [
        ["ours", "100.00", "0.00", "50.00"],
        ["good", "100.00", "0.00", "50.00"],
    ]
    assert said[-1] == "better than ours: good (25.50%)"


def test_tasks_are_chosen_by_name() -> None:
    """A name that no task has is refused, with the names there are."""
    assert [one.name for one in tasks.named([task(), two_models()], ["two models"])] == ["two models"]
    assert len(tasks.named([task(), two_models()], [])) == 2
    with pytest.raises(BadInput, match="halves, two models"):
        tasks.named([task(), two_models()], ["third"])


@pytest.mark.parametrize(
    "arguments",
    [["released", "--public", "nowhere"], ["results"], ["mlenergy", "--public", "nowhere", "--only", "none"]],
)
def test_bad_input_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and nothing of a traceback."""
    assert command.main(arguments) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_command_writes_its_lines(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A quick table of public data, as text and as JSON."""
    out = tmp_path / "lines.json"
    arguments = ["mlenergy", "--public", str(data_dir / "public"), "--seeds", "1", "--only", "white-box", "llmcarbon"]
    assert command.main([*arguments, "--out", str(out)]) == 0
    lines = pd.read_json(out)
    assert set(lines["predictor"]) == {"white box", "LLMCarbon (one factor)"}
    assert (lines["n"] == 273).all()
    assert "white box" in capsys.readouterr().out
