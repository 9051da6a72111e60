"""The rows that were released with the LLMCO2 paper: 8,000 to train and 1,000 to validate on.

Files `llmco2_released_train.parquet` and `llmco2_released_val.parquet`. They have a frame of their own, because their
labels are not joules: they look like the latency of a simulator (steps of eight tokens, hardly any noise, one kind of
GPU, one batch size per model), and no unit is said. A configuration may be in both files; `in_train` says so.
"""

from pathlib import Path

import pandas as pd

from harness_analysis.public.frame import read_table

NAMES = {"train": "llmco2_released_train", "val": "llmco2_released_val"}
_RENAMED = {
    "model": "model",
    "gpu": "gpu",
    "batch": "batch_size",
    "prompt_len": "prompt_tokens",
    "gen_len": "generated_tokens",
    "prefill_label": "prefill_label",
    "decode_label": "decode_label",
    "total_label": "total_label",
}
CONFIGURATION = ["model", "gpu", "batch_size", "prompt_tokens", "generated_tokens"]
"""Columns that say what was run."""


def read(folder: Path | str) -> pd.DataFrame:
    """Both files: `split` (train or val), the columns of `CONFIGURATION`, three labels without a unit (the total is
    the sum of prefill and decode), and `in_train`.

    Raises:
        BadInput: see `read_table`.
    """
    parts = [
        read_table(folder, name, tuple(_RENAMED))[list(_RENAMED)].rename(columns=_RENAMED).assign(split=split)
        for split, name in NAMES.items()
    ]
    rows = pd.concat(parts, ignore_index=True)
    train = pd.MultiIndex.from_frame(rows.loc[rows["split"] == "train", CONFIGURATION])
    rows["in_train"] = pd.MultiIndex.from_frame(rows[CONFIGURATION]).isin(train)
    return rows[["split", *_RENAMED.values(), "in_train"]]
