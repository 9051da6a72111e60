"""What every serving engine offers: gated batches back to back, an open-loop replay, a clean stop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from harness.points import BatchWorkload, FloatArray, IntArray, Schedule


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Engine iterations in the order they ran; every array is (n,).

    Attributes:
        start_s: monotonic, stamped inside the engine.
        duration_s: of the iteration itself, without the gap after it.
        batch_index: which batch of a window it belongs to (0 in a replay).
        prefill_requests, prefill_tokens: prompt chunks in the step.
        decode_requests: sequences that generate one token each.
        context_tokens: keys read by attention, summed over the step's sequences.
    """

    start_s: FloatArray
    duration_s: FloatArray
    batch_index: IntArray
    prefill_requests: IntArray
    prefill_tokens: IntArray
    decode_requests: IntArray
    context_tokens: IntArray

    def __len__(self) -> int:
        return len(self.start_s)


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """What became of each request; every array is (n,), times monotonic, NaN where it never came.

    Attributes:
        batch_index: which batch of a window it belongs to (0 in a replay).
        scheduled_s: when it was due; sent_s: when it was sent (the lag is their difference).
        admitted_s: start of the first step that held it (batch formation ends here).
        first_token_s, finished_s: as the client saw them.
        prompt_tokens, generated_tokens: counted by the engine.
        asked_tokens: generated tokens that were asked for.
    """

    batch_index: IntArray
    scheduled_s: FloatArray
    sent_s: FloatArray
    admitted_s: FloatArray
    first_token_s: FloatArray
    finished_s: FloatArray
    prompt_tokens: IntArray
    generated_tokens: IntArray
    asked_tokens: IntArray

    def __len__(self) -> int:
        return len(self.scheduled_s)


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What an engine did between two instants of the monotonic clock."""

    start_s: float
    end_s: float
    batches: int
    requests: Requests
    steps: Steps

    @staticmethod
    def nothing(start_s: float, end_s: float) -> "Served":
        """A time in which nothing was asked."""
        none, none_s = np.zeros(0, np.int64), np.zeros(0)
        requests = Requests(none, none_s, none_s, none_s, none_s, none_s, none, none, none)
        return Served(start_s, end_s, 0, requests, Steps(none_s, none_s, none, none, none, none, none))


class Engine(Protocol):
    """One life of an engine process. Every call may raise an `EngineError`."""

    @property
    def gpu_uuids(self) -> tuple[str, ...]:
        """UUIDs of the GPUs it holds."""
        ...

    @property
    def version(self) -> str: ...

    @property
    def load_s(self) -> float:
        """From the start of the process until it was ready."""
        ...

    def prepare_batches(self, workload: BatchWorkload, batches: int, seed: int) -> Callable[[], Served]:
        """Build the bodies of `batches` gated batches now; calling the result serves them back to back.

        Prompts are random token ids from `seed`, different for every request. The call returns when the
        last token of the last batch has come.
        """
        ...

    def replay(self, schedule: Schedule, drain_s: float, seed: int) -> Served:
        """Send requests at their own times, open loop.

        Returns once all have finished, or `drain_s` after the last arrival; what is unfinished then is
        aborted and has NaN as its `finished_s`.
        """
        ...

    def stop(self) -> None:
        """End the process; no orphan stays. May be called twice."""
        ...
