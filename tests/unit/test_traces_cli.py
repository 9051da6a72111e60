"""The `traces` commands as a person and a script see them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli.traces import traces
from harness.errors import BadInput
from harness.workload.library import manifest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_TRACES", str(tmp_path))
    return tmp_path


def ran(*arguments: str) -> Result:
    result = CliRunner().invoke(traces, arguments)
    assert result.exit_code == 0, result.output
    return result


def placed(folder: Path, data_dir: Path, name: str) -> None:
    entry = next(entry for entry in manifest() if entry.name == name)
    (folder / entry.file).write_bytes((data_dir / "azure" / entry.file).read_bytes())


def test_list_shows_which_traces_were_fetched(folder: Path, data_dir: Path) -> None:
    placed(folder, data_dir, "azure2023-conv")
    lines = ran("list").stdout.splitlines()
    state_at = lines[0].index("STATE")
    assert {line.split()[0]: line[state_at:].startswith("fetched") for line in lines[1:3]} == {
        "azure2023-code": False,
        "azure2023-conv": True,
    }
    assert str(folder) in "\n".join(lines)
    assert "Splitwise" in lines[-1]


def test_fetch_all_prints_where_each_trace_lies(folder: Path, data_dir: Path) -> None:
    for entry in manifest():
        placed(folder, data_dir, entry.name)
    result = ran("fetch", "all", "--folder", str(folder))
    assert result.stdout.splitlines() == [f"{entry.name}: {folder / entry.file}" for entry in manifest()]
    assert result.stderr == ""


def test_describe_json_has_the_figures_of_the_trace(folder: Path, data_dir: Path) -> None:
    placed(folder, data_dir, "azure2023-code")
    figures = json.loads(ran("describe", "azure2023-code", "--json").stdout)
    assert (figures["name"], figures["source"], figures["requests"]) == ("azure2023-code", "file", 8819)
    assert (figures["minutes"], figures["empty_minutes"], figures["busiest_minute_requests"]) == (58, 12, 632)
    assert figures["rate_per_s"] == pytest.approx(2.57, abs=0.005)
    assert figures["gap_cv"] == pytest.approx(13.2, abs=0.06)
    assert figures["over_context_share"] == pytest.approx(0.1425, abs=1e-4)
    assert figures["prompt_tokens"] == pytest.approx({"mean": 2047.848, "median": 1469, "p99": 7436, "max": 7437})
    assert figures["generated_tokens"]["max"] == 1899


def test_describe_says_that_it_is_a_profile(folder: Path) -> None:
    output = ran("describe", "azure2023-conv").stdout
    assert "azure2023-conv-profile" in output
    assert "bundled statistical profile, sampled" in output
    assert max(map(len, output.splitlines())) < 100


def test_describe_of_a_single_request_has_no_rate(folder: Path) -> None:
    path = folder / "one.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:00,5,6\n")
    figures = json.loads(ran("describe", str(path), "--json").stdout)
    assert (figures["rate_per_s"], figures["gap_cv"], figures["span_s"]) == (None, None, 0.0)
    assert "prompt" in ran("describe", str(path)).stdout


def test_unknown_trace_is_bad_input(folder: Path) -> None:
    for command in ("describe", "fetch"):
        assert isinstance(CliRunner().invoke(traces, [command, "nope"]).exception, BadInput)


@pytest.mark.parametrize("command", [[], ["list"], ["fetch"], ["describe"]])
def test_help_has_an_example(command: list[str]) -> None:
    assert "  harness traces " in ran(*command, "--help").stdout.split("Example:")[1]
