"""`harness train, score, regions, predict` where no torch is: what is refused, asked of the trainer, and printed."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from harness import trainer
from harness.cli import watching
from harness.cli.app import cli
from harness.errors import BadInput, TrainerMissing
from harness.predictorfiles import only_predictor, predictor_of, trained_predictor
from harness.trainer import (
    Answer,
    Answers,
    Condition,
    ErrorRegion,
    Provenance,
    Question,
    Regions,
    Score,
    Scored,
    ScoreOrder,
    Scores,
    Trained,
    TrainOrder,
    Watch,
    find_trainer,
)
from tests.conftest import REPOSITORY

SIMULATED = Provenance(("simulated",), 1234, "2026-11-21T10:00:00+00:00")
PREDICT = ("predict", "--gpu", "a100", "--model", "llama-2-7b", "--batch", "8", "--prompt", "1024", "--generate", "128")
COMMANDS = (("train",), ("score",), ("regions",), PREDICT)
ORDERS: list[Any] = []
"""What the stand-in below was asked, cleared by `asked`."""


def scores(predictor: str, mape_pct: float) -> Scores:
    score = Score(20, mape_pct, 90.0, 100.0)
    return Scores(predictor, {"llama-2-7b": score}, score)


class StandIn:
    """A trainer whose answers are known; the batch of 64 cannot run, and that of 9 is outside the range."""

    def train(self, order: TrainOrder, watch: Watch) -> Trained:
        ORDERS.append(order)
        return Trained(("simulated",), 80, 10, 9, scores("ours", 2.0), 12.0, (order.predictor,))

    def score(self, order: ScoreOrder, watch: Watch) -> Scored:
        ORDERS.append(order)
        lines = {"ours": 2.0, "boosting-raw": 9.0, "forest-raw": 1.5}
        found = tuple(scores(name, lines[name]) for name in order.predictors)
        return Scored(("measured",), ("simulated",), dict.fromkeys(order.splits, found))

    def regions(self, predictor: Path) -> Regions:
        ORDERS.append(predictor)
        bound = Condition("tp", low=4.0, high=8.0)
        region = ErrorRegion("70B, tp 8, batch > 16", (bound,), 41, 23.04, 0.5, 3.14)
        return Regions(SIMULATED, 100, 4.5, "the measured points", (region,))

    def predict(self, predictor: Path, questions: tuple[Question, ...]) -> Answers:
        ORDERS.append((predictor, questions))
        return Answers(SIMULATED, tuple(self._answer(question) for question in questions))

    def _answer(self, question: Question) -> Answer:
        outside = ("batch 9: training had 1 to 8",) if question.batch_size == 9 else ()
        if question.batch_size == 64:
            return Answer(None, None, None, None, None, "vllm", 8192, outside, "it would run in waves")
        return Answer(1234.5, 200.0, 1.25, 1200.0, 1300.0, "vllm", 8192, outside, "")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The stand-in, found as any trainer is; and what it is asked."""
    entry = EntryPoint("stand-in", f"{__name__}:StandIn", trainer.GROUP)
    monkeypatch.setattr(trainer, "entry_points", lambda group: (entry,))
    ORDERS.clear()
    return ORDERS


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with results/simulated/first, trained, as commands see it from the outside."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "simulated" / "first" / "runs").mkdir(parents=True)
    placed(Path("results/simulated/first"))
    return tmp_path


def placed(results: Path) -> None:
    (results / "predictor").mkdir(parents=True)
    (results / "predictor" / "two-gnn.json").write_text("{}")


def ran(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: str) -> str:
    with pytest.raises(BadInput) as caught:
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
    return str(caught.value)


# The trainer


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_without_the_extra_one_line_names_it(command: tuple[str, ...], lab: Path) -> None:
    """In a process where torch cannot be imported, whether it is installed or not."""
    code = "import sys; sys.modules['torch'] = None; from harness.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=lab)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "pip install 'llm-energy-harness[analysis]'" in line
    assert done.stdout == ""


def test_where_no_trainer_is_installed_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "entry_points", lambda group: ())
    with pytest.raises(TrainerMissing, match="no trainer"):
        find_trainer()


def test_the_project_declares_its_trainer_and_what_it_needs() -> None:
    """Without it, an installed wheel has the commands and no trainer."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    ((module, name),) = (value.split(":") for value in project["entry-points"][trainer.GROUP].values())
    file = REPOSITORY.joinpath("analysis", *module.split(".")).with_suffix(".py")
    assert f"\nclass {name}:" in file.read_text("utf-8")
    extra = " ".join(project["optional-dependencies"]["analysis"])
    assert all(package in extra for package in trainer.PACKAGES)


@pytest.mark.parametrize("command", ["train", "score", "regions", "predict"])
def test_help_has_an_example(command: str) -> None:
    assert f"harness {command} --" in ran(command, "--help").stdout.split("Example")[1]


# What is refused, and which folders are meant


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("train", "--results", "nowhere"), "nowhere"),
        (("score", "--splits", "test,weather"), "weather"),
        (("score", "--predictors", ","), "names joined by commas"),
        (("score", "--model", "elsewhere"), "harness train"),
        (("regions", "--results", "elsewhere"), "harness train"),
        ((*PREDICT, "--predictor", "elsewhere"), "harness train"),
        ((*PREDICT[:3], "--batch", "8"), "--model: '\\(not given\\)'"),
        (("predict", "--in", "questions.csv"), "both of them"),
        (("predict", "--gpu", "a100", "--model", "gpt-9", *PREDICT[5:]), "llama-2-7b"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_starts(
    command: tuple[str, ...], named: str, lab: Path, asked: list[Any]
) -> None:
    with pytest.raises(BadInput, match=named):
        CliRunner().invoke(cli, command, catch_exceptions=False)
    assert not asked


@pytest.mark.parametrize("command", COMMANDS[1:], ids=lambda command: command[0])
def test_without_a_trained_predictor_it_says_to_train(command: tuple[str, ...], lab: Path, asked: list[Any]) -> None:
    (lab / "results/simulated/first/predictor/two-gnn.json").unlink()
    assert refused(*command).endswith("fix: run harness train first")
    assert not asked


def test_of_several_predictors_one_must_be_named(lab: Path, asked: list[Any]) -> None:
    placed(Path("results/measured/second"))
    line = refused(*PREDICT)
    assert "simulated/first" in line
    assert "measured/second" in line
    ran(*PREDICT, "--predictor", "results/measured/second")
    assert asked[0][0] == Path("results/measured/second/predictor/two-gnn")


def test_a_predictor_lies_in_its_folder_or_beside_several() -> None:
    """Of folders that lie apart there is no such place."""
    first, second = Path("results/simulated/first"), Path("results/simulated/second")
    assert predictor_of((first,)) == first / "predictor" / "two-gnn"
    assert predictor_of((first, second)) == Path("results/simulated/predictor/two-gnn")
    with pytest.raises(BadInput, match="beside one another"):
        predictor_of((first, Path("results/measured/third")))


def test_a_trained_predictor_goes_by_any_of_its_names(lab: Path) -> None:
    results = Path("results/simulated/first")
    stem = results / "predictor" / "two-gnn"
    names = (results, stem.parent, stem, stem.with_name("two-gnn.json"), stem.with_name("two-gnn.safetensors"))
    assert {trained_predictor(name) for name in names} == {stem}
    assert only_predictor(Path("results")) == stem


# What is asked, and what is printed


def test_train_learns_from_all_known_folders_into_one_place(lab: Path, asked: list[Any]) -> None:
    (lab / "results" / "simulated" / "second" / "runs").mkdir(parents=True)
    output = ran("train", "--seed", "3").stdout
    folders = (Path("results/simulated/first"), Path("results/simulated/second"))
    assert asked == [TrainOrder(folders, Path("results/simulated/predictor/two-gnn"), 3, False)]
    assert "80 simulated points" in output
    figures = json.loads(ran("train", "--results", str(folders[1]), "--out", "there.json", "--json").stdout)
    assert asked[1] == TrainOrder(folders[1:], Path("there"), 0, False)
    assert figures["splits"]["test"]["mean"]["mape_pct"] == 2.0
    assert figures["points"] == {"train": 80, "test": 10, "unseen": 9}


def test_score_json_has_the_scores_by_split_and_model(lab: Path, asked: list[Any]) -> None:
    figures = json.loads(ran("score", "--json").stdout)
    score = {"n": 20, "mape_pct": 2.0, "eba10_pct": 90.0, "eba30_pct": 100.0}
    assert figures["splits"]["test"]["per_model"] == {"llama-2-7b": score}
    assert figures["splits"]["test"]["mean"] == score
    assert (figures["source"], figures["trained_on"]) == (["measured"], ["simulated"])


def test_score_names_what_beats_ours_and_what_it_was_trained_on(lab: Path, asked: list[Any]) -> None:
    output = ran("score", "--splits", "test,gpu", "--predictors", "ours,boosting-raw,forest-raw").stdout
    (order,) = asked
    assert (order.splits, order.predictors) == (("test", "gpu"), ("ours", "boosting-raw", "forest-raw"))
    assert order.predictor == Path("results/simulated/first/predictor/two-gnn")
    assert "better than ours (2.00%) on gpu: forest-raw (1.50%)" in output
    assert "has learnt from simulated runs" in output


def test_scores_that_need_no_trained_predictor_ask_for_none(lab: Path, asked: list[Any]) -> None:
    (lab / "results/simulated/first/predictor/two-gnn.json").unlink()
    ran("score", "--splits", "gpu")
    ran("score", "--predictors", "boosting-raw")
    assert [order.predictor for order in asked] == [None, None]


def test_regions_are_a_line_each(lab: Path, asked: list[Any]) -> None:
    first, *_, last = ran("regions").stdout.splitlines()
    assert first == "70B, tp 8, batch > 16: MAPE 23% on 41 points, 3.1% of the measured points"
    assert last.startswith("all 100 points: MAPE 4.5%; trained on simulated runs")
    figures = json.loads(ran("regions", "--json").stdout)
    assert figures["regions"][0]["conditions"] == [{"column": "tp", "low": 4.0, "high": 8.0, "values": []}]


def test_predict_says_what_it_is_worth(lab: Path, asked: list[Any]) -> None:
    output = ran(*PREDICT, "--tp", "2", "--bits", "8").stdout
    ((_, (question,)),) = asked
    assert (question.gpu, question.model.name, question.tp, question.pp, question.bits) == (
        "a100", "llama-2-7b", 2, 1, 8,
    )  # fmt: skip
    assert (question.batch_size, question.prompt_tokens, question.generated_tokens) == (8, 1024, 128)
    assert "1,234 J   90% interval 1,200 to 1,300 J" in output
    assert "1.25 J" in output
    assert "trained on simulated runs: 1,234 points, 2026-11-21; no machine was measured" in output
    assert "outside" not in output


def test_predict_says_what_lies_outside_and_what_cannot_run(lab: Path, asked: list[Any]) -> None:
    outside = [*PREDICT]
    outside[outside.index("8")] = "9"
    assert "outside the training range: batch 9: training had 1 to 8" in ran(*outside).stdout
    outside[outside.index("9")] = "64"
    output = ran(*outside).stdout
    assert "cannot run: it would run in waves" in output
    assert "interval" not in output
    figures = json.loads(ran(*outside, "--json").stdout)
    assert figures["total_j"] is None
    assert figures["trained_on"]["source"] == ["simulated"]


def test_measured_runs_carry_no_warning() -> None:
    assert Provenance(("measured",), 7, SIMULATED.trained_at).line == "trained on measured runs: 7 points, 2026-11-21"
    assert "not only on measurements" in Provenance(("measured", "simulated"), 7, SIMULATED.trained_at).line


# Questions from a file


def test_answers_stand_beside_their_questions(lab: Path, asked: list[Any]) -> None:
    """Columns of one's own stay; what may be left out may also be empty; no energy where a batch cannot run."""
    Path("q.csv").write_text(
        "note,gpu,model,batch_size,prompt_tokens,generated_tokens,tp,engine\n"
        "007,a100,llama-2-7b,8,100,10,2,sarathi\nb,h100,llama-2-70b,64,100,10,,\n"
    )
    output = ran("predict", "--in", "q.csv", "--out", "a.csv").stdout
    assert "2 answers, 1 that cannot run" in output
    ((_, questions),) = asked
    assert [(one.gpu, one.model.name, one.tp, one.bits, one.engine) for one in questions] == [
        ("a100", "llama-2-7b", 2, 16, "sarathi"), ("h100", "llama-2-70b", 1, 16, None),
    ]  # fmt: skip
    answers = pd.read_csv("a.csv", dtype={"note": str})
    assert answers["note"].tolist() == ["007", "b"]
    assert answers["total_j"][0] == 1234.5
    assert answers["total_j"].isna().tolist() == [False, True]
    assert answers["infeasible"][1] == "it would run in waves"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("gpu,model\na100,llama-2-7b\n", "without the column batch_size"),
        ("gpu,model,batch_size,prompt_tokens,generated_tokens\na100,llama-2-7b,0,1,1\n", "q.csv line 2: batch_size"),
        ("gpu,model,batch_size,prompt_tokens,generated_tokens\na100,llama-2-7b,1,1.5,1\n", "q.csv line 2: prompt"),
        ("gpu,model,batch_size,prompt_tokens,generated_tokens\na100,gpt-9,1,1,1\n", "q.csv line 2: model.*gpt-9"),
        ("", "readable CSV"),
    ],
)
def test_a_file_that_cannot_be_asked_is_refused_by_line(text: str, named: str, lab: Path, asked: list[Any]) -> None:
    Path("q.csv").write_text(text)
    with pytest.raises(BadInput, match=named):
        CliRunner().invoke(cli, ("predict", "--in", "q.csv", "--out", "a.csv"), catch_exceptions=False)
    assert not asked
    assert not Path("a.csv").exists()


# Progress


def test_where_no_terminal_is_progress_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing in the first ten seconds; then at most a line in ten seconds, with what is left."""
    instants = iter([0.0, 4.0, 12.0, 13.0, 24.0])
    monkeypatch.setattr(watching.time, "monotonic", lambda: next(instants))
    with watching.watching() as watch:
        for done in (1, 3, 4, 8):
            watch(done, 12, "networks trained")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in lines] == ["3/12 networks trained", "8/12 networks trained"]
    assert lines[0].endswith("left 36s")
