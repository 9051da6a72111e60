"""What a simulated run costs: measured batches per second, and engine steps per second of a whole-trace replay."""

import time

from common import report

from harness.deployment.catalog import model_shape, node_spec
from harness.experiment import measure_launch
from harness.plan import Assignment, LaunchPlan, MeasurementRules
from harness.points import BatchWorkload, Deployment, EngineLimits, Point
from harness.simulator.node import SimulatedNode
from harness.workload.library import find_trace
from harness.workload.slices import make_schedule

LIMITS = EngineLimits(engine="vllm", token_budget=8192, max_sequences=128, max_context_tokens=4096)


def deployment(tp: int) -> Deployment:
    return Deployment("h100", model_shape("llama-2-7b"), 16, LIMITS, tp, 1, "dummy")


def batches() -> dict[str, object]:
    """Fifty points of five repetitions in one launch on eight GPUs."""
    item = deployment(8)
    points = [
        Point(item, BatchWorkload(size, prompt, 128)) for size in (1, 2, 4, 8, 16) for prompt in range(100, 1100, 100)
    ]
    assignments = tuple(Assignment(point, repetition, 1) for point in points for repetition in range(1, 6))
    plan = LaunchPlan("bench", item, assignments, MeasurementRules(), seed=0)
    node = SimulatedNode(node_spec("dgx-h100"), "bench", seed=0)
    begun_s = time.perf_counter()
    runs = sum(bundle.run.purpose == "sweep" for bundle in measure_launch(node, plan))
    spent_s = time.perf_counter() - begun_s
    return _row("batches, 8 GPUs", runs, spent_s, node.clock.monotonic_s())


def replay(name: str) -> dict[str, object]:
    """The whole trace at its own rate, one request after another as they arrived."""
    trace = find_trace(name)
    schedule = make_schedule(trace, 0.0, float(trace.arrival_s[-1]), LIMITS.max_context_tokens, "clip-prompt")
    node = SimulatedNode(node_spec("dgx-h100"), "bench", seed=0)
    engine = node.launch(deployment(2), seed=0)
    begun_s, virtual_s = time.perf_counter(), node.clock.monotonic_s()
    served = engine.replay(schedule, drain_s=60.0, seed=0)
    spent_s = time.perf_counter() - begun_s
    return _row(f"replay {trace.name}, steps", len(served.steps), spent_s, node.clock.monotonic_s() - virtual_s)


def _row(what: str, count: int, spent_s: float, virtual_s: float) -> dict[str, object]:
    return {
        "what": what,
        "count": count,
        "cpu_s": spent_s,
        "ms_each": 1000 * spent_s / count,
        "virtual_s": virtual_s,
        "virtual_over_real": virtual_s / spent_s,
    }


if __name__ == "__main__":
    report("simulator", "Cost of simulated runs", [batches(), replay("azure2023-conv"), replay("azure2023-code")])
