"""What the step records cost vLLM: microseconds per step that the plug-in adds, by the sequences in the step.

    python benchmarks/bench_steplog.py

The plug-in's own code around a stand-in for vLLM's scheduler, whose time is measured alone and taken off. A step of
a real engine takes some 5 to 100 ms. Each figure is the median over rounds of the mean over steps.
"""

import importlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common import report

INSIDE = Path(__file__).parent.parent / "harness" / "engines" / "inside"
ROUNDS, STEPS = 9, 400
SEQUENCES = (1, 8, 32, 128, 256)


class Scheduler:
    """Every sequence decodes one token in every step."""

    def __init__(self, sequences: int) -> None:
        ids = [f"cmpl-harness-{number}-0-1a2b3c4d" for number in range(sequences)]
        self.requests: dict[str, Any] = {
            name: SimpleNamespace(request_id=name, num_prompt_tokens=100, num_computed_tokens=101) for name in ids
        }
        self.output = SimpleNamespace(num_scheduled_tokens=dict.fromkeys(ids, 1))
        outputs = [SimpleNamespace(request_id=name, finish_reason=None) for name in ids]
        self.made = {0: SimpleNamespace(outputs=outputs)}

    def schedule(self) -> Any:
        return self.output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        return self.made

    def add_request(self, request: Any) -> None: ...

    def finish_requests(self, request_ids: Any, finished_status: Any) -> None: ...

    def set_pause_state(self, pause_state: int) -> None: ...


def step_us(scheduler: Any) -> float:
    """Mean over one round."""
    begin_s = time.perf_counter()
    for _ in range(STEPS):
        scheduler.update_from_output(scheduler.schedule(), None)
    return (time.perf_counter() - begin_s) / STEPS * 1e6


def main() -> None:
    sys.path.insert(0, str(INSIDE))  # flat, as an engine finds it
    vllm_plugin = importlib.import_module("vllm_plugin")
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        watched = type("Watched", (Scheduler,), {})
        vllm_plugin.watch(watched, str(Path(folder) / "steps.log"))
        for sequences in SEQUENCES:
            bare, recorded = Scheduler(sequences), watched(sequences)
            added = [step_us(recorded) - step_us(bare) for _ in range(ROUNDS)]
            median_us = statistics.median(added)
            rows.append(
                {
                    "sequences": sequences,
                    "added_us_per_step": median_us,
                    "fewest_us": min(added),
                    "most_us": max(added),
                    "share_of_10_ms_step_pct": median_us / 1e4 * 100,
                }
            )
    report("steplog", "Step records of vLLM: time added to each step", rows)


if __name__ == "__main__":
    main()
