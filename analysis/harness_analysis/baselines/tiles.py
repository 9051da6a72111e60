"""Matrix products run in waves of tiles: what rounding up to whole tiles and whole waves costs.

A product's output is cut into tiles, one for each multiprocessor at a time. A last wave that is nearly empty takes as
long as a full one, so time over rows is a staircase: see NVIDIA's "Matrix Multiplication Background User's Guide"
(docs.nvidia.com/deeplearning/performance), tile and wave quantization. Which tile the library takes is not known, so
there is a figure for each of the two that are usual on these GPUs.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from harness.points import FloatArray, StrArray
from harness_analysis.features import PhaseFeatures

MULTIPROCESSORS: Mapping[str, int] = MappingProxyType(
    {"a100": 108, "a100-40gb": 108, "h100": 132, "h200": 132, "gh200": 132}
)
"""By kind of GPU (NVIDIA A100 and H100 whitepapers). Another kind is taken to have no waves."""
TILES = ((128, 128), (256, 128))
"""Rows and columns of a tile: those of that guide for A100."""
FUSED = (("q_proj", "k_proj", "v_proj"), ("out_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""Products that engines run as one, because they share their input."""


def tile_fill(rows: FloatArray, columns: FloatArray, multiprocessors: FloatArray, tile: tuple[int, int]) -> FloatArray:
    """(n,) share of the computed output that was wanted, 0 to 1; 1 where there is nothing or no waves are known.

    Args:
        rows, columns: (n,) of the output.
        multiprocessors: (n,) of the GPU, 0 if not known.
    """
    tiles = np.ceil(rows / tile[0]) * np.ceil(columns / tile[1])
    known = (multiprocessors > 0) & (tiles > 0)
    slots = np.ceil(tiles / np.maximum(multiprocessors, 1)) * multiprocessors
    filled = np.ones_like(rows)
    np.divide(rows * columns, slots * tile[0] * tile[1], out=filled, where=known)
    return filled


def fills(gpu: StrArray, phase: PhaseFeatures) -> Mapping[str, FloatArray]:
    """By product kernel, (n, tiles): `tile_fill` of the product that it is part of, for each of `TILES`.

    Args:
        gpu: (n,) kinds.
        phase: features of the n configurations.
    """
    kinds, position = np.unique(gpu, return_inverse=True)
    known = np.array([float(MULTIPROCESSORS.get(str(kind), 0)) for kind in kinds])[position]
    found: dict[str, FloatArray] = {}
    for kernels in FUSED:
        columns = np.sum([phase.kernel(kernel, "columns") for kernel in kernels], axis=0)
        rows = phase.kernel(kernels[0], "rows")
        both = np.stack([tile_fill(rows, columns, known, tile) for tile in TILES], axis=1)
        found |= dict.fromkeys(kernels, both)
    return MappingProxyType(found)
