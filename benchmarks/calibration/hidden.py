"""How much of the simulated energy comes from what the predictor's features do not know.

    python benchmarks/calibration/hidden.py

Features know operations, bytes, transferred volumes and the data sheet. Were that all the simulator had, every score
on its data would be self-praise.
"""

import sys
from itertools import product
from pathlib import Path

import numpy as np
from simulate import without_hidden_terms

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import report

from harness.deployment.catalog import bundled_names, model_shape, node_spec
from harness.feasibility import node_obstacle
from harness.points import BatchWorkload, Deployment, EngineLimits, GpuSpec, NodeSpec, Point
from harness.simulator.batching import Scheduler
from harness.simulator.constants import Constants, constants_of
from harness.simulator.stepmodel import StepModel

NODES = ("dgx-a100-40gb", "dgx-a100", "dgx-h100", "dgx-h200")
PARALLELISMS = ((1, 1), (4, 1), (8, 1), (2, 2), (1, 4))
WORKLOADS = (BatchWorkload(1, 512, 64), BatchWorkload(8, 1024, 128), BatchWorkload(32, 256, 256))
_LIMITS = EngineLimits("vllm", token_budget=8192, max_sequences=128, max_context_tokens=2048)
_TINY = "tiny-llama"


def changes_pct() -> list[dict[str, object]]:
    """Per feasible point: energy of a batch with and without the hidden terms, and the change in percent."""
    rows: list[dict[str, object]] = []
    models = [model_shape(name) for name in bundled_names("models", ".json") if name != _TINY]
    nodes = [node_spec(name) for name in NODES]
    for node, model, (tp, pp), workload in product(nodes, models, PARALLELISMS, WORKLOADS):
        deployment = Deployment(node.gpu_kind, model, 16, _LIMITS, tp, pp, "dummy")
        if node_obstacle(Point(deployment, workload), node):
            continue
        gpu = _gpu_of(node)
        full = constants_of(gpu)
        with_j = batch_energy_j(deployment, workload, gpu, full)
        without_j = batch_energy_j(deployment, workload, gpu, without_hidden_terms(full, gpu))
        rows.append(
            {
                "where": deployment.label,
                "workload": workload.label,
                "with_j": with_j,
                "without_j": without_j,
                "change_pct": 100 * (without_j / with_j - 1),
            }
        )
    return rows


def hidden_change_pct() -> float:
    """Median of the changes' sizes, percent."""
    return float(np.median([abs(float(str(row["change_pct"]))) for row in changes_pct()]))


def batch_energy_j(deployment: Deployment, workload: BatchWorkload, gpu: GpuSpec, constants: Constants) -> float:
    """GPU energy of one gated batch, without noise, J."""
    size = workload.batch_size
    batching = Scheduler(
        np.zeros(size),
        np.full(size, workload.prompt_tokens),
        np.full(size, workload.generated_tokens),
        deployment.limits,
        size * (workload.prompt_tokens + workload.generated_tokens + 16),
        lambda shape: 1.0,
    ).run()
    cost = StepModel(deployment, gpu, constants).cost(batching.shape, np.ones(len(batching)))
    stages = deployment.pipeline_parallel
    power_w = constants.gpu.loaded_idle_w(gpu) + (cost.dynamic_w * (stages - 1) + cost.last_dynamic_w) / stages
    return float((power_w * cost.duration_s).sum()) * deployment.gpus


def _gpu_of(node: NodeSpec) -> GpuSpec:
    if node.gpu is None:
        raise ValueError(f"{node.kind}: no GPUs")
    return node.gpu


def main() -> None:
    rows = changes_pct()
    sizes = np.abs([float(str(row["change_pct"])) for row in rows])
    quantiles = np.percentile(sizes, [10, 25, 50, 75, 90])
    names = ("10%", "25%", "median", "75%", "90%")
    report(
        "hidden_terms",
        f"Energy of {len(rows)} points without the terms that features do not know: size of the change",
        [{"quantile": name, "change_pct": float(value)} for name, value in zip(names, quantiles, strict=True)],
    )


if __name__ == "__main__":
    main()
