"""The client as a process of its own: `python client_load_child.py PORT REQUESTS RATE TOKENS`; prints a JSON object."""

import json
import sys
from pathlib import Path

import numpy as np

from harness.engines.client import Address, Client, prepare

DRAIN_S = 60.0
LEAD_S = 0.5


def memory_mib(field: str) -> float:
    """VmRSS (now) or VmHWM (the most since it was reset) of this process."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


def main() -> None:
    port, n, rate, tokens = map(int, sys.argv[1:])
    address = Address("127.0.0.1", port)
    prompt = list(range(1000, 1100))
    body = {"prompt": prompt, "max_tokens": tokens, "stream": True, "stream_options": {"include_usage": True}}
    due_s = LEAD_S + np.arange(n) / rate
    requests = [
        prepare(address, "/v1/completions", body, f"r{number}", float(due), tokens) for number, due in enumerate(due_s)
    ]
    client = Client(address)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (proc(5))
    before_mib = memory_mib("VmRSS")
    answers = client.send(requests, deadline_s=due_s[-1] + DRAIN_S)
    growth_mib = memory_mib("VmHWM") - before_mib
    lag_ms = 1000 * (answers.sent_s - answers.due_s)
    print(
        json.dumps(
            {
                "outcomes": {outcome: answers.outcome.count(outcome) for outcome in set(answers.outcome)},
                "generated": [int(answers.generated_tokens.min()), int(answers.generated_tokens.max())],
                "prompt": [int(answers.prompt_tokens.min()), int(answers.prompt_tokens.max())],
                "early": int((lag_ms < 0).sum()),
                "lag_ms": {f"p{q}": round(float(np.percentile(lag_ms, q)), 3) for q in (50, 90, 99, 100)},
                "cpu_s": round(answers.cpu_s, 3),
                "cpu_s_per_1000_tokens": round(1000 * answers.cpu_s / (n * tokens), 5),
                "growth_mib": round(growth_mib, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
