"""The real node when something goes wrong, by the real pynvml on a stand-in driver and on powercap trees.

Each fault makes a run invalid or a value null, with its reason, and the sweep goes on; a busy node is skipped.
"""

import os
import socket
from pathlib import Path

import pytest

from tests.fixtures.powercap import build_powercap
from tests.integration.machine import SWEEP, Machine
from tests.integration.machine_child import PACKAGES, STRANGER

pytestmark = pytest.mark.flaky(reruns=3, reruns_delay=1)
"""Real clocks and processes: a machine that stalls for half a second turns any of them."""

FAULTS = {
    "2": ([["reload_at_s", "{now+0.1}"]], "CounterWentBack"),
    "4": ([["pid", f"{STRANGER} -1 {{now-0.1}} {{now+0.4}}"]], "foreign process"),
    "6": ([["reasons", "64 -1 {now-0.1} {now+0.4}"]], "hw_thermal_slowdown"),
    "8": ([["limit_w", "500 -1 {now-0.01} {now+0.42}"]], "power limit"),
    "10": ([["ecc_errors", "3 -1 {now+0.05}"]], "uncorrected ECC errors"),
    "12": ([["slow_s", "6 1"], ["later", "6.5 slow_s 0 1"]], "has not answered for 5 s"),
}
"""Each in one window; the last is a driver that hangs, and recovers."""


@pytest.mark.slow
def test_each_fault_makes_its_run_invalid_with_its_reason_and_the_sweep_goes_on(machine: Machine) -> None:
    machine.orders["script"] = {number: changes for number, (changes, _) in FAULTS.items()}
    outcome = machine.sweep(
        ("generated_tokens: [16]", "generated_tokens: [1]"), ("sizes: [1, 8]", "sizes: [1, 2, 4, 8]"),
        ("repetitions: 2", "repetitions: 3"),
    )  # fmt: skip
    assert (outcome["points_done"], outcome["points_given_up"], outcome["runs_left"]) == (4, 0, 0)
    runs = machine.runs().sort_values("started_at")
    invalid = runs[runs["status"] == "invalid"]
    for _, reason in FAULTS.values():
        assert invalid["reason"].str.contains(reason).sum() == 1, (reason, invalid["reason"].tolist())
    assert len(invalid) == len(FAULTS)
    assert (runs["status"] == "ok").sum() == 12


@pytest.mark.slow
def test_a_powercap_zone_that_disappears_makes_its_domain_null_and_nothing_else(machine: Machine) -> None:
    machine.orders["script"] = {"2": [["zone"]]}
    outcome = machine.sweep(("generated_tokens: [16]", "generated_tokens: [1]"))
    assert outcome["points_done"] == 2
    runs = machine.runs().sort_values("started_at")
    assert set(runs["status"]) == {"ok"}
    lost = runs[runs["cpu_energy_j"].isna()]
    assert len(lost) == 1
    assert "intel-rapl:0/energy_uj" in lost["cpu_reason"].iloc[0]
    assert runs["gpu_energy_j"].notna().all()
    assert runs["dram_energy_j"].notna().all()


@pytest.mark.slow
def test_a_gpu_lost_in_mid_window_invalidates_and_then_the_node_is_skipped_with_the_reason(machine: Machine) -> None:
    machine.orders["script"] = {"2": [["lost_at_s", "{now+0.1} 0"], ["lost_at_s", "{now+0.1} 1"]]}
    outcome = machine.sweep(("generated_tokens: [16]", "generated_tokens: [1]"), ("sizes: [1, 8]", "sizes: [1, 2, 4]"))
    runs = machine.runs()
    assert (runs["status"] == "ok").sum() == 1
    assert set(runs["status"]) == {"ok", "invalid"}
    assert runs[runs["status"] == "invalid"]["reason"].str.contains("NVML says").all()
    ((name, reasons),) = outcome["skipped"]  # type: ignore[misc]
    assert name == socket.gethostname()
    assert "NVML says" in " ".join(reasons)
    assert outcome["runs_left"] == 5, "of three points' two repetitions each; what was measured before is done"


@pytest.mark.slow
def test_a_driver_that_comes_back_is_opened_again_and_the_sweep_is_finished(machine: Machine) -> None:
    machine.orders |= {
        "script": {"2": [["lost_at_s", "{now+0.1} 0 {now+8.0}"], ["lost_at_s", "{now+0.1} 1 {now+8.0}"]]},
        "looks_s": 4.0,
    }
    outcome = machine.sweep(
        ("generated_tokens: [16]", "generated_tokens: [1]"), ("repetitions: 2", "repetitions: 3, max_attempts: 20")
    )
    assert (outcome["points_done"], outcome["skipped"], len(outcome["launches"])) == (2, [], 2)  # type: ignore[arg-type]
    assert set(machine.runs()["status"]) == {"ok", "invalid"}


def test_mig_and_other_gpus_than_the_sweeps_are_refused(machine: Machine) -> None:
    machine.settings["mig"] = 1
    kind, line = machine.sweep()["error"]  # type: ignore[misc]
    assert kind == "BadInput"
    assert "MIG" in line
    del machine.settings["mig"]
    machine.settings["name"] = "NVIDIA Other 80GB"
    assert machine.sweep()["error"] == [
        "BadInput", "node fake-2: '2 x NVIDIA Other 80GB'; accepted: 2 x NVIDIA Fake 80GB"
    ]  # fmt: skip
    machine.settings["no_driver"] = 1
    kind, line = machine.sweep()["error"]  # type: ignore[misc]
    assert "no NVIDIA driver answers here" in line


def test_a_busy_node_is_skipped_with_the_reason_and_nothing_is_launched(machine: Machine) -> None:
    machine.settings["pid"] = f"{STRANGER} 1"
    outcome = machine.sweep()
    ((_, reasons),) = outcome["skipped"]  # type: ignore[misc]
    assert reasons == [f"GPU-fake-0001 is used by pid {STRANGER} (not in our /proc: another PID namespace)"]
    assert (outcome["runs_taken"], outcome["launches"], outcome["runs_left"]) == (0, [], 4)


@pytest.mark.slow
def test_the_next_launch_waits_until_gpu_memory_is_free_again(machine: Machine) -> None:
    machine.orders |= {
        "at_launch": [["used_bytes", "70e9 -1 {now}"]],
        "at_stop": [["used_bytes", "70e9 -1 {now} {now+2.0}"], ["used_bytes", "0 -1 {now+2.0}"]],
        "looks_s": 0.5,
    }
    outcome = machine.sweep(("[{tp: 1}]", "[{tp: 1}, {tp: 2}]"), ("sizes: [1, 8]", "sizes: [1]"))
    assert (outcome["points_done"], outcome["skipped"], len(outcome["launches"])) == (2, [], 2)  # type: ignore[arg-type]
    machine.text = SWEEP
    machine.orders["at_stop"] = []
    machine.folder = machine.folder / "kept"
    machine.folder.mkdir()
    outcome = machine.sweep(("[{tp: 1}]", "[{tp: 1}, {tp: 2}]"), ("sizes: [1, 8]", "sizes: [1]"))
    assert (outcome["points_done"], len(outcome["launches"])) == (1, 1)  # type: ignore[arg-type]
    ((_, reasons),) = outcome["skipped"]  # type: ignore[misc]
    assert "65.2 GiB of GPU-fake-0000 are in use by a process that is not shown" in reasons


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not read")
def test_a_refused_powercap_is_a_reason_that_names_the_fix(machine: Machine) -> None:
    tree = build_powercap(machine.folder / "powercap", PACKAGES)
    (tree / "intel-rapl/intel-rapl:0/energy_uj").chmod(0o400)
    for folder in (machine.folder, *machine.folder.parents):
        if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o005 and folder != Path("/"):
            folder.chmod(0o755)
    machine.folder.chmod(0o777)
    machine.orders["as_nobody"] = True
    machine.sweep(("sizes: [1, 8]", "sizes: [1]"), ("repetitions: 2", "repetitions: 1"))
    runs = machine.runs()
    assert set(runs["status"]) == {"ok"}
    assert runs["cpu_energy_j"].isna().all()
    assert runs["cpu_reason"].str.contains("permission denied, readable by root only").all()
