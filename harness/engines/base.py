"""What every serving engine offers: gated batches back to back, an open-loop replay, a clean stop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import numpy as np

from harness.points import BatchWorkload, FloatArray, IntArray, Schedule, StrArray

Outcome = Literal["finished", "refused", "lost", "timeout", "aborted", "malformed"]
"""What became of a request: finished;
refused: an HTTP error, or no connection;
lost: the server went away, or gave up, before all of the answer was there;
timeout: not finished at the deadline (the drain limit);
aborted: interrupted here;
malformed: not an answer that HTTP or this API allows."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


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
        first_token_s, finished_s: as the client saw them (the engine, for answers that are not streamed).
        queue_s, prefill_s, decode_s: durations inside the engine: until admitted, to the first token, to the last.
        prompt_tokens, generated_tokens: counted by the engine.
        asked_tokens: generated tokens that were asked for.
        outcome: one of `OUTCOMES` each.
    """

    batch_index: IntArray
    scheduled_s: FloatArray
    sent_s: FloatArray
    admitted_s: FloatArray
    first_token_s: FloatArray
    finished_s: FloatArray
    queue_s: FloatArray
    prefill_s: FloatArray
    decode_s: FloatArray
    prompt_tokens: IntArray
    generated_tokens: IntArray
    asked_tokens: IntArray
    outcome: StrArray

    def __len__(self) -> int:
        return len(self.scheduled_s)


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What an engine did between two instants of the monotonic clock.

    `client_cpu_s`: CPU seconds that asking for it took; None where nothing real was asked.
    """

    start_s: float
    end_s: float
    batches: int
    requests: Requests
    steps: Steps
    client_cpu_s: float | None = None

    @staticmethod
    def nothing(start_s: float, end_s: float) -> "Served":
        """A time in which nothing was asked."""
        none, none_s = np.zeros(0, np.int64), np.zeros(0)
        outcome = np.zeros(0, "<U9")
        requests = Requests(
            none, none_s, none_s, none_s, none_s, none_s, none_s, none_s, none_s, none, none, none, outcome
        )
        return Served(start_s, end_s, 0, requests, Steps(none_s, none_s, none, none, none, none, none))


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """How to start an engine on a real node; no part of a point's content.

    Attributes:
        weights_path: folder with config.json and the weights; "": dummy weights.
        command: words that start the engine (bare, docker, apptainer, enroot, srun), with placeholders in braces;
            empty: the engine's own command on PATH.
        arguments: further arguments for the engine, after the pinned ones.
        environment: further variables for its process.
        ready_limit_s: it must answer within this long.
    """

    weights_path: str = ""
    command: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_limit_s: float = 1800.0


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

    @property
    def launched(self) -> Mapping[str, object]:
        """How it was started: argv, environment, resolved configuration; what JSON can hold, empty if simulated."""
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

        Raises:
            EngineCrashed, EngineHung: with what was served until then as its `partial`.
            Interrupted: the same.
        """
        ...

    def stop(self) -> None:
        """End the process; no orphan stays. May be called twice."""
        ...
