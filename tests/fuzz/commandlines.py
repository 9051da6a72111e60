"""Command lines made of the commands' own options, each with a good, an odd or no value, in any order."""

from collections.abc import Mapping
from typing import Any

import click
from hypothesis import strategies as st

from tests.fuzz import values

_GOOD: Mapping[str, tuple[str, ...]] = {
    "file": ("sweep.yaml", "./sweep.yaml"),
    "results": ("results/simulated/small", "empty", "new", "sweep.yaml", "nowhere/x", "folder", "loop", "fifo"),
    "sources": ("results/simulated/small", "empty", "folder"),
    "target": ("results/simulated/small", "new", "sweep.yaml"),
    "out": ("page.html", "folder", "nowhere/page.html", "/dev/full", "sweep.yaml/x"),
    "questions": ("questions.csv", "trace.csv", "fifo", "folder", "empty", "nowhere.csv"),
    "predictor": ("results/simulated/small", "folder", "results/simulated/small/predictor/two-gnn.json", "empty"),
    "model": ("llama-2-7b", "./shape/config.json", "shape", "./shape", "gpt-5", "tiny-llama", "./fifo", "./folder"),
    "name_or_file": ("azure2023-conv", "trace.csv", "bad.csv", "azure2023-code-profile", "empty.csv", "fifo.csv"),
    "name": ("azure1999", "", "azure2023-conv-profile"),  # never one that would be fetched
    "folder": ("folder", "new", "sweep.yaml"),
    "trace": ("azure2023-conv", "./trace.csv", "bad.csv", "./fifo.csv", "azure1999"),
    "start": ("0", "1", "10m", "1h", "3000"), "duration": ("60s", "1", "2m", "1s", "5h"),
    "rate": ("1", "x2", "capacity:0.8"), "drain": ("120s", "1s"), "budget": ("6h", "90m", "1ms"), "cluster": ("local",),
    "gpu": ("a100", "h100"), "engine": ("vllm", "sarathi"),
    "splits": ("test", "test,gpu", "test,test", "", ",,"), "predictors": ("ours", "ours,boosting-raw", ""),
}  # fmt: skip
"""By the name of a parameter: values that are right or at least meant well."""
_LONELY = (
    "--help",
    "-h",
    "--version",
    "--",
    "-",
    "---",
    "--json=1",
    "--no-such",
    "-x",
    "--results=",
    "--seed",
    "extra",
    "",
)
TRACES_FETCH = "traces fetch"


def _good_values(parameter: click.Parameter) -> st.SearchStrategy[str]:
    kind = parameter.type
    if isinstance(kind, click.IntRange):
        return st.sampled_from([str(kind.min), str(min(kind.max or 8, 8))])
    return st.sampled_from(_GOOD.get(parameter.name or "", ("x", "1")))


def _odd_values(parameter: click.Parameter) -> st.SearchStrategy[str]:
    if parameter.name == "cluster":
        return st.sampled_from(
            ("mesos", "", "Local", "\x1b[31m", "local:", "local local")
        )  # none that would be looked for
    if isinstance(parameter.type, click.IntRange):
        return st.sampled_from(
            ("0", "-1", "1.5", "nan", "five", "", "1e3", "9" * 400, "٣", "0x10", "1_0", " 5 ", "\x1b[1m")
        )
    by_name: Mapping[str, tuple[str, ...]] = {
        "start": values.DURATIONS, "duration": values.DURATIONS, "drain": values.DURATIONS, "budget": values.DURATIONS,
        "rate": values.RATES,
    }  # fmt: skip
    return st.sampled_from(by_name.get(parameter.name or "", values.NASTY_TEXTS + values.PATHS)) | values.texts


@st.composite
def command_lines(draw: st.DrawFn, commands: Mapping[str, Any]) -> list[str]:
    """Words of a command line; what would measure is only asked for its plan."""
    name = draw(st.sampled_from(sorted(commands)))
    command = commands[name]
    groups: list[list[str]] = []
    wrong = draw(st.sampled_from((0, 1, 0, 1, 0, 2)))
    chosen = draw(st.permutations(list(command.params)))
    for parameter in chosen:
        flag = isinstance(parameter, click.Option) and parameter.is_flag
        wanted = parameter.required or isinstance(parameter, click.Argument)
        if draw(st.integers(0, 9)) >= (9 if wanted else 4):
            continue
        odd = wrong > 0 and not flag
        wrong -= odd
        value = draw(_odd_values(parameter) if odd else _good_values(parameter)) if not flag else ""
        if isinstance(parameter, click.Option):
            option = draw(st.sampled_from(parameter.opts))
            groups.append([option] if flag else draw(st.sampled_from(([option, value], [f"{option}={value}"]))))
        else:
            groups.append([value])
    if draw(st.integers(0, 9)) == 0:
        groups.insert(draw(st.integers(0, len(groups))), [draw(st.sampled_from(_LONELY) | values.texts)])
    if groups and draw(st.integers(0, 9)) == 0:
        groups.append(groups[0])
    words = [word for group in groups for word in group]
    if name in ("sweep", "replay"):
        words.insert(0, "--dry-run")
    if name == TRACES_FETCH:
        # Nothing may be fetched: of the names that there are, none is asked for.
        words = [word for word in words if word not in ("all", "azure2023-conv", "azure2023-code")]
    # No program can be given such a word.
    words = [word.replace("\0", "") for word in words]
    first = name.split()
    if draw(st.integers(0, 29)) == 0:
        first[-1] = draw(st.sampled_from((first[-1].upper(), first[-1][:-1], f"{first[-1]}x", "", "\x1b[31m")))
    return [*first, *words]
