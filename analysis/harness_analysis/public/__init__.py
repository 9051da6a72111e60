"""Measurements that others published, read into one frame. The files are not part of the project.

`harness_analysis.public.frame` says what its columns are; each source has a module of its own with a function `read`.
`released` has a frame of its own: its labels are not joules.
"""

from pathlib import Path

import pandas as pd

from harness_analysis.public import argonne, mlenergy, tokenpowerbench, wilkins

READERS = {
    argonne.NAME: argonne.read,
    mlenergy.NAME: mlenergy.read,
    tokenpowerbench.NAME: tokenpowerbench.read,
    wilkins.NAME: wilkins.read,
}
"""By the name of the file, without its ending."""


def read_public(folder: Path | str) -> pd.DataFrame:
    """The rows of all sources, one below the other.

    Raises:
        BadInput: a source's file is missing or not what it must be.
    """
    return pd.concat([read(folder) for read in READERS.values()], ignore_index=True)
