"""A node: engines + meters + a clock. The experiment cannot tell a real one from the simulated one."""

from typing import Protocol

from harness.clock import Clock
from harness.engines.base import Engine
from harness.meters.base import Sampler
from harness.points import Deployment, Environment, NodeSpec, Source


class NodeIdentity(Protocol):
    """What a record says of the machine it comes from, and the time there."""

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> NodeSpec: ...

    @property
    def source(self) -> Source: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def processor(self) -> str:
        """Name of its processors."""
        ...


class Node(NodeIdentity, Protocol):
    """One machine, with GPUs or without, or several that one engine serves on."""

    @property
    def machines(self) -> int: ...

    def busy(self) -> tuple[str, ...]:
        """Why it is not free to measure now, from one look of a second; empty where it is. No engine may be up."""
        ...

    def environment(self, deployment: Deployment) -> Environment:
        """What `deployment` would run in, found without launching it."""
        ...

    def sampler(self) -> Sampler:
        """A new sampler over all counters of the node."""
        ...

    def launch(self, deployment: Deployment, seed: int) -> Engine:
        """Start an engine and return once it answers.

        Raises:
            EngineError: it did not become ready; nothing is left running.
        """
        ...


def board_group(seed: int, groups: int) -> int:
    """Which of a node's `groups` of GPUs a launch takes: boards differ, so launches go round them by seed.

    Two successive seeds, from an even one, share a group, so that a launch can be told from a board.
    """
    return seed // 2 % groups
