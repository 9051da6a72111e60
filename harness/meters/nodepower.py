"""Power of the whole node by its management controller (BMC), and what it leaves for the rest of the node.

Such a reading changes about once a second, is averaged over a time that few makers tell, and no accuracy is
stated. It serves for what nothing else measures (fans, switches, NICs, power supplies), not for short windows.
"""

import math
import os
import re
import shutil
import subprocess
import threading
from urllib.parse import urlsplit

import numpy as np
import requests
from scipy import special

from harness.clock import Clock
from harness.errors import BadInput, CounterLost
from harness.meters.base import PowerTrace
from harness.meters.reader import NodeGauge
from harness.points import Source
from harness.records import Energy

NODE_UNCERTAINTY = 0.05
"""Systematic, a fraction of the node's energy: an assumption. No source gives one for BMCs in general; two
readings of one Dell server differed by 10 W (prometheus-community/ipmi_exporter issue 242)."""
FEWEST_READINGS = 3
LONGEST_UNREAD_S = 10.0
"""Two readings that take as long as they may."""
_IPMI_LIMIT_S = 5.0
_HTTP_LIMIT_S = (3.05, 5.0)
_IPMI_WATTS = re.compile(r"Instantaneous power reading:\s*(\d+(?:\.\d+)?)\s*Watts")
_ROOT = "/redfish/v1/"
USER, PASSWORD, AUTHORITIES = "HARNESS_REDFISH_USER", "HARNESS_REDFISH_PASSWORD", "HARNESS_REDFISH_CA"
IPMI_FIX = "install ipmitool, sudo modprobe ipmi_devintf ipmi_si, and run as root or let the group read /dev/ipmi0"


class IpmiPower:
    """`ipmitool dcmi power reading` on this machine. The command's path can be given for tests."""

    name = "ipmi"

    def __init__(self, command: str = "ipmitool") -> None:
        self._command = command

    def power_w(self) -> float:
        line = [self._command, "dcmi", "power", "reading"]
        try:
            done = subprocess.run(  # noqa: S603
                line,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_IPMI_LIMIT_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise CounterLost(f"{' '.join(line)}: no answer within {_IPMI_LIMIT_S:g} s") from error
        except OSError as error:
            raise CounterLost(f"{' '.join(line)}: {error.strerror}; {IPMI_FIX}") from error
        found = _IPMI_WATTS.search(done.stdout)
        if done.returncode or found is None:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1].strip()
            raise CounterLost(f"{' '.join(line)} says: {said}; {IPMI_FIX}")
        return _not_zero(float(found[1]), self.name)


class RedfishPower:
    """PowerConsumedWatts (or the newer EnvironmentMetrics) of the chassis that draws most, by Redfish.

    Several chassis of one node lie inside one another, so their readings are not added. Only the address
    given is asked: no redirects, no proxies.
    """

    name = "redfish"

    def __init__(self, address: str, user: str = "", password: str = "", verify: bool | str = True) -> None:
        """Find the chassis; the address is scheme and host, such as https://bmc.example.

        Args:
            verify: its certificate, by the usual authorities or by those in the file named.

        Raises:
            BadInput: the address is none.
            CounterLost: nothing there gives a power.
        """
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise BadInput("redfish address", address, "https://HOST[:PORT], without user or path")
        self._base = f"{parts.scheme}://{parts.netloc}"
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = verify
        self._session.auth = (user, password) if user else None
        members = self._get(f"{_ROOT}Chassis").get("Members")
        listed = members if isinstance(members, list) else []
        paths = [str(member.get("@odata.id", "")).rstrip("/") for member in listed if isinstance(member, dict)]
        found: dict[str, float] = {}
        failure = "no chassis"
        for path in (f"{chassis}/{kind}" for chassis in paths for kind in ("Power", "EnvironmentMetrics")):
            try:
                found[path] = self._read(path)
            except CounterLost as error:
                failure = str(error)
        if not found:
            raise CounterLost(f"{self._base} gives no power of a chassis: {failure}")
        self._path = max(found, key=lambda path: found[path])

    def power_w(self) -> float:
        return self._read(self._path)

    def _read(self, path: str) -> float:
        answer = self._get(path)
        controls = answer.get("PowerControl")
        first = controls[0] if isinstance(controls, list) and controls else {}
        metrics = answer.get("PowerWatts")
        for holder, key in ((first, "PowerConsumedWatts"), (metrics, "Reading")):
            watts = holder.get(key) if isinstance(holder, dict) else None
            if isinstance(watts, int | float) and not isinstance(watts, bool):
                return _not_zero(float(watts), f"{self._base}{path}")
        raise CounterLost(f"{self._base}{path} gives no watts")

    def _get(self, path: str) -> dict[str, object]:
        if not path.startswith(_ROOT):
            raise CounterLost(f"{self._base}: {path!r} is not below {_ROOT}")
        try:
            answer = self._session.get(f"{self._base}{path}", timeout=_HTTP_LIMIT_S, allow_redirects=False)
            found = answer.json() if answer.status_code == requests.codes.ok else None
        except requests.RequestException as error:
            raise CounterLost(f"{self._base}{path}: {type(error).__name__}") from error
        if not isinstance(found, dict):
            raise CounterLost(f"{self._base}{path}: HTTP {answer.status_code}, no JSON object")
        return found


def _not_zero(power_w: float, who: str) -> float:
    if power_w <= 0:  # boards without the sensor answer 0 W (openbmc/phosphor-host-ipmid issue 167)
        raise CounterLost(f"{who}: the management controller gives {power_w:g} W: it has no power sensor")
    return power_w


def open_node_power(
    redfish: str = "", user: str = "", password: str = "", verify: bool | str = True
) -> tuple[NodeGauge | None, str]:
    """A gauge that has answered once, or None and why: Redfish where an address is given, else IPMI here.

    Raises:
        BadInput: the address is none.
    """
    gauge: NodeGauge
    try:
        if redfish:
            gauge = RedfishPower(redfish, user, password, verify)
        elif shutil.which("ipmitool") is None:
            return None, "no meter of the rest of the node: no ipmitool on PATH, and no Redfish address given"
        else:
            gauge = IpmiPower()
        gauge.power_w()
    except CounterLost as error:
        return None, f"no meter of the rest of the node: {error}"
    return gauge, ""


def open_wanted(wanted: str) -> tuple[NodeGauge | None, str]:
    """The gauge that a sweep file asks for: "" none, `ipmi`, or the address of a Redfish service; None and why.

    The account, and the file of the authorities that vouch for the controller, are in the environment.

    Raises:
        BadInput: the address is none.
    """
    if not wanted:
        return None, ""
    user, password = os.environ.get(USER, ""), os.environ.get(PASSWORD, "")
    return open_node_power("" if wanted == "ipmi" else wanted, user, password, os.environ.get(AUTHORITIES) or True)


class NodePowerLog:
    """Reads a node gauge from a thread of its own, since one reading may take longer than a sampler's period."""

    def __init__(self, gauge: NodeGauge, clock: Clock, period_s: float = 1.0) -> None:
        self._gauge, self._clock, self._period_s = gauge, clock, period_s
        self._time_s: list[float] = []
        self._power_w: list[float] = []
        self._lost = ""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node power", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> tuple[PowerTrace, str]:
        """All readings, at the middle of each, and why they end early, or ""; a hung reading is left behind."""
        self._ending.set()
        self._thread.join(2 * _IPMI_LIMIT_S)
        n = min(len(self._time_s), len(self._power_w))
        return PowerTrace("node", np.array(self._time_s[:n]), np.array(self._power_w[:n])), self._lost

    def _run(self) -> None:
        while not self._ending.is_set() and not self._lost:
            before_s = self._clock.monotonic_s()
            try:
                power_w = self._gauge.power_w()
            except CounterLost as error:
                self._lost = str(error)
                return
            after_s = self._clock.monotonic_s()
            self._power_w.append(power_w)
            self._time_s.append((before_s + after_s) / 2)
            self._ending.wait(max(0.0, before_s + self._period_s - after_s))


def rest_energy(
    trace: PowerTrace, lost: str, start_s: float, end_s: float, parts: dict[str, Energy], gpu_gain: float
) -> tuple[Energy, tuple[str, ...]]:
    """Energy of the node less its metered parts in [start_s, end_s], and flags; null where it cannot be known.

    The uncertainty is large: 5% of the node's energy (assumed), the boards' gain on the GPUs' energy, and the
    scatter of the readings as Student's t of their mean. It may be negative, and is not clamped.

    Args:
        trace, lost: of `NodePowerLog.stop`.
        parts: energies of gpu, idle_gpus, cpu and dram. Those of GPUs that there are must be known, and that of
            cpu. Without dram the rest holds it too (flag `rest_includes_dram`).
        gpu_gain: systematic uncertainty of the boards, a fraction.
    """
    for name in ("gpu", "idle_gpus", "cpu"):
        if name in parts and parts[name].energy_j is None:
            return Energy.absent(f"the rest of the node needs the energy of {name}: {parts[name].reason}"), ()
    within = (trace.time_s >= start_s) & (trace.time_s <= end_s)
    inside, why = trace.power_w[within], f": {lost}" if lost else ""
    if len(inside) < FEWEST_READINGS:
        return Energy.absent(f"{len(inside)} readings of the node's power in the window, 3 are needed{why}"), ()
    unread_s = float(np.diff(np.concatenate(([start_s], trace.time_s[within], [end_s]))).max())
    if unread_s > LONGEST_UNREAD_S:
        return Energy.absent(f"the node's power was not read for {unread_s:.0f} s of the window{why}"), ()
    window_s = end_s - start_s
    node_j = float(inside.mean()) * window_s
    scatter = float(special.stdtrit(len(inside) - 1, 0.975)) * float(inside.std(ddof=1)) / math.sqrt(len(inside))
    metered = [energy for energy in parts.values() if energy.energy_j is not None]
    gpu_j = sum(parts[name].energy_j or 0.0 for name in ("gpu", "idle_gpus") if name in parts)
    uncertainty_j = math.hypot(
        NODE_UNCERTAINTY * node_j, gpu_gain * gpu_j, scatter * window_s, *(one.uncertainty_j or 0.0 for one in metered)
    )
    source: Source = "estimated" if any(one.source == "estimated" for one in metered) else "measured"
    rest_j = node_j - sum(one.energy_j or 0.0 for one in metered)
    flags = () if parts.get("dram", Energy.absent("")).energy_j is not None else ("rest_includes_dram",)
    return Energy(rest_j, uncertainty_j, source), flags
