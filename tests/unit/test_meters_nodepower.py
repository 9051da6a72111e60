"""IPMI through a command that stands in for ipmitool, Redfish through a real HTTP server, and the rest of the node."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from harness.clock import WallClock
from harness.errors import BadInput, CounterLost
from harness.meters import nodepower
from harness.meters.base import PowerTrace
from harness.meters.nodepower import IpmiPower, NodePowerLog, RedfishPower, open_node_power, rest_energy
from harness.records import Energy

DCMI = """
    Instantaneous power reading:                  {watts} Watts
    Minimum during sampling period:                 12 Watts
    Maximum during sampling period:               9999 Watts
    Average power reading over sample period:     1111 Watts
    IPMI timestamp:                           Thu Jan  1 00:00:00 1970
    Sampling period:                          00000000 Seconds.
    Power reading state is:                   deactivated
"""


def ipmitool(folder: Path, script: str) -> Path:
    command = folder / "ipmitool"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    return command


def saying(watts: float) -> str:
    return f'[ "$*" = "dcmi power reading" ] || exit 9\ncat <<X\n{DCMI.format(watts=watts)}\nX'


def test_the_instantaneous_watts_of_ipmitool_are_read(tmp_path: Path) -> None:
    assert IpmiPower(str(ipmitool(tmp_path, saying(5230)))).power_w() == 5230.0


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (saying(0), "no power sensor"),
        ("echo 'Could not open device at /dev/ipmi0' >&2; exit 1", "Could not open device"),
        ("echo DCMI request failed because: Invalid command", "Invalid command"),
        ("true", "says: nothing"),
    ],
)
def test_an_ipmitool_that_fails_is_lost_with_what_it_said(tmp_path: Path, script: str, words: str) -> None:
    with pytest.raises(CounterLost, match=words):
        IpmiPower(str(ipmitool(tmp_path, script))).power_w()


def test_an_ipmitool_that_hangs_or_is_missing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CounterLost, match="sudo modprobe ipmi_devintf"):
        IpmiPower(str(tmp_path / "none")).power_w()
    monkeypatch.setattr(nodepower, "_IPMI_LIMIT_S", 0.2)
    with pytest.raises(CounterLost, match="no answer"):
        IpmiPower(str(ipmitool(tmp_path, "exec sleep 20"))).power_w()


class Bmc:
    """An HTTP server that answers GETs with prepared JSON, and remembers what was asked."""

    def __init__(self, pages: dict[str, object]) -> None:
        self.pages, self.asked, self.authorised = pages, [], []  # type: ignore[var-annotated]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                outer.authorised.append(self.headers.get("Authorization"))
                page = outer.pages.get(self.path)
                if isinstance(page, str):
                    self.send_response(302)
                    self.send_header("Location", page)
                else:
                    self.send_response(200 if page is not None else 404)
                body = json.dumps(page).encode()
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


def chassis(*names: str) -> dict[str, object]:
    return {"Members": [{"@odata.id": f"/redfish/v1/Chassis/{name}"} for name in names]}


PAGES: dict[str, object] = {
    "/redfish/v1/Chassis": chassis("HGX", "Self", "NoPower"),
    "/redfish/v1/Chassis/HGX/EnvironmentMetrics": {"PowerWatts": {"Reading": 3100.5}},
    "/redfish/v1/Chassis/Self/Power": {"PowerControl": [{"PowerConsumedWatts": 5400}, {"PowerConsumedWatts": 1}]},
}


@pytest.fixture
def bmc() -> Iterator[Bmc]:
    one = Bmc(dict(PAGES))
    thread = threading.Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield one
    one.server.shutdown()
    one.server.server_close()
    thread.join()


def test_the_chassis_that_holds_the_others_is_read_and_only_it_thereafter(bmc: Bmc) -> None:
    gauge = RedfishPower(bmc.address, "reader", "secret")
    bmc.asked.clear()
    assert gauge.power_w() == 5400.0
    assert bmc.asked == ["/redfish/v1/Chassis/Self/Power"]
    assert all(header.startswith("Basic ") for header in bmc.authorised)


def test_the_newer_metrics_serve_where_there_is_no_power_resource(bmc: Bmc) -> None:
    bmc.pages["/redfish/v1/Chassis"] = chassis("HGX")
    assert RedfishPower(bmc.address).power_w() == 3100.5


@pytest.mark.parametrize(
    ("path", "page", "words"),
    [
        ("/redfish/v1/Chassis", {"Members": []}, "no chassis"),
        ("/redfish/v1/Chassis", {"Members": [{"@odata.id": "http://elsewhere.example/x"}]}, "not below /redfish/v1/"),
        ("/redfish/v1/Chassis", "/redfish/v1/Other", "HTTP 302"),
        ("/redfish/v1/Chassis", chassis("NoPower"), "HTTP 404"),
    ],
)
def test_a_controller_without_a_chassis_power_is_lost_with_the_reason(
    bmc: Bmc, path: str, page: object, words: str
) -> None:
    bmc.pages[path] = page
    with pytest.raises(CounterLost, match=words):
        RedfishPower(bmc.address)
    assert all(asked.startswith("/redfish/v1/Chassis") for asked in bmc.asked)


def test_a_power_that_vanishes_or_is_zero_is_lost(bmc: Bmc) -> None:
    gauge = RedfishPower(bmc.address)
    bmc.pages["/redfish/v1/Chassis/Self/Power"] = {"PowerControl": [{"PowerConsumedWatts": None}]}
    with pytest.raises(CounterLost, match="gives no watts"):
        gauge.power_w()
    bmc.pages["/redfish/v1/Chassis/Self/Power"] = {"PowerControl": [{"PowerConsumedWatts": 0}]}
    with pytest.raises(CounterLost, match="no power sensor"):
        gauge.power_w()


@pytest.mark.parametrize("address", ["bmc.example", "ftp://bmc.example", "https://user:word@bmc.example", "https://"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match="without user or path"):
        RedfishPower(address)


def test_what_answers_is_opened_and_what_does_not_gives_the_reason(
    bmc: Bmc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gauge, reason = open_node_power(bmc.address)
    assert (gauge is not None, reason) == (True, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    gauge, reason = open_node_power()
    assert gauge is None
    assert "no ipmitool on PATH" in reason
    ipmitool(tmp_path, "echo 'Could not open device' >&2; exit 1")
    assert "Could not open device" in open_node_power()[1]
    gauge, reason = open_node_power("http://127.0.0.1:1")
    assert gauge is None
    assert "ConnectionError" in reason


class _Falling:
    name = "falling"

    def __init__(self) -> None:
        self.watts = [5000.0, 4000.0, 3000.0]

    def power_w(self) -> float:
        if not self.watts:
            raise CounterLost("the controller restarts")
        return self.watts.pop(0)


def test_a_log_keeps_what_it_read_until_the_gauge_is_lost() -> None:
    log = NodePowerLog(_Falling(), WallClock(), period_s=0.01)
    log.start()
    for _ in range(200):
        if not log._thread.is_alive():
            break
        log._thread.join(0.01)
    trace, lost = log.stop()
    assert (trace.power_w.tolist(), lost) == ([5000.0, 4000.0, 3000.0], "the controller restarts")
    assert (np.diff(trace.time_s) >= 0.009).all()


def parts(dram: Energy | None = None) -> dict[str, Energy]:
    return {
        "gpu": Energy(30_000.0, 10.0, "measured"),
        "idle_gpus": Energy(0.0, 0.0, "measured"),
        "cpu": Energy(4_000.0, 5.0, "measured"),
        "dram": dram or Energy(500.0, 1.0, "measured"),
    }


TRACE = PowerTrace("node", np.arange(12.0), np.full(12, 5000.0))


def test_the_rest_is_the_node_less_its_parts_with_a_large_uncertainty() -> None:
    rest, flags = rest_energy(TRACE, "", 0.5, 10.5, parts(), gpu_gain=0.05)
    assert rest.energy_j == pytest.approx(50_000 - 34_500)
    # 5% of 50 kJ and of 30 kJ
    assert rest.uncertainty_j == pytest.approx(np.hypot(2500, 1500), rel=1e-3)
    assert (rest.source, flags) == ("measured", ())
    uneven = PowerTrace("node", TRACE.time_s, np.tile([4000.0, 6000.0], 6))
    wider, _ = rest_energy(uneven, "", 0.5, 10.5, parts(), gpu_gain=0.05)
    assert wider.uncertainty_j is not None
    # Ten readings of sd 1054 W: 2.262 x 1054 / sqrt(10) x 10 s
    assert wider.uncertainty_j == pytest.approx(np.sqrt(2500**2 + 1500**2 + 7540**2), rel=1e-2)


def test_dram_without_a_counter_stays_in_the_rest_and_an_estimate_makes_it_one() -> None:
    rest, flags = rest_energy(TRACE, "", 0.5, 10.5, parts(Energy.absent("AMD")), 0.05)
    assert (rest.energy_j, flags) == (pytest.approx(16_000), ("rest_includes_dram",))
    rest, flags = rest_energy(TRACE, "", 0.5, 10.5, parts(Energy(900.0, 900.0, "estimated")), 0.05)
    assert (rest.source, flags) == ("estimated", ())


def test_too_few_readings_or_a_missing_part_give_no_rest_but_the_reason() -> None:
    rest, _ = rest_energy(TRACE, "the controller restarts", 10.5, 20.5, parts(), 0.05)
    assert rest.energy_j is None
    assert rest.reason == "1 readings of the node's power in the window, 3 are needed: the controller restarts"
    rest, _ = rest_energy(TRACE, "", 0.5, 10.5, parts() | {"cpu": Energy.absent("permission denied")}, 0.05)
    assert rest.reason == "the rest of the node needs the energy of cpu: permission denied"
    rest, _ = rest_energy(TRACE, "", 0.5, 10.5, parts() | {"idle_gpus": Energy.absent("GPU is lost")}, 0.05)
    assert rest.reason == "the rest of the node needs the energy of idle_gpus: GPU is lost"


def test_a_node_without_gpus_has_a_rest_too() -> None:
    without = {name: energy for name, energy in parts().items() if "gpu" not in name}
    rest, _ = rest_energy(TRACE, "", 0.5, 10.5, without, 0.05)
    assert rest.energy_j == pytest.approx(50_000 - 4_500)


def test_a_controller_that_falls_silent_in_the_window_gives_no_rest() -> None:
    rest, _ = rest_energy(TRACE, "the controller restarts", 0.5, 1800.0, parts(), 0.05)
    assert rest.energy_j is None
    assert "was not read for" in rest.reason
    assert "the controller restarts" in rest.reason
