"""Fits the simulator's constants to published measurements and writes `harness/simulator/fitted.json`.

    python benchmarks/calibration/fit.py --public DIR --kernel-tables FILE [--out FILE]

Least squares on logarithms of simulated over measured, every constant within bounds and drawn weakly to a start
value. Kernel tables leave out the host: they are not targets but bounds, and the ratio to them is to rise with TP.
Takes some minutes.
"""

import argparse
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
from anchors import OLD_SERVER, Anchor, all_anchors
from scipy.optimize import least_squares
from simulate import Simulation

from harness.points import FloatArray
from harness.simulator.constants import (
    FITTED,
    Constants,
    EngineConstants,
    GpuConstants,
    HostConstants,
    architecture_of,
)

ARCHITECTURES = {"ampere": 108, "hopper": 132}
"""Streaming multiprocessors of the SXM cards (data sheets)."""
_LOOSE, _KNOWN = 1.0, 0.1


@dataclass(frozen=True, slots=True)
class Free:
    """A constant to fit: where it starts, its bounds, and how far (in logarithms) it may be drawn from its start."""

    start: float
    low: float
    high: float
    spread: float = _LOOSE


GPU_CONSTANTS = {
    "compute_efficiency": Free(0.75, 0.5, 0.85, 0.2),
    "memory_efficiency": Free(0.85, 0.6, 0.95),
    "kv_efficiency": Free(0.75, 0.35, 0.95),
    "group_reread": Free(0.1, 0.001, 0.6),
    "attention_efficiency": Free(0.5, 0.15, 0.8),
    "kernel_s": Free(2e-6, 0.3e-6, 5e-6),
    "link_efficiency": Free(0.6, 0.15, 0.95),
    "all_reduce_s": Free(10e-6, 4e-6, 25e-6),
    "all_reduce_gpu_s": Free(1e-6, 0.05e-6, 4e-6),
    "loaded_share": Free(0.035, 0.01, 0.08, 0.3),
    "active_share": Free(0.1, 0.005, 0.4),
    "memory_share": Free(0.5, 0.05, 0.9),
    "kv_share": Free(0.5, 0.05, 1.2),
    # Large prefills reach the power limit on both: no anchor has prefill apart, so this holds it there.
    "compute_share": Free(0.9, 0.4, 1.2, _KNOWN),
    "collective_share": Free(0.15, 0.01, 0.4),
    "bubble_share": Free(0.08, 0.01, 0.3),
}
ENGINE_CONSTANTS = {
    "vllm": {"host_step_s": Free(2e-3, 0.3e-3, 6e-3), "host_sequence_s": Free(2e-5, 1e-6, 1e-4)},
    OLD_SERVER: {"host_step_s": Free(4e-3, 0.3e-3, 30e-3), "host_sequence_s": Free(2e-4, 1e-6, 1e-3)},
}
CHOSEN_ENGINES = {
    "sarathi": {"host_step_s": 3.0e-3, "launch_s": 5e-6, "graphs": False},
    "transformers": {"host_step_s": 6.0e-3, "launch_s": 8e-6, "graphs": False},
}
"""No anchor runs these: no CUDA graphs, more of the host per step."""
_NAMES = [(name, key) for name in ARCHITECTURES for key in GPU_CONSTANTS] + [
    (name, key) for name, constants in ENGINE_CONSTANTS.items() for key in constants
]


def free(name: tuple[str, str]) -> Free:
    return ENGINE_CONSTANTS.get(name[0], GPU_CONSTANTS)[name[1]]


def fitted_of(logs: FloatArray) -> dict[str, dict[str, dict[str, float]]]:
    """The content of the file, from the logarithms of all free constants."""
    values = {name: float(f"{np.exp(value):.4g}") for name, value in zip(_NAMES, logs, strict=True)}
    gpus: dict[str, dict[str, float]] = {
        name: {"multiprocessors": count} | {key: values[name, key] for key in GPU_CONSTANTS}
        for name, count in ARCHITECTURES.items()
    }
    engines = {name: {key: values[name, key] for key in constants} for name, constants in ENGINE_CONSTANTS.items()}
    per_sequence_s = engines["vllm"]["host_sequence_s"]
    others = {name: {"host_sequence_s": per_sequence_s, **chosen} for name, chosen in CHOSEN_ENGINES.items()}
    return {"gpus": gpus, "engines": {**engines, **others}}


def constants_for(logs: FloatArray, kinds: set[str]) -> dict[str, Constants]:
    """Constants for each kind of GPU, as they would be read back from the file."""
    values = dict(zip(_NAMES, np.exp(logs).tolist(), strict=True))
    engines = {
        name: EngineConstants(**{key: values[name, key] for key in constants})
        for name, constants in ENGINE_CONSTANTS.items()
    }
    by_architecture = {
        name: replace(GpuConstants(multiprocessors=count), **{key: values[name, key] for key in GPU_CONSTANTS})
        for name, count in ARCHITECTURES.items()
    }
    host = HostConstants()
    return {kind: Constants(by_architecture[architecture_of(kind)], engines, host) for kind in kinds}


def residuals(logs: FloatArray, anchors: list[Anchor]) -> FloatArray:
    """(residuals,) of all fitted anchors, of the rise with TP, and of the draw to the start values."""
    simulation = Simulation(constants_for(logs, {anchor.gpu.kind for anchor in anchors}))
    parts: list[float] = []
    floors: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for anchor in anchors:
        ratio = simulation.value(anchor) / anchor.value
        if anchor.source == "argonne":
            parts.append(_argonne_residual(anchor, float(np.log(ratio))))
        elif anchor.serving:
            parts.append(float(np.log(ratio)) / 0.5)
        elif anchor.quantity == "power_w":
            parts.append(float(np.log(ratio)) / 0.15)
        else:
            parts += [float(np.log(ratio)) / 0.6, (max(0.0, 0.88 - ratio) + max(0.0, ratio - 1.85)) / 0.03]
            item = anchor.deployment
            if item.pipeline_parallel == 1:
                key = (item.gpu, item.model.name, anchor.quantity)
                floors.setdefault(key, []).append((item.tensor_parallel, ratio))
    for by_tp in floors.values():
        ratios = [ratio for _, ratio in sorted(by_tp)]
        parts += [max(0.0, before * 1.01 - after) / 0.02 for before, after in pairwise(ratios)]
    for name, value in zip(_NAMES, logs, strict=True):
        parts.append((value - np.log(free(name).start)) / free(name).spread)
    return np.array(parts)


def _argonne_residual(anchor: Anchor, error: float) -> float:
    """Logarithms of ratios over what is tolerated; a few outliers of the source do not decide."""
    ampere = anchor.gpu.kind == "a100-40gb"
    if anchor.quantity == "latency_s":
        return float(np.clip(error, -0.5, 0.5)) / (0.3 if ampere else 0.15)
    # Above batch 16 the card runs its 40 GB out of cache: power of waves is not what is fitted.
    return error / (0.1 if ampere and anchor.batch_size > 16 else 0.03)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--public", type=Path, required=True, help="folder of published measurements")
    parser.add_argument("--kernel-tables", type=Path, required=True, help="what kernel_tables.py wrote")
    parser.add_argument("--out", type=Path, default=FITTED)
    arguments = parser.parse_args()
    anchors = [one for one in all_anchors(arguments.public, arguments.kernel_tables) if one.use == "fitted"]
    start = np.log([free(name).start for name in _NAMES])
    bounds = tuple(np.log([[free(name).low for name in _NAMES], [free(name).high for name in _NAMES]]))
    found = least_squares(residuals, start, bounds=bounds, args=(anchors,), diff_step=1e-2, max_nfev=15)
    sources = sorted({f"{one.source}: {one.engine}, {one.quantity}" for one in anchors})
    content = {
        "written": {
            "by": "benchmarks/calibration/fit.py",
            "on": datetime.now(UTC).date().isoformat(),
            "anchors": len(anchors),
            "sources": sources,
            "chosen, not fitted": ["engines.sarathi", "engines.transformers"],
        },
        **fitted_of(found.x),
    }
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    print(f"{len(anchors)} anchors, cost {found.cost:.4g} after {found.nfev} steps: {arguments.out}")
    for name, value, low, high in zip(_NAMES, found.x, *bounds, strict=True):
        near = " (at its bound)" if min(value - low, high - value) < 0.02 else ""
        print(f"  {'.'.join(name):32} {np.exp(value):.4g}{near}")


if __name__ == "__main__":
    main()
