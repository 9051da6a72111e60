"""What carries calls to a node, whatever it is: Ray, or a test."""

import threading
from typing import Any, Protocol


class Line(Protocol):
    """A way to a `NodeSide`."""

    def ask(self, method: str, *given: object, limit_s: float, unless: threading.Event | None = None) -> Any:
        """Call a method there.

        Args:
            unless: stop waiting once it is set.

        Raises:
            AgentLost: no answer within `limit_s`, or none that will come, or an error that nobody foresaw.
            Interrupted: `unless` was set.
        """
        ...

    def cut(self) -> None:
        """End the node-side half, and with it its engine."""
        ...
