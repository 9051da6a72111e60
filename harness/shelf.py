"""Where runs wait for the store: until the next one of a launch, or for a moment at most."""

from collections.abc import Sequence
from typing import Protocol

from harness.clock import Clock
from harness.records import RunBundle, RunRecord
from harness.store import Writer


class Watcher(Protocol):
    """Told of each run that is stored."""

    def measured(self, run: RunRecord) -> None: ...


class Shelf:
    """Runs on their way into a results folder.

    Args:
        held_s: so long a run may wait for others, so that they are stored together; 0: not at all.
    """

    def __init__(self, writer: Writer, watcher: Watcher, wall: Clock, held_s: float) -> None:
        self._writer, self._watcher, self._wall, self._held_s = writer, watcher, wall, held_s
        self._bundles: list[RunBundle] = []
        self._stored_s = wall.monotonic_s()

    def put(self, bundle: RunBundle) -> None:
        """Store a run with those before it, or leave it until then."""
        self._bundles.append(bundle)
        if self._held_s == 0.0 or self._wall.monotonic_s() - self._stored_s >= self._held_s:
            self.clear()

    def clear(self) -> None:
        """Store what waits.

        Raises:
            StoreError: none of it is stored, nor will it be.
        """
        bundles, self._bundles = self._bundles, []
        self.store(bundles)
        for bundle in bundles:
            if bundle.run.purpose != "warmup":
                self._watcher.measured(bundle.run)

    def store(self, bundles: Sequence[RunBundle]) -> None:
        """Store runs at once, without a word to anyone."""
        if bundles:
            self._writer.append(bundles)
            self._writer.compact()
        self._stored_s = self._wall.monotonic_s()
