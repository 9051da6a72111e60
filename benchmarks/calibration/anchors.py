"""What the simulated GPUs are calibrated against: published figures, each with its engine, lengths and source."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from harness.deployment.catalog import model_shape, node_spec
from harness.points import Deployment, EngineLimits, GpuSpec, ModelShape
from harness.units import BYTES_PER_GIB
from harness_analysis.public import argonne, mlenergy
from harness_analysis.public.shapes import SHAPES

Quantity = Literal["latency_s", "power_w", "ttft_s", "tpot_s", "energy_per_token_j"]
Use = Literal["fitted", "held back"]
GH200 = GpuSpec(
    "gh200", "NVIDIA GH200 96GB HBM3", 96 * BYTES_PER_GIB, 989.5e12, 4.0e12, 450e9, idle_w=80.0, tdp_w=700.0
)
"""Data sheet of the Grace Hopper superchip with 96 GB of HBM3; its 700 W are the GPU's usual share, idle is chosen."""
LIMITS = EngineLimits("vllm", token_budget=8192, max_sequences=256, max_context_tokens=4096)
OLD_SERVER = "vllm-0.5.4"
"""The online server of 2024, whose one process scheduled, detokenised and answered: its host time is its own."""
SERVING_LIMITS = EngineLimits(OLD_SERVER, token_budget=8192, max_sequences=4096, max_context_tokens=4096)
FITTED_LENGTHS = (128, 1024)
"""Of Argonne's five, prompt and generated alike; the others are held back."""
PROMPT_TOKENS = {"chat": 220.0, "code": 160.0}
"""Imputed for the ML.ENERGY leaderboard, which does not publish them: about the means of ShareGPT's first prompts and
of EvalPlus's functions to complete, which its chat and code tasks are made of."""
_FIRST_TOKENS_S = {
    ("a100-40gb", "meta-llama/Llama-2-7b-hf"): 1.030,
    ("a100-40gb", "meta-llama/Meta-Llama-3-8B"): 1.042,
    ("h100", "meta-llama/Llama-2-7b-hf"): 0.4216,
    ("h100", "meta-llama/Meta-Llama-3-8B"): 0.4257,
    ("gh200", "meta-llama/Llama-2-7b-hf"): 0.3566,
    ("gh200", "meta-llama/Meta-Llama-3-8B"): 0.3781,
}
"""Argonne's vLLM, 16 prompts of 1024 tokens: Plots/Fig_22/all_results_TTFT_ITL.csv of LLM-Inference-Bench @691ffab."""
_POWER_AT_70B_W = {2: 294.0, 4: 239.0, 8: 174.0}


@dataclass(frozen=True, slots=True)
class Anchor:
    """One published figure.

    Attributes:
        source, engine: who measured it, and with what.
        quantity, value: what was published; power is the mean of one GPU.
        use: whether the constants were fitted to it.
        gpu, deployment: on what; the deployment's engine is the one simulated.
        batch_size, prompt_tokens, generated_tokens: of the workload; means where `serving`.
        serving: a server kept full; otherwise all requests start together.
        idle_tail_s: the power was averaged over the batch and so much idle time after it.
    """

    source: str
    engine: str
    quantity: Quantity
    value: float
    use: Use
    gpu: GpuSpec
    deployment: Deployment
    batch_size: float
    prompt_tokens: float
    generated_tokens: float
    serving: bool = False
    idle_tail_s: float = 0.0

    @property
    def where(self) -> str:
        """`h100 llama-2-7b tp2 pp1`."""
        item = self.deployment
        return f"{item.gpu} {item.model.name} tp{item.tensor_parallel} pp{item.pipeline_parallel}"


def all_anchors(public: Path, kernel_tables: Path) -> list[Anchor]:
    """Every anchor, fitted and held back.

    Args:
        public: folder of published measurements (see `harness_analysis.public`).
        kernel_tables: what `kernel_tables.py` wrote.

    Raises:
        BadInput: a file of measurements is missing or another.
    """
    gpus = {spec.kind: spec for spec in (_gpu("dgx-a100-40gb"), _gpu("dgx-a100"), _gpu("dgx-h100"), GH200)}
    return [
        *_argonne(argonne.read(public), gpus),
        *_kernel_tables(kernel_tables, gpus),
        *_first_tokens(gpus),
        *_power_of_70b(gpus["a100"]),
        *_leaderboard(mlenergy.read(public), gpus),
    ]


def _gpu(node: str) -> GpuSpec:
    gpu = node_spec(node).gpu
    assert gpu is not None
    return gpu


def _deployment(gpu: str, model: ModelShape, tp: int, pp: int, limits: EngineLimits = LIMITS) -> Deployment:
    return Deployment(gpu, model, 16, limits, tp, pp, "dummy")


def _argonne(rows: pd.DataFrame, gpus: dict[str, GpuSpec]) -> list[Anchor]:
    """vLLM on Hopper and Ampere; TensorRT-LLM only where it has power, for comparison."""
    anchors: list[Anchor] = []
    kept = rows[rows["gpu"].isin(gpus) & rows["model"].isin(SHAPES) & rows["tp"].notna()]
    kept = kept[kept["model"].str.contains("lama")]
    for row in kept.itertuples():
        deployment = _deployment(row.gpu, SHAPES[row.model], int(row.tp), int(row.pp))
        # One card kind, three of five lengths and the other engine's power are kept out of the fit.
        fitted = row.engine == "vllm" and row.gpu != "gh200" and row.prompt_tokens in FITTED_LENGTHS
        workload = (row.batch_size, row.prompt_tokens, row.generated_tokens)
        source = "argonne"
        if row.engine == "vllm":
            use: Use = "fitted" if fitted else "held back"
            anchors.append(
                Anchor(source, row.engine, "latency_s", row.latency_s, use, gpus[row.gpu], deployment, *workload)
            )
        if row.power_w == row.power_w and row.engine in ("vllm", "tensorrt-llm"):
            use = "fitted" if fitted else "held back"
            anchors.append(
                Anchor(
                    source, row.engine, "power_w", row.power_w, use, gpus[row.gpu], deployment, *workload,
                    idle_tail_s=argonne.IDLE_TAIL_S,
                )
            )  # fmt: skip
    return anchors


def _kernel_tables(path: Path, gpus: dict[str, GpuSpec]) -> list[Anchor]:
    """Sums of measured kernels: optimistic, so a floor rather than a target. Batch 1 is fitted."""
    anchors: list[Anchor] = []
    quantities: tuple[Quantity, ...] = ("ttft_s", "tpot_s")
    for row in json.loads(path.read_text("utf-8")):
        deployment = _deployment(row["gpu"], model_shape(row["model"]), row["tp"], row["pp"])
        workload = (row["batch_size"], row["prompt_tokens"], row["generated_tokens"])
        for quantity in quantities:
            if row[quantity] is not None:
                use: Use = "fitted" if row["batch_size"] == 1 else "held back"
                source = f"aiconfigurator {row['version']}"
                anchors.append(
                    Anchor(source, row["tables"], quantity, row[quantity], use, gpus[row["gpu"]], deployment, *workload)
                )
    return anchors


def _first_tokens(gpus: dict[str, GpuSpec]) -> list[Anchor]:
    """The only measured prefills apart: held back."""
    return [
        Anchor(
            "argonne", "vllm", "ttft_s", value_s, "held back", gpus[kind], _deployment(kind, SHAPES[name], 1, 1),
            16, 1024, 1024,
        )
        for (kind, name), value_s in _FIRST_TOKENS_S.items()
    ]  # fmt: skip


def _power_of_70b(gpu: GpuSpec) -> list[Anchor]:
    """Llama-2-70B at batch 1 on A100 80 GB, W per GPU: From Words to Watts (Samsi et al., HPEC 2023) and the like."""
    model = model_shape("llama-2-70b")
    return [
        Anchor("published", "?", "power_w", power_w, "fitted", gpu, _deployment(gpu.kind, model, tp, 1), 1, 1024, 128)
        for tp, power_w in _POWER_AT_70B_W.items()
    ]


def _leaderboard(rows: pd.DataFrame, gpus: dict[str, GpuSpec]) -> list[Anchor]:
    """Joules per generated token of busy servers: every second model fits that server's host time, no more."""
    kept = rows[rows["gpu"].isin(gpus) & rows["model"].isin(SHAPES)]
    fitted = set(sorted(set(kept["model"]))[::2])
    return [
        Anchor(
            "ml.energy v2", OLD_SERVER, "energy_per_token_j", row.energy_per_token_j,
            "fitted" if row.model in fitted else "held back", gpus[row.gpu],
            _deployment(row.gpu, SHAPES[row.model], int(row.tp), int(row.pp), SERVING_LIMITS),
            row.batch_size, PROMPT_TOKENS[row.task], row.generated_tokens, serving=True,
        )
        for row in kept.itertuples()
    ]  # fmt: skip
