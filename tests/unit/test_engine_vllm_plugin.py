"""The plug-in records what a scheduler of vLLM's interface did, however its steps overlap, and never breaks it."""

import importlib
import subprocess
import sys
from collections import deque
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from harness.engines.inside.steplog import StepLog, request_id
from harness.engines.kit import INSIDE, write_kit
from harness.engines.steps import Records, StepTail
from tests.fixtures.fake_scheduler import Output, Request, Scheduler


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Imported as an engine would, from a flat folder."""
    monkeypatch.syspath_prepend(str(INSIDE))
    return importlib.import_module("vllm_plugin")


@pytest.fixture
def watched(plugin: ModuleType, tmp_path: Path) -> type[Scheduler]:
    made = type("Watched", (Scheduler,), {})
    plugin.watch(made, str(tmp_path / "log"))
    return made


def serve(scheduler: Scheduler, in_flight: int = 1) -> None:
    """Until all is done; so many steps are scheduled before the first one's tokens are known."""
    waiting: deque[Output] = deque()
    while scheduler.requests or waiting:
        output = scheduler.schedule()
        if output.num_scheduled_tokens:
            waiting.append(output)
        if len(waiting) >= in_flight or not output.num_scheduled_tokens:
            first = waiting.popleft()
            scheduler.update_from_output(first, None)


def named(number: int) -> str:
    """As vLLM names a numbered request."""
    return f"cmpl-{request_id(number)}-0-1a2b3c4d"


def look(tmp_path: Path) -> Records:
    return StepTail(tmp_path / "log").look()


@pytest.mark.parametrize("in_flight", [1, 2, 4])
def test_steps_add_up_to_requests_also_when_they_overlap(
    watched: type[Scheduler], tmp_path: Path, in_flight: int
) -> None:
    scheduler = watched(budget=50)
    random = np.random.default_rng(in_flight)
    prompts, generated = random.integers(1, 120, 30), random.integers(1, 9, 30)
    for number, (prompt, tokens) in enumerate(zip(prompts, generated, strict=True)):
        scheduler.add_request(Request(named(number), int(prompt), int(tokens)))
    serve(scheduler, in_flight)
    records = look(tmp_path)
    assert records.steps["prefill_tokens"].sum() == prompts.sum()
    assert records.steps["decode_requests"].sum() == (generated - 1).sum()
    assert records.requests["finished"].all()
    order = np.argsort(records.requests["number"])
    assert records.requests["number"][order].tolist() == list(range(30))
    assert records.requests["prompt_tokens"][order].tolist() == prompts.tolist()
    assert records.requests["generated_tokens"][order].tolist() == generated.tolist()
    assert np.isin(records.requests["admitted_s"], records.steps["start_s"]).all()
    assert np.isin(records.requests["first_token_s"], records.steps["end_s"]).all()
    assert np.isin(records.requests["finished_s"], records.steps["end_s"]).all()
    assert (np.diff(records.steps["end_s"]) >= 0).all()


def test_context_counts_the_keys_that_attention_reads(watched: type[Scheduler], tmp_path: Path) -> None:
    scheduler = watched(budget=10)
    scheduler.add_request(Request(named(1), 25, 3))
    serve(scheduler)
    steps = look(tmp_path).steps
    assert steps["prefill_tokens"].tolist() == [10, 10, 5, 0, 0]
    assert steps["prefill_requests"].tolist() == [1, 1, 1, 0, 0]
    assert steps["context_tokens"].tolist() == [10, 20, 25, 26, 27]


def test_a_prompt_of_one_token_is_a_prefill(watched: type[Scheduler], tmp_path: Path) -> None:
    scheduler = watched()
    scheduler.add_request(Request(named(1), 1, 2))
    serve(scheduler)
    steps = look(tmp_path).steps
    assert steps["prefill_tokens"].tolist() == [1, 0]
    assert steps["decode_requests"].tolist() == [0, 1]


@pytest.mark.parametrize("which", ["text", "set", "all"])
def test_an_aborted_request_is_told_with_what_it_had_generated(
    watched: type[Scheduler], tmp_path: Path, which: str
) -> None:
    scheduler = watched()
    scheduler.add_request(Request(named(5), 4, 100))
    for _ in range(3):
        scheduler.update_from_output(scheduler.schedule(), None)
    scheduler.finish_requests({"text": named(5), "set": {named(5), "gone"}, "all": None}[which], 0)
    (over,) = look(tmp_path).requests
    assert (over["number"], over["finished"], over["generated_tokens"]) == (5, 0, 3)
    scheduler.finish_requests(named(5), 0)
    assert len(look(tmp_path).requests) == 1


def test_requests_of_others_are_in_the_steps_only(watched: type[Scheduler], tmp_path: Path) -> None:
    scheduler = watched()
    scheduler.add_request(Request("cmpl-somebody-else", 4, 2))
    serve(scheduler)
    records = look(tmp_path)
    assert len(records.steps) == 2
    assert len(records.requests) == len(records.arrivals) == 0


def test_a_paused_scheduler_shows_arrivals_the_gate_and_no_steps(watched: type[Scheduler], tmp_path: Path) -> None:
    scheduler = watched()
    scheduler.set_pause_state(2)
    scheduler.add_request(Request(named(9), 4, 2))
    scheduler.update_from_output(scheduler.schedule(), None)
    scheduler.set_pause_state(0)
    records = look(tmp_path)
    assert records.gates["closed"].tolist() == [1, 0]
    assert records.arrivals["number"].tolist() == [9]
    assert len(records.steps) == 0


class OddScheduler(Scheduler):
    """Schedules a request that it does not have, from the second step on."""

    def schedule(self, throttle_prefills: bool = False) -> Output:
        output = super().schedule(throttle_prefills)
        if any(request.num_output_tokens for request in self.requests.values()):
            output.num_scheduled_tokens["ghost"] = 1
        return output


def test_a_surprise_ends_the_records_and_not_the_serving(
    plugin: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = type("Watched", (OddScheduler,), {})
    plugin.watch(made, str(tmp_path / "log"))
    scheduler = made()
    scheduler.add_request(Request(named(1), 4, 3))
    serve(scheduler)
    assert scheduler.requests == {}
    assert len(look(tmp_path).steps) == 1
    assert capfd.readouterr().err == "harness: step records end here: KeyError: 'ghost'\n"


def test_a_full_disk_ends_the_records_and_not_the_serving(
    plugin: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = type("Watched", (Scheduler,), {})
    plugin.watch(made, "/dev/full")
    with pytest.raises(OSError, match="No space"):
        StepLog("/dev/full")
    scheduler = Scheduler.__new__(made)
    Scheduler.__init__(scheduler)
    log = StepLog(str(tmp_path / "log"))
    scheduler.harness_recorder = plugin.Recorder(log)  # type: ignore[attr-defined]
    log.close()
    scheduler.add_request(Request(named(1), 4, 3))
    serve(scheduler)
    assert scheduler.requests == {}
    assert capfd.readouterr().err.count("step records end here: OSError") == 1


def run_register(tmp_path: Path, scheduler: str) -> subprocess.CompletedProcess[str]:
    """Call the entry point in a Python where `vllm` is a stand-in with this scheduler module."""
    package = tmp_path / "site" / "vllm" / "v1" / "core" / "sched"
    package.mkdir(parents=True)
    (package / "scheduler.py").write_text(scheduler)
    code = (
        "import sys; from importlib.metadata import entry_points\n"
        "(found,) = [one for one in entry_points(group='vllm.general_plugins') if one.name == 'harness_steps']\n"
        "found.load()(); found.load()()\n"
        "from vllm.v1.core.sched.scheduler import Scheduler; print(Scheduler.harness_watches)"
    )
    kit = write_kit(tmp_path)
    environment = {"PYTHONPATH": f"{kit}:{tmp_path / 'site'}", "HARNESS_STEP_LOG": str(tmp_path / "log")}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


METHODS = ("schedule", "update_from_output", "add_request", "finish_requests", "set_pause_state")


def test_vllm_finds_the_plugin_through_the_search_path_alone(tmp_path: Path) -> None:
    body = "".join(f"    def {name}(self): ...\n" for name in METHODS)
    answer = run_register(tmp_path, f"class Scheduler:\n{body}")
    assert answer.stdout.strip() == "True", answer.stderr
    assert "harness-inside" not in {one.metadata["Name"] for one in distributions()}


@pytest.mark.parametrize("missing", METHODS)
def test_a_vllm_without_a_watched_method_is_refused_in_one_line(tmp_path: Path, missing: str) -> None:
    body = "".join(f"    def {name}(self): ...\n" for name in METHODS if name != missing)
    answer = run_register(tmp_path, f"class Scheduler:\n{body}")
    assert answer.returncode == 1
    last = answer.stderr.strip().splitlines()[-1]
    assert last == f"RuntimeError: harness: this version of vLLM is not supported: no Scheduler.{missing}"


def test_a_vllm_that_is_laid_out_otherwise_is_refused_in_one_line(tmp_path: Path) -> None:
    answer = run_register(tmp_path, "class Other: ...\n")
    assert "harness: this version of vLLM is not supported" in answer.stderr.strip().splitlines()[-1]
