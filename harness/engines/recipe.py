"""What differs between serving engines that speak the dialect of vLLM's server: how each is started."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.engines.base import LaunchOptions
from harness.points import Deployment


@dataclass(frozen=True, slots=True)
class Part:
    """What one machine runs of an engine over several.

    Attributes:
        rank: of the machine; 0: the one that is asked for tokens.
        address: of this machine, in the network in which the machines reach one another.
        leader: the same of rank 0.
        port: of the leader, on which the others meet it.
    """

    rank: int
    address: str
    leader: str
    port: int


@dataclass(frozen=True, slots=True)
class Site:
    """Where one launch happens.

    Attributes:
        folder: of this launch; it exists and is empty of earlier launches.
        port: free on loopback a moment ago.
        gpus: indices, in PCI order.
        cpus: that the engine may use.
        seed: of the engine's own random numbers.
        part: of an engine over several machines; None: all of it is here.
    """

    folder: Path
    port: int
    gpus: tuple[int, ...]
    cpus: tuple[int, ...]
    seed: int
    part: Part | None = None


class Recipe(Protocol):
    """One kind of serving engine. It listens on loopback at `site.port` and writes the step log."""

    @property
    def command(self) -> Sequence[str]:
        """Words that start it where the options name none; with placeholders of `commandline.fill`."""
        ...

    @property
    def marker(self) -> Sequence[str]:
        """Words that follow one another in every command of it, not at its beginning: how it is asked its version."""
        ...

    def pinned(self, dummy_weights: bool) -> frozenset[str]:
        """Names of options (dashes inside, none before) that `arguments` gives or leaves out on purpose."""
        ...

    def model(self, deployment: Deployment, options: LaunchOptions, site: Site) -> str:
        """What takes the place of {model}; dummy weights: a folder with a config.json, written now.

        Raises:
            WeightsUnavailable, DiskTooSmall
        """
        ...

    def arguments(self, deployment: Deployment, options: LaunchOptions, site: Site) -> list[str]:
        """The pinned arguments, in the order in which they are given; the options' own come after them.

        Raises:
            VersionUnsupported: the deployment asks for what this engine cannot do.
        """
        ...

    def environment(self, deployment: Deployment, options: LaunchOptions, site: Site) -> Mapping[str, str]:
        """Variables that it needs."""
        ...

    def version(self, words: Sequence[str], environment: Mapping[str, str]) -> str:
        """Found without launching it.

        Args:
            words: the command with every placeholder filled, but without arguments.

        Raises:
            EngineUnavailable: it is not installed, or does not say.
        """
        ...
