"""Reads request traces in the form of the Azure LLM inference traces.

A CSV with a header and the columns TIMESTAMP, ContextTokens and GeneratedTokens, one request per row in
order of arrival (https://github.com/Azure/AzurePublicDataset). Every cell is checked; what is wrong is
named by its line and column.
"""

import csv
import gzip
import hashlib
import io
import re
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np

from harness.errors import BadInput
from harness.points import FloatArray, IntArray

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
TICKS_PER_S = 10_000_000
"""Timestamps carry seven digits after the second: ticks of 100 ns."""
MAX_TOKENS = 10_000_000
"""More tokens than any model's context; a larger number is a damaged cell."""
_MAX_BYTES = 512 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_TICK_DIGITS = 7
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,7}))?(Z|\+00:00)?", re.ASCII)
_TIME_FORM = "YYYY-MM-DD HH:MM:SS with 0 to 7 digits of fraction, in UTC (no suffix, Z or +00:00)"
_FILE_FORM = f"a CSV, plain or gzipped, with the columns {', '.join(COLUMNS)}"


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests in order of arrival.

    Attributes:
        sha256: of the CSV's content once uncompressed; of a profile, of its content and the seed.
        start_utc: the first request's time, to the microsecond.
        arrival_s: (n,) seconds since the first request, not decreasing, exact to 100 ns.
        prompt_tokens, generated_tokens: (n,) both at least 1.
        source: read from a file, or drawn from a statistical profile.
    """

    name: str
    sha256: str
    start_utc: datetime
    arrival_s: FloatArray
    prompt_tokens: IntArray
    generated_tokens: IntArray
    source: Literal["file", "profile"] = "file"

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def span_s(self) -> float:
        """From the first request to the last."""
        return float(self.arrival_s[-1])

    @property
    def end_s(self) -> float:
        """The first whole second after the last request: slices end here at the latest."""
        return float(np.floor(self.span_s) + 1)


def load_trace(path: Path | str, name: str | None = None) -> Trace:
    """The trace in a `.csv` or `.csv.gz` file.

    A byte order mark, CRLF, quoted cells, blank lines, spaces around a cell and further columns are accepted.

    Args:
        name: what runs will call it; by default the file's name without its endings.

    Raises:
        BadInput: the file cannot be read, or a cell is not what it must be; names the line and the column.
    """
    path = Path(path)
    content = _read(path)
    ticks, prompt, generated = _parse(_decode(content, path), path)
    arrival_ticks = np.frombuffer(ticks, dtype=np.int64)
    return Trace(
        name=name or path.name.removesuffix(".gz").removesuffix(".csv"),
        sha256=hashlib.sha256(content).hexdigest(),
        start_utc=datetime(1, 1, 1, tzinfo=UTC) + timedelta(microseconds=ticks[0] // 10),
        arrival_s=(arrival_ticks - arrival_ticks[0]) / TICKS_PER_S,
        prompt_tokens=np.array(prompt, dtype=np.int64),
        generated_tokens=np.array(generated, dtype=np.int64),
    )


def _read(path: Path) -> bytes:
    """The file's content, uncompressed."""
    limit = f"{_FILE_FORM}, at most {_MAX_BYTES >> 20} MiB"
    try:
        # A pipe that nobody writes to would be waited for without end, and a device read without end.
        if path.exists() and not path.is_file() and not path.is_dir():
            raise BadInput(str(path), "not a regular file", _FILE_FORM, "save it as a file")
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        content = raw
        if raw.startswith(_GZIP_MAGIC):
            with gzip.GzipFile(fileobj=io.BytesIO(raw)) as unzipped:
                content = unzipped.read(_MAX_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(str(path), f"damaged gzip: {error}", _FILE_FORM, "fetch the file again") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInput(str(path), reason, _FILE_FORM, "check the path") from error
    if len(content) > _MAX_BYTES:
        raise BadInput(str(path), "larger content", limit, "cut the trace to the hours you replay")
    return content


def _decode(content: bytes, path: Path) -> str:
    if not content:
        raise BadInput(str(path), "empty file", _FILE_FORM, "fetch the file again")
    if b"\0" not in content:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            pass
    raise BadInput(str(path), "binary content", _FILE_FORM, "save it as CSV in UTF-8")


def _parse(text: str, path: Path) -> tuple["array[int]", "array[int]", "array[int]"]:
    """Ticks since year 1, prompt and generated tokens of each row."""
    rows = _rows(text, path)
    line, header = next(rows, (1, []))
    columns = _columns(header, path, line)
    time_at, prompt_at, generated_at = columns
    ticks, prompt, generated = array("q"), array("q"), array("q")
    suffix: str | None = None
    for line, row in rows:
        if len(row) != len(header):
            _refuse_row(row, header, path, line)
        tick, row_suffix = _ticks(row[time_at], path, line)
        if suffix is None:
            suffix = row_suffix
        elif row_suffix != suffix:
            accepted = f"the same time zone suffix in every row (the first has {suffix or 'none'})"
            raise BadInput(_at(path, line, COLUMNS[0]), row[time_at], accepted, "write all times in one form")
        if ticks and tick < ticks[-1]:
            accepted = "a time not before that of the row above"
            raise BadInput(_at(path, line, COLUMNS[0]), row[time_at], accepted, "sort the file by TIMESTAMP")
        ticks.append(tick)
        prompt.append(_tokens(row[prompt_at], path, line, COLUMNS[1]))
        generated.append(_tokens(row[generated_at], path, line, COLUMNS[2]))
    if not ticks:
        raise BadInput(str(path), "no requests", "at least one row below the header", "fetch the file again")
    return ticks, prompt, generated


def _rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the line where it starts."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise BadInput(f"{path} line {line}", str(error), "cells separated by commas, quotes closed") from error


def _columns(header: list[str], path: Path, line: int) -> tuple[int, int, int]:
    """Where the three columns are."""
    names = [cell.strip() for cell in header]
    for column in COLUMNS:
        if names.count(column) != 1:
            problem = "missing from the header" if column not in names else "twice in the header"
            accepted = f"the columns {', '.join(COLUMNS)}, once each, separated by commas"
            raise BadInput(_at(path, line, column), f"{problem}: {','.join(names)}", accepted, "repair the first line")
    return names.index(COLUMNS[0]), names.index(COLUMNS[1]), names.index(COLUMNS[2])


def _refuse_row(row: list[str], header: list[str], path: Path, line: int) -> None:
    accepted = f"{len(header)} cells, as in the header"
    if len(row) > len(header):
        raise BadInput(f"{path} line {line}", ",".join(row), accepted, "quote a cell that holds a comma")
    missing = header[len(row)].strip()
    raise BadInput(_at(path, line, missing), "(missing cell)", accepted, "complete or remove the row")


def _ticks(cell: str, path: Path, line: int) -> tuple[int, str]:
    """Ticks since year 1 of a timestamp, and its time zone suffix."""
    match = _TIMESTAMP.fullmatch(cell.strip())
    if match:
        try:
            second = datetime.fromisoformat(match[1])
        except ValueError:
            second = None  # such as February 30th
        if second is not None:
            of_day = (second.hour * 60 + second.minute) * 60 + second.second
            fraction = int((match[2] or "").ljust(_TICK_DIGITS, "0"))
            return ((second.toordinal() - 1) * 86400 + of_day) * TICKS_PER_S + fraction, match[3] or ""
    raise BadInput(_at(path, line, COLUMNS[0]), cell, _TIME_FORM, "convert the time, or remove the row")


def _tokens(cell: str, path: Path, line: int, column: str) -> int:
    digits = cell.strip()
    # The length is checked first: int() refuses thousands of digits with an error of its own.
    if digits.isascii() and digits.isdigit() and len(digits) <= len(str(MAX_TOKENS)) and 0 < int(digits) <= MAX_TOKENS:
        return int(digits)
    accepted = f"a whole number from 1 to {MAX_TOKENS}"
    raise BadInput(_at(path, line, column), cell, accepted, "correct the cell, or remove the row")


def _at(path: Path, line: int, column: str) -> str:
    return f"{path} line {line} {column}"
