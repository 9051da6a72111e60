"""Each condition over a window has its consequence: invalid or flagged; a busy node is skipped with the reason."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.hygiene import BUSY_MEMORY_GIB, Verdict, busy_reasons, foreign_cores, judge
from harness.meters.base import GpuState, HostState, Recording
from tests.fixtures.nvml.build import build_fake_nvml

QUIET = GpuState("GPU-a", 0.0, 40.0, 1980.0, 700.0, ecc_uncorrected=0, memory_used_bytes=1 << 30, persistence=True)
ENGINE = ("GPU-a", "GPU-b")


def over_time(*changes: dict[str, Any], device: str = "GPU-a") -> tuple[GpuState, ...]:
    """A state a second, each the quiet one with changes."""
    return tuple(replace(QUIET, device=device, time_s=float(i), **change) for i, change in enumerate(changes))


def judged(*changes: dict[str, Any], **recording: Any) -> Verdict:
    return judge(Recording((), states=over_time(*changes), **recording), ENGINE, (0.0, 10.0))


def test_a_quiet_window_is_neither_invalid_nor_flagged() -> None:
    verdict = judged({}, {}, {}, hosts=(HostState(0, 10, 5, frozenset({"performance"})), HostState(2, 14, 8.5)))
    assert (verdict.invalid, verdict.flags) == ((), ())
    assert (verdict.temperature_start_c, verdict.temperature_max_c, verdict.sm_clock_mean_mhz) == (40.0, 40.0, 1980.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([{}, {"event_reasons": frozenset({"hw_slowdown"})}, {}], "hw_slowdown on GPU-a"),
        ([{"event_reasons": frozenset({"sw_thermal_slowdown"})}], "sw_thermal_slowdown"),
        ([{"event_reasons": frozenset({"hw_thermal_slowdown"})}], "hw_thermal_slowdown"),
        ([{"event_reasons": frozenset({"hw_power_brake_slowdown"})}], "hw_power_brake_slowdown"),
        ([{}, {"foreign_pids": (4242,)}, {}], "foreign process on GPU-a: pid 4242"),
        ([{"foreign_pids": (7,), "unseen_pids": (7,)}], "pid 7 (not in our /proc: another PID namespace)"),
        ([{}, {"foreign_pids": (7,), "unseen_pids": (7,)}, {}], "foreign process on GPU-a: pid 7 (not in our /proc"),
        ([{"unseen_pids": (7,)}, {"unseen_pids": (7, 9)}], "a process appeared on GPU-a: pid 9"),
        ([{}, {"power_limit_w": 500.0}], "power limit of GPU-a changed within the window: 500 to 700 W"),
        ([{}, {}, {"ecc_uncorrected": 2}], "2 uncorrected ECC errors on GPU-a"),
    ],
)
def test_what_makes_a_window_invalid(changes: list[dict[str, Any]], words: str) -> None:
    verdict = judged(*changes)
    assert len(verdict.invalid) == 1
    assert words in verdict.invalid[0]
    assert verdict.flags == ()


@pytest.mark.parametrize(
    ("changes", "recording", "flag"),
    [
        ([{}, {"event_reasons": frozenset({"sw_power_cap"})}], {}, "sw_power_cap"),
        ([{"processes_readable": False}], {}, "processes_not_listed"),
        ([{"persistence": False}], {}, "persistence_mode_off"),
        ([{}, {"temperature_c": 50.5}], {}, "temperature_rise"),
        ([{}, {"sm_clock_mhz": 1700.0}], {}, "sm_clock_moved"),
        ([], {"hosts": (HostState(0, 0, 0), HostState(2, 2.2, 0.1))}, "foreign_cpu_load"),
        ([], {"hosts": (HostState(0, 0, 0, frozenset({"performance", "powersave"})),)}, "cpu_governor_powersave"),
        ([], {"doubts": {"dram": "it reads 4x low"}}, "dram_doubtful"),
    ],
)
def test_what_is_only_flagged(changes: list[dict[str, Any]], recording: dict[str, Any], flag: str) -> None:
    verdict = judged(*changes, **recording)
    assert (verdict.invalid, verdict.flags) == ((), (flag,))


@pytest.mark.parametrize(
    "changes",
    [
        [{"temperature_c": 45.0}, {"temperature_c": 54.9}, {"temperature_c": 44.0}],
        [{"sm_clock_mhz": 1980.0}, {"sm_clock_mhz": 1800.0}],
        [{"ecc_uncorrected": 5}, {"ecc_uncorrected": 5}],
        [{"unseen_pids": (7, 9)}, {"unseen_pids": (7,)}],
        [dict.fromkeys(("temperature_c", "sm_clock_mhz", "power_limit_w", "ecc_uncorrected", "persistence"))] * 2,
    ],
)
def test_what_passes(changes: list[dict[str, Any]]) -> None:
    verdict = judged(*changes)
    assert (verdict.invalid, verdict.flags) == ((), ())


def test_clocks_are_compared_within_the_window_only() -> None:
    states = over_time({"sm_clock_mhz": 345.0}, {}, {}, {"sm_clock_mhz": 345.0})
    assert judge(Recording((), states=states), ENGINE, (0.5, 2.5)).flags == ()
    assert judge(Recording((), states=states), ENGINE).flags == ()


def test_each_gpu_is_compared_with_itself_and_others_of_the_node_do_not_count() -> None:
    mixed = over_time({}, {}) + over_time({"power_limit_w": 500.0, "temperature_c": 60.0}, device="GPU-b")
    verdict = judge(Recording((), states=mixed), ENGINE)
    assert (verdict.invalid, verdict.flags) == ((), ())
    assert (verdict.temperature_start_c, verdict.temperature_max_c) == (60.0, 60.0)
    stranger = over_time({"foreign_pids": (1,)}, device="GPU-of-others")
    assert judge(Recording((), states=mixed + stranger), ENGINE).invalid == ()


def test_causes_of_both_windows_of_a_run_are_kept_once() -> None:
    full, prefill = judged({"foreign_pids": (1,)}), judged({"foreign_pids": (1,), "persistence": False})
    both = full.and_also(prefill)
    assert (len(both.invalid), both.flags) == (1, ("persistence_mode_off",))


def test_cpu_load_is_the_machines_less_our_trees() -> None:
    hosts = (HostState(0, 100, 50), HostState(1, 104, 53), HostState(2, 108, 55))
    assert foreign_cores(hosts) == pytest.approx(1.5)
    assert foreign_cores(hosts[:1]) is None
    # One of ours ended between the second and the third: that second says nothing.
    gone = (*hosts[:2], HostState(2, 108, 10), HostState(3, 109, 11))
    assert foreign_cores(gone) == pytest.approx((1 + 0) / 2)


IDLE_HOST = (HostState(0, 0, 0), HostState(1, 0.5, 0.4))


def test_a_free_node_has_no_reason_to_be_skipped() -> None:
    assert busy_reasons([QUIET, replace(QUIET, device="GPU-b")], IDLE_HOST, 2) == ()
    assert busy_reasons([], [], 2) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"foreign_pids": (12, 13)}, "GPU-a is used by pid 12, 13"),
        ({"unseen_pids": (12,)}, "pid 12 (not in our /proc"),
        ({"memory_used_bytes": int((BUSY_MEMORY_GIB + 1) * (1 << 30))}, "3.0 GiB of GPU-a are in use by a process"),
    ],
)
def test_a_busy_gpu_is_a_reason(change: dict[str, Any], words: str) -> None:
    (reason,) = busy_reasons([QUIET, replace(QUIET, **change)], IDLE_HOST, 2)
    assert words in reason


def test_busy_processors_are_a_reason_above_a_tenth_of_them() -> None:
    busy = (HostState(0, 0, 0), HostState(2, 30, 2))
    (reason,) = busy_reasons([QUIET], busy, 112)
    assert reason == "others keep 14.0 of 112 processors busy; up to 11.2 are let pass"
    assert busy_reasons([QUIET], busy, 160) == ()
    assert busy_reasons([QUIET], (HostState(0, 0, 0), HostState(2, 2.2, 0)), 2) != ()


THROUGH_NVML = """
import json, os, sys, time
from harness.hygiene import judge
from harness.meters.base import Recording
from harness.meters.nvml import open_nvml
for settings, own, own_container in json.loads(sys.argv[1]):
    if os.fork():  # the fake reads its settings once in a process
        os.wait()
        continue
    os.environ.update({f"FAKE_NVML_{key}": value for key, value in settings.items()})
    with open_nvml(lambda: own, own_container) as meter:
        states, end_s = [], time.monotonic() + 0.3
        while time.monotonic() < end_s:
            states.append(meter.gpus[0].state(time.monotonic()))
            time.sleep(0.01)
    verdict = judge(Recording((), states=tuple(states)), (meter.gpus[0].uuid,))
    print(json.dumps([verdict.invalid, verdict.flags]), flush=True)
    os._exit(0)
"""
ELSEWHERE = 999_999_999
"""No pid of this machine: what NVML tells of a process in another PID namespace."""


def test_what_a_driver_tells_over_a_window_reaches_the_verdict(tmp_path: Path) -> None:
    here = os.getpid()
    cases: list[tuple[dict[str, str], list[int], bool, str, list[str]]] = [
        ({}, [], False, "", []),
        ({"PID": f"{here} 0 0.1 0.2"}, [], False, f"foreign process on GPU-fake-0000: pid {here}", []),
        ({"PID": f"{here} 0 0.1 0.2"}, [here], False, "", []),
        ({"PID": f"{ELSEWHERE} 0 0.1 0.2"}, [here], False, "another PID namespace", []),
        ({"PID": f"{ELSEWHERE} 0 -1 9"}, [], True, "", []),
        ({"PID": f"{ELSEWHERE} 0 0.1 9"}, [], True, "a process appeared on GPU-fake-0000", []),
        ({"LIMIT_W": "500 0 0.1"}, [], False, "changed within the window: 500 to 700 W", []),
        ({"ECC_ERRORS": "3 0 0.1"}, [], False, "3 uncorrected ECC errors", []),
        ({"REASONS": "0x40 0 0.1 0.2"}, [], False, "hw_thermal_slowdown on GPU-fake-0000", []),
        ({"REASONS": "0x4 0 0.1 0.2"}, [], False, "", ["sw_power_cap"]),
        ({"PERSISTENCE": "0", "NO_ECC": "1"}, [], False, "", ["persistence_mode_off"]),
        ({"NO_PROCESSES": "1"}, [], False, "", ["processes_not_listed"]),
    ]
    library = build_fake_nvml(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", THROUGH_NVML, json.dumps([case[:3] for case in cases])],
        env=os.environ | {"LD_LIBRARY_PATH": str(library.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for (settings, _, _, words, flags), line in zip(cases, done.stdout.splitlines(), strict=True):
        invalid, found = json.loads(line)
        assert found == flags, settings
        assert len(invalid) == bool(words), (settings, invalid)
        assert words in "".join(invalid)
