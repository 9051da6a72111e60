"""CPU time of others and governors as the kernel shows them; what DRAM watts can be true."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.hygiene import foreign_cores
from harness.meters.dram import count_dimms, estimate_dram, implausible_dram, memory_gib
from harness.meters.host import HostWatch

pytestmark = pytest.mark.flaky(reruns=3, reruns_delay=1)
"""Real clocks and processes: a machine that stalls for half a second turns any of them."""

BURN = "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"


def own_cores(watch: HostWatch, span_s: float) -> tuple[float, float]:
    """Processors kept busy by our trees and by the whole machine over a span."""
    first = watch.state(time.monotonic())
    time.sleep(span_s)
    last = watch.state(time.monotonic())
    passed_s = last.time_s - first.time_s
    return (last.own_s - first.own_s) / passed_s, (last.busy_s - first.busy_s) / passed_s


def test_a_child_of_ours_counts_as_ours_and_without_us_as_a_stranger() -> None:
    with subprocess.Popen([sys.executable, "-c", BURN]) as child:
        try:
            time.sleep(0.3)
            ours, all_of_them = own_cores(HostWatch(lambda: [os.getpid()]), 0.6)
            theirs, _ = own_cores(HostWatch(lambda: [999_999_999]), 0.2)
        finally:
            child.kill()
    assert ours > 0.2  # the machine may be shared: a burning child still gets a part of a processor
    assert all_of_them >= 0.9 * ours - 0.1
    assert theirs == 0.0


def test_the_time_of_a_child_that_was_waited_for_is_not_lost() -> None:
    watch = HostWatch(lambda: [os.getpid()])
    before = watch.state(0.0)
    subprocess.run([sys.executable, "-c", "sum(i * i for i in range(3_000_000))"], check=True)
    after = watch.state(1.0)
    assert after.own_s - before.own_s > 0.05
    cores = foreign_cores([before, after])
    assert cores is not None


def test_governors_of_all_processors_are_read(tmp_path: Path) -> None:
    for i, governor in enumerate(("performance", "powersave", "performance")):
        folder = tmp_path / f"cpu{i}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
    (tmp_path / "cpufreq").mkdir()
    assert HostWatch(lambda: [], tmp_path).governors() == {"performance", "powersave"}
    assert HostWatch(lambda: [], tmp_path / "none").governors() == frozenset()


def test_populated_dimms_are_counted(tmp_path: Path) -> None:
    assert count_dimms(tmp_path) is None
    for controller in range(2):
        for slot, size_mb in enumerate((65536, 0, 65536)):
            folder = tmp_path / f"mc{controller}/dimm{slot}"
            folder.mkdir(parents=True)
            (folder / "size").write_text(f"{size_mb}\n")
    assert count_dimms(tmp_path) == 4


@pytest.mark.parametrize(
    ("power_w", "sockets", "dimms", "words"),
    [
        (16 * 1.0, 2, 16, ""),  # idle, as measured
        (16 * 4.5, 2, 16, ""),  # STREAM, as measured
        (16 * 1.0 / 3.99, 2, 16, "0.25 W for each DIMM of 16: less than the 0.5 W"),  # idle at a quarter
        (16 * 30.0, 2, 16, "more than 25 W"),
        (1.5, 2, None, "0.75 W for each socket of 2: less than the 2 W"),
        (60.0, 2, None, ""),
        (600.0, 2, None, "more than 250 W"),
    ],
)
def test_dram_watts_that_cannot_be_true_are_told(power_w: float, sockets: int, dimms: int | None, words: str) -> None:
    found = implausible_dram(power_w, sockets, dimms)
    assert words in found
    assert bool(found) == bool(words)


def test_an_estimate_says_it_is_one_and_how_little_it_knows() -> None:
    energy = estimate_dram(10.0, 1024.0)
    assert energy.energy_j == pytest.approx(910, rel=0.01)
    assert energy.uncertainty_j == energy.energy_j
    assert energy.source == "estimated"
    assert memory_gib() > 0.1
