"""Between an HTTP front and an engine: the gate, the thread that drives the engine, and what became of each request.

Runs in an engine's own environment: standard library only, Python 3.10 or newer, nothing of `harness` but this folder.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from harness.engines.inside.steplog import StepLog, request_number
else:
    from steplog import StepLog, request_number

IDLE_RETRY_S = 0.001
"""Wait after an iteration that scheduled nothing although there is work: a guard against spinning, not a rate."""


@dataclass(frozen=True)
class Request:
    """What an engine is asked for: exactly `max_tokens` tokens after `prompt` (token ids)."""

    key: int
    prompt: list[int]
    max_tokens: int
    arrived_s: float


@dataclass(frozen=True)
class Step:
    """One iteration of an engine; keys are those of the requests.

    Attributes:
        start_s, end_s: monotonic: from the scheduling of the step until its tokens were known.
        chunks: prompt tokens computed, by request that was in the step; 0 where it decoded one token.
        context_tokens: keys read by attention, summed over the step's sequences.
        new_tokens: how many tokens each request got, for those that got any.
    """

    start_s: float
    end_s: float
    chunks: Mapping[int, int]
    context_tokens: int
    new_tokens: Mapping[int, int]


class Backend(Protocol):
    """An engine. All but `step` may be called from any thread, also while a step runs."""

    max_context_tokens: int
    vocabulary: int
    most_under_way: int
    """Steps that may be scheduled and not completed at one time."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue these; no step is scheduled before all of them are in the queue."""
        ...

    def abort(self, key: int) -> None:
        """Compute nothing more for a request, from the next step on; what its running step makes is ignored."""
        ...

    def has_work(self) -> bool: ...

    def step(self) -> Step | None:
        """Run one iteration, or wait for the one under way; None where there was nothing to schedule."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """The resolved configuration; what JSON can hold."""
        ...

    def close(self) -> None: ...


@dataclass
class Ticket:
    """A request on its way; times are monotonic, NaN until they come. Belongs to the `Service`, read by the front.

    Attributes:
        number: that the harness gave it, -1 if it is not the harness's.
        owner: whom its news concern.
        generated: tokens so far; told: as many as its owner was last told of.
    """

    request: Request
    number: int
    owner: Any
    admitted_s: float = nan
    first_token_s: float = nan
    finished_s: float = nan
    generated: int = 0
    told: int = 0

    @property
    def metrics(self) -> dict[str, float]:
        """Named as vLLM's per-request metrics: waiting, admitted until the first token, from there to the last."""
        return {
            "queue_time_ms": (self.admitted_s - self.request.arrived_s) * 1e3,
            "time_to_first_token_ms": (self.first_token_s - self.admitted_s) * 1e3,
            "generation_time_ms": (self.finished_s - self.first_token_s) * 1e3,
        }


@dataclass
class Totals:
    """For /metrics."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    aborted: int = 0
    steps: int = 0


@dataclass
class Service:
    """One engine and the requests at it.

    Args:
        make_backend: builds the engine; called in the thread that drives it, which is not the main one.
        tell: called from that thread once per step with the tickets that have news for their owners.
        ended: called from that thread with True when the engine is ready, with False when it has failed for good.
        log: where steps and requests are written; None: nowhere.
        stream_interval: an owner hears of its first token, then of every so many, and of the end.
    """

    make_backend: Callable[[], Backend]
    tell: Callable[[list[Ticket]], None]
    ended: Callable[[bool], None]
    log: StepLog | None = None
    stream_interval: int = 1
    paused: bool = False
    backend: Backend | None = None
    totals: Totals = field(default_factory=Totals)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._keys = itertools.count()
        self._held: list[Ticket] = []
        self._tickets: dict[int, Ticket] = {}
        self._leaving: deque[tuple[Ticket, float, int]] = deque()

    def start(self) -> None:
        engine = threading.Thread(target=self._drive, name="engine", daemon=True)
        engine.start()
        threading.Thread(target=self._watch, args=(engine,), name="watch", daemon=True).start()

    def _watch(self, engine: threading.Thread) -> None:
        """Only an error ends the engine's thread, and joining it waits until its trace is on stderr."""
        engine.join()
        self.ended(False)

    @property
    def waiting(self) -> int:
        """Requests that no step has held yet."""
        with self._changed:
            return sum(ticket.admitted_s != ticket.admitted_s for ticket in self._tickets.values())

    @property
    def running(self) -> int:
        with self._changed:
            return sum(ticket.admitted_s == ticket.admitted_s for ticket in self._tickets.values())

    def accept(self, prompt: list[int], max_tokens: int, request_id: str, owner: Any) -> Ticket:
        """Take a request in: to the engine, or behind the gate while that is closed."""
        request = Request(next(self._keys), prompt, max_tokens, time.monotonic())
        ticket = Ticket(request, request_number(request_id), owner)
        with self._changed:
            self._tickets[request.key] = ticket
            if self.log is not None and ticket.number >= 0:
                self.log.arrived(ticket.number, request.arrived_s)
            if self.paused:
                self._held.append(ticket)
            else:
                self._submit([ticket])
        return ticket

    def abort(self, ticket: Ticket) -> None:
        """Its owner is gone. A request that is over already stays as it is.

        Its end is logged when the steps that may hold it are completed: from then on it costs nothing.
        """
        with self._changed:
            if self._tickets.pop(ticket.request.key, None) is None:
                return
            self.totals.aborted += 1
            if ticket in self._held:
                self._held.remove(ticket)
                self._note_end(ticket, time.monotonic(), finished=False)
                return
            assert self.backend is not None, "requests are refused until the engine is ready"
            self.backend.abort(ticket.request.key)
            self._leaving.append((ticket, time.monotonic(), self.totals.steps))
            self._note_gone(self.backend)

    def pause(self) -> None:
        """Close the gate: requests that come are held; those that the engine has run on."""
        with self._changed:
            self.paused = True
            self._note_gate()

    def resume(self) -> None:
        """Open the gate: all that were held enter the engine's queue together."""
        with self._changed:
            self.paused = False
            self._note_gate()
            held, self._held = self._held, []
            if held:
                self._submit(held)

    def _submit(self, tickets: list[Ticket]) -> None:
        assert self.backend is not None, "requests are refused until the engine is ready"
        self.backend.submit([ticket.request for ticket in tickets])
        self._changed.notify()

    def _drive(self) -> None:
        """The engine's thread: build it, then step whenever there is something to compute, and sleep otherwise."""
        self.backend = backend = self.make_backend()
        self.ended(True)
        while True:
            with self._changed:
                self._changed.wait_for(backend.has_work)
            step = backend.step()
            if step is not None:
                self._take(step, backend)
                continue
            with self._changed:
                self._note_gone(backend)
            time.sleep(IDLE_RETRY_S)

    def _take(self, step: Step, backend: Backend) -> None:
        if self.log is not None:
            # Before the requests that it ends: who has read those finds every step that they were in.
            prefills = [tokens for tokens in step.chunks.values() if tokens]
            decodes = len(step.chunks) - len(prefills)
            self.log.step(step.start_s, step.end_s, len(prefills), sum(prefills), decodes, step.context_tokens)
        news = []
        with self._changed:
            for key in step.chunks:
                ticket = self._tickets.get(key)
                if ticket is not None and ticket.admitted_s != ticket.admitted_s:
                    ticket.admitted_s = step.start_s
            for key, count in step.new_tokens.items():
                ticket = self._tickets.get(key)
                if ticket is not None and self._advance(ticket, count, step.end_s):
                    news.append(ticket)
            self.totals.steps += 1
            self._note_gone(backend)
        if news:
            self.tell(news)

    def _advance(self, ticket: Ticket, count: int, end_s: float) -> bool:
        """Book new tokens; whether the owner is to hear of it now."""
        first = ticket.generated == 0
        if first:
            ticket.first_token_s = end_s
        ticket.generated += count
        self.totals.generated_tokens += count
        if ticket.generated >= ticket.request.max_tokens:
            ticket.finished_s = end_s
            del self._tickets[ticket.request.key]
            self.totals.finished += 1
            self.totals.prompt_tokens += len(ticket.request.prompt)
            self._note_end(ticket, end_s, finished=True)
            return True
        due = first or ticket.generated - ticket.told >= self.stream_interval
        if due:
            ticket.told = ticket.generated
        return due

    def _note_gone(self, backend: Backend) -> None:
        """Log the ends of aborted requests that no step under way can hold any more."""
        while self._leaving:
            ticket, aborted_s, steps = self._leaving[0]
            if backend.has_work() and self.totals.steps - steps < backend.most_under_way:
                return
            self._leaving.popleft()
            self._note_end(ticket, aborted_s, finished=False)

    def close(self) -> None:
        """Log the ends of what is left; nothing is computed after this."""
        with self._changed:
            for ticket, aborted_s, _ in self._leaving:
                self._note_end(ticket, aborted_s, finished=False)
            self._leaving.clear()

    def _note_gate(self) -> None:
        if self.log is not None:
            self.log.gate(self.paused, time.monotonic())

    def _note_end(self, ticket: Ticket, end_s: float, finished: bool) -> None:
        if self.log is None or ticket.number < 0:
            return
        self.log.request(
            ticket.number,
            ticket.request.arrived_s,
            ticket.admitted_s,
            ticket.first_token_s,
            end_s,
            len(ticket.request.prompt),
            ticket.generated,
            finished,
        )
