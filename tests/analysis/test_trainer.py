"""The trainer behind `harness train, score, regions, predict`, on a small simulated results folder."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.deployment.catalog import model_shape
from harness.deployment.sweepfile import load_sweep
from harness.errors import BadInput, Interrupted
from harness.roundfiles import point_ids, read_rounds
from harness.store.lock import hold_lock
from harness.trainer import SPLITS, Question, ScoreOrder, TrainOrder, find_trainer
from harness_analysis.cards import Card, fingerprint
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples, from_runs
from harness_analysis.gnn.files import load, save
from harness_analysis.gnn.member import Settings
from harness_analysis.gnn.ours import Ours
from harness_analysis.gnn.train import Schedule
from harness_analysis.gpus import known_gpus
from harness_analysis.parts import TEST, TRAIN, UNSEEN, part_of
from harness_analysis.questions import as_learnt, configurations_of, differences, obstacle
from harness_analysis.scoreboard import splits_named
from harness_analysis.trainer import TwoGnnTrainer
from tests.conftest import REPOSITORY
from tests.integration.support import harness, write_sweep
from tests.integration.test_docs import PAGES, commands
from tests.unit.test_rounds import measured

SWEEP = """\
sweep: small
simulate: true
nodes: [dgx-h100]
models: [llama-2-7b, llama-3-8b]
parallelism: [{tp: 1}, {tp: 2}]
engines:
  - {name: vllm, token_budget: 8192, max_sequences: 128, max_context_tokens: 4096}
batches:
  - sizes: [1, 2, 8, 32]
    grid: {prompt_tokens: [64, 256, 1024], generated_tokens: [8, 64]}
measurement: {repetitions: 2, window: 500ms, idle: 1s}
"""
QUICK = Settings(schedule=Schedule(epochs=4, batch_size=32, learning_rate=4e-3, clip=1.0))
QUESTION = Question("h100", model_shape("llama-2-7b"), 8, 500, 32, tp=2)


def nobody(done: int, total: int, what: str) -> None:
    """Watches nothing."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results/simulated/small, as a sweep leaves it."""
    folder = tmp_path_factory.mktemp("lab")
    done = harness("sweep", write_sweep(folder, text=SWEEP), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def results(lab: Path) -> Path:
    return lab / "results" / "simulated" / "small"


@pytest.fixture(scope="module")
def trained(lab: Path) -> dict[str, Any]:
    """What the real command says, with the usual networks; a quarter of a minute."""
    done = harness("train", "--json", cwd=lab)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.fixture(scope="module")
def quick(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A predictor with networks that have hardly learnt anything, for what does not depend on it."""
    predictor = tmp_path_factory.mktemp("quick") / "two-gnn"
    TwoGnnTrainer(QUICK).train(TrainOrder((results,), predictor), nobody)
    return predictor


def said(lab: Path, *arguments: object) -> Any:
    done = harness(*arguments, cwd=lab)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def card_of(predictor: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads(predictor.with_name(f"{predictor.name}.json").read_text("utf-8"))["card"]
    return card


# The commands


def test_training_writes_three_files_and_says_how_good_it_is(lab: Path, results: Path, trained: dict[str, Any]) -> None:
    names = [path.name for path in sorted((results / "predictor").iterdir()) if path.name != ".lock"]
    assert names == ["two-gnn.errors.parquet", "two-gnn.json", "two-gnn.safetensors"]
    assert {str(lab / path) for path in trained["files"]} == {str(results / "predictor" / name) for name in names}
    assert sum(trained["points"].values()) == 96
    # Known deployments and lengths within the range, on a smooth simulator: some percent at most.
    assert trained["splits"]["test"]["mean"]["mape_pct"] < 8


def test_the_card_says_what_was_learnt_from(results: Path, trained: dict[str, Any]) -> None:
    card = card_of(results / "predictor" / "two-gnn")
    assert card["source"] == ["simulated"]
    assert card["points"] == trained["points"]
    assert card["fingerprint"] == fingerprint(from_runs(results))
    assert {(one["gpu"], one["engine"]) for one in card["environments"]} == {("h100", "vllm")}
    assert sorted(card["shapes"]) == ["llama-2-7b", "llama-3-8b"]
    assert card["token_budgets"] == {"vllm": [8192]}
    assert card["scores"]["test"]["mean"] == trained["splits"]["test"]["mean"]
    assert "train part only" in card["saved"]


def test_scores_are_those_of_the_saved_predictor(lab: Path, trained: dict[str, Any]) -> None:
    """On what it has not seen; nothing is trained for it."""
    scored = said(lab, "score", "--json")
    for key in ("per_model", "mean"):
        assert scored["splits"]["test"][key] == trained["splits"]["test"][key]
    assert (scored["source"], scored["trained_on"]) == (["simulated"], ["simulated"])


def test_a_prediction_is_near_what_was_measured(lab: Path, results: Path, trained: dict[str, Any]) -> None:
    """Of a configuration that tests: within a quarter, and the interval is of the size of the error."""
    examples = from_runs(results)
    test = examples.take(part_of(examples.configurations) == TEST).take(slice(0, 1))
    c = test.configurations
    numbers = {name: int(getattr(c, name)[0]) for name in ("tp", "batch_size", "prompt_tokens", "generated_tokens")}
    asked = ("--gpu", "h100", "--model", c.model[0], "--tp", numbers["tp"], "--batch", numbers["batch_size"])
    lengths = ("--prompt", numbers["prompt_tokens"], "--generate", numbers["generated_tokens"])
    answer = said(lab, "predict", *asked, *lengths, "--json")
    assert answer["total_j"] == pytest.approx(test.total_j[0], rel=0.25)
    assert 0 < answer["prefill_j"] < answer["total_j"]
    assert answer["low_j"] < answer["total_j"] < answer["high_j"] < 2 * answer["low_j"]
    tokens = numbers["batch_size"] * numbers["generated_tokens"]
    assert answer["token_j"] == pytest.approx(answer["total_j"] / tokens)
    assert answer["outside"] == []
    assert answer["infeasible"] == ""
    assert "no machine was measured" in answer["note"]


def test_regions_are_of_the_points_that_taught(lab: Path, results: Path, trained: dict[str, Any]) -> None:
    """Each predicted by networks that had not seen it; nothing that tests has a part in it."""
    found = said(lab, "regions", "--json")
    assert found["points"] == trained["points"]["train"]
    errors = pd.read_parquet(results / "predictor" / "two-gnn.errors.parquet")
    examples = from_runs(results)
    taught = examples.take(part_of(examples.configurations) == TRAIN)
    assert set(errors["point_id"]) == set(taught.point_id)
    assert errors["environment_id"].nunique() == 1
    assert found["mape_pct"] == pytest.approx((errors["predicted_j"] / errors["measured_j"] - 1).abs().mean() * 100)
    assert (errors["low_j"] < errors["predicted_j"]).all()
    assert (errors["noise"] > 0).all()


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page, "analysis")], ids=lambda page: page.name)
def test_commands_of_the_page_that_need_torch_run_in_order(page: Path, tmp_path: Path) -> None:
    (tmp_path / "deployments").symlink_to(REPOSITORY / "deployments")
    for command in commands(page, "analysis"):
        program, *words = shlex.split(command)
        assert program == "harness", command
        done = harness(*words, cwd=tmp_path)
        assert done.returncode == 0, f"{page.name}: {command}\n{done.stdout}\n{done.stderr}"


def test_some_page_has_commands_that_need_torch() -> None:
    """Else the test above runs nothing."""
    assert any(commands(page, "analysis") for page in PAGES)


# Parts


def test_a_configuration_s_part_follows_from_its_content(results: Path) -> None:
    """Whatever else there is, and whoever serves it: so the same ones test when results have grown."""
    c = from_runs(results).configurations
    part = part_of(c)
    some = np.random.default_rng(0).permutation(len(c))[:40]
    np.testing.assert_array_equal(part_of(c.take(some)), part[some])
    np.testing.assert_array_equal(part_of(replace(c, engine=np.full(len(c), "sarathi"))), part)


def test_a_tenth_tests_and_a_tenth_stays_unseen() -> None:
    frame = pd.DataFrame({"prompt_tokens": np.arange(1, 10_001)}).assign(
        gpu="h100", model="llama-2-7b", bits=16, tp=1, pp=1, batch_size=1, generated_tokens=10
    )
    c = Configurations.from_frame(frame, {"llama-2-7b": model_shape("llama-2-7b")}, known_gpus())
    counts = {name: int((part_of(c) == name).sum()) for name in (TRAIN, TEST, UNSEEN)}
    assert counts == pytest.approx({TRAIN: 8000, TEST: 1000, UNSEEN: 1000}, abs=120)


def test_the_fingerprint_is_of_points_and_labels_in_any_order(results: Path) -> None:
    examples = from_runs(results)
    assert fingerprint(examples.take(slice(None, None, -1))) == fingerprint(examples)
    assert fingerprint(examples.take(slice(1, None))) != fingerprint(examples)
    changed = examples.total_j.copy()
    changed[3] *= 1.000001
    assert fingerprint(replace(examples, total_j=changed)) != fingerprint(examples)


# What goes wrong


@pytest.fixture
def there_before(quick: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the quick predictor; whatever the test does, these files are as they were."""
    predictor = tmp_path / "predictor" / "two-gnn"
    predictor.parent.mkdir()
    files = [path for path in quick.parent.iterdir() if path.name != ".lock"]
    for path in files:
        (predictor.parent / path.name).write_bytes(path.read_bytes())
    yield predictor
    now = {path.name: path.read_bytes() for path in predictor.parent.iterdir() if path.name != ".lock"}
    assert now == {path.name: path.read_bytes() for path in files}


def test_an_interrupted_training_leaves_what_was_there(there_before: Path, results: Path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done == 2:
            raise Interrupted("ended by SIGINT")

    with pytest.raises(Interrupted):
        TwoGnnTrainer(QUICK).train(TrainOrder((results,), there_before, seed=1), stop)


def test_two_trainings_into_one_place_are_refused(there_before: Path, results: Path) -> None:
    """The second is told who the first is, and does not begin."""
    with (
        hold_lock(there_before.parent, "harness train"),
        pytest.raises(BadInput, match=r"held by pid .*harness train"),
    ):
        TwoGnnTrainer(QUICK).train(TrainOrder((results,), there_before), nobody)


def test_progress_reaches_its_end(results: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    TwoGnnTrainer(QUICK).train(
        TrainOrder((results,), tmp_path / "p"), lambda done, total, what: told.append((done, total))
    )
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))
    assert len({total for _, total in told}) == 1


def test_too_few_configurations_are_refused(tmp_path: Path) -> None:
    grid = ("prompt_tokens: [64, 256, 1024], generated_tokens: [8, 64]", "prompt_tokens: [64], generated_tokens: [8]")
    done = harness("sweep", write_sweep(tmp_path, grid, text=SWEEP), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = harness("train", cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(r"16 points, 1\d different configurations.*at least 40", done.stderr)
    assert not (tmp_path / "results" / "simulated" / "small" / "predictor").exists()


@pytest.mark.parametrize(
    ("suffix", "change", "words"),
    [
        ("json", lambda text: text.replace(b'"format": 1', b'"format": 99'), "of another version"),
        ("json", lambda text: text[: len(text) // 2], "cannot be read"),
        ("safetensors", lambda weights: weights[:-8], "cannot be read"),
        ("safetensors", lambda weights: weights[:-1] + bytes([weights[-1] ^ 1]), "not of one training"),
        ("json", lambda text: text.replace(b"0.1 unseen", b"0.2 unseen"), "divided by"),
    ],
)
def test_a_predictor_that_cannot_be_used_is_refused(
    suffix: str, change: Any, words: str, there_before: Path, quick: Path
) -> None:
    path = there_before.with_name(f"two-gnn.{suffix}")
    path.write_bytes(change(path.read_bytes()))
    for ask in (
        lambda: TwoGnnTrainer().predict(there_before, (QUESTION,)),
        lambda: TwoGnnTrainer().regions(there_before),
    ):
        with pytest.raises(BadInput, match=words) as caught:
            ask()
        assert "train" in str(caught.value)
    path.write_bytes(quick.with_name(path.name).read_bytes())


def test_errors_of_another_training_are_refused(there_before: Path, quick: Path) -> None:
    """Regions would be of points that the predictor of the card has not learnt from."""
    path = there_before.with_name("two-gnn.errors.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match="of another training"):
        TwoGnnTrainer().regions(there_before)
    path.write_bytes(quick.with_name(path.name).read_bytes())


def test_a_predictor_without_a_card_of_training_is_refused(quick: Path, tmp_path: Path) -> None:
    ours, _ = load(quick)
    save(ours, tmp_path / "bare", {})
    with pytest.raises(BadInput, match="not of harness train"):
        TwoGnnTrainer().predict(tmp_path / "bare", (QUESTION,))


def test_one_seed_gives_one_predictor(quick: Path, results: Path, tmp_path: Path) -> None:
    """And another seed another."""
    weights = []
    for seed in (0, 1):
        TwoGnnTrainer(QUICK).train(TrainOrder((results,), tmp_path / "two-gnn", seed), nobody)
        weights.append((tmp_path / "two-gnn.safetensors").read_bytes())
    assert weights[0] == quick.with_name("two-gnn.safetensors").read_bytes()
    assert weights[1] != weights[0]


# Scores


def test_other_splits_and_predictors_are_fitted_anew(results: Path, quick: Path) -> None:
    told: list[str] = []
    order = ScoreOrder((results,), quick, ("test", "model"), ("ours", "white-box"))
    scorer = TwoGnnTrainer()
    found = scorer.score(replace(order, predictors=("white-box",)), lambda done, total, what: told.append(what))
    assert told == ["trainings; white-box on test", *["trainings; white-box on model"] * 2]
    assert list(found.splits) == ["test", "model"]
    assert found.trained_on == ()
    assert found.splits["model"][0].mean.n == 96
    assert scorer.score(replace(order, splits=("test",)), nobody).trained_on == ("simulated",)


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({"predictors": ("oracle",)}, "boosting-raw"),
        ({"splits": ("weather",)}, "parallelism"),
        ({"splits": ("gpu",)}, "divided"),
    ],
)
def test_what_cannot_be_scored_is_refused(order: dict[str, Any], words: str, results: Path, quick: Path) -> None:
    """The last: there is one kind of GPU, and none to learn from without it."""
    asked = replace(ScoreOrder((results,), quick, ("test",), ("ours",)), **order)
    with pytest.raises(BadInput, match=words):
        TwoGnnTrainer().score(asked, nobody)


def test_every_split_that_help_names_is_one(results: Path) -> None:
    examples: Examples = from_runs(results)
    half = replace(examples.configurations, gpu=np.where(np.arange(96) < 48, "a100", "h100"))
    long = replace(half, prompt_tokens=np.where(np.arange(96) % 3 == 0, 3000, half.prompt_tokens))
    assert list(splits_named(SPLITS, replace(examples, configurations=long))) == list(SPLITS)


# Questions


@pytest.fixture(scope="module")
def fitted(quick: Path) -> tuple[Ours, Card]:
    ours, content = load(quick)
    return ours, Card.from_json(content, quick)


def outside(question: Question, fitted: tuple[Ours, Card]) -> tuple[str, ...]:
    ours, card = fitted
    assert ours.fitted is not None
    (found,) = differences(configurations_of([as_learnt(question, card)]), ours.fitted.covered, card)
    return found


@pytest.mark.parametrize(
    ("change", "said_of_it"),
    [
        ({}, ()),
        ({"gpu": "H100"}, ()),
        ({"gpu": "NVIDIA H100 80GB HBM3"}, ()),
        ({"gpu": "h200"}, ("GPU h200: training had h100",)),
        ({"model": model_shape("yi-34b")}, ("model yi-34b: training had llama-2-7b, llama-3-8b",)),
        ({"tp": 4}, ("llama-2-7b in 16 bits at tp 4 x pp 1 on h100: not in training",)),
        ({"bits": 8}, ("llama-2-7b in 8 bits at tp 2 x pp 1 on h100: not in training",)),
        ({"prompt_tokens": 3000}, ("prompt 3000: training had 64 to 1024",)),
        (
            {"batch_size": 64, "generated_tokens": 4},
            ("batch 64: training had 1 to 32", "generated tokens 4: training had 8 to 64"),
        ),
        ({"engine": "sarathi"}, ("engine sarathi: training had vllm",)),
        ({"token_budget": 512}, ("vllm with a token budget of 512: training had 8192",)),
    ],
)
def test_how_a_question_differs_from_training_is_said(
    change: dict[str, Any], said_of_it: tuple[str, ...], fitted: tuple[Ours, Card]
) -> None:
    assert outside(replace(QUESTION, **change), fitted) == said_of_it


def test_a_model_goes_by_its_dimensions(fitted: tuple[Ours, Card]) -> None:
    """A folder of one's own with the same config.json is no new model; another model of a known name is."""
    shape = QUESTION.model
    same = replace(QUESTION, model=replace(shape, name="Llama-2-7b-chat-hf", max_context_tokens=32768))
    other = replace(QUESTION, model=replace(shape, layers=40))
    assert outside(same, fitted) == ()
    assert outside(other, fitted) == ("model llama-2-7b (other dimensions): training had llama-2-7b, llama-3-8b",)


def test_what_is_not_said_is_the_commonest_of_training(fitted: tuple[Ours, Card]) -> None:
    card = replace(fitted[1], token_budgets={"vllm": (2048, 8192), "sarathi": (512,)})
    served = [
        (found.engine, found.token_budget)
        for engine, budget in ((None, None), ("sarathi", None), ("other", None), (None, 4096))
        for found in [as_learnt(replace(QUESTION, engine=engine, token_budget=budget), card)]
    ]
    assert served == [("vllm", 2048), ("sarathi", 512), ("other", 2048), ("vllm", 4096)]


def test_a_gpu_without_figures_is_refused(fitted: tuple[Ours, Card]) -> None:
    with pytest.raises(BadInput, match="a100, a100-40gb, gh200, h100, h200"):
        as_learnt(replace(QUESTION, gpu="tpu"), fitted[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "^$"),
        ({"gpu": "a100-40gb", "batch_size": 64, "tp": 1, "prompt_tokens": 2048}, "in waves"),
        ({"model": model_shape("llama-2-70b"), "tp": 1}, "weights need"),
        ({"tp": 8, "pp": 2}, "the node has 8"),
        ({"tp": 3}, "does not divide"),
        ({"prompt_tokens": 5000}, "exceeds the model's 4096"),
    ],
)
def test_what_cannot_run_is_said(change: dict[str, Any], words: str, fitted: tuple[Ours, Card], quick: Path) -> None:
    question = replace(QUESTION, **change)
    why_not = obstacle(as_learnt(question, fitted[1]))
    assert re.search(words, why_not)
    (answer,) = TwoGnnTrainer().predict(quick, (question,)).answers
    assert answer.infeasible == why_not
    assert (answer.total_j is None) == bool(why_not)


# What to measure next


def test_what_tests_does_not_teach(results: Path) -> None:
    """By the rule that training divides points by, for points that nobody measured too."""
    examples = from_runs(results)
    c = examples.configurations
    asked = [
        Question(str(c.gpu[at]), c.shapes[str(c.model[at])], int(c.batch_size[at]), int(c.prompt_tokens[at]),
                 int(c.generated_tokens[at]), int(c.tp[at]), int(c.pp[at]), int(c.bits[at]))
        for at in range(len(c))
    ]  # fmt: skip
    assert TwoGnnTrainer().teaches(asked).tolist() == (part_of(c) == TRAIN).tolist()
    assert TwoGnnTrainer().teaches([]).shape == (0,)


def test_the_expected_error_is_that_of_the_interval(quick: Path) -> None:
    """So it is larger for what is unlike all that taught; noise is a few thousandths on the simulated node."""
    strange = replace(QUESTION, model=model_shape("llama-2-70b"), tp=8)
    found = TwoGnnTrainer().knowledge(quick, [QUESTION, strange, replace(QUESTION, batch_size=32)])
    answers = TwoGnnTrainer().predict(quick, (QUESTION, strange)).answers
    half = [np.log(one.high_j / one.total_j) for one in answers if one.high_j and one.total_j]
    np.testing.assert_allclose(np.log1p(found.error[:2]) * 1.645, half, rtol=1e-6)
    assert found.error[1] > found.error[0]
    assert ((found.noise > 0) & (found.noise < 0.05)).all()
    # Batches of 8 and 32, all else equal: a factor of four is as far as the other says little.
    np.testing.assert_allclose(found.coordinates[2] - found.coordinates[0], [1, 0, 0])


def test_accuracy_is_weighted_by_traffic(results: Path, tmp_path: Path) -> None:
    """All on one test point: its own error, and nothing is left to draw; on none: nothing to say."""
    examples = from_runs(results)
    test = examples.take(part_of(examples.configurations) == TEST)
    order = TrainOrder((results,), tmp_path / "two-gnn", traffic={str(test.point_id[0]): 0.3})
    found = TwoGnnTrainer(QUICK).train(order, nobody).accuracy
    ours, _ = load(tmp_path / "two-gnn")
    one = test.take(slice(0, 1))
    error_pct = 100 * abs(ours.predict(one.configurations).total_j[0] / one.total_j[0] - 1)
    assert found is not None
    assert found.n == 1
    assert (found.mape_pct, found.mape_low_pct, found.mape_high_pct) == pytest.approx((error_pct,) * 3)
    assert TwoGnnTrainer(QUICK).train(replace(order, traffic={}), nobody).accuracy is None
    whole = TwoGnnTrainer(QUICK).train(replace(order, traffic=None), nobody).accuracy
    assert whole is not None
    assert whole.n == len(test)
    assert whole.mape_low_pct < whole.mape_pct < whole.mape_high_pct


def test_a_sweep_in_rounds_trains_between_them(tmp_path: Path) -> None:
    """With hardly trained networks: what is picked is new, teaches, and the scores are on the same points."""
    sweep = load_sweep(write_sweep(tmp_path, ("repetitions: 2", "repetitions: 1"), text=SWEEP))
    done, outcome = measured(sweep, tmp_path / "out", TwoGnnTrainer(QUICK), 72, 2)
    assert (done.points_done, done.runs_left) == (
        sum(len(one.picks) for one in read_rounds(tmp_path / "out", "small")),
        0,
    )
    first, second = read_rounds(tmp_path / "out", "small")
    assert (first.kind, second.kind) == ("drawn", "targeted")
    assert not point_ids([first]) & point_ids([second])
    scored = [one.accuracy for one in outcome.scored if one.accuracy]
    assert len(scored) == 2
    assert scored[0].n == scored[1].n > 0
    assert all(one.mape_low_pct <= one.mape_pct <= one.mape_high_pct for one in scored)


def test_the_installed_trainer_is_this_one() -> None:
    assert isinstance(find_trainer(), TwoGnnTrainer)
