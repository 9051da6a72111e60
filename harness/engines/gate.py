"""One batch is one batch: requests are queued while the engine is paused, and it resumes when it has them all.

Requests that are sent together do not enter a server together (32 came in as 1, 1 and 30). The gap that the gate puts
between batches is short because nothing here waits for an HTTP answer that the engine's own records make superfluous:
vLLM answers /pause 20 ms after it has paused.
"""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from harness.engines.dialect import PAUSE, RESUME
from harness.engines.served import Asked
from harness.engines.steps import Records
from harness.errors import EngineError

ARRIVAL_LIMIT_S = 30.0
"""All requests of a batch are in the engine's queue by then, or it is no batch."""
LOOK_S = 0.3e-3
MOST_UNANSWERED = 4
"""Pauses whose answers have not come yet: batches may be shorter than the answer takes."""


class Gate:
    """Closed before a batch is sent, opened when all of it has arrived. To be closed for good with `end`.

    Args:
        call: a small POST to the server; raises EngineError.
        look: what the step log has to say since the last look.
        running: whether the engine lives.
    """

    def __init__(self, call: Callable[[str], None], look: Callable[[], Records], running: Callable[[], bool]) -> None:
        self._call, self._look, self._running = call, look, running
        self._callers = ThreadPoolExecutor(MOST_UNANSWERED, "gate")
        self._pauses: deque[Future[None]] = deque()

    def close(self) -> None:
        """Pause; returns as soon as the engine has paused, or says so. Raises EngineError."""
        while self._pauses and (self._pauses[0].done() or len(self._pauses) == MOST_UNANSWERED):
            self._pauses.popleft().result()
        pause = self._callers.submit(self._call, PAUSE)
        self._pauses.append(pause)
        while not pause.done():
            if self._look().gates["closed"].any():
                return
            time.sleep(LOOK_S)
        pause.result()

    def open_for(self, batch: Asked) -> None:
        """Resume once the whole batch is in the engine's queue.

        Raises:
            EngineError: it did not arrive within the limit, or the engine does not answer.
        """
        until_s = time.monotonic() + ARRIVAL_LIMIT_S
        arrived = 0
        while True:
            numbers = self._look().arrivals["number"].astype(np.int64) - batch.first_number
            arrived += int(((numbers >= 0) & (numbers < len(batch))).sum())
            if arrived == len(batch) or time.monotonic() > until_s or not self._running():
                break
            time.sleep(LOOK_S)
        self._call(RESUME)
        if arrived < len(batch) and self._running():
            limit = f"{ARRIVAL_LIMIT_S:g} s"
            raise EngineError(
                f"only {arrived} of {len(batch)} requests of a batch arrived in the engine within {limit}"
            )

    def settle(self) -> None:
        """Wait for the answers to all pauses. Raises EngineError."""
        while self._pauses:
            self._pauses.popleft().result()

    def end(self) -> None:
        """Nothing is under way any more."""
        self._callers.shutdown()
