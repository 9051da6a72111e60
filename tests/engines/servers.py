"""Starting the servers of harness/engines/inside as real processes, and asking them over HTTP."""

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.engines import commandline
from harness.engines.base import LaunchOptions
from harness.engines.inside.steplog import PATH_VARIABLE, request_id
from harness.engines.kit import write_kit
from harness.engines.process import EngineProcess
from harness.engines.recipe import Recipe, Site
from harness.engines.sarathi import Sarathi
from harness.engines.steps import Records, StepTail
from harness.engines.transformers import Transformers
from harness.points import Deployment, EngineLimits, ModelShape

STAND_IN = Path(__file__).parent.parent / "fixtures" / "sarathi_stand_in"
REPOSITORY = Path(__file__).parent.parent.parent
TRANSFORMERS_PYTHON = Path(
    os.environ.get("HARNESS_TRANSFORMERS_PYTHON", REPOSITORY / ".venv-transformers" / "bin" / "python")
)
SHAPE = ModelShape("tiny", 64, 128, 2, 4, 2, 16, 512, 8192)
LONGEST_WAIT_S = 30.0


def deployment(engine: str, pipeline_parallel: int = 1, **limits: int) -> Deployment:
    """A tiny one; the limits are small, so that they bind."""
    chosen = {"token_budget": 64, "max_sequences": 8, "max_context_tokens": 1024, **limits}
    gpu = "h100" if engine == "sarathi" else "none"
    return Deployment(gpu, SHAPE, 16, EngineLimits(engine, **chosen), 1, pipeline_parallel, "dummy")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool], what: str) -> None:
    limit_s = time.monotonic() + LONGEST_WAIT_S
    while not condition():
        assert time.monotonic() < limit_s, f"not within {LONGEST_WAIT_S:g} s: {what}"
        time.sleep(0.01)


@dataclass
class Answer:
    status: int
    prompt_tokens: int = -1
    generated_tokens: int = -1
    token_events: int = 0
    message: str = ""


class Server:
    """One server process, started as its recipe says."""

    def __init__(
        self, served: Deployment, folder: Path, added: dict[str, str] | None = None, arguments: Sequence[str] = ()
    ) -> None:
        recipe: Recipe = Sarathi() if served.limits.engine == "sarathi" else Transformers()
        python = sys.executable if served.limits.engine == "sarathi" else str(TRANSFORMERS_PYTHON)
        self.port, self.log = free_port(), folder / "steps.log"
        options, site = LaunchOptions(), Site(folder, self.port, (), (0,), 1)
        model = recipe.model(served, options, site)
        values = {"python": python, "model": model, "workdir": str(folder), "port": str(self.port), "gpus": ""}
        words = commandline.fill(recipe.command, values, [*recipe.arguments(served, options, site), *arguments])
        variables = {**recipe.environment(served, options, site), PATH_VARIABLE: str(self.log), **(added or {})}
        environment = commandline.process_environment(os.environ, variables, ())
        if served.limits.engine == "sarathi":
            environment = commandline.with_search_path(environment, str(STAND_IN))
        environment = commandline.with_search_path(environment, str(write_kit(folder)))
        self.process = EngineProcess(words, environment, folder / "engine.log", term_limit_s=10.0)
        self.tail = StepTail(self.log)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.stop()

    def wait_ready(self) -> "Server":
        until(lambda: self.health() == 200 or self.process.exit_code is not None, "ready")
        assert self.process.exit_code is None, self.process.tail()
        return self

    def health(self) -> int:
        """Status of /health; 0 where nothing listens."""
        try:
            return self.get("/health")[0]
        except OSError:
            return 0

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONGEST_WAIT_S)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        values = dict(line.rsplit(" ", 1) for line in self.get("/metrics")[1].splitlines())
        return float(values[f"vllm:{name}"])

    def open(
        self, prompt: Sequence[int], tokens: int, number: int = -1, stream: bool = True, **other: object
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a completion; returns once the head of its answer is there."""
        connection = self.send(prompt, tokens, number, stream, **other)
        return connection, connection.getresponse()

    @staticmethod
    def give_up(connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        """Close the connection once the first event is there."""
        response.readline()
        response.close()
        connection.close()

    def send(
        self, prompt: Sequence[int], tokens: int, number: int = -1, stream: bool = True, **other: object
    ) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONGEST_WAIT_S)
        body = {"prompt": prompt, "max_tokens": tokens, "min_tokens": tokens, "ignore_eos": True}
        body |= {"temperature": 0, "stream": stream, **other}
        headers = {"X-Request-Id": request_id(number)} if number >= 0 else {}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        return connection

    def complete(
        self, prompt: Sequence[int], tokens: int, number: int = -1, stream: bool = True, **other: object
    ) -> Answer:
        with closing(self.send(prompt, tokens, number, stream, **other)) as connection:
            response = connection.getresponse()
            body = response.read().decode()
        if response.status != 200:
            return Answer(response.status, message=json.loads(body)["error"]["message"])
        if not stream:
            usage = json.loads(body)["usage"]
            return Answer(200, usage["prompt_tokens"], usage["completion_tokens"])
        *events, done = [line.removeprefix("data: ") for line in body.split("\n\n") if line]
        assert done == "[DONE]"
        *tokens_, last = [json.loads(event) for event in events]
        assert last["choices"] == []
        assert all(event["choices"] for event in tokens_)
        return Answer(200, last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"], len(tokens_))

    def records(self, arrivals: int = 0, requests: int = 0) -> Records:
        """What was logged since the last call, once it holds at least so much."""
        parts: list[Records] = []

        def enough() -> bool:
            parts.append(self.tail.look())
            seen = Records.joined(parts)
            return len(seen.arrivals) >= arrivals and len(seen.requests) >= requests

        until(enough, f"{arrivals} arrivals and {requests} requests in the log")
        return Records.joined(parts)


def check_sums(records: Records, budget: int, sequences: int) -> None:
    """What the steps computed is what the requests got, and no step exceeded its limits."""
    steps, requests = records.steps, records.requests
    assert steps["prefill_tokens"].sum() == requests["prompt_tokens"].sum()
    assert steps["decode_requests"].sum() == (requests["generated_tokens"] - 1).sum()
    assert (steps["prefill_tokens"].astype(int) + steps["decode_requests"] <= budget).all()
    assert (steps["prefill_requests"].astype(int) + steps["decode_requests"] <= sequences).all()
    assert (steps["end_s"] > steps["start_s"]).all()
    assert np.isin(requests["admitted_s"], steps["start_s"]).all()
    assert np.isin(requests["first_token_s"], steps["end_s"]).all()
    assert np.isin(requests["finished_s"], steps["end_s"]).all()
    assert (requests["arrived_s"] <= requests["admitted_s"]).all()
