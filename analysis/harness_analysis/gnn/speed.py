"""How long training and prediction take, and how long the same would take graph by graph in torch_geometric."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from harness_analysis.examples import Examples
from harness_analysis.gnn.inputs import BOTH_WAYS, InputScaling
from harness_analysis.gnn.member import Settings
from harness_analysis.gnn.ours import MEMBERS, Ours, prepare
from harness_analysis.gnn.pyg import PygNetwork, answers, graphs, train_epoch
from harness_analysis.gnn.sage import SageNetwork, with_neighbours
from harness_analysis.graph import KERNEL_TYPES

CANDIDATES = 50_000
_SAMPLE = 2000
"""Configurations that the slow way is timed on; its time is in proportion to their number."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Wall-clock seconds, on the machine as it is; the plain ones are extrapolated from a part.

    Attributes:
        train_s: a fit of ours, all members and rehearsals.
        train_epoch_s, plain_epoch_s: one network, one pass over the examples, ours and graph by graph.
        predict_s, plain_predict_s: `CANDIDATES` configurations, features included, by all members.
        train_ratio, predict_ratio: plain over ours.
    """

    examples: int
    train_s: float
    train_epoch_s: float
    plain_epoch_s: float
    train_ratio: float
    predict_s: float
    plain_predict_s: float
    predict_ratio: float


def speeds(examples: Examples, settings: Settings | None = None, seed: int = 0) -> Speeds:
    """Times a fit on `examples` and a prediction of `CANDIDATES` configurations drawn from them."""
    ours = Ours(settings)
    train_s = _timed(lambda: ours.fit(examples, seed))
    drawn = np.random.default_rng(seed).integers(len(examples), size=CANDIDATES)
    candidates = examples.configurations.take(drawn)
    predict_s = _timed(lambda: ours.predict(candidates))

    prepared = prepare(examples.configurations.take(slice(0, _SAMPLE)), ours.settings)
    scaled = InputScaling.of(prepared.inputs)(prepared.inputs)
    network = SageNetwork(scaled.prefill.shape[2], scaled.whole.shape[1], ours.settings.hidden, BOTH_WAYS, KERNEL_TYPES)
    plain = PygNetwork(network)
    targets = torch.zeros(len(prepared.inputs))
    made = graphs(scaled.prefill, scaled.whole, BOTH_WAYS)
    size = ours.settings.schedule.batch_size
    share = len(examples) / len(made)
    plain_epoch_s = _timed(lambda: train_epoch(plain, made, targets, size)) * share
    dense = [with_neighbours(torch.from_numpy(scaled.prefill), BOTH_WAYS), torch.from_numpy(scaled.whole)]
    train_epoch_s = _timed(lambda: _dense_epoch(network, dense, targets, size)) * share
    # Features, and two networks of each member.
    plain_s = _timed(lambda: prepare(examples.configurations.take(slice(0, _SAMPLE)), ours.settings))
    plain_s += 2 * MEMBERS * _timed(lambda: answers(plain, graphs(scaled.prefill, scaled.whole, BOTH_WAYS), size))
    plain_predict_s = plain_s * CANDIDATES / len(made)
    return Speeds(
        examples=len(examples),
        train_s=train_s,
        train_epoch_s=train_epoch_s,
        plain_epoch_s=plain_epoch_s,
        train_ratio=plain_epoch_s / train_epoch_s,
        predict_s=predict_s,
        plain_predict_s=plain_predict_s,
        predict_ratio=plain_predict_s / predict_s,
    )


def _dense_epoch(network: SageNetwork, inputs: list[torch.Tensor], targets: torch.Tensor, size: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    nodes, whole = inputs
    for rows in torch.split(torch.randperm(len(targets)), size):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(network(nodes.index_select(1, rows), whole[rows]), targets[rows])
        torch.autograd.backward([loss])
        optimizer.step()


def _timed(action: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    action()
    return time.perf_counter() - start_s
