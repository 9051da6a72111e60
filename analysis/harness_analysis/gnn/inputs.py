"""What the networks see: features as float32 arrays, and their scaling to what the training data had.

What kind of kernel a node is (`graph.KERNEL_TYPES`) is the same in all graphs: the networks know it without being told.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness_analysis.baselines.terms import Physics
from harness_analysis.baselines.tiles import FUSED, TILES, fills
from harness_analysis.graph import (
    EDGES,
    GLOBAL_FEATURES,
    NODE_FEATURES,
    NODES,
    global_features,
    node_features,
)

Floats = npt.NDArray[np.float32]
BOTH_WAYS = np.concatenate((EDGES, EDGES[::-1]), axis=1)
"""Edges along the data and back: a kernel's neighbours are those before and those after it."""
ROOFLINE = ("time_s", "performance_flops")
"""Node features that are the roofline's."""
WHOLE_FEATURES = (*GLOBAL_FEATURES, "micro_batches", "overlap")
"""Of the configuration as a whole: the graph's, how many micro-batches decode at once, and by how much the stages of a
pipeline shorten the prefill."""
_ESTIMATES = ("_time_s", "_energy_j")
_CONSTANT = 1e-4
"""A logarithm that varies by less in training is a constant, not a feature."""


@dataclass(frozen=True, slots=True, eq=False)
class GraphInputs:
    """Of n configurations: node features of both phases, (n, nodes, f) each, and features of the whole, (n, g)."""

    prefill: Floats
    decode: Floats
    whole: Floats

    def __len__(self) -> int:
        return len(self.whole)

    def take(self, index: npt.NDArray[np.int64] | slice) -> "GraphInputs":
        return GraphInputs(self.prefill[index], self.decode[index], self.whole[index])


def graph_inputs(physics: Physics, apart: bool = True, roofline: bool = True) -> GraphInputs:
    """Logarithms of the physical features; a product's prefill node also knows how well it fills tiles and waves.

    Args:
        apart: the decode has a graph of its own; else it has the prefill's.
        roofline: with times and rates by the roofline, and the filling of tiles.
    """
    c = physics.configurations
    nodes = node_features(c, physics.features)
    filled = np.zeros((len(c), len(NODES), len(TILES)), np.float32)
    known = fills(c.gpu, physics.features.prefill)
    for kernel in (name for fused in FUSED for name in fused):
        filled[:, NODES.index(kernel)] = np.log(known[kernel])
    prefill, decode = np.concatenate((nodes.prefill, filled), axis=2), nodes.decode
    ways = np.stack([physics.micro_batches, 1 / physics.prefill_held], axis=1)
    whole = np.concatenate((global_features(c, physics.totals), np.log(ways).astype(np.float32)), axis=1)
    if not roofline:
        kept = [number for number, name in enumerate(NODE_FEATURES) if name not in ROOFLINE]
        prefill, decode = prefill[:, :, kept], decode[:, :, kept]
        whole = whole[:, [number for number, name in enumerate(WHOLE_FEATURES) if not name.endswith(_ESTIMATES)]]
    return GraphInputs(prefill, decode if apart else prefill, whole)


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """Shift, width and range of each feature in training, each of the feature's own shape.

    Beyond the range of training a feature is held at its border: there the network says what it says at the border,
    and what grows further is left to the physical estimate that it corrects.
    """

    mean: Floats
    width: Floats
    low: Floats
    high: Floats

    @staticmethod
    def of(values: Floats) -> "Scaling":
        """From training values (n, ...)."""
        width = values.std(axis=0)
        return Scaling(
            values.mean(axis=0),
            np.where(width > _CONSTANT, width, 1).astype(np.float32),
            values.min(axis=0),
            values.max(axis=0),
        )

    def __call__(self, values: Floats) -> Floats:
        """Scaled to mean 0 and width 1 in training; same shape."""
        scaled: Floats = (np.clip(values, self.low, self.high) - self.mean) / self.width
        return scaled


@dataclass(frozen=True, slots=True, eq=False)
class InputScaling:
    """Of all three arrays of `GraphInputs`; nodes are scaled each on its own."""

    prefill: Scaling
    decode: Scaling
    whole: Scaling

    @staticmethod
    def of(inputs: GraphInputs) -> "InputScaling":
        return InputScaling(Scaling.of(inputs.prefill), Scaling.of(inputs.decode), Scaling.of(inputs.whole))

    def __call__(self, inputs: GraphInputs) -> GraphInputs:
        """Scaled."""
        return GraphInputs(self.prefill(inputs.prefill), self.decode(inputs.decode), self.whole(inputs.whole))
