"""Whether DRAM watts can be true, and what DRAM draws by a published model where no counter shows it."""

from pathlib import Path

import psutil

from harness.clock import WallClock
from harness.errors import MeasurementError
from harness.meters.base import Domain
from harness.meters.rapl import RaplMeter
from harness.meters.reader import AbsentMeter
from harness.meters.sampler import PollingSampler
from harness.meters.window import window_energy
from harness.records import Energy
from harness.units import BYTES_PER_GIB

EDAC = Path("/sys/devices/system/edac/mc")
LEAST_W_PER_DIMM = 0.5
"""Idle DDR4 DIMMs read 0.92 to 1.07 W each, 3.4 to 4.5 W under STREAM (TACC/HPCPerfStats issue 9); read with a
unit four times too small, the idle ones would show 0.23 to 0.27 W. Half a watt lies between."""
MOST_W_PER_DIMM = 25.0
"""Five times what those DIMMs draw under STREAM: no air-cooled DIMM does."""
LEAST_W_PER_SOCKET = 2.0
MOST_W_PER_SOCKET = 250.0
"""Where the number of DIMMs is not known; a socket of a server has 8 or more."""

_LOOK_S = 0.2

ESTIMATED_W_PER_GIB = 0.089
ESTIMATE_UNCERTAINTY = 1.0
"""A server of 1024 GiB: 91 W, 71 W of it at rest (doi 10.1145/3466752.3480089, figure 2, as read in
HewlettPackard/sustain-cluster pull request 3). A fraction of 1: other published figures, in W per GB, are 0.05
to 0.06 (Tailpipe, 37 bare-metal platforms by RAPL), 0.19 idle and 0.54 active (BoaviztAPI, HotCarbon 2024), of
which the last two lie outside even that."""


def count_dimms(root: Path = EDAC) -> int | None:
    """Populated DIMMs that the memory controllers' driver (EDAC) shows; None where it shows none."""
    dimms = 0
    for size in root.glob("mc*/dimm*/size"):
        try:
            dimms += int(size.read_text()) > 0
        except (OSError, ValueError):
            continue
    return dimms or None


def implausible_dram(power_w: float, sockets: int, dimms: int | None) -> str:
    """Why the DRAM power of a whole node cannot be true, or "".

    Args:
        power_w: sum over `sockets` sockets.
        dimms: populated DIMMs of the node, where known.
    """
    count, kind = (dimms, "DIMM") if dimms else (sockets, "socket")
    least_w, most_w = (LEAST_W_PER_DIMM, MOST_W_PER_DIMM) if kind == "DIMM" else (LEAST_W_PER_SOCKET, MOST_W_PER_SOCKET)
    each_w = power_w / count
    if least_w <= each_w <= most_w:
        return ""
    side = f"less than the {least_w:g} W that it draws at rest" if each_w < least_w else f"more than {most_w:g} W"
    return f"{each_w:.2f} W for each {kind} of {count}: {side}"


def dram_doubts(meter: RaplMeter | AbsentMeter) -> dict[Domain, str]:
    """Why DRAM's watts cannot be true, from a short look; empty where nothing speaks against them.

    What the meter itself doubts (a wrong unit) it tells itself.
    """
    if not isinstance(meter, RaplMeter) or "dram" in meter.absent or "dram" in meter.doubts:
        return {}
    clock = WallClock()
    sampler = PollingSampler([meter], clock)
    sampler.start()
    start_s = sampler.mark()
    clock.sleep(_LOOK_S)
    end_s = sampler.mark()
    series = [one for one in sampler.stop().series if one.channel.domain == "dram"]
    try:
        energies_j = [window_energy(one, start_s, end_s).energy_j or 0.0 for one in series]
    except MeasurementError:
        return {}  # each window will say so itself
    doubt = implausible_dram(sum(energies_j) / (end_s - start_s), len(series), count_dimms())
    return {"dram": doubt} if doubt else {}


def memory_gib() -> float:
    """Memory of this machine that the kernel uses, GiB."""
    return float(psutil.virtual_memory().total) / BYTES_PER_GIB


def estimate_dram(window_s: float, memory_gib: float) -> Energy:
    """DRAM energy of a window by capacity alone, marked `estimated`: it does not see what the window did.

    Only on a person's wish: it adds a constant power, so it tells no two runs of equal length apart.
    """
    energy_j = ESTIMATED_W_PER_GIB * memory_gib * window_s
    return Energy(energy_j, ESTIMATE_UNCERTAINTY * energy_j, "estimated")
