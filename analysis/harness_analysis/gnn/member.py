"""One fitted 2-GNN: a physical estimate of each phase, and two GraphSAGE networks that correct its logarithm.

The first network sees the prefill graph and says by how much the estimated prefill energy is off; the second sees the
decode graph and the first one's answer, and says the same of the decode energy. Total = corrected prefill + corrected
decode, so the total is never less than the prefill, and where the networks know nothing the estimate stands.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from harness.points import FloatArray, IntArray
from harness_analysis.baselines.terms import N_PREFILL
from harness_analysis.baselines.whitebox import Factors, fit_factors
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples
from harness_analysis.gnn.inputs import BOTH_WAYS, GraphInputs, InputScaling
from harness_analysis.gnn.sage import SageNetwork, with_neighbours
from harness_analysis.gnn.train import Schedule, one_thread, seeded, tensor, train
from harness_analysis.graph import KERNEL_TYPES

_SMALLEST_SPREAD = 0.005
"""The estimate is never taken to be better than this, as a share."""
_SHARP = 0.25
"""Errors below this share of the spread count by their square, larger ones by their size (Huber): a few are far off."""
_CHUNK = 2048
"""Configurations per pass in prediction: what fits the processor's cache."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What may be left out to see what it is worth, and how long to train.

    Attributes:
        estimate: correct the white box's estimate; else a constant energy per phase.
        chained: the second network sees the first one's answer.
        apart: the second network sees the decode's graph; else the prefill's again.
        roofline: the networks see roofline times and rates, and how tiles are filled.
        hidden: width of the layers.
        schedule: of a member that predicts; rehearsals train half as long. Chosen among ten as a third of the cost of
            60 epochs in steps of 64, with 3.38% error for 3.36% and 0.55% for 0.49%: on a quarter of the train side of
            a simulated sweep and of the released train set, learnt from the other three quarters.
    """

    estimate: bool = True
    chained: bool = True
    apart: bool = True
    roofline: bool = True
    hidden: int = 32
    schedule: Schedule = Schedule(
        epochs=30,
        steps=600,
        batch_size=256,
        smallest_batch_size=64,
        learning_rate=1.6e-2,
        weight_decay=1e-3,
        clip=1.0,
    )


class TwoGnn(nn.Module):
    """The two networks; both answer in units of the estimate's `spread`."""

    def __init__(self, sizes: tuple[int, int, int], hidden: int, chained: bool) -> None:
        super().__init__()
        prefill, decode, whole = sizes
        self.chained = chained
        self.prefill = SageNetwork(prefill, whole, hidden, BOTH_WAYS, KERNEL_TYPES)
        self.decode = SageNetwork(decode, whole + chained, hidden, BOTH_WAYS, KERNEL_TYPES)
        for network in (self.prefill, self.decode):
            nn.init.zeros_(network.answer.weight)
            nn.init.zeros_(network.answer.bias)

    def forward(self, prefill: Tensor, decode: Tensor, whole: Tensor) -> Tensor:
        """(b, 2) corrections of prefill and decode; nodes are (nodes, b, 2f), each with its neighbours."""
        first = self.prefill(prefill, whole)
        # What the prefill was off by is input here, not something to be changed for the decode's sake.
        known = torch.cat([whole, first.detach()[:, None]], dim=1) if self.chained else whole
        return torch.stack([first, self.decode(decode, known)], dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Configurations with all that is computed of them once: terms (n, terms) and network inputs."""

    configurations: Configurations
    terms: FloatArray
    inputs: GraphInputs

    def take(self, index: IntArray) -> "Prepared":
        return Prepared(self.configurations.take(index), self.terms[index], self.inputs.take(index))


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Of n configurations: `estimate_j` (n, 2) of prefill and decode, `correction` (n, 2) to add to its logarithm."""

    estimate_j: FloatArray
    correction: FloatArray

    def energies(self, trust: FloatArray | float = 1.0) -> FloatArray:
        """(n, 2) prefill and decode, corrected by the share `trust` (n, 2) of what the networks say."""
        found: FloatArray = self.estimate_j * np.exp(trust * self.correction)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """Fitted factors, scaling and networks; `spread` (2,) is the unit of the networks' answers."""

    factors: Factors
    scaling: InputScaling
    spread: FloatArray
    network: TwoGnn
    settings: Settings

    def answer(self, asked: Prepared) -> Answer:
        parts = []
        with one_thread(), torch.no_grad():
            for start in range(0, len(asked.inputs), _CHUNK):
                scaled = self.scaling(asked.inputs.take(slice(start, start + _CHUNK)))
                parts.append(self.network(*_tensors(scaled)))
        corrections = torch.cat(parts).numpy().astype(np.float64) if parts else np.empty((0, 2))
        return Answer(estimated(self.factors, asked, self.settings), corrections * self.spread)


def estimated(factors: Factors, asked: Prepared, settings: Settings) -> FloatArray:
    """(n, 2) estimates before correction: the white box's; without it the same for all with any work in the phase."""
    if not settings.estimate:
        works = np.stack([asked.terms[:, :N_PREFILL].any(axis=1), asked.terms[:, N_PREFILL:].any(axis=1)], axis=1)
        constant: FloatArray = works * factors.of[()]
        return constant
    each = asked.terms * factors.nearest(asked.configurations)
    return np.stack([each[:, :N_PREFILL].sum(axis=1), each[:, N_PREFILL:].sum(axis=1)], axis=1)


def fit_member(examples: Examples, known: Prepared, settings: Settings, seed: int) -> Member:
    """Fits the estimate, then the networks to what it is off by.

    Args:
        examples: `total_j` is known of all.
        known: of the same configurations.
    """
    factors = fit_factors(examples, known.terms) if settings.estimate else _typical(examples)
    estimate_j = estimated(factors, known, settings)
    spread = _spread(examples, estimate_j)
    scaling = InputScaling.of(known.inputs)
    scaled = scaling(known.inputs)
    sizes = (scaled.prefill.shape[2], scaled.decode.shape[2], scaled.whole.shape[1])
    with seeded(seed):
        network = TwoGnn(sizes, settings.hidden, settings.chained)
        units = tensor(spread)

        def loss(rows: Tensor) -> Tensor:
            prefill, decode = (nodes.index_select(1, rows) for nodes in graphs)
            asked, estimate, prefill_j, total_j, told = (column.index_select(0, rows) for column in columns)
            energy = estimate * torch.exp(network(prefill, decode, asked) * units)
            total_off = torch.log(energy.sum(dim=1) / total_j) / units[1]
            prefill_off = told * torch.log(energy[:, 0] / prefill_j) / units[0]
            return _huber(total_off) + _huber(prefill_off)

        # Energies in units of their mean, so that float32 holds any; logarithms of quotients do not see it.
        unit_j = float(examples.total_j.mean())
        told = ~np.isnan(examples.prefill_j)
        labels = (estimate_j / unit_j, np.where(told, examples.prefill_j / unit_j, 1), examples.total_j / unit_j, told)
        *graphs, whole = _tensors(scaled)
        columns = [whole, *(tensor(values) for values in labels)]
        train(network, loss, torch.arange(len(examples)), settings.schedule, seed)
    return Member(factors, scaling, spread, network, settings)


def _tensors(scaled: GraphInputs) -> tuple[Tensor, Tensor, Tensor]:
    """What `TwoGnn` is called with."""
    prefill, decode = (with_neighbours(tensor(nodes), BOTH_WAYS) for nodes in (scaled.prefill, scaled.decode))
    return prefill, decode, tensor(scaled.whole)


def _huber(off: Tensor) -> Tensor:
    return nn.functional.huber_loss(off, torch.zeros_like(off), delta=_SHARP)


def _typical(examples: Examples) -> Factors:
    """Instead of factors: geometric means of the two phases."""
    known = ~np.isnan(examples.prefill_j)
    whole = np.exp(np.log(examples.total_j).mean())
    if not known.any():
        return Factors({(): np.array([whole / 2, whole / 2])})
    decode = np.maximum(examples.total_j - examples.prefill_j, 1e-3 * examples.total_j)[known]
    return Factors({(): np.exp([np.log(examples.prefill_j[known]).mean(), np.log(decode).mean()])})


def _spread(examples: Examples, estimate_j: FloatArray) -> FloatArray:
    """(2,) by how much prefill and total are off, as the mean size of the logarithm."""
    known = ~np.isnan(examples.prefill_j)
    total = np.abs(np.log(estimate_j.sum(axis=1) / examples.total_j)).mean()
    prefill = np.abs(np.log(estimate_j[known, 0] / examples.prefill_j[known])).mean() if known.any() else total
    return np.maximum([prefill, total], _SMALLEST_SPREAD)
