"""Every command with odd options, values and files."""

from collections import Counter
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import values
from tests.fuzz.amounts import cases
from tests.fuzz.cases import case_folder, check_outcome, commands, run, tree
from tests.fuzz.commandlines import command_lines
from tests.fuzz.documents import DEPLOYMENTS, damaged, furnish
from tests.fuzz.folders import write_results
from tests.unit.builders import write_sweep

Counts = Counter[tuple[str, str]]
QUESTIONS = "gpu,model,batch_size,prompt_tokens,generated_tokens,tp,pp,bits,engine,token_budget,more\n"
WRITERS = ("merge", "report", "predict", "train")
"""Commands that are asked to write something."""
MEASURING = ("sweep", "collect")
"""Commands that measure; of `sweep` the plan alone is asked as well."""
LOOKING = {name: one for name, one in commands().items() if name not in (*WRITERS, "collect")}


def furnished(folder: Path) -> None:
    """A folder in which a command finds all it may ask for."""
    furnish(folder)
    write_sweep(folder)
    (folder / "shape").mkdir()
    (folder / "shape" / "config.json").write_bytes((DEPLOYMENTS / "models" / "llama-2-7b.json").read_bytes())
    (folder / "questions.csv").write_text(QUESTIONS + "a100,llama-2-7b,8,128,16,1,1,16,,,x\n")
    write_results(folder / "results" / "simulated" / "small")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all cases: none of them may change it."""
    folder = tmp_path_factory.mktemp("prepared")
    furnished(folder)
    return folder


@cases(18)
@given(words=command_lines(LOOKING))
def test_commands_that_only_look(prepared: Path, counted: Counts, words: list[str]) -> None:
    before = tree(prepared)
    ended = run(*words, cwd=prepared)
    check_outcome(ended)
    assert tree(prepared) == before
    counted[
        f"command: {words[0] or '(none)'}" if words[0] in commands() or words[0] == "traces" else "command: none",
        ended.kind,
    ] += 1


@cases(3)
@given(words=command_lines({name: one for name, one in commands().items() if name in WRITERS}))
def test_commands_that_write(made: Path, counted: Counts, words: list[str]) -> None:
    """What is refused has written nothing."""
    with case_folder(made) as folder:
        furnished(folder)
        before = tree(folder)
        ended = run(*words, cwd=folder)
        check_outcome(ended)
        if ended.code == 2:
            assert tree(folder) == before
    counted[f"command: {words[0]}" if words[0] in WRITERS else "command: none", ended.kind] += 1


@cases(6)
@given(data=st.data())
def test_a_sweep_with_one_bad_option_measures_nothing(prepared: Path, counted: Counts, data: st.DataObject) -> None:
    bad = {
        "--points": ("0", "-1", "x", ""), "--rounds": ("0", "1001", "x"), "--repetitions": ("0", "101", "1.0"),
        "--max-attempts": ("0", "-1"), "--budget": ("5x", "-1h", "0s", "", "h"), "--cluster": ("mesos", ""),
        "--seed": ("-1", str(2**31), "x"), "--results": ("sweep.yaml", "/proc/x", "sweep.yaml/y", "loop", "fifo"),
        "--nonsense": ("x",),
    }  # fmt: skip
    option = data.draw(st.sampled_from(sorted(bad)))
    value = data.draw(st.sampled_from(bad[option]))
    name = data.draw(st.sampled_from([name for name in MEASURING if name in commands()]))
    before = tree(prepared)
    ended = run(name, "sweep.yaml", *(() if option == "--budget" else ("--budget", "6h")), option, value, cwd=prepared)
    check_outcome(ended, 2)
    assert option in ended.err or value in ended.err
    assert tree(prepared) == before
    counted[f"command: {name}, one bad option", ended.kind] += 1


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_number_names_its_range(prepared: Path, counted: Counts, name: str) -> None:
    """Also where what was given is no number at all."""
    for parameter in commands()[name].params:
        if isinstance(parameter.type, click.IntRange):
            for given_value in ("five", "1.5", "", "-7"):
                ended = run(*name.split(), f"{parameter.opts[0]}={given_value}", cwd=prepared)
                check_outcome(ended, 2)
                assert parameter.opts[0] in ended.err
                assert repr(given_value) in ended.err or given_value == "-7"
                assert str(parameter.type.min) in ended.err
                assert str(parameter.type.max) in ended.err.replace(",", "")
                counted["command: no number", ended.kind] += 1


@cases(5)
@given(data=st.data())
def test_questions_to_a_predictor(prepared: Path, made: Path, counted: Counts, data: st.DataObject) -> None:
    cell = st.sampled_from(
        ("a100", "llama-2-7b", "8", "1", "0", "-1", "nan", "1e3", "10000001", "9" * 400, "", " 8 ", "gpt-5", "./fifo",
         "vllm", "8.0", "_1", "1_0", "٣", '"', '"a,b"', "\r", "x" * 70_000)
    ) | values.texts  # fmt: skip
    rows = data.draw(st.lists(st.lists(cell, max_size=12), max_size=4))
    good = ["a100,llama-2-7b,8,128,16,1,1,16,,,x"] * data.draw(st.integers(0, 2))
    head = data.draw(
        st.sampled_from(
            (
                QUESTIONS,
                QUESTIONS,
                QUESTIONS,
                "",
                "gpu,model\n",
                QUESTIONS.replace("gpu", "model"),
                "\ufeff" + QUESTIONS,
            )
        )
    )
    text = (head + "\n".join([*good, *(",".join(row) for row in rows)]) + "\n").encode()
    if data.draw(st.booleans()):
        text = data.draw(damaged(text))
    with case_folder(made) as folder:
        furnish(folder)
        (folder / "in.csv").write_bytes(text)
        before = tree(folder)
        predictor = str(prepared / "results" / "simulated" / "small")
        ended = run("predict", "--in", "in.csv", "--out", "out.csv", "--predictor", predictor, cwd=folder)
        check_outcome(ended, 0, 2)
        after = tree(folder)
        assert (ended.code == 0) == ("out.csv" in after)
        after.pop("out.csv", None)
        assert after == before
    counted["questions to a predictor", ended.kind] += 1
