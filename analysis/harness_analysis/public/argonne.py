"""LLM-Inference-Bench of Argonne National Laboratory: latency of fixed batches, power of a few.

https://github.com/argonne-lcf/LLM-Inference-Bench (BSD-3), paper arXiv 2411.00136; file `argonne.parquet`. All requests
of a batch start together and prompt and generated tokens are equal, 128 to 2048. What its files do not say:

- The A100 is a 40 GB card (7B at batch 64 runs in waves, as its KV cache would there), so its kind is `a100-40gb`.
- The published throughput counts prompt and generated tokens together; it is not used here.
- Power comes from `benchmark_power.py` and `run_power.py` there: the mean of readings of card 0 every 0.25 s over a
  second run of the batch *and a second of idle after it*, so it is low for short batches (`without_idle_second`). The
  energy is that power times the latency of the first run.
- TensorRT-LLM on H100 draws 448 to 452 W at every batch above 1, of both models: it looks like a power limit, where
  vLLM draws up to 595 W.
- With llama.cpp the "batch" is the prompt's chunk (`llama-bench -b`): one sequence, whatever it says. Several cards are
  left to the engine to divide.
- Rows with power repeat rows of the large table, and the table of parallelisms repeats most of its tensor parallel
  rows: 326 rows are the same measurement again and are dropped. Where one configuration has two latencies, both are
  kept; they agree within 5%, but for nine of TensorRT-LLM on A100 (1.16 to 1.9 times).
- 33 rows end in a fraction of the time of half the tokens: the engine stopped at the model's (or the built engine's)
  context and hardly generated. They are dropped.
"""

from pathlib import Path

import pandas as pd

from harness.points import FloatArray
from harness_analysis.public.frame import read_table, renamed, tidy

NAME = "argonne"
GPUS = {
    "Nvidia A100 GPU": "a100-40gb",
    "Nvidia H100 GPU": "h100",
    "Nvidia GH200 GPU": "gh200",
    "AMD MI250 GPU": "mi250",
    "AMD MI300X GPU": "mi300x",
    "Intel PVC GPU": "pvc",
    "Intel Max 1550": "max-1550",
    "Habana Gaudi2": "gaudi2",
    "SambaNova SN40L": "sn40l",
}
"""Ponte Vecchio (PVC) is the code name of the Max 1550, but the two differ by up to ten times: not merged."""
IDLE_TAIL_S = 1.0
LEAST_GROWTH = 0.5
"""Twice the prompt and twice the tokens take at least this share of the time of once: whatever is below was cut off.
The rows kept have at least 0.65 (warm-up within the shortest batch), those dropped at most 0.26."""
_COLUMNS = (
    "source",
    "gpu",
    "n_gpus",
    "engine",
    "model",
    "batch_size",
    "prompt_tokens",
    "generated_tokens",
    "latency_s",
    "avg_power_w",
    "total_energy_j",
    "parallelism",
)
_TENSOR = ("Tensor Parallelism", "TP")
_PIPELINE = ("Pipeline Parallelism", "PP")
_HYBRID = ("Hybird Tensor (2) and Pipeline (2) Parallelism", "Hybrid TP = 2 and PP = 2")
"""Two by two; the first is spelt so in the file."""
_POWER_NOTE = "power averaged over the batch and a second of idle after it"


def read(folder: Path | str) -> pd.DataFrame:
    """All rows, one for each measurement; energy and power are null but for 48 of one card.

    Raises:
        BadInput: see `read_table`, or an accelerator that this reader does not know.
    """
    table = read_table(folder, NAME, _COLUMNS)
    chunked = table["engine"] == "llama.cpp"
    tp, pp = _parallel_sizes(table, chunked)
    notes = table["parallelism"].where(tp.isna() & table["parallelism"].notna(), "")
    notes = notes.mask(chunked, "one sequence, its prompt in chunks of " + table["batch_size"].astype(str) + " tokens")
    sequences = table["batch_size"].mask(chunked, 1)
    rows = pd.DataFrame(
        {
            "source": table["source"],
            "engine": table["engine"].str.lower(),
            "gpu": renamed(table["gpu"], GPUS, NAME),
            "n_gpus": table["n_gpus"],
            "model": table["model"],
            "tp": tp,
            "pp": pp,
            "bits": 16,
            "batch_size": sequences,
            "prompt_tokens": table["prompt_tokens"],
            "generated_tokens": table["generated_tokens"],
            "covers": "batch",
            "requests": sequences,
            "latency_s": table["latency_s"],
            "energy_j": table["total_energy_j"],
            "energy_per_token_j": table["total_energy_j"] / (sequences * table["generated_tokens"]),
            "power_w": table["avg_power_w"],
            "notes": notes.mask(table["avg_power_w"].notna(), _POWER_NOTE),
        }
    )
    return tidy(_cut_off_dropped(_repeats_dropped(rows)))


def without_idle_second(power_w: FloatArray, latency_s: FloatArray, idle_w: float) -> FloatArray:
    """Mean power within the batch, of a power that was averaged over it and a second of `idle_w` after it.

    Args:
        power_w: (n,) as published. latency_s: (n,) of the batch.
        idle_w: of the card with the model loaded.
    """
    return power_w + (power_w - idle_w) * IDLE_TAIL_S / latency_s


def _parallel_sizes(table: pd.DataFrame, chunked: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Tensor and pipeline parallel sizes; null for expert parallelism, and for llama.cpp on several cards."""
    gpus, way = table["n_gpus"].astype("Int64"), table["parallelism"].fillna(_TENSOR[0])
    one = pd.Series(1, index=table.index, dtype="Int64")
    tensor, pipeline, hybrid = way.isin(_TENSOR), way.isin(_PIPELINE), way.isin(_HYBRID)
    known = (tensor | pipeline | hybrid) & (~chunked | (gpus == 1))
    tp = gpus.mask(pipeline, one).mask(hybrid, one * 2).where(known)
    pp = one.mask(pipeline, gpus).mask(hybrid, one * 2).where(known)
    return tp, pp


def _repeats_dropped(rows: pd.DataFrame) -> pd.DataFrame:
    """Each measurement once: the row with power, where there is one, then the large table's."""
    by_worth = rows.assign(
        _table=rows["source"].str.contains("All_results").map({True: 0, False: 1}), _powerless=rows["power_w"].isna()
    ).sort_values(["_powerless", "_table"], kind="stable")
    same = ["gpu", "n_gpus", "engine", "model", "batch_size", "prompt_tokens", "tp", "pp", "latency_s"]
    kept = by_worth.index[~by_worth.duplicated(same)]
    return rows.loc[kept.sort_values()]


def _cut_off_dropped(rows: pd.DataFrame) -> pd.DataFrame:
    """Without rows that took less than `LEAST_GROWTH` of the same configuration at half the tokens."""
    setting = ["gpu", "n_gpus", "engine", "model", "batch_size", "tp", "pp"]
    key = [*setting, "prompt_tokens"]
    least_s = rows.groupby(key, dropna=False)["latency_s"].min().rename("half_s").reset_index()
    least_s["prompt_tokens"] *= 2
    half_s = rows[key].merge(least_s, on=key, how="left")["half_s"].to_numpy()
    return rows[~(rows["latency_s"].to_numpy() < LEAST_GROWTH * half_s)]
