"""TokenPowerBench: runs of Llama-3.x 1B to 8B on H100 NVL, nine of them with CPU and DRAM energy.

https://github.com/chenxuniu/TokenPowerBench; file `tokenpowerbench.parquet`. A run hands all its prompts to the engine
at once and ends with the last. What to know of its columns:

- The published GPU energy is of every card in the node, idle ones included (60 to 64 W each). Here `energy_j`,
  `n_gpus` and `power_w` are of those that worked.
- Prompt lengths are not said, nor how two cards were divided: `tp` and `pp` are null there.
- The batch size is a limit: `batch_size` is the smaller of it and the number of requests, and a run's end drains.
- DeepSpeed's rows count the limit of tokens for every answer.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from harness_analysis.public.frame import read_table, renamed, tidy

NAME = "tokenpowerbench"
GPUS = {"H100 NVL 94GB (2-4 in node)": "h100-nvl"}
WORKING_W = 75.0
"""A card above it worked: idle ones draw at most 64 W on average, working ones at least 91 W."""
_PREFIX = "models--meta-llama--"
_CARDS = ("gpu0_w", "gpu1_w", "gpu2_w", "gpu3_w")
_COLUMNS = (
    "source",
    "gpu",
    "engine",
    "model",
    "batch_size",
    "responses",
    "total_output_tokens",
    "latency_s",
    "cpu_energy_j",
    "dram_energy_j",
    *_CARDS,
)


def read(folder: Path | str) -> pd.DataFrame:
    """All rows; latency and energy are of the whole run, CPU and DRAM energy null but for nine.

    Raises:
        BadInput: see `read_table`, or a GPU that this reader does not know.
    """
    table = read_table(folder, NAME, _COLUMNS)
    cards_w = table[list(_CARDS)].to_numpy(np.float64)
    working = np.nan_to_num(cards_w) > WORKING_W
    busy_w, busy = np.where(working, cards_w, 0.0).sum(axis=1), working.sum(axis=1)
    energy_j = busy_w * table["latency_s"]
    divided = pd.Series(1, index=table.index, dtype="Int64").where(busy == 1)
    return tidy(
        pd.DataFrame(
            {
                "source": table["source"],
                "engine": table["engine"],
                "gpu": renamed(table["gpu"], GPUS, NAME),
                "n_gpus": busy,
                "model": "meta-llama/" + table["model"].str.removeprefix(_PREFIX),
                "tp": divided,
                "pp": divided,
                "bits": 16,
                "batch_size": np.minimum(table["batch_size"], table["responses"]),
                "max_sequences": table["batch_size"],
                "generated_tokens": table["total_output_tokens"] / table["responses"],
                "covers": "run",
                "requests": table["responses"],
                "latency_s": table["latency_s"],
                "energy_j": energy_j,
                "energy_per_token_j": energy_j / table["total_output_tokens"],
                "power_w": busy_w / busy,
                "cpu_energy_j": table["cpu_energy_j"],
                "dram_energy_j": table["dram_energy_j"],
                "notes": table["engine"].map({"deepspeed": "counts the limit of tokens for every answer"}),
            }
        )
    )
