"""Measurements behind "Offline Energy-Optimal LLM Serving": GPU and CPU joules per request, prompt and output lengths.

https://github.com/grantwilkins/energy-inference; file `wilkins.parquet`. One request at a time through Hugging Face
transformers in bfloat16 *without a KV cache*: a token costs as much as the whole text before it. What to know:

- Models on three or four cards are divided by layers, and the cards wait for one another: `tp` is 1, `pp` their number.
- 63 rows are marked invalid by who collected them (a prompt of 1024 tokens cut, so that the count of generated tokens
  came out negative): dropped.
- Generated tokens exceed the asked limit in 800 rows, by up to 91; how they were counted is not said.
- CPU energy is of the process, watts, not of the packages; where the difference of two readings is negative it is null.
- Repetitions of one configuration are rows of their own.
"""

from pathlib import Path

import pandas as pd

from harness_analysis.public.frame import read_table, renamed, tidy

NAME = "wilkins"
GPUS = {
    "A100-SXM4-40GB": "a100-40gb",
    "A100-40GB PCIe": "a100-40gb-pcie",
    "V100-16GB": "v100-16gb",
    "M1-Pro": "m1-pro",
}
MODELS = {
    "Falcon (7B)": "tiiuae/falcon-7b",
    "Falcon (40B)": "tiiuae/falcon-40b",
    "Llama-2 (7B)": "meta-llama/Llama-2-7b-hf",
    "Llama-2 (13B)": "meta-llama/Llama-2-13b-hf",
    "Llama-2 (70B)": "meta-llama/Llama-2-70b-hf",
    "Mistral (7B)": "mistralai/Mistral-7B-v0.1",
    "Mixtral (8x7B)": "mistralai/Mixtral-8x7B-v0.1",
}
_COLUMNS = (
    "source",
    "test",
    "gpu",
    "system",
    "n_gpus",
    "tp",
    "pp_naive",
    "model",
    "prompt_tokens",
    "generated_tokens",
    "gpu_energy_j",
    "cpu_energy_j",
    "latency_s",
    "valid",
)


def read(folder: Path | str) -> pd.DataFrame:
    """The valid rows; latency and energy are of one request. `notes` names the system and the test.

    Raises:
        BadInput: see `read_table`, or a GPU or a model that this reader does not know.
    """
    table = read_table(folder, NAME, _COLUMNS)
    table = table[table["valid"]]
    return tidy(
        pd.DataFrame(
            {
                "source": table["source"],
                "engine": "transformers",
                "gpu": renamed(table["gpu"], GPUS, NAME),
                "n_gpus": table["n_gpus"],
                "model": renamed(table["model"], MODELS, NAME),
                "tp": table["tp"],
                "pp": table["pp_naive"],
                "bits": 16,
                "batch_size": 1,
                "prompt_tokens": table["prompt_tokens"],
                "generated_tokens": table["generated_tokens"],
                "covers": "request",
                "requests": 1,
                "latency_s": table["latency_s"],
                "energy_j": table["gpu_energy_j"],
                "energy_per_token_j": table["gpu_energy_j"] / table["generated_tokens"],
                "power_w": table["gpu_energy_j"] / table["latency_s"] / table["n_gpus"],
                "cpu_energy_j": table["cpu_energy_j"].where(table["cpu_energy_j"] >= 0),
                "notes": table["system"] + "; " + table["test"] + "; no KV cache",
            }
        )
    )
