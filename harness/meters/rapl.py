"""CPU packages and DRAM through Linux powercap (RAPL): pyRAPL where it can, our own reader elsewhere.

Only `package-*` zones and their `dram` subzones are read: core and uncore are parts of the package, psys
overlaps it, and intel-rapl-mmio shows the same package again. pyRAPL 0.2.3.1 knows one fixed path, plain zone
names and no wrap, so wraps are counted by `harness.meters.counter` on what either reader returns.
"""

import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Protocol

from harness.errors import CounterLost
from harness.meters.base import Channel, Domain
from harness.meters.reader import AbsentMeter, Counter

POWERCAP = Path("/sys/class/powercap")
PERMISSION_FIX = (
    "readable by root only since CVE-2020-8694; let a group read it by a tmpfiles.d (or udev) rule:"
    " sudo groupadd -f energy && sudo usermod -aG energy $USER"
    " && echo 'z /sys/class/powercap/intel-rapl:*/energy_uj 0440 root energy' | sudo tee /etc/tmpfiles.d/energy.conf"
    " && sudo systemd-tmpfiles --create energy.conf, then log in again; or run as root or with CAP_DAC_READ_SEARCH"
)
OLD_UNIT_FIX = "boot a kernel with commit 4c081324df56 (Linux 6.1, or a stable one from October 2022 on)"
_STANDARD_DRAM_UNIT = frozenset({143, 207})
"""Models of family 6 whose DRAM counts in the unit of the package: Sapphire and Emerald Rapids."""
REFRESH_S = 0.001
_JOULES_PER_COUNT = 1e-6
_MIRROR_TRIES = 3
_MIRROR_WAIT_S = 0.005


@dataclass(frozen=True, slots=True)
class Zone:
    """One powercap zone that is counted: `package` is its package's name, such as `package-0-die-1`."""

    path: Path
    domain: Domain
    package: str
    wrap_counts: int

    @property
    def package_id(self) -> int:
        """Number of the socket, N in `package-N` and `package-N-die-M`."""
        return int(self.package.split("-")[1])

    @property
    def channel(self) -> Channel:
        device = self.package if self.domain == "cpu" else f"{self.package}-dram"
        return Channel(self.domain, device, _JOULES_PER_COUNT, self.wrap_counts, REFRESH_S, "measured")


class PowercapCounter:
    """One zone's energy_uj, kept open."""

    def __init__(self, zone: Zone) -> None:
        """Raises OSError where the file cannot be opened."""
        self.channels = (zone.channel,)
        self._path = zone.path / "energy_uj"
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> tuple[int]:
        try:
            return (int(os.pread(self._fd, 32, 0)),)
        except (OSError, ValueError) as error:
            raise CounterLost(f"{self._path}: {error}") from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class PyRaplCounter:
    """All packages, or all DRAM, by one call of pyRAPL."""

    def __init__(self, api: "PyRaplApi", zones: Sequence[Zone]) -> None:
        self.channels = tuple(zone.channel for zone in zones)
        self._api = api
        self._sockets = [zone.package_id for zone in zones]

    def read(self) -> tuple[int, ...]:
        try:
            energy_uj = self._api.energy()
        except (OSError, ValueError) as error:
            raise CounterLost(f"{self.channels[0].device}: pyRAPL: {error}") from error
        return tuple(int(energy_uj[socket]) for socket in self._sockets)

    def close(self) -> None:
        for file in self._api._sys_files:  # pyRAPL has no way to close them
            file.close()


class _File(Protocol):
    def close(self) -> None: ...


class PyRaplApi(Protocol):
    """pyRAPL's PkgAPI and DramAPI: microjoules by socket number, -1 where a number is not used."""

    _sys_files: Sequence[_File]

    def energy(self) -> tuple[float, ...]: ...


class RaplMeter:
    """Counters of packages and DRAM. `reader` says by whom they are read; use as a context, or call `close`."""

    def __init__(
        self,
        counters: Sequence[PowercapCounter | PyRaplCounter],
        absent: Mapping[Domain, str],
        doubts: Mapping[Domain, str],
        reader: str,
    ) -> None:
        """Made by `open_rapl`."""
        self.counters: tuple[Counter, ...] = tuple(counters)
        self.gauges = ()
        self.absent = absent
        self.doubts = doubts
        self.reader = reader
        self._closable = tuple(counters)

    def __enter__(self) -> "RaplMeter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for counter in self._closable:
            counter.close()


def open_rapl(root: Path = POWERCAP, cpuinfo: Path = Path("/proc/cpuinfo")) -> RaplMeter | AbsentMeter:
    """Find the zones below `root` and open them, or say why there are none."""
    if not (root / "intel-rapl").is_dir():
        reason = f"no {root / 'intel-rapl'}: the kernel shows no RAPL (a virtual machine, or module intel_rapl_msr)"
        return AbsentMeter({"cpu": reason, "dram": reason})
    try:
        zones = _without_mirrors(find_zones(root))
    except PermissionError as error:
        reason = f"{error.filename}: permission denied, {PERMISSION_FIX}"
        return AbsentMeter({"cpu": reason, "dram": reason})
    except (OSError, ValueError) as error:
        reason = f"RAPL zones cannot be read: {error}"
        return AbsentMeter({"cpu": reason, "dram": reason})
    packages = [zone for zone in zones if zone.domain == "cpu"]
    if not packages:
        reason = f"no package zone below {root / 'intel-rapl'}"
        return AbsentMeter({"cpu": reason, "dram": reason})
    drams = [zone for zone in zones if zone.domain == "dram"]
    absent: dict[Domain, str] = {}
    missing = {zone.package_id for zone in packages} - {zone.package_id for zone in drams}
    if missing:
        absent["dram"] = _no_dram_reason(missing, bool(drams), cpuinfo)
        drams = []
    doubt = dram_unit_doubt(zones, cpuinfo)
    doubts: dict[Domain, str] = {"dram": doubt} if doubt else {}
    by_pyrapl = _pyrapl_counters(packages, drams) if root == POWERCAP else None
    if by_pyrapl is not None:
        return RaplMeter(by_pyrapl, absent, doubts, f"pyRAPL {version('pyRAPL')}")
    return RaplMeter([PowercapCounter(zone) for zone in (*packages, *drams)], absent, doubts, "powercap")


def find_zones(root: Path) -> list[Zone]:
    """Package and DRAM zones below `root`, by package; cores, uncore and psys are left out.

    Raises:
        OSError, ValueError: a zone that cannot be read.
    """
    zones = []
    for path in sorted((root / "intel-rapl").glob("intel-rapl:*")):
        package = (path / "name").read_text().strip()
        if not package.startswith("package-"):
            continue
        zones.append(_zone(path, "cpu", package))
        subzones = sorted(path.glob("intel-rapl:*:*"))
        zones += [_zone(sub, "dram", package) for sub in subzones if (sub / "name").read_text().strip() == "dram"]
    return sorted(zones, key=lambda zone: (zone.package_id, zone.package))


def _zone(path: Path, domain: Domain, package: str) -> Zone:
    return Zone(path, domain, package, int((path / "max_energy_range_uj").read_text()))


def _energy_uj(zone: Zone) -> int:
    return int((zone.path / "energy_uj").read_text())


def _without_mirrors(zones: list[Zone]) -> list[Zone]:
    """Leave out dies that show the counter of another die of their package again (AMD Zen 1 and 2)."""
    kept: list[Zone] = []
    for zone in zones:
        _energy_uj(zone)  # permission is found out here
        same = (other for other in kept if (other.domain, other.package_id) == (zone.domain, zone.package_id))
        if not any(_mirrors(zone, other) for other in same):
            kept.append(zone)
    return kept


def _mirrors(zone: Zone, other: Zone) -> bool:
    """One counter shown twice lies between two readings of its twin, time after time."""
    if zone.wrap_counts != other.wrap_counts:
        return False
    for _ in range(_MIRROR_TRIES):
        before, between, after = _energy_uj(other), _energy_uj(zone), _energy_uj(other)
        if before <= after and not before <= between <= after:  # after < before: it wrapped, try again
            return False
        time.sleep(_MIRROR_WAIT_S)
    return True


def _no_dram_reason(missing: set[int], some: bool, cpuinfo: Path) -> str:
    if some:
        return f"no DRAM counter on package {', '.join(map(str, sorted(missing)))}, so no sum over all sockets"
    if "AuthenticAMD" in cpuinfo.read_text():
        return "AMD processors have no DRAM energy counter"
    return "this processor shows no DRAM domain through powercap"


def dram_unit_doubt(zones: Sequence[Zone], cpuinfo: Path) -> str:
    """Why DRAM counts are in the wrong unit, or "": kernels before 4c081324df56 on Sapphire Rapids.

    A counter has 32 bits, so the range that the kernel states tells which unit it uses: 262 kJ are 61 uJ, as
    the package has and as these processors' DRAM has; 65.7 kJ are the 15.3 uJ of earlier servers, and then
    DRAM reads four times too low (likwid issue 642). It is stated, never corrected.
    """
    fields = dict(line.split(":", 1) for line in cpuinfo.read_text().partition("\n\n")[0].splitlines() if ":" in line)
    known = {name.strip(): value.strip() for name, value in fields.items()}
    if known.get("vendor_id") != "GenuineIntel" or known.get("cpu family") != "6":
        return ""
    if not known.get("model", "").isdigit() or int(known["model"]) not in _STANDARD_DRAM_UNIT:
        return ""
    package_wrap = min((zone.wrap_counts for zone in zones if zone.domain == "cpu"), default=0)
    low = [zone.package for zone in zones if zone.domain == "dram" and zone.wrap_counts < package_wrap / 2]
    if not low:
        return ""
    return f"DRAM of {', '.join(low)} is counted in 15.3 uJ instead of 61 uJ by this kernel: it reads 4x low"


def _pyrapl_counters(packages: list[Zone], drams: list[Zone]) -> list[PyRaplCounter] | None:
    """Readers through pyRAPL, or None where it cannot read these very zones."""
    pyrapl = import_pyrapl()
    counters = []
    for zones, name in ((packages, "PkgAPI"), (drams, "DramAPI")):
        if not zones:
            continue
        try:
            api: PyRaplApi = getattr(pyrapl, name)()
            sockets = [i for i, energy_uj in enumerate(api.energy()) if energy_uj >= 0]
        except (pyrapl.PyRAPLException, OSError, ValueError, IndexError):
            return None  # dies, gaps in the numbering, other names
        if sockets != [zone.package_id for zone in zones]:
            return None
        counters.append(PyRaplCounter(api, zones))
    return counters


def import_pyrapl() -> ModuleType:
    """pyRAPL, without what its import does to the root logger where pymongo is missing."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    root.handlers[:] = [logging.NullHandler()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escape sequences in its source
            import pyRAPL
    finally:
        root.handlers[:] = handlers
    module: ModuleType = pyRAPL
    return module
