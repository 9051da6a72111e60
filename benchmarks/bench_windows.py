"""How far energies are from the simulator's truth: the harness's windows beside plain counter readings.

The same windows of the same simulated node (board gain one), the same counter: once as the harness places its
ends, once as the difference of two readings taken at the ends, which is what reading NVML before and after gives.
"""

import numpy as np
from common import report

from harness.deployment.catalog import model_shape, node_spec
from harness.engines.base import Engine
from harness.experiment import measure_window
from harness.meters.base import Series
from harness.points import BatchWorkload, Deployment, EngineLimits
from harness.simulator.node import SimulatedNode

WINDOWS = 100
WORKLOAD = BatchWorkload(batch_size=8, prompt_tokens=512, generated_tokens=32)
LIMITS = EngineLimits(engine="vllm", token_budget=8192, max_sequences=128, max_context_tokens=4096)


def plain_difference_j(series: Series, start_s: float, end_s: float) -> float:
    """Last reading at or before each end, subtracted."""
    first, last = (int(np.searchsorted(series.time_s, at, side="right")) - 1 for at in (start_s, end_s))
    return float(series.counts[last] - series.counts[first]) * series.channel.joules_per_count


def measure(gpus: int, window_s: float) -> dict[str, object]:
    """Errors over many windows of about `window_s` seconds."""
    spec = node_spec("dgx-h100")
    deployment = Deployment("h100", model_shape("llama-2-7b"), 16, LIMITS, gpus, 1, "dummy")
    node = SimulatedNode(spec, "bench", seed=gpus, gain_sd=0.0)
    engine: Engine = node.launch(deployment, seed=1)
    trial = engine.prepare_batches(WORKLOAD, 2, 0)()
    batch_s = (trial.end_s - trial.start_s) / 2
    rng = np.random.default_rng(0)
    ours, plain, covered, widths = [], [], [], []
    for window in range(WINDOWS):
        node.clock.sleep(float(rng.uniform(0, 0.1)))
        batches = max(1, round(window_s / batch_s))
        measured = measure_window(node, engine.prepare_batches(WORKLOAD, batches, window))
        span = (measured.start_s, measured.end_s)
        truth_j = sum(node.truth.energy_j("gpu", uuid, *span) for uuid in engine.gpu_uuids)
        energy = measured.energies(engine.gpu_uuids).gpu
        series = [item for item in measured.recording.series if item.channel.device in engine.gpu_uuids]
        ours.append(abs(energy.energy_j / truth_j - 1))
        plain.append(abs(sum(plain_difference_j(item, *span) for item in series) / truth_j - 1))
        covered.append(abs(energy.energy_j - truth_j) <= energy.uncertainty_j)
        widths.append(energy.uncertainty_j / truth_j)
    return {
        "gpus": gpus,
        "window_s": window_s,
        "harness_median_pct": 100 * float(np.median(ours)),
        "harness_p90_pct": 100 * float(np.quantile(ours, 0.9)),
        "plain_median_pct": 100 * float(np.median(plain)),
        "plain_p90_pct": 100 * float(np.quantile(plain, 0.9)),
        "uncertainty_median_pct": 100 * float(np.median(widths)),
        "coverage_pct": 100 * float(np.mean(covered)),
    }


if __name__ == "__main__":
    rows = [measure(gpus, window_s) for gpus in (1, 8) for window_s in (0.5, 2.0, 10.0)]
    report("windows", f"Error of GPU energy against the simulator's truth, {WINDOWS} windows each", rows, ["numpy"])
