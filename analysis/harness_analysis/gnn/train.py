"""One loop that trains every network here."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from harness.points import IntArray

Batch = Sequence[Tensor]
Loss = Callable[[Batch], Tensor]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast.

    Attributes:
        epochs: passes over the training examples, at most.
        steps: at least so many steps, with more epochs where there are few examples.
        batch_size: examples per step.
        learning_rate: of Adam, at its highest.
        decay: `cosine` (a short rise, then down to zero) or a factor per epoch.
        weight_decay: of AdamW; without it that is Adam.
        clip: longest gradient.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    steps: int = 0
    decay: float | str = "cosine"
    weight_decay: float = 0.0
    clip: float = float("inf")


def train(
    network: nn.Module,
    loss: Loss,
    tensors: Batch,
    schedule: Schedule,
    seed: int,
    validation: Batch | None = None,
) -> list[float]:
    """Trains `network` in place on random batches.

    Args:
        loss: of one batch: the same tensors, some rows of each. It calls `network`.
        tensors: (n, ...) each.
        seed: of the order of examples; the caller draws the first weights.
        validation: further examples; the weights of the epoch with the smallest loss on them are kept. Without them
            the last weights are.

    Returns:
        Mean training loss of each epoch, or the validation loss if there are such examples.
    """
    n = len(tensors[0])
    per_epoch = -(-n // schedule.batch_size)
    epochs = max(schedule.epochs, -(-schedule.steps // per_epoch))
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, foreach=True
    )
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, _rates(schedule, epochs * per_epoch, per_epoch))
    order = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    best = deepcopy(network.state_dict())
    for _ in range(epochs):
        network.train()
        shuffled = torch.randperm(n, generator=order)
        summed = 0.0
        for rows in torch.split(shuffled, schedule.batch_size):
            optimizer.zero_grad()
            value = loss([tensor[rows] for tensor in tensors])
            torch.autograd.backward([value])
            nn.utils.clip_grad_norm_(network.parameters(), schedule.clip)
            optimizer.step()
            rate.step()
            summed += value.item() * len(rows)
        losses.append(summed / n)
        if validation is not None:
            network.eval()
            with torch.no_grad():
                losses[-1] = loss(validation).item()
            if losses[-1] <= min(losses):
                best = deepcopy(network.state_dict())
    if validation is not None:
        network.load_state_dict(best)
    network.eval()
    return losses


def _rates(schedule: Schedule, steps: int, per_epoch: int) -> Callable[[int], float]:
    decay = schedule.decay
    if isinstance(decay, float):
        return lambda step: decay ** (step // per_epoch)
    rise = max(1, steps // 20)
    return lambda step: min((step + 1) / rise, 0.5 * (1 + np.cos(np.pi * min(step / steps, 1.0))))


def tensor(values: npt.NDArray[Any]) -> Tensor:
    """float32, on the processor."""
    return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread inside; as before afterwards.

    For networks and batches of this size threads cost more than they save, above all beside other work; and sums are
    the same on every machine.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """First weights and dropout from `seed`, on one thread; torch's own random state comes back afterwards."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def split_positions(n: int, share: float, seed: int) -> tuple[IntArray, IntArray]:
    """Positions of n examples at random, the second part about `share` of them (at least one)."""
    shuffled = np.random.default_rng(seed).permutation(n)
    cut = max(1, round(n * share))
    return np.sort(shuffled[cut:]), np.sort(shuffled[:cut])
