"""The real node: sweeps that measure, by the real pynvml on a stand-in driver and on powercap trees.

What the counters give must be the stand-ins' truth, and what is not there null with its reason.
"""

import os
import socket

import pandas as pd
import pytest

from tests.fixtures.nvml.driver import Gate
from tests.integration.machine import IDLE_W, SWEEP, Machine
from tests.integration.machine_child import CPU_W, STRANGER, WORK_W

pytestmark = pytest.mark.flaky(reruns=3, reruns_delay=1)
"""Real clocks and processes: a machine that stalls for half a second turns any of them."""


def near(run: dict[str, float], domain: str, true_j: float) -> None:
    """Within what the run states (a machine under load polls late, and says so) and the counter's resolution."""
    error_j = abs(run[f"{domain}_energy_j"] - true_j)
    assert error_j <= run[f"{domain}_energy_uncertainty_j"] + 0.01 * true_j, (domain, run[f"{domain}_energy_j"], true_j)
    assert error_j <= 0.15 * true_j


def test_a_real_sweep_measures_what_the_counters_truly_held(machine: Machine) -> None:
    machine.orders["at_launch"] = [["temperature_c", "45"]]
    outcome = machine.sweep()
    assert (outcome["points_done"], outcome["runs_taken"], outcome["skipped"]) == (2, 4, [])
    runs = machine.runs()
    assert set(runs["status"]) == {"ok"}, runs["reason"].tolist()
    assert set(runs["source"]) == {"measured"}
    assert set(runs["node"]) == {socket.gethostname()}
    assert set(runs["driver_version"]) == {"555.42.06"}
    assert set(runs["gpu_name"]) == {"NVIDIA Fake 80GB"}
    assert set(runs["power_limit_w"]) == {700.0}
    assert set(runs["engine_version"]) == {"1.0"}
    assert "none that is here" not in set(runs["cpu"])
    assert {len(uuids) for uuids in runs["gpu_uuids"]} == {1}
    for run in runs.to_dict("records"):
        (uuid,) = run["gpu_uuids"]
        gpu = int(uuid[-1])
        gates = [Gate(WORK_W, begin_s, end_s) for index, begin_s, end_s in outcome["gates"] if index == gpu]  # type: ignore[attr-defined]
        start_s, end_s = run["window_started_s"], run["window_started_s"] + run["window_s"]
        batches = run["batches_in_window"]
        true_j = machine.driver.truth_j(start_s, end_s, gates, gpu) / batches  # type: ignore[union-attr]
        near(run, "gpu", true_j)
        start_s = run["prefill_window_started_s"]
        prefill_j = machine.driver.truth_j(start_s, start_s + run["prefill_window_s"], gates, gpu)  # type: ignore[union-attr]
        near(run, "gpu_prefill", prefill_j / run["prefill_batches_in_window"])
        others_j = machine.driver.truth_j(0, run["window_s"], gpu=1 - gpu) / batches  # type: ignore[union-attr]
        near(run, "idle_gpus", others_j)
        assert (run["cpu_source"], run["dram_source"]) == ("measured", "measured")
        assert run["gpu_loaded_idle_w"] == pytest.approx(IDLE_W[gpu], rel=0.25)
        assert run["rest_energy_j"] is None or pd.isna(run["rest_energy_j"])
        assert "measurement.node_power" in run["rest_reason"]
    # A thread counts the tree up, late where the machine is busy; a wrap, a zone or a unit too many is far more.
    for domain, zones in (("cpu", ("package-0", "package-1")), ("dram", ("package-0 dram", "package-1 dram"))):
        true_w = sum(CPU_W[zone] for zone in zones)
        assert (runs[f"{domain}_energy_j"] / runs["duration_s"]).median() == pytest.approx(true_w, rel=0.2)
        assert runs[f"{domain}_cold_idle_w"].median() == pytest.approx(true_w, rel=0.2)
    again = machine.sweep()
    assert (again["runs_taken"], again["windows"]) == (0, 0), "the store says that nothing is left"


@pytest.mark.slow
def test_launches_go_round_the_boards_in_aligned_groups(machine: Machine) -> None:
    outcome = machine.sweep(
        ("sizes: [1, 8]", "sizes: [1]"), ("foreign_cores", "probes: {points: 1, launches: 4}, foreign_cores"),
        ("repetitions: 2", "repetitions: 1"), ("generated_tokens: [16]", "generated_tokens: [1]"),
    )  # fmt: skip
    used = {tuple(uuids) for uuids in outcome["launches"]}  # type: ignore[attr-defined]
    assert used == {("GPU-fake-0000",), ("GPU-fake-0001",)}


@pytest.mark.slow
def test_a_power_limit_changed_between_launches_is_another_environment(machine: Machine) -> None:
    machine.orders["at_stop"] = [["limit_w", "600"]]
    outcome = machine.sweep(
        ("[{tp: 1}]", "[{tp: 1}, {tp: 2}]"), ("sizes: [1, 8]", "sizes: [1]"), ("repetitions: 2", "repetitions: 1"),
        ("generated_tokens: [16]", "generated_tokens: [1]"),
    )  # fmt: skip
    runs = machine.runs().sort_values("started_at")
    assert runs["power_limit_w"].tolist() == [700.0, 600.0, 600.0], "the first is measured again under the new limit"
    assert runs.groupby("environment_id")["power_limit_w"].nunique().tolist() == [1, 1]
    assert (outcome["points_done"], outcome["runs_left"]) == (2, 0)


@pytest.mark.parametrize(("pids", "status"), [(1, "ok"), (2, "invalid")])
def test_one_process_per_gpu_of_a_container_is_taken_for_the_engines(machine: Machine, pids: int, status: str) -> None:
    machine.orders["at_launch"] = [["pid", f"{STRANGER - i} -1 {{now}}"] for i in range(pids)]
    machine.sweep(
        ("max_context_tokens: 4096}", "max_context_tokens: 4096, command: [docker, run, engine, serve, '{model}']}"),
        ("sizes: [1, 8]", "sizes: [1]"), ("generated_tokens: [16]", "generated_tokens: [1]"),
        ("repetitions: 2", "repetitions: 1, max_attempts: 1"),
    )  # fmt: skip
    assert set(machine.runs()["status"]) == {status}


def test_a_node_without_gpus_measures_its_processors_and_has_no_gpu_energy(machine: Machine) -> None:
    outcome = machine.sweep(("[./node.yaml]", "[cpu-only]\nbits: [32]"), ("sizes: [1, 8]", "sizes: [1]"))
    assert (outcome["points_done"], outcome["gates"]) == (1, [])
    for run in machine.runs().to_dict("records"):
        assert (run["status"], run["gpu"], run["n_gpus"], run["gpu_uuids"].tolist()) == ("ok", "none", 0, [])
        assert (run["gpu_name"], run["driver_version"]) == ("", "")
        for domain in ("gpu", "gpu_prefill", "gpu_decode"):
            assert pd.isna(run[f"{domain}_energy_j"])
            assert "a node without GPUs" in run[f"{domain}_reason"]
        assert pd.isna(run["gpu_loaded_idle_w"])
        assert run["cpu_energy_j"] == pytest.approx(150.0 * run["duration_s"], rel=0.5)
        assert run["dram_energy_j"] == pytest.approx(21.0 * run["duration_s"], rel=0.5)
        # Nothing to be sure of at the GPUs: no window is taken again, longer.
        assert run["window_s"] < 1.0


def test_without_rapl_cpu_is_null_with_the_reason_and_dram_is_estimated_when_asked(machine: Machine) -> None:
    machine.rapl = False
    machine.sweep(("foreign_cores", "estimate_dram: true, foreign_cores"), ("sizes: [1, 8]", "sizes: [1]"))
    runs = machine.runs()
    assert set(runs["status"]) == {"ok"}
    assert runs["cpu_energy_j"].isna().all()
    assert runs["cpu_reason"].str.contains("the kernel shows no RAPL").all()
    for phase in ("dram", "dram_prefill", "dram_decode"):
        assert set(runs[f"{phase}_source"]) == {"estimated"}
    each_j = runs["dram_energy_j"] / runs["duration_s"]
    assert each_j.std() == pytest.approx(0, abs=1e-9)
    assert runs["dram_energy_uncertainty_j"].tolist() == pytest.approx(runs["dram_energy_j"].tolist())
    rest = runs["dram_energy_j"] - runs["dram_prefill_energy_j"]
    assert runs["dram_decode_energy_j"].tolist() == pytest.approx(rest.tolist())
    assert runs["dram_decode_energy_uncertainty_j"].tolist() == pytest.approx(rest.abs().tolist())


@pytest.mark.slow
def test_an_engine_that_is_not_installed_fails_its_points_and_takes_none_from_the_others(machine: Machine) -> None:
    both = SWEEP.replace(
        "batches:",
        "  - {name: sarathi, token_budget: 512, max_sequences: 128, max_context_tokens: 4096}\nbatches:",
    )
    machine.text, machine.orders["missing"] = both, "sarathi"
    outcome = machine.sweep(("sizes: [1, 8]", "sizes: [1]"), ("repetitions: 2", "repetitions: 1, max_attempts: 1"))
    assert (outcome["points_done"], outcome["points_given_up"]) == (1, 1)
    failed = machine.runs().query("status == 'failed'")
    assert failed["reason"].tolist() == ["EngineUnavailable: sarathi is not installed"]
    assert failed["engine_version"].tolist() == [""]
    machine.orders["missing"] = "vllm"
    machine.text = SWEEP
    assert machine.sweep()["error"] == ["EngineUnavailable", "vllm is not installed"]


@pytest.mark.slow
def test_the_rest_of_the_node_is_read_by_ipmi_where_asked(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = machine.folder / "ipmitool"
    tool.write_text("#!/bin/sh\necho '    Instantaneous power reading:   2000 Watts'\n", "utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{machine.folder}:{os.environ['PATH']}")
    machine.sweep(
        ("foreign_cores", "node_power: ipmi, foreign_cores"), ("sizes: [1, 8]", "sizes: [1]"),
        ("window: 400ms", "window: 4s"), ("generated_tokens: [16]", "generated_tokens: [1]"),
        ("repetitions: 2", "repetitions: 1"),
    )  # fmt: skip
    (run,) = machine.runs().to_dict("records")
    metered_j = sum(run[f"{domain}_energy_j"] for domain in ("gpu", "idle_gpus", "cpu", "dram"))
    assert run["rest_energy_j"] == pytest.approx(2000 * run["duration_s"] - metered_j, rel=1e-3)
    assert run["rest_source"] == "measured"
    assert run["rest_energy_uncertainty_j"] >= 0.05 * 2000 * run["duration_s"]
