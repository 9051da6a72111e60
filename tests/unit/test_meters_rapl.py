"""Powercap trees as servers have them, and the real pyRAPL where a mount namespace can be made."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import CounterLost
from harness.meters.rapl import RaplMeter, import_pyrapl, open_rapl
from harness.meters.reader import AbsentMeter
from tests.fixtures.powercap import (
    INTEL_WRAP_UJ,
    FakePackage,
    amd_without_dram,
    build_powercap,
    mirrored_dies,
    separate_dies,
    two_intel_sockets,
)

REPOSITORY = Path(__file__).parents[2]


def opened(root: Path, packages: list[FakePackage], vendor: str = "GenuineIntel") -> RaplMeter:
    cpuinfo = root / "cpuinfo"
    cpuinfo.write_text(f"vendor_id\t: {vendor}\n")
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
    assert "CVE-2020-8694" in done.stdout
    assert "udev" in done.stdout


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
