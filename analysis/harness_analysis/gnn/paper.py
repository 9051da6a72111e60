"""The networks of the LLMCO2 paper (arXiv 2410.02950) and of NNLQP as it compares with them, as published.

The paper says: two GraphSAGE and two linear layers in each of the two GNNs, Adam, learning rate 0.01, batches of 64,
and the predicted prefill energy as an input of the second GNN. What it does not say is taken from its released code
(github.com/fuzhenxiao/LLMCO2): width 32, outputs of a GraphSAGE layer scaled to unit length, the maximum over nodes,
a layer for the features of the whole, which are standardised, dropout 0.05 after each layer, squared error of the
energy itself, 50 epochs, the rate times 0.98 after each, the weights of the epoch that is best on held back examples,
and node features over their largest value.

Not as in that code: prefill and decode have node features of their own (there the last one computed overwrites the
other), each node feature has a largest value of its own (there all have one, the operations'), energies are in units
of their mean, the second GNN answers with the total, and no number stands for the model or GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from harness.errors import BadInput
from harness.points import FloatArray
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples
from harness_analysis.features import kernel_features
from harness_analysis.gnn.inputs import ROOFLINE, Floats
from harness_analysis.gnn.sage import DenseSage
from harness_analysis.gnn.train import Schedule, one_thread, seeded, split_positions, tensor, train
from harness_analysis.graph import EDGES, KERNEL_TYPES, NODES
from harness_analysis.kernels import FEATURES, PhaseFeatures
from harness_analysis.predictor import Prediction

SCHEDULE = Schedule(epochs=50, batch_size=64, learning_rate=0.01, decay=0.98)
HIDDEN, DROPOUT = 32, 0.05
VALIDATION_SHARE = 0.1
NODE_FEATURES = tuple(name for name in FEATURES if name not in ("busy_s", "network_bytes"))
"""With the paper's formula of what an all-reduce sends, not the ring's."""


@dataclass(frozen=True, slots=True)
class PaperSettings:
    """The paper's ablations (its Table 5): what may be left out.

    Attributes:
        apart: graphs of prefill and decode apart; else the second network sees the prefill's graph again.
        roofline: roofline time and performance among the node features.
        chained: the second network sees the predicted prefill energy.
    """

    apart: bool = True
    roofline: bool = True
    chained: bool = True


class PaperNetwork(nn.Module):
    """One GNN: node features (b, nodes, f) and features of the whole (b, g) to one number per graph."""

    def __init__(self, node_inputs: int, graph_inputs: int) -> None:
        super().__init__()
        self.first = DenseSage(node_inputs, HIDDEN, EDGES, len(NODES), unit_length=True)
        self.second = DenseSage(HIDDEN, HIDDEN, EDGES, len(NODES), unit_length=True)
        self.whole = nn.Linear(graph_inputs, HIDDEN)
        self.joined = nn.ModuleList([nn.Linear(2 * HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)])
        self.answer = nn.Linear(HIDDEN, 1)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, nodes: Tensor, graph: Tensor) -> Tensor:
        """(b,) in units of the mean energy."""
        x = nodes.transpose(0, 1).contiguous()
        for layer in (self.first, self.second):
            x = self.dropout(torch.relu(layer(x)))
        x = torch.cat([x.amax(dim=0), torch.relu(self.dropout(self.whole(graph)))], dim=1)
        for linear in self.joined:
            x = self.dropout(torch.relu(linear(x)))
        out: Tensor = self.answer(x)
        return out.squeeze(1)


class PaperTwoGnn:
    """LLMCO2: one GNN for the prefill energy, one for the total."""

    def __init__(self, settings: PaperSettings | None = None, name: str = "LLMCO2 as published") -> None:
        self.settings = settings or PaperSettings()
        self.name = name
        self._networks: tuple[PaperNetwork, PaperNetwork] | None = None

    def fit(self, examples: Examples, seed: int) -> None:
        """Raises BadInput unless all known totals have their prefill: the first network needs it."""
        known = examples.take(~np.isnan(examples.total_j))
        if np.isnan(known.prefill_j).any():
            raise BadInput("prefill_j", "not known of all examples", "prefill and total energy: the paper's chain")
        self._scaling = _PaperScaling.of(known.configurations)
        self._unit_j = float(known.total_j.mean())
        prefill, decode, whole = inputs = self._inputs(known.configurations)
        labels = tensor(np.stack([known.prefill_j, known.total_j]) / self._unit_j)
        with seeded(seed):
            extra = int(self.settings.chained)
            first = PaperNetwork(prefill.shape[2], whole.shape[1])
            second = PaperNetwork(decode.shape[2], whole.shape[1] + extra)
            both = nn.ModuleList([first, second])

            def loss(rows: Tensor) -> Tensor:
                answers = _chained(first, second, [one[rows] for one in inputs], self.settings.chained)
                return nn.functional.mse_loss(torch.stack(answers), labels[:, rows]) * len(answers)

            teach, held = split_positions(len(known), VALIDATION_SHARE, seed)
            train(both, loss, torch.from_numpy(teach), SCHEDULE, seed, torch.from_numpy(held))
        self._networks = first, second

    def predict(self, configurations: Configurations) -> Prediction:
        """Raises ValueError before `fit`."""
        if self._networks is None:
            raise ValueError("not fitted")
        with one_thread(), torch.no_grad():
            prefill, total = _chained(*self._networks, self._inputs(configurations), self.settings.chained)
        unit = self._unit_j
        return Prediction.without_interval(total.numpy().astype(float) * unit, prefill.numpy().astype(float) * unit)

    def _inputs(self, c: Configurations) -> tuple[Tensor, Tensor, Tensor]:
        prefill, decode, whole = self._scaling(c)
        if not self.settings.apart:
            decode = prefill
        if not self.settings.roofline:
            kept = [number for number in range(prefill.shape[2]) if number not in _ROOFLINE_COLUMNS]
            prefill, decode = prefill[:, :, kept], decode[:, :, kept]
        return tensor(prefill), tensor(decode), tensor(whole)


class Nnlqp:
    """A single GNN from the whole graph to the total, as NNLQP (Liu et al., ICPP 2022) has for latency.

    Its nodes have the features of both phases beside each other. Trained as the paper's networks are.
    """

    name = "NNLQP (single GNN)"

    def __init__(self) -> None:
        self._network: PaperNetwork | None = None

    def fit(self, examples: Examples, seed: int) -> None:
        """Needs totals only."""
        known = examples.take(~np.isnan(examples.total_j))
        self._scaling = _PaperScaling.of(known.configurations)
        self._unit_j = float(known.total_j.mean())
        nodes, whole = self._inputs(known.configurations)
        label = tensor(known.total_j / self._unit_j)
        with seeded(seed):
            network = PaperNetwork(nodes.shape[2], whole.shape[1])

            def loss(rows: Tensor) -> Tensor:
                return nn.functional.mse_loss(network(nodes[rows], whole[rows]), label[rows])

            teach, held = split_positions(len(known), VALIDATION_SHARE, seed)
            train(network, loss, torch.from_numpy(teach), SCHEDULE, seed, torch.from_numpy(held))
        self._network = network

    def predict(self, configurations: Configurations) -> Prediction:
        """Raises ValueError before `fit`."""
        if self._network is None:
            raise ValueError("not fitted")
        with one_thread(), torch.no_grad():
            total = self._network(*self._inputs(configurations))
        return Prediction.without_interval(total.numpy().astype(np.float64) * self._unit_j)

    def _inputs(self, c: Configurations) -> tuple[Tensor, Tensor]:
        prefill, decode, whole = self._scaling(c)
        return tensor(np.concatenate((prefill, decode), axis=2)), tensor(whole)


_ROOFLINE_COLUMNS = [NODE_FEATURES.index(name) for name in ROOFLINE]
_WHOLE = ("bits", "tp", "pp", "batch_size", "prompt_tokens", "generated_tokens")
_SHAPE = ("hidden_size", "intermediate_size", "layers", "heads", "kv_heads", "vocab_size")
_GPU = ("peak_flops", "memory_bandwidth_bytes_per_s", "link_bandwidth_bytes_per_s", "tdp_w")


def _chained(
    first: PaperNetwork, second: PaperNetwork, inputs: Sequence[Tensor], chained: bool
) -> tuple[Tensor, Tensor]:
    prefill, decode, whole = inputs
    prefill_j: Tensor = first(prefill, whole)
    known = torch.cat([whole, prefill_j.detach()[:, None]], dim=1) if chained else whole
    return prefill_j, second(decode, known)


@dataclass(frozen=True, slots=True, eq=False)
class _PaperScaling:
    """Largest value of each node feature, over all kernels; mean and width of what is of the whole."""

    largest: FloatArray
    mean: FloatArray
    width: FloatArray

    @staticmethod
    def of(c: Configurations) -> "_PaperScaling":
        features = kernel_features(c)
        largest = np.maximum(_raw(features.prefill).max(axis=(0, 1)), _raw(features.decode).max(axis=(0, 1)))
        whole = _whole(c)
        width = whole.std(axis=0)
        varies = width > 1e-9 * np.abs(whole).max(axis=0)
        return _PaperScaling(np.where(largest > 0, largest, 1), whole.mean(axis=0), np.where(varies, width, 1))

    def __call__(self, c: Configurations) -> tuple[Floats, Floats, Floats]:
        """Prefill nodes, decode nodes and features of the whole."""
        features = kernel_features(c)
        whole = ((_whole(c) - self.mean) / self.width).astype(np.float32)
        return self._nodes(features.prefill), self._nodes(features.decode), whole

    def _nodes(self, phase: PhaseFeatures) -> Floats:
        kinds = np.broadcast_to(KERNEL_TYPES, (len(phase.values), *KERNEL_TYPES.shape))
        return np.concatenate(((_raw(phase) / self.largest).astype(np.float32), kinds), axis=2)


def _raw(phase: PhaseFeatures) -> FloatArray:
    return phase.values[:, :, [FEATURES.index(name) for name in NODE_FEATURES]]


def _whole(c: Configurations) -> FloatArray:
    columns = [*(getattr(c, name) for name in _WHOLE), *c.shape_values(*_SHAPE), *c.gpu_values(*_GPU)]
    return np.stack(columns, axis=1)
