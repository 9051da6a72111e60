"""ML.ENERGY leaderboard v2 (September 2024): joules per request of a busy vLLM 0.5.4, by batch limit.

https://github.com/ml-energy/leaderboard-v2 (Apache-2.0), measured with Zeus; file `mlenergy_v2.parquet`. A server is
kept full of requests of people, and energy is that of the steady state. What to know of its columns:

- Prompt lengths are not said.
- Batch size over time per token is up to three times the tokens per second that are published, because a request
  counts into the batch from its prompt on, which waits. Power is energy per token times the published tokens per
  second: at most 428 W on H100; the other quotient would give 1270 W.
- Power is low where the host is the limit: codegemma-1.1-2b draws about 100 W on A100 at batch 500 and above.
- 41 rows are of Mixtral, which is not dense: `shapes.SHAPES` does not have it.
- 17 rows are on sixteen cards, that is two nodes.
"""

from pathlib import Path

import pandas as pd

from harness_analysis.public.frame import read_table, renamed, tidy

NAME = "mlenergy_v2"
GPUS = {"NVIDIA A100-SXM4-40GB": "a100-40gb", "NVIDIA H100 80GB HBM3": "h100"}
_COLUMNS = (
    "source",
    "task",
    "gpu",
    "n_gpus",
    "tp",
    "pp",
    "model",
    "max_batch",
    "avg_batch_size",
    "avg_generated_tokens",
    "energy_per_request_j",
    "energy_per_token_j",
    "avg_tpot_s",
    "implied_w_per_gpu",
)


def read(folder: Path | str) -> pd.DataFrame:
    """All rows: energy of one request, mean over the steady state. `latency_s` and `prompt_tokens` are null.

    Raises:
        BadInput: see `read_table`, or a GPU that this reader does not know.
    """
    table = read_table(folder, NAME, _COLUMNS)
    return tidy(
        pd.DataFrame(
            {
                "source": table["source"],
                "engine": "vllm",
                "gpu": renamed(table["gpu"], GPUS, NAME),
                "n_gpus": table["n_gpus"],
                "model": table["model"],
                "tp": table["tp"],
                "pp": table["pp"],
                "bits": 16,
                "task": table["task"],
                "batch_size": table["avg_batch_size"],
                "max_sequences": table["max_batch"],
                "generated_tokens": table["avg_generated_tokens"],
                "covers": "request",
                "requests": 1,
                "tpot_s": table["avg_tpot_s"],
                "energy_j": table["energy_per_request_j"],
                "energy_per_token_j": table["energy_per_token_j"],
                "power_w": table["implied_w_per_gpu"],
            }
        )
    )
