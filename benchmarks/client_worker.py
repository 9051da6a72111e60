"""The harness's client as a process of its own, for bench_client.py.

python benchmarks/client_worker.py PORT TRACE [--chunk-times]          open loop: a trace of JSON lines
python benchmarks/client_worker.py PORT --closed STREAMS REQUESTS PROMPT_TOKENS GENERATED_TOKENS
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path

from harness.engines.client import Address, Answers, Client, Prepared, prepare

LEAD_S = 0.2
DRAIN_S = 60.0


def one(address: Address, number: int, prompt_tokens: int, generated_tokens: int, due_s: float) -> Prepared:
    body = {
        "model": "mock",
        "prompt": [random.randrange(1000, 30000) for _ in range(prompt_tokens)],
        "max_tokens": generated_tokens,
        "min_tokens": generated_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return prepare(address, "/v1/completions", body, f"request-{number}", due_s, generated_tokens)


def check(answers: Answers, requests: list[Prepared]) -> None:
    wrong = [
        message or outcome
        for outcome, message, asked, got in zip(
            answers.outcome, answers.messages, requests, answers.generated_tokens, strict=True
        )
        if outcome != "finished" or asked.asked_tokens != got
    ]
    if wrong:
        sys.exit(f"{len(wrong)} of {len(requests)} requests went wrong; the first: {wrong[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("trace", type=Path, nargs="?")
    parser.add_argument("--chunk-times", action="store_true")
    parser.add_argument("--closed", type=int, nargs=4)
    options = parser.parse_args()
    address = Address("127.0.0.1", options.port)
    client = Client(address)
    if options.closed:
        streams, n, prompt_tokens, generated_tokens = options.closed
        requests = [one(address, i, prompt_tokens, generated_tokens, 0.0) for i in range(n)]
        client.connect(streams)
        answers = client.closed_loop(requests, streams, deadline_s=DRAIN_S)
    else:
        rows = [json.loads(line) for line in options.trace.read_text("utf-8").splitlines()]
        requests = [
            one(address, i, row["input_length"], row["output_length"], row["timestamp"] / 1000)
            for i, row in enumerate(rows)
        ]
        client.connect(len(requests))
        deadline_s = requests[-1].due_s + DRAIN_S
        answers = client.send(
            requests, deadline_s=deadline_s, start_s=time.monotonic() + LEAD_S, chunk_times=options.chunk_times
        )
    check(answers, requests)


if __name__ == "__main__":
    main()
