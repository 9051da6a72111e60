"""One loop that trains every network here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from harness.points import IntArray

_STEPS_PER_EPOCH = 24
Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast.

    Attributes:
        epochs: passes over the training examples, at most.
        steps: at least so many steps, with more epochs where there are few examples.
        batch_size: examples per step, at most.
        smallest_batch_size: where there are so few examples that an epoch would have fewer than 24 steps, steps are of
            fewer examples, but no fewer than this.
        learning_rate: of Adam, at its highest, for the largest steps; that of smaller ones is in proportion.
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
    smallest_batch_size: int | None = None

    def of(self, n: int) -> "Schedule":
        """What becomes of it with n examples: one size of steps."""
        if self.smallest_batch_size is None:
            return self
        size = min(max(n // _STEPS_PER_EPOCH, self.smallest_batch_size), self.batch_size)
        learning_rate = self.learning_rate * size / self.batch_size
        return replace(self, batch_size=size, learning_rate=learning_rate, smallest_batch_size=None)


def train(
    network: nn.Module,
    loss: Loss,
    teach: Tensor,
    schedule: Schedule,
    seed: int,
    validation: Tensor | None = None,
) -> list[float]:
    """Trains `network` in place on random batches.

    Args:
        loss: of the examples at some positions. It calls `network`.
        teach: (n,) positions of examples.
        seed: of the order of examples; the caller draws the first weights.
        validation: positions of further examples; the weights of the epoch with the smallest loss on them are kept.
            Without them the last weights are.

    Returns:
        Mean training loss of each epoch, or the validation loss if there are such examples.
    """
    n = len(teach)
    schedule = schedule.of(n)
    per_epoch = -(-n // schedule.batch_size)
    epochs = max(schedule.epochs, -(-schedule.steps // per_epoch))
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, _rates(schedule, epochs * per_epoch, per_epoch))
    order = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    best = deepcopy(network.state_dict())
    for _ in range(epochs):
        network.train()
        shuffled = teach[torch.randperm(n, generator=order)]
        summed = 0.0
        for rows in torch.split(shuffled, schedule.batch_size):
            optimizer.zero_grad()
            value = loss(rows)
            torch.autograd.backward([value])
            if schedule.clip < float("inf"):
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
