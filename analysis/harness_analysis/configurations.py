"""Configurations as columns: what is known before anything runs.

Which GPU, which model in how many bits, how it is divided, which batch, and who serves it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.errors import BadInput
from harness.points import FloatArray, GpuSpec, IntArray, ModelShape, StrArray

Index = IntArray | npt.NDArray[np.bool_] | slice
ONE_PASS_TOKENS = float("inf")
"""A token budget that nothing exceeds, and the one of configurations that do not say theirs."""
_TEXT, _NUMBERS = ("gpu", "model"), ("bits", "tp", "pp", "batch_size", "prompt_tokens", "generated_tokens")
_SERVED_BY = {"engine": "", "token_budget": ONE_PASS_TOKENS}


@dataclass(frozen=True, slots=True, eq=False)
class Configurations:
    """n configurations, a column each. `from_frame` checks what comes from outside.

    Attributes:
        gpu: (n,) kind of GPU, a key of `gpus`.
        model: (n,) name, a key of `shapes`.
        bits: (n,) of a weight.
        tp, pp: (n,) tensor and pipeline parallel sizes.
        batch_size: (n,) sequences that are served together.
        prompt_tokens, generated_tokens: (n,) of each sequence; means where they differ. The first generated token
            comes from the prefill.
        engine: (n,) serving engine; empty where it is not said.
        token_budget: (n,) tokens that one of its steps may hold; infinite where it is not said.
        shapes, gpus: what the names stand for.
    """

    gpu: StrArray
    model: StrArray
    bits: FloatArray
    tp: FloatArray
    pp: FloatArray
    batch_size: FloatArray
    prompt_tokens: FloatArray
    generated_tokens: FloatArray
    engine: StrArray
    token_budget: FloatArray
    shapes: Mapping[str, ModelShape]
    gpus: Mapping[str, GpuSpec]

    def __len__(self) -> int:
        return len(self.gpu)

    @property
    def n_gpus(self) -> FloatArray:
        """(n,) GPUs that a configuration holds."""
        return self.tp * self.pp

    def take(self, index: Index) -> "Configurations":
        """Those at `index`: positions, a mask or a slice."""
        columns: dict[str, Any] = {name: getattr(self, name)[index] for name in COLUMNS}
        return replace(self, **columns)

    def shape_values(self, *fields: str) -> FloatArray:
        """(fields, n) of each configuration's `ModelShape`, such as `hidden_size`; truth values as 0 and 1."""
        return _looked_up(self.model, self.shapes, fields)

    def gpu_values(self, *fields: str) -> FloatArray:
        """(fields, n) of each configuration's `GpuSpec`, such as `peak_flops`."""
        return _looked_up(self.gpu, self.gpus, fields)

    def groups(self) -> IntArray:
        """(n,) the same number for those that differ at most in who serves them: no split may tear them apart."""
        parts = [np.unique(getattr(self, name), return_inverse=True)[1] for name in (*_TEXT, *_NUMBERS)]
        return np.unique(np.stack(parts, axis=1), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def to_frame(self) -> pd.DataFrame:
        """A row for each; `from_frame` reads it back."""
        return pd.DataFrame({name: getattr(self, name) for name in COLUMNS})

    @staticmethod
    def from_frame(
        frame: pd.DataFrame, shapes: Mapping[str, ModelShape], gpus: Mapping[str, GpuSpec]
    ) -> "Configurations":
        """The rows of a frame with the columns named as the attributes; `engine` and `token_budget` may be missing.

        Raises:
            BadInput: a column missing, a model or GPU that is not known, a number that is not one or too small.
        """
        for name in (*_TEXT, *_NUMBERS):
            if name not in frame:
                raise BadInput("configurations", f"without the column {name}", ", ".join((*_TEXT, *_NUMBERS)))
        columns: dict[str, Any] = {"gpu": _known(frame["gpu"], gpus), "model": _known(frame["model"], shapes)}
        columns |= {name: _positive(frame[name]) for name in _NUMBERS}
        for name, unsaid in _SERVED_BY.items():
            given = frame[name] if name in frame else pd.Series(unsaid, index=frame.index)
            given = given.where(given.notna(), unsaid)
            columns[name] = given.to_numpy(np.str_) if name == "engine" else _positive(given.rename(name))
        return Configurations(**columns, shapes=shapes, gpus=gpus)


COLUMNS = (*_TEXT, *_NUMBERS, *_SERVED_BY)
"""Of `Configurations` and of its frame."""


def _looked_up(names: StrArray, specs: Mapping[str, object], fields: tuple[str, ...]) -> FloatArray:
    distinct, position = np.unique(names, return_inverse=True)
    table = [[float(getattr(specs[name], field)) for name in distinct] for field in fields]
    return np.array(table, np.float64).reshape(len(fields), len(distinct))[:, position]


def _known(names: pd.Series, lookup: Mapping[str, object]) -> StrArray:
    unknown = sorted({str(name) for name in names} - set(lookup))
    if unknown:
        raise BadInput(str(names.name), unknown[0], ", ".join(sorted(lookup)) or "nothing: no such lookup was given")
    return names.to_numpy(np.str_)


def _positive(numbers: pd.Series) -> FloatArray:
    values = pd.to_numeric(numbers, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = ~(values >= (1 if numbers.name != "bits" else 2))
    if wrong.any():
        raise BadInput(str(numbers.name), numbers.to_numpy()[wrong][0], "a number of at least 1 (bits: of at least 2)")
    return values
