"""The node-side half as a Ray actor: it goes when its node's Ray goes."""

import os
import threading

from harness.cluster.nodeside import NodeOrder, NodeSide

_LOOK_EVERY_S = 1.0


class RayNodeSide(NodeSide):
    """A `NodeSide` that ends with the raylet that started it.

    Ray lets a busy actor outlive its raylet. Whoever takes up the node again must not find it measuring; the keeper of
    its engine ends that with it.
    """

    def __init__(self, order: NodeOrder) -> None:
        self._raylet = os.getppid()
        # As of the command line: what an engine loads from its folder is not everyone's to write.
        os.umask(os.umask(0o002) | 0o002)
        threading.Thread(target=self._watch, name="raylet watch", daemon=True).start()
        super().__init__(order)

    def _watch(self) -> None:
        while os.getppid() == self._raylet:
            threading.Event().wait(_LOOK_EVERY_S)
        os._exit(1)
