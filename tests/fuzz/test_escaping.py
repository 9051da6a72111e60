"""Texts from data reach a terminal and a page as texts: no control characters, no markup, no tags."""

import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.records import Energy
from harness.texts import printable
from tests.fuzz.amounts import cases
from tests.fuzz.cases import case_folder, check_outcome, run, tree
from tests.fuzz.documents import DEPLOYMENTS
from tests.fuzz.folders import PLAN, write_json, write_results
from tests.unit.builders import write_sweep

Counts = Counter[tuple[str, str]]
EVIL = (
    "[red]x[/red]", "[/]", "[link=http://x]y", ":warning:", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "'\"><b>", "&lt;b&gt;", "\x1b[31mx", "\x1b]0;t\x07", "a\nb", "a\rb", "\u202ex", "\x9b31m", "$x^2$", "%s{0}", "\x07",
)  # fmt: skip
evil = st.sampled_from(EVIL) | st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "nav", "a", "div", "table", "thead",
    "tbody", "tr", "th", "td", "figure", "figcaption", "img", "details", "summary",
}  # fmt: skip
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "class", "href", "id", "title", "alt", "src"}


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        for name, value in attrs:
            assert name in ATTRIBUTES, name
            assert name != "href" or (value or "").startswith("#"), value
            assert name != "src" or (value or "").startswith("data:image/svg+xml;base64,"), value

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def evil_results(folder: Path, text: str) -> None:
    """Runs in which every name and reason is the text."""
    absent = {domain: Energy.absent(text) for domain in ("cpu", "dram")}
    write_results(
        folder, sweep=text, model=text, gpu_name=text, node=text, cpu=text, engine=text, engine_version=text,
        trace=text, driver_version=text, flags=(text,), status="failed", reason=text, gpu=text,
        energies={"gpu": Energy(900.0, 1.0, "simulated"), "gpu_prefill": Energy(300.0, 1.0, "simulated"), **absent,
                  "rest": Energy.absent(text)},
    )  # fmt: skip
    write_json(folder / "plan-small.json", {**PLAN, "sweep": text})


@cases(0.6)
@given(text=evil)
@example("\x1b[31m[red]x[/red]")
def test_names_and_reasons_of_runs(made: Path, counted: Counts, text: str) -> None:
    with case_folder(made) as folder:
        evil_results(folder / "R", text)
        for words in (("status", "--results", "R"), ("report", "R"), ("status",), ("merge", "R", "--results", "new")):
            ended = run(*words, cwd=folder)
            check_outcome(ended)
            if words == ("status", "--results", "R"):
                assert " ".join(printable(text).split()) in " ".join(ended.out.split())
        for words in (("status", "--results", "R", "--json"), ("report", "R", "--json")):
            ended = run(*words, cwd=folder)
            check_outcome(ended, 0)
            assert json.dumps(text) in ended.out
            counted["escaping: runs", ended.kind] += 1


@cases(0.4)
@given(text=evil)
@example("<img src=x onerror=alert(1)>'\"")
def test_names_and_reasons_in_a_page(made: Path, counted: Counts, text: str) -> None:
    with case_folder(made) as folder:
        evil_results(folder / "R", text)
        ended = run("report", "R", "--out", "page.html", cwd=folder)
        check_outcome(ended, 0)
        page = Page()
        page.feed((folder / "page.html").read_text("utf-8"))
        page.close()
        assert printable(text) in "".join(page.texts)
    counted["escaping: page", ended.kind] += 1


@cases(1)
@given(text=evil)
@example("\x1b[31m[red]<b>")
def test_names_of_files_and_folders(made: Path, counted: Counts, text: str) -> None:
    """A model is called as its folder, a trace as its file; paths are in most messages."""
    name = text.replace("/", "").replace("\0", "").strip(".~") or "x"
    with case_folder(made) as folder:
        write_sweep(folder, ("[llama-2-7b]", json.dumps([f"./{name}/config.json"])))
        (folder / name).mkdir()
        (folder / name / "config.json").write_bytes((DEPLOYMENTS / "models" / "llama-2-7b.json").read_bytes())
        write_results(folder / "R")
        before = tree(folder)
        batch = ("--gpu", name, "--batch", "8", "--prompt", "128", "--generate", "16", "--predictor", "R")
        for words in (
            ("sweep", "sweep.yaml", "--dry-run", "--points", "1"),
            ("next", "sweep.yaml", "--points", "1", "--results", "R"),
            ("predict", "--model", f"./{name}", *batch), ("predict", "--model", name, *batch), ("report", name),
            ("status", f"--results={name}"), ("status", f"--results={name}x"), ("traces", "describe", f"./{name}"),
            ("traces", "describe", f"{name}.csv"), ("sweep", f"./{name}"), ("regions", f"--results={name}"),
            ("doctor", f"--results={name}"),
        ):  # fmt: skip
            ended = run(*words, cwd=folder)
            check_outcome(ended)
            counted["escaping: paths", ended.kind] += 1
        assert tree(folder) == before


@pytest.mark.parametrize("name", ["\x1b[31m[red]x<b>:ok:"])
def test_a_whole_sweep_of_a_model_with_such_a_name(made: Path, counted: Counts, name: str) -> None:
    with case_folder(made) as folder:
        write_sweep(folder, ("[llama-2-7b]", json.dumps([f"./{name}/config.json"])))
        (folder / name).mkdir()
        (folder / name / "config.json").write_bytes((DEPLOYMENTS / "models" / "llama-2-7b.json").read_bytes())
        for more in ((), ("--json",)):
            ended = run("sweep", "sweep.yaml", "--points", "1", "--repetitions", "2", *more, cwd=folder)
            assert ended.code == 0, ended.err
            assert all(letter.isprintable() or letter == "\n" for letter in ended.out + ended.err)
        check_outcome(run("status", cwd=folder), 0)
        shown = run("report", cwd=folder)
        check_outcome(shown, 0)
        assert printable(name) in shown.out
    counted["escaping: whole sweep", ended.kind] += 1
