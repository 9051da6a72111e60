"""Energy by deployment: of batches over their size, of replays per request and per token."""

import pandas as pd

from harness.report.tables.spread import ratio, spread
from harness.statistics import settled_runs

_POINT = ["deployment", "point_id"]
_REPLAY = ["deployment", "replay"]


def batch_points(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per batch point that was measured: GPU energy of a batch and of a generated token.

    deployment, tp, pp, point_id, batch_size, prompt_tokens, generated_tokens, n (repetitions), launches, gpu_j (of the
    batch), half_width_pct, cv_pct, j_per_token (gpu_j over batch_size x generated_tokens), prefill_share_pct,
    cpu_j, dram_j, duration_s. Where launches is over 1, the interval holds their spread too.
    """
    batches = settled_runs(runs[runs["workload"] == "batch"], "gpu_energy_j")
    grouped = batches.groupby(_POINT, sort=True)
    table = grouped.agg(
        tp=("tp", "first"),
        pp=("pp", "first"),
        batch_size=("batch_size", "first"),
        prompt_tokens=("prompt_tokens", "first"),
        generated_tokens=("generated_tokens", "first"),
        launches=("launch_id", "nunique"),
        prefill_j=("gpu_prefill_energy_j", "mean"),
        cpu_j=("cpu_energy_j", "mean"),
        dram_j=("dram_energy_j", "mean"),
        duration_s=("duration_s", "mean"),
    )
    energy = spread(batches["gpu_energy_j"], [batches[name] for name in _POINT])
    table = table.astype({"batch_size": int, "prompt_tokens": int, "generated_tokens": int}).assign(
        n=energy["n"],
        gpu_j=energy["mean"],
        half_width_pct=100.0 * energy["half_width"] / energy["mean"],
        cv_pct=energy["cv_pct"],
        j_per_token=ratio(energy["mean"], table["batch_size"] * table["generated_tokens"]),
        prefill_share_pct=100.0 * ratio(table["prefill_j"], energy["mean"]),
    )
    columns = ["deployment", "tp", "pp", "point_id", "batch_size", "prompt_tokens", "generated_tokens", "n", "launches",
               "gpu_j", "half_width_pct", "cv_pct", "j_per_token", "prefill_share_pct", "cpu_j", "dram_j",
               "duration_s"]  # fmt: skip
    order = ["deployment", "batch_size", "prompt_tokens", "generated_tokens"]
    return table.reset_index().sort_values(order, ignore_index=True)[columns]


def batch_energy(points: pd.DataFrame) -> pd.DataFrame:
    """`batch_points` by deployment and batch size: medians and ranges over points, whose lengths differ."""
    grouped = points.groupby(["deployment", "batch_size"], sort=True)
    return grouped.agg(
        points=("point_id", "size"),
        runs=("n", "sum"),
        prompt_tokens_median=("prompt_tokens", "median"),
        generated_tokens_median=("generated_tokens", "median"),
        j_per_token=("j_per_token", "median"),
        j_per_token_min=("j_per_token", "min"),
        j_per_token_max=("j_per_token", "max"),
        half_width_pct=("half_width_pct", "median"),
        prefill_share_pct=("prefill_share_pct", "median"),
    ).reset_index()


def replay_energy(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per deployment and replay: GPU energy per request and per generated token, CPU and DRAM per request.

    n (repetitions), launches, saturated (how many of them were), requests_per_s, j_per_request, j_per_token, each with
    its `_half_width`; cpu_j_per_request and dram_j_per_request (whole sockets); ttft_mean_s. Of a saturated replay the
    energies are of its steady state, where that lasted long enough.
    """
    replays = settled_runs(runs[runs["workload"] == "replay"], "gpu_energy_j")
    groups = [replays[name] for name in _REPLAY]
    per_request = spread(ratio(replays["gpu_energy_j"], replays["requests"]), groups)
    per_token = spread(ratio(replays["gpu_energy_j"], replays["tokens_generated"]), groups)
    table = pd.DataFrame(
        {
            "n": per_request["n"],
            "launches": replays.groupby(_REPLAY)["launch_id"].nunique(),
            "saturated": (replays["status"] == "saturated").groupby(groups).sum(),
            "requests_per_s": spread(ratio(replays["requests"], replays["window_s"]), groups)["mean"],
            "j_per_request": per_request["mean"],
            "j_per_request_half_width": per_request["half_width"],
            "j_per_token": per_token["mean"],
            "j_per_token_half_width": per_token["half_width"],
            "cpu_j_per_request": spread(ratio(replays["cpu_energy_j"], replays["requests"]), groups)["mean"],
            "dram_j_per_request": spread(ratio(replays["dram_energy_j"], replays["requests"]), groups)["mean"],
            "ttft_mean_s": spread(replays["ttft_mean_s"].astype(float), groups)["mean"],
        }
    )
    return table.rename_axis(index=_REPLAY).reset_index()
