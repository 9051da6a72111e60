"""A node: engines + meters + a clock. The experiment cannot tell a real one from the simulated one."""

from typing import Protocol

from harness.clock import Clock
from harness.engines.base import Engine
from harness.meters.base import Sampler
from harness.points import Deployment, Environment, NodeSpec, Source


class Node(Protocol):
    """One machine with GPUs."""

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> NodeSpec: ...

    @property
    def source(self) -> Source: ...

    @property
    def clock(self) -> Clock: ...

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
