"""Powercap trees as servers have them, and the real pyRAPL where a mount namespace can be made."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.errors import CounterLost
from harness.meters.base import Recording, Series
from harness.meters.rapl import OLD_UNIT_FIX, PERMISSION_FIX, RaplMeter, import_pyrapl, open_rapl
from harness.meters.reader import AbsentMeter
from harness.meters.window import window_energies
from tests.fixtures.powercap import (
    AMD_WRAP_UJ,
    DRAM_WRAP_UJ,
    INTEL_WRAP_UJ,
    FakePackage,
    RunningPowercap,
    amd_without_dram,
    build_powercap,
    mirrored_dies,
    sapphire_rapids,
    separate_dies,
    two_intel_sockets,
    write_cpuinfo,
)

REPOSITORY = Path(__file__).parents[2]


def opened(root: Path, packages: list[FakePackage], vendor: str = "GenuineIntel", model: int = 106) -> RaplMeter:
    cpuinfo = write_cpuinfo(root / "cpuinfo", vendor, model)
    meter = open_rapl(build_powercap(root / "powercap", packages), cpuinfo)
    assert isinstance(meter, RaplMeter)
    return meter


def readings(meter: RaplMeter) -> dict[str, int]:
    return {
        channel.device: count
        for counter in meter.counters
        for channel, count in zip(counter.channels, counter.read(), strict=True)
    }


def test_packages_and_dram_are_read_and_their_parts_and_psys_are_not(tmp_path: Path) -> None:
    with opened(tmp_path, two_intel_sockets()) as meter:
        assert readings(meter) == {
            "package-0": 1_000_000,
            "package-1": 2_000_000,
            "package-0-dram": 300_000,
            "package-1-dram": 600_000,
        }
        assert {c.channels[0].domain for c in meter.counters} == {"cpu", "dram"}
        assert meter.counters[0].channels[0].wrap_counts == INTEL_WRAP_UJ
        assert meter.absent == {}


def test_a_counter_is_read_anew_each_time(tmp_path: Path) -> None:
    with opened(tmp_path, amd_without_dram()) as meter:
        (tmp_path / "powercap/intel-rapl/intel-rapl:0/energy_uj").write_text("1234567890\n")
        assert readings(meter)["package-0"] == 1_234_567_890


@pytest.mark.parametrize(("vendor", "reason"), [("AuthenticAMD", "AMD processors"), ("GenuineIntel", "no DRAM domain")])
def test_a_processor_without_dram_counter_says_so(tmp_path: Path, vendor: str, reason: str) -> None:
    with opened(tmp_path, amd_without_dram(), vendor) as meter:
        assert reason in meter.absent["dram"]
        assert set(readings(meter)) == {"package-0", "package-1"}


def test_dram_of_some_sockets_is_no_sum(tmp_path: Path) -> None:
    packages = [FakePackage("package-0", 1, subzones={"dram": 2}), FakePackage("package-1", 3)]
    with opened(tmp_path, packages) as meter:
        assert "no DRAM counter on package 1" in meter.absent["dram"]
        assert set(readings(meter)) == {"package-0", "package-1"}


def test_mirrored_dies_count_once_and_separate_dies_each(tmp_path: Path) -> None:
    (tmp_path / "zen").mkdir()
    with opened(tmp_path / "zen", mirrored_dies(), "AuthenticAMD") as meter:
        assert readings(meter) == {"package-0-die-0": 1_000_000, "package-1-die-0": 2_000_000}
    (tmp_path / "intel").mkdir()
    with opened(tmp_path / "intel", separate_dies()) as meter:
        assert set(readings(meter)) == {f"package-0-die-{i}{d}" for i in range(2) for d in ("", "-dram")}


def test_without_powercap_the_reason_names_the_folder(tmp_path: Path) -> None:
    meter = open_rapl(tmp_path)
    assert isinstance(meter, AbsentMeter)
    assert set(meter.absent) == {"cpu", "dram"}
    assert str(tmp_path / "intel-rapl") in meter.absent["cpu"]


def test_a_zone_that_disappears_is_lost(tmp_path: Path) -> None:
    with opened(tmp_path, amd_without_dram()) as meter:
        (tmp_path / "powercap/intel-rapl/intel-rapl:1/energy_uj").write_text("")
        with pytest.raises(CounterLost, match="intel-rapl:1/energy_uj"):
            readings(meter)


def polled(meter: RaplMeter, tree: RunningPowercap, times_s: list[float], gone_after_s: float = np.inf) -> Recording:
    """What polling the tree through its files gives; after `gone_after_s` the last package's zone answers nothing."""
    tracks: list[tuple[list[float], list[tuple[int, ...]], list[str]]] = [([], [], []) for _ in meter.counters]
    for time_s in times_s:
        tree.advance(time_s)
        if time_s > gone_after_s:
            (tree.root / f"intel-rapl/intel-rapl:{len(tree.packages) - 1}/energy_uj").write_text("")
        for counter, (taken_s, counts, lost) in zip(meter.counters, tracks, strict=True):
            if not lost:
                try:
                    counts.append(counter.read())
                    taken_s.append(time_s)
                except CounterLost as error:
                    lost.append(str(error))
    series = [
        Series(
            channel,
            np.array(taken_s),
            np.full(len(counts), 1e-5),
            np.array([row[i] for row in counts], np.int64),
            "".join(lost),
        )
        for counter, (taken_s, counts, lost) in zip(meter.counters, tracks, strict=True)
        for i, channel in enumerate(counter.channels)
    ]
    return Recording(tuple(series), absent=meter.absent)


def assert_energy(recording: Recording, start_s: float, end_s: float, cpu_w: float, dram_w: float | None) -> None:
    """Every domain is what its constant power gives, to a part in a thousand and within its own uncertainty."""
    found = window_energies(recording, start_s, end_s, [])
    for energy, power_w in ((found.cpu, cpu_w), (found.dram, dram_w)):
        if power_w is None:
            assert energy.energy_j is None
            assert energy.reason
            continue
        truth_j = power_w * (end_s - start_s)
        assert energy.energy_j == pytest.approx(truth_j, rel=1e-3), energy.reason
        assert energy.uncertainty_j is not None
        assert abs(energy.energy_j - truth_j) <= energy.uncertainty_j + 1e-6


TWO_SOCKETS_W = {"package-0": 350.0, "package-0 dram": 40.0, "package-1": 250.0, "package-1 dram": 30.0}


def before_wrap(name: str, wrap_uj: int, left_j: float, dram_left_j: float | None = None) -> FakePackage:
    """A package so many joules before its counter starts again at zero."""
    dram = {} if dram_left_j is None else {"dram": DRAM_WRAP_UJ - round(dram_left_j * 1e6)}
    return FakePackage(name, wrap_uj - round(left_j * 1e6), wrap_uj, dram)


def test_a_wrap_anywhere_in_the_window_costs_nothing(tmp_path: Path) -> None:
    times_s = [round(0.1 * i, 1) for i in range(41)]
    for i, wrap_at_s in enumerate((0.55, 1.0, 1.05, 2.0, 2.95, 3.0, 3.05)):
        packages = [
            before_wrap("package-0", INTEL_WRAP_UJ, 350 * wrap_at_s, 40 * (4 - wrap_at_s)),
            before_wrap("package-1", INTEL_WRAP_UJ, 250 * wrap_at_s, 30 * wrap_at_s),
        ]
        folder = tmp_path / str(i)
        folder.mkdir()
        with opened(folder, packages) as meter:
            recording = polled(meter, RunningPowercap(folder / "powercap", packages, TWO_SOCKETS_W), times_s)
        assert any((np.diff(one.counts) < 0).any() for one in recording.series)
        assert_energy(recording, 1.0, 3.0, cpu_w=600, dram_w=70)


def test_a_wrap_between_the_last_sample_and_the_end_is_counted(tmp_path: Path) -> None:
    packages = [before_wrap("package-0", INTEL_WRAP_UJ, 350 * 2.95, 40 * 2.95)]
    with opened(tmp_path, packages) as meter:
        # The last reading is that of the mark at the end itself; there is none after it.
        times_s = [0.0, 1.0, *(round(1 + 0.1 * i, 1) for i in range(1, 20)), 3.0]
        recording = polled(meter, RunningPowercap(tmp_path / "powercap", packages, TWO_SOCKETS_W), times_s)
    cpu = recording.series[0]
    assert int(cpu.counts[-1]) < int(cpu.counts[-2])
    assert_energy(recording, 1.0, 3.0, cpu_w=350, dram_w=40)


def test_several_wraps_in_one_window_are_all_counted(tmp_path: Path) -> None:
    packages = [FakePackage(f"package-{i}", 60_000_000_000, AMD_WRAP_UJ) for i in range(2)]
    with opened(tmp_path, packages, "AuthenticAMD") as meter:
        # In a quarter of an hour AMD's range is passed four times at 280 W, three at 150 W; read every 10 s.
        tree = RunningPowercap(tmp_path / "powercap", packages, {"package-0": 280.0, "package-1": 150.0})
        recording = polled(meter, tree, [10.0 * i for i in range(95)])
    wraps = [int((np.diff(one.counts) < 0).sum()) for one in recording.series]
    assert wraps == [4, 3]
    assert_energy(recording, 20.0, 920.0, cpu_w=430, dram_w=None)


def test_readings_so_far_apart_that_a_wrap_may_be_missed_give_no_energy(tmp_path: Path) -> None:
    packages = [FakePackage("package-0", 0, AMD_WRAP_UJ)]
    with opened(tmp_path, packages, "AuthenticAMD") as meter:
        tree = RunningPowercap(tmp_path / "powercap", packages, {"package-0": 280.0})
        found = window_energies(polled(meter, tree, [0, 1, 500, 501]), 1, 500, [])
    assert found.cpu.energy_j is None
    assert "a wrap may go unseen" in found.cpu.reason


def test_a_zone_that_disappears_makes_its_domain_null_and_no_other(tmp_path: Path) -> None:
    packages = two_intel_sockets()[:2]
    with opened(tmp_path, packages) as meter:
        tree = RunningPowercap(tmp_path / "powercap", packages, TWO_SOCKETS_W)
        times_s = [round(0.1 * i, 1) for i in range(31)]
        recording = polled(meter, tree, times_s, gone_after_s=1.55)
    assert_energy(recording, 0.5, 1.5, cpu_w=600, dram_w=70)
    found = window_energies(recording, 1.0, 2.0, [])
    assert found.cpu.energy_j is None
    assert "intel-rapl:1/energy_uj" in found.cpu.reason
    assert found.dram.energy_j == pytest.approx(70, rel=1e-3)


def test_mirrored_dies_are_not_counted_twice_in_a_window(tmp_path: Path) -> None:
    packages = mirrored_dies()
    power_w = {package.name: 100.0 + 50 * int(package.name[8]) for package in packages}
    with opened(tmp_path, packages, "AuthenticAMD") as meter:
        tree = RunningPowercap(tmp_path / "powercap", packages, power_w)
        recording = polled(meter, tree, [round(0.1 * i, 1) for i in range(31)])
    assert_energy(recording, 1.0, 2.0, cpu_w=250, dram_w=None)


@pytest.mark.parametrize("model", [143, 207])
def test_a_kernel_that_reads_sapphire_rapids_dram_four_times_low_is_doubted_and_not_corrected(
    tmp_path: Path, model: int
) -> None:
    with opened(tmp_path, sapphire_rapids(old_unit=True), model=model) as meter:
        assert "reads 4x low" in meter.doubts["dram"]
        assert "package-1" in meter.doubts["dram"]
        assert readings(meter)["package-0-dram"] == 300_000
        assert "dram" not in meter.absent
    assert "4c081324df56" in OLD_UNIT_FIX


@pytest.mark.parametrize(
    ("old_unit", "model", "vendor"),
    [(False, 143, "GenuineIntel"), (True, 106, "GenuineIntel"), (True, 143, "AuthenticAMD")],
)
def test_the_right_unit_and_earlier_servers_are_not_doubted(
    tmp_path: Path, old_unit: bool, model: int, vendor: str
) -> None:
    with opened(tmp_path, sapphire_rapids(old_unit), vendor, model) as meter:
        assert meter.doubts == {}


AS_NOBODY = """
import os, sys
from pathlib import Path
from harness.meters.rapl import open_rapl
os.setuid(65534)
print(open_rapl(Path(sys.argv[1])).absent["cpu"])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not read")
def test_a_refused_reading_names_the_cause_and_the_fix(tmp_path: Path) -> None:
    root = build_powercap(tmp_path, two_intel_sockets())
    (root / "intel-rapl/intel-rapl:0/energy_uj").chmod(0o400)
    # pytest keeps its temporary folders to its own user.
    for folder in (root, *root.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o005 and folder != Path("/"):
            folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, str(root)], capture_output=True, text=True, check=True)
    assert "intel-rapl:0/energy_uj: permission denied" in done.stdout
    assert PERMISSION_FIX in done.stdout
    assert "CVE-2020-8694" in PERMISSION_FIX
    assert "sudo systemd-tmpfiles --create energy.conf" in PERMISSION_FIX


def test_importing_pyrapl_leaves_the_root_logger_alone() -> None:
    code = (
        "import logging; from harness.meters.rapl import import_pyrapl; import_pyrapl();"
        "assert not logging.getLogger().handlers, logging.getLogger().handlers"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    before = list(logging.getLogger().handlers)
    import_pyrapl()
    assert logging.getLogger().handlers == before


THROUGH_PYRAPL = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.fixtures.powercap import FakePackage, build_powercap
from harness.meters import rapl

ids = Path("/sys/devices/system/cpu").glob("cpu*/topology/physical_package_id")
sockets = sorted({int(path.read_text()) for path in ids})
plain = json.loads(sys.argv[2])
names = [f"package-{i}" + die for i in sockets for die in ([""] if plain else ["-die-0", "-die-1"])]
build_powercap(rapl.POWERCAP, [
    FakePackage(name, 262_000_000_000 + i, subzones={"core": 1, "dram": 5_000_000 + i}) for i, name in enumerate(names)
])
zones = rapl.find_zones(rapl.POWERCAP)
with rapl.open_rapl() as meter:
    ours = {z.channel.device: rapl.PowercapCounter(z).read()[0] for z in zones}
    theirs = {c.device: n for counter in meter.counters for c, n in zip(counter.channels, counter.read())}
    print(json.dumps([meter.reader, ours, theirs]))
"""


@pytest.mark.parametrize(("plain", "reader"), [(True, "pyRAPL "), (False, "powercap")])
def test_the_real_pyrapl_and_our_reader_agree_and_ours_reads_what_it_cannot(plain: bool, reader: str) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    inside = 'mount -t tmpfs tmpfs /sys/class && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", inside, "sh", sys.executable, "-c", THROUGH_PYRAPL]
    done = subprocess.run([*command, str(REPOSITORY), json.dumps(plain)], capture_output=True, text=True, check=True)
    found, ours, theirs = json.loads(done.stdout)
    assert found.startswith(reader)
    assert theirs == ours
    assert len(ours) >= 2
