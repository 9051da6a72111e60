"""One frame for measurements that others published: its columns, their units, and when a value is null.

Every reader of this package takes a folder of Parquet files, one for each source, and returns this frame. A row is one
measured configuration, not one request: `covers` and `requests` say what its latency and energy are of.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd

from harness.errors import BadInput

COLUMNS: Mapping[str, str] = {
    "source": "object",
    "engine": "object",
    "gpu": "object",
    "n_gpus": "Int64",
    "model": "object",
    "tp": "Int64",
    "pp": "Int64",
    "bits": "Int64",
    "task": "object",
    "batch_size": "float64",
    "max_sequences": "Int64",
    "prompt_tokens": "float64",
    "generated_tokens": "float64",
    "covers": "object",
    "requests": "Int64",
    "latency_s": "float64",
    "tpot_s": "float64",
    "energy_j": "float64",
    "energy_per_token_j": "float64",
    "power_w": "float64",
    "cpu_energy_j": "float64",
    "dram_energy_j": "float64",
    "notes": "object",
}
"""Columns and their types.

| column | what | null |
|---|---|---|
| source | repository, commit and file | never |
| engine | in small letters: vllm, tensorrt-llm, transformers ... | never |
| gpu | kind of accelerator, by the harness's names where it has one: a100-40gb, a100, h100, gh200 ... | never |
| n_gpus | cards that the job used; idle ones of the node do not count | never |
| model | name on the Hugging Face hub; `shapes.SHAPES` has the dense ones | never |
| tp, pp | tensor and pipeline parallel sizes | not said, or another way to divide |
| bits | per weight | not said |
| task | `chat` or `code`, where prompts are of people | synthetic or not said |
| batch_size | sequences in flight: a mean where it varied | never |
| max_sequences | the engine's limit on them | not said |
| prompt_tokens, generated_tokens | per request: a mean where they varied | not said |
| covers | what `latency_s` and `energy_j` are of: a `batch` (all start together), a `request`, a whole `run` | never |
| requests | how many requests that is | never |
| latency_s | wall time, first prompt to last token | not measured |
| tpot_s | mean time between a request's tokens | not measured |
| energy_j | of the `n_gpus` cards together | not measured |
| energy_per_token_j | `energy_j` per *generated* token, prefill included | not measured |
| power_w | mean per card | not measured |
| cpu_energy_j, dram_energy_j | of the host | not measured, or impossible |
| notes | what a user of the row must know | nothing to say: empty, not null |
"""
_FIX = "take the folder of published measurements, one Parquet file for each source"


def read_table(folder: Path | str, name: str, columns: Collection[str]) -> pd.DataFrame:
    """The file `name`.parquet of `folder`, as it is.

    Args:
        columns: those that it must have; further ones are allowed.

    Raises:
        BadInput: no such file, not Parquet, a column missing, or no rows; one line that names the file.
    """
    path = Path(folder) / f"{name}.parquet"
    accepted = f"a Parquet file with the columns {', '.join(columns)}"
    if not path.is_file():
        raise BadInput(str(path), "no such file", accepted, _FIX)
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise BadInput(str(path), f"cannot be read: {error}", accepted, _FIX) from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise BadInput(str(path), f"without the columns {', '.join(missing)}", accepted, _FIX)
    if table.empty:
        raise BadInput(str(path), "no rows", accepted, _FIX)
    return table


def renamed(values: pd.Series, names: Mapping[str, str], path: str) -> pd.Series:
    """`values` by our names.

    Raises:
        BadInput: a value that `names` does not know: the file is not the one that this reader was written for.
    """
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise BadInput(f"{path}: {values.name}", unknown[0], ", ".join(names), _FIX)
    return values.map(names)


def tidy(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with all columns of the frame in their order and types; those that it lacks are null (`notes` empty).

    Raises:
        ValueError: a column that the frame does not have.
    """
    foreign = [str(column) for column in rows if column not in COLUMNS]
    if foreign:
        raise ValueError(f"no such columns: {', '.join(foreign)}")
    full = rows.reindex(columns=list(COLUMNS)).reset_index(drop=True)
    full = full.astype(dict(COLUMNS))
    full["notes"] = full["notes"].fillna("")
    return full
