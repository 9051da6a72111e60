"""A serving engine behind a server of vLLM's dialect: gated batches and replays, with the engine's own step records."""

import http.client
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from harness.engines.base import Served
from harness.engines.client import Answers, Client, ClientInterrupted, Prepared, prepare
from harness.engines.dialect import COMPLETIONS, HEALTH, METRICS, PREFIX_HITS, completion, counter
from harness.engines.gate import Gate
from harness.engines.inside.steplog import request_id
from harness.engines.process import EngineProcess
from harness.engines.served import Asked, check, put_together
from harness.engines.steps import Records, StepTail
from harness.engines.watchdog import Watchdog
from harness.errors import EngineCrashed, EngineError, EngineHung, Interrupted
from harness.points import BatchWorkload, Deployment, FloatArray, IntArray, Schedule
from harness.prompts import prompt_ids

HANG_LIMIT_S = 120.0
CALL_LIMIT_S = 30.0
"""For a small call: pause, resume, metrics."""
ABORT_LIMIT_S = 30.0
"""After their connections were closed, requests are gone from the engine by then."""
DEATH_LIMIT_S = 5.0
"""A server that lost a request is seen to have died by then, if it did."""
_LOOK_S = 10e-3
_FOREVER_S = 1e6
_MOST_CONNECTIONS = 256
"""So many are opened before a window; more when they are needed."""


class ServerEngine:
    """One life of a server process on this machine; made by `launching.launch_engine`. For one thread at a time."""

    def __init__(
        self,
        process: EngineProcess,
        client: Client,
        tail: StepTail,
        deployment: Deployment,
        *,
        gpu_uuids: tuple[str, ...],
        version: str,
        load_s: float,
        launched: Mapping[str, object],
        hang_limit_s: float = HANG_LIMIT_S,
    ) -> None:
        self._process, self._client, self._tail, self._deployment = process, client, tail, deployment
        self._gpu_uuids, self._version, self._load_s, self._launched = gpu_uuids, version, load_s, launched
        self._hang_limit_s = hang_limit_s
        self._next_number = 1
        self._records: list[Records] = []
        self._gate = Gate(self._call, self._look, lambda: self._process.exit_code is None)
        self._stopped = False

    @property
    def gpu_uuids(self) -> tuple[str, ...]:
        return self._gpu_uuids

    @property
    def version(self) -> str:
        return self._version

    @property
    def load_s(self) -> float:
        return self._load_s

    @property
    def launched(self) -> Mapping[str, object]:
        return self._launched

    @property
    def pids(self) -> tuple[int, ...]:
        """Roots of its process tree."""
        return (self._process.keeper_pid,)

    def prepare_batches(self, workload: BatchWorkload, batches: int, seed: int) -> Callable[[], Served]:
        self._check_usable(workload.prompt_tokens + workload.generated_tokens)
        self._check_prefix_cache()
        prompts = np.full(workload.batch_size, workload.prompt_tokens, np.int64)
        generated = np.full(workload.batch_size, workload.generated_tokens, np.int64)
        due_s = np.zeros(workload.batch_size)
        prepared = [
            self._prepare(prompts, generated, due_s, seed, batch * workload.batch_size, stream=False)
            for batch in range(batches)
        ]
        self._client.connect(min(workload.batch_size, _MOST_CONNECTIONS))
        return lambda: self._serve_batches(prepared)

    def replay(self, schedule: Schedule, drain_s: float, seed: int) -> Served:
        longest = schedule.prompt_tokens + schedule.generated_tokens
        self._check_usable(int(longest.max(initial=0)))
        self._check_prefix_cache()
        asked, requests = self._prepare(
            schedule.prompt_tokens, schedule.generated_tokens, schedule.arrival_s, seed, 0, stream=True
        )
        self._client.connect(min(len(requests), _MOST_CONNECTIONS))
        begin_s = self._begin_window()
        deadline_s = float(schedule.arrival_s.max(initial=0.0)) + drain_s
        with Watchdog(self._process, self._tail_here(), self._hang_limit_s) as watchdog:
            watchdog.expect(begin_s + schedule.arrival_s)
            try:
                answers = self._client.send(
                    requests, deadline_s=deadline_s, start_s=begin_s, gone=lambda: watchdog.dead
                )
            except ClientInterrupted as error:
                raise Interrupted(str(error), self._served([asked], [error.answers], begin_s)) from error
            if any(outcome != "finished" for outcome in answers.outcome):
                self._wait_aborted()
        served = self._served([asked], [answers], begin_s)
        self._check_answers(answers, watchdog, served)
        check(served, [asked])
        return served

    def stop(self) -> None:
        """End the process; no orphan stays. May be called twice.

        Raises:
            EngineError: some of its processes would not end.
        """
        self._stopped = True
        self._gate.end()
        self._client.close()
        self._process.stop()

    def _prepare(
        self,
        prompts: IntArray,
        generated: IntArray,
        due_s: FloatArray,
        seed: int,
        first: int,
        stream: bool,
    ) -> tuple[Asked, list[Prepared]]:
        """Bodies of requests whose prompts are those of `first`, `first` + 1, ... of the seed."""
        model, vocabulary = self._deployment.model.name, self._deployment.model.vocab_size
        number = self._next_number
        self._next_number += len(prompts)
        requests = [
            prepare(
                self._client.address,
                COMPLETIONS,
                completion(
                    model, prompt_ids(seed, first + index, int(prompt), vocabulary).tolist(), int(tokens), stream
                ),
                request_id(number + index),
                float(due),
                int(tokens),
            )
            for index, (prompt, tokens, due) in enumerate(zip(prompts, generated, due_s, strict=True))
        ]
        return Asked(number, prompts, generated, stream), requests

    def _serve_batches(self, prepared: Sequence[tuple[Asked, list[Prepared]]]) -> Served:
        self._check_usable(0)
        begin_s = self._begin_window()
        sent: list[Asked] = []
        came: list[Answers] = []
        with Watchdog(self._process, self._tail_here(), self._hang_limit_s) as watchdog:
            try:
                for asked, requests in prepared:
                    self._gate.close()
                    watchdog.expect(np.full(len(asked), time.monotonic()))
                    sent.append(asked)
                    came.append(
                        self._client.send(
                            requests, deadline_s=_FOREVER_S, on_all_sent=partial(self._gate.open_for, asked)
                        )
                    )
                    if any(outcome != "finished" for outcome in came[-1].outcome):
                        break
                self._gate.settle()
            except ClientInterrupted as error:
                raise Interrupted(str(error), self._served(sent, [*came, error.answers], begin_s)) from error
            except (KeyboardInterrupt, Interrupted) as error:
                raise Interrupted(str(error), self._served(sent[: len(came)], came, begin_s)) from error
            except EngineError as error:
                so_far = self._served(sent[: len(came)], came, begin_s)
                if watchdog.hung:
                    # What failed then failed of that.
                    raise self._error(EngineHung, self._hung, so_far) from error
                raise self._error(type(error), str(error), so_far) from error
        served = self._served(sent, came, begin_s)
        if came:
            self._check_answers(came[-1], watchdog, served)
        check(served, sent)
        return served

    def _begin_window(self) -> float:
        self._tail.skip()
        self._records.clear()
        return time.monotonic()

    def _look(self) -> Records:
        """What is new in the step log; kept for the window."""
        new = self._tail.look()
        if len(new):
            self._records.append(new)
        return new

    def _tail_here(self) -> StepTail:
        tail = StepTail(self._tail.path)
        tail.skip()
        return tail

    def _served(self, asked: Sequence[Asked], answers: Sequence[Answers], begin_s: float) -> Served:
        end_s = time.monotonic()
        self._look()
        stages = self._deployment.pipeline_parallel
        return put_together(asked, answers, Records.joined(self._records), begin_s, end_s, stages)

    def _wait_aborted(self) -> None:
        """Until the engine has dropped what was aborted: it would draw power in the next window."""
        until_s = time.monotonic() + ABORT_LIMIT_S
        while self._process.exit_code is None and time.monotonic() < until_s:
            self._look()
            joined = Records.joined(self._records)
            if len(joined.requests) >= len(joined.arrivals):
                return
            time.sleep(_LOOK_S)

    def _call(self, path: str) -> None:
        """A small POST.

        Raises:
            EngineCrashed, EngineHung, EngineError
        """
        limit_s = min(CALL_LIMIT_S, self._hang_limit_s)
        try:
            status, answer = self._client.request("POST", path, timeout_s=limit_s)
        except TimeoutError as error:
            self._process.kill()
            raise self._error(EngineHung, f"no answer to {path} within {limit_s:g} s; it was killed") from error
        except (OSError, http.client.HTTPException) as error:
            self._wait_death()
            raise self._error(EngineCrashed, f"the engine {self._process.how_it_ended} ({path}: {error})") from error
        if status != 200:
            text = " ".join(answer.decode("utf-8", "replace").split())[:300]
            # What is paused, or is not, is not known any more: of no use.
            raise self._error(EngineCrashed, f"{path} was answered with {status}: {text}")

    def _check_answers(self, answers: Answers, watchdog: Watchdog, served: Served) -> None:
        """Nothing but finished and timed-out requests, of an engine that lives.

        Raises:
            EngineCrashed, EngineHung, EngineError: with `served` as their partial.
        """
        if watchdog.hung:
            raise self._error(EngineHung, self._hung, served)
        failed = [index for index, outcome in enumerate(answers.outcome) if outcome not in ("finished", "timeout")]
        if failed and not self._healthy():
            self._wait_death()
            raise self._error(EngineCrashed, f"the engine {self._process.how_it_ended}", served)
        if self._process.exit_code is not None:
            raise self._error(EngineCrashed, f"the engine {self._process.how_it_ended}", served)
        if failed:
            first = failed[0]
            what = f"request {first} {answers.outcome[first]} (HTTP {answers.status[first]}): {answers.messages[first]}"
            raise self._error(EngineError, f"{len(failed)} of {len(answers.outcome)} requests failed; {what}", served)

    @property
    def _hung(self) -> str:
        return f"no step for {self._hang_limit_s:g} s although requests were waiting; it was killed"

    def _check_prefix_cache(self) -> None:
        try:
            _, page = self._client.request("GET", METRICS, timeout_s=CALL_LIMIT_S)
        except (OSError, http.client.HTTPException):
            return  # whoever asks for more will see why
        hits = counter(page.decode("utf-8", "replace"), PREFIX_HITS)
        if hits:
            raise self._error(EngineError, f"{hits:g} prompt tokens came out of the prefix cache, which must be off")

    def _healthy(self) -> bool:
        try:
            status, _ = self._client.request("GET", HEALTH, timeout_s=DEATH_LIMIT_S)
        except (OSError, http.client.HTTPException):
            return False
        return status == 200

    def _wait_death(self) -> None:
        until_s = time.monotonic() + DEATH_LIMIT_S
        while self._process.exit_code is None and time.monotonic() < until_s:
            time.sleep(_LOOK_S)

    def _check_usable(self, longest_tokens: int) -> None:
        if self._stopped:
            raise EngineError("the engine has been stopped")
        if self._process.exit_code is not None:
            raise self._error(EngineCrashed, f"the engine {self._process.how_it_ended}")
        limit = self._deployment.limits.max_context_tokens
        if longest_tokens > limit:
            raise EngineError(f"a request of {longest_tokens} tokens exceeds the context of {limit}")

    def _error(self, kind: type[EngineError], message: str, served: Served | None = None) -> EngineError:
        return kind(message, self._process.tail(), str(self._process.log_path), served)
