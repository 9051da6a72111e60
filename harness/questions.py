"""Questions to a predictor from a CSV file, and its answers back into one."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from harness.deployment.catalog import model_shape
from harness.errors import BadInput
from harness.points import ModelShape
from harness.trainer import Answer, Question

_NEEDED = ("gpu", "model", "batch_size", "prompt_tokens", "generated_tokens")
_WITH_DEFAULTS = ("tp", "pp", "bits", "token_budget")
MOST_TOKENS = 10_000_000
_ANSWER = ("total_j", "prefill_j", "token_j", "low_j", "high_j")


def read_questions(path: Path) -> tuple[pd.DataFrame, tuple[Question, ...]]:
    """The rows of a CSV file as they are, and as questions.

    Columns: gpu, model, batch_size, prompt_tokens, generated_tokens; tp, pp, bits, engine and token_budget may be
    missing or empty. Others are kept and not looked at.

    Raises:
        BadInput: no such file, a column missing, a value that cannot be; the message names the line.
    """
    accepted = "a readable CSV file in UTF-8, with a header and as many cells in each row"
    try:
        # A pipe that nobody writes to would be waited for without end.
        if path.exists() and not path.is_file():
            raise BadInput("--in", f"{path}: not a regular file", accepted)
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInput("--in", f"{path}: {reason}", accepted) from error
    for name in _NEEDED:
        if name not in rows:
            raise BadInput("--in", f"{path} without the column {name}", ", ".join(_NEEDED))
    return rows, tuple(_questions(path, rows))


def _questions(path: Path, rows: pd.DataFrame) -> Iterator[Question]:
    shapes: dict[str, ModelShape] = {}
    for number, row in enumerate(rows.to_dict("records"), 2):
        line = f"{path.name} line {number}"
        given = {name: row.get(name, "").strip() for name in (*_WITH_DEFAULTS, "engine")}
        more = {name: _integer(given[name], f"{line}: {name}") for name in _WITH_DEFAULTS if given[name]}
        model = row["model"].strip()
        if model not in shapes:
            shapes[model] = model_shape(model, f"{line}: model")
        yield Question(
            gpu=row["gpu"].strip(),
            model=shapes[model],
            **{name: _integer(row[name], f"{line}: {name}") for name in _NEEDED[2:]},
            **more,
            engine=given["engine"] or None,
        )


def _integer(text: str, field: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= MOST_TOKENS:
        raise BadInput(field, text, f"a whole number from 1 to {MOST_TOKENS:,}")
    return value


def answered(rows: pd.DataFrame, answers: tuple[Answer, ...]) -> pd.DataFrame:
    """The rows with a column for each energy (J), empty where the batch cannot run, and what to know beside."""
    columns = {name: [getattr(answer, name) for answer in answers] for name in _ANSWER}
    outside = ["; ".join(answer.outside) for answer in answers]
    return rows.assign(**columns, outside=outside, infeasible=[answer.infeasible for answer in answers])
