"""What one step of an engine takes, from what the `iterations` table says of it.

Either fitted on gated batches of one deployment (`fit_steps`), or asked of a predictor of batches (`PredictedSteps`).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from harness.errors import BadInput
from harness.points import FloatArray
from harness_analysis.configurations import Configurations
from harness_analysis.predictor import Predictor

TERMS = ("step", "prompt token", "decoding sequence", "key", "pair of query and key")
"""What a step's energy is a sum of, each with a fitted, non-negative factor in joules: one step; each prompt token;
each decoding sequence; each key read (all sequences together); each pair in a prompt's attention, tokens^2 / 2 per
chunk. In a pipeline a step is one micro-batch."""
_LEAST_BATCHES = 4
_DECODE_STEPS = 64
"""A decode step is taken for one of so many, around its context: a predictor says little of one step apart."""
_CONTEXT_GRID = 16


@dataclass(frozen=True, slots=True, eq=False)
class StepRows:
    """m rows of the `iterations` table, (m,) each; every row is `n_steps` steps of one composition.

    `prefill_requests`, `prefill_tokens` and `decode_requests` are of each of its steps, `context_tokens` (keys read)
    and `duration_s` are summed over them. `n_steps` need not be whole where a window cuts a row.
    """

    n_steps: FloatArray
    duration_s: FloatArray
    prefill_requests: FloatArray
    prefill_tokens: FloatArray
    decode_requests: FloatArray
    context_tokens: FloatArray

    @staticmethod
    def of(frame: pd.DataFrame) -> "StepRows":
        """Rows of a frame with columns of those names."""
        return StepRows(*(frame[name].to_numpy(np.float64) for name in StepRows.__dataclass_fields__))


class StepEnergy(Protocol):
    """Says what steps take."""

    @property
    def under_way_w(self) -> float:
        """Power of all GPUs for as long as any step is under way, where it is not in `step_j`."""
        ...

    def step_j(self, rows: StepRows) -> FloatArray:
        """(m,) energy of all GPUs in the steps of each row."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LinearSteps:
    """A step's energy as a sum of `TERMS`, and in a pipeline a power for as long as any step is under way.

    How long the stages of a pipeline wait for one another depends on how many steps are in it at once, which no step's
    composition says; time does. Then the factors of steps hold only what work adds to waiting.

    Attributes:
        factors: (terms,) J each.
        under_way_w: W of all GPUs; 0 without a pipeline, where composition alone is enough.
        fit_mape_pct: mean absolute percentage error on the batches that it was fitted on.
        n: windows of batches that it was fitted on.
    """

    factors: FloatArray
    under_way_w: float
    fit_mape_pct: float
    n: int

    def step_j(self, rows: StepRows) -> FloatArray:
        """As `StepEnergy`."""
        found: FloatArray = _terms(rows) @ self.factors
        return found


def fit_steps(batches: pd.DataFrame, steps: pd.DataFrame) -> LinearSteps:
    """Fit on the batches of one deployment, the full ones and the prefill-only ones, each counting the same.

    A window's label is its energy per batch less loaded idle for the part of it outside steps.

    Args:
        batches: rows of `runs`, valid batches. steps: the rows of `iterations` that are of them.

    Raises:
        BadInput: fewer than four windows with an energy.
    """
    terms = pd.DataFrame(_terms(StepRows.of(steps)))
    each = terms.groupby([steps["run_id"].to_numpy(), steps["window"].to_numpy()]).sum()
    windows = pd.concat(
        {
            "full": _windows(batches, "gpu_energy_j", "duration_s", "gap_fraction"),
            "prefill": _windows(batches, "gpu_prefill_energy_j", "prefill_s", "prefill_gap_fraction"),
        }
    ).swaplevel()
    windows = windows.reindex(each.index)
    known = (windows["steps_j"] > 0).to_numpy()
    if known.sum() < _LEAST_BATCHES:
        raise BadInput("batches", f"{known.sum()} windows", f"at least {_LEAST_BATCHES} windows of valid batches")
    columns = np.column_stack([each.to_numpy(np.float64), windows["waiting_s"].to_numpy(np.float64)])[known]
    relative = columns / windows["steps_j"].to_numpy(np.float64)[known, None]
    size = np.linalg.norm(relative, axis=0)
    size[size == 0] = 1.0
    factors = nnls(relative / size, np.ones(len(relative)))[0] / size
    fit_mape_pct = float(100 * np.abs(relative @ factors - 1).mean())
    return LinearSteps(factors[:-1], float(factors[-1]), fit_mape_pct, len(relative))


class PredictedSteps:
    """Steps by a fitted predictor of batches.

    The prompt chunks of a step are a batch that generates one token each; its decoding sequences are what a further
    token adds to a batch of them at their mean context. In a mixed step the prompts have read the weights already: of
    the decoding sequences counts what they take beyond the first. What the predictor learnt as a batch's own overhead
    is in every prompt chunk.
    """

    def __init__(self, predictor: Predictor, deployment: Configurations) -> None:
        """`deployment` is one configuration: its lengths and batch size do not matter.

        Raises:
            BadInput: a pipeline. A batch alone leaves stages waiting, and the predictor's total does not say how long;
                in a replay other steps fill them.
        """
        if deployment.pp[0] > 1:
            raise BadInput("pp", int(deployment.pp[0]), "1: predictors of batches cannot price a pipeline's steps")
        self._predictor = predictor
        self._deployment = deployment

    @property
    def under_way_w(self) -> float:
        """None: all is in the steps."""
        return 0.0

    def step_j(self, rows: StepRows) -> FloatArray:
        """As `StepEnergy`."""
        mixed = (rows.prefill_tokens > 0) & (rows.decode_requests > 0)
        first_j = self._decode_j(rows, np.where(mixed, 1.0, 0.0))
        return self._prefill_j(rows) + self._decode_j(rows, rows.decode_requests) - first_j

    def _prefill_j(self, rows: StepRows) -> FloatArray:
        found = np.zeros(len(rows.n_steps))
        has = rows.prefill_tokens > 0
        chunks = np.maximum(rows.prefill_requests[has], 1)
        each = np.stack([chunks, rows.prefill_tokens[has] / chunks, np.ones(len(chunks))], axis=1)
        found[has] = rows.n_steps[has] * self._totals_j(each)
        return found

    def _decode_j(self, rows: StepRows, decoding: FloatArray) -> FloatArray:
        """(m,) for (m,) sequences with the mean context of those in the rows."""
        found = np.zeros(len(rows.n_steps))
        has = decoding > 0
        sequences = decoding[has]
        keys = rows.context_tokens[has] / rows.n_steps[has] - rows.prefill_tokens[has]
        context = keys / rows.decode_requests[has]
        prompt = np.maximum(np.round((context - _DECODE_STEPS / 2) / _CONTEXT_GRID) * _CONTEXT_GRID, 1)
        short = self._totals_j(np.stack([sequences, prompt, np.ones(len(prompt))], axis=1))
        long = self._totals_j(np.stack([sequences, prompt, np.full(len(prompt), _DECODE_STEPS + 1.0)], axis=1))
        found[has] = rows.n_steps[has] * (long - short) / _DECODE_STEPS
        return found

    def _totals_j(self, batches: FloatArray) -> FloatArray:
        """(m,) for (m, 3) of batch size, prompt and generated tokens; equal ones are asked once."""
        if not len(batches):
            return np.zeros(0)
        distinct, position = np.unique(batches, axis=0, return_inverse=True)
        frame = self._deployment.take(np.zeros(len(distinct), np.int64)).to_frame()
        frame[["batch_size", "prompt_tokens", "generated_tokens"]] = distinct
        asked = Configurations.from_frame(frame, self._deployment.shapes, self._deployment.gpus)
        return self._predictor.predict(asked).total_j[position.reshape(-1)]


def _terms(rows: StepRows) -> FloatArray:
    """(m, terms) summed over the steps of each row."""
    chunks = np.maximum(rows.prefill_requests, 1)
    columns = [
        rows.n_steps,
        rows.n_steps * rows.prefill_tokens,
        rows.n_steps * rows.decode_requests,
        rows.context_tokens,
        rows.n_steps * rows.prefill_tokens**2 / (2 * chunks),
    ]
    return np.stack(columns, axis=1)


def _windows(batches: pd.DataFrame, energy: str, duration: str, gap: str) -> pd.DataFrame:
    """By run, of one batch: steps_j, what its steps took; waiting_s, time in which stages may wait for one another."""
    indexed = batches.set_index("run_id")
    gap_s = indexed[duration] * indexed[gap]
    steps_j = indexed[energy] - indexed["gpu_loaded_idle_w"] * gap_s
    return pd.DataFrame({"steps_j": steps_j, "waiting_s": (indexed[duration] - gap_s).where(indexed["pp"] > 1, 0.0)})
