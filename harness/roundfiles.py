"""The rounds of a sweep as files of its results folder: what each was to measure, and what was learnt from it.

`rounds/SWEEP-0001.json` holds the points of a round in the order to take them. It is made once, by whoever finds the
round before it done, and never changed: whatever is called later finishes it first. `rounds/SWEEP-0001.scored.json`
says how good the predictor was after it.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import UnreadableFile
from harness.records import SETTLED
from harness.store import read_ledger
from harness.store.files import disk_errors, make_folder, write_whole
from harness.trainer import Accuracy

FOLDER = "rounds"
DRAWN, SPREAD, TARGETED = "drawn", "spread", "targeted"
"""Kinds of round: the next points of a well-spread order; those that are expected to help a predictor most."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A point of a round, and why it is there."""

    point_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Round:
    """What is measured together before anything is learnt.

    Attributes:
        number: from 1.
        kind: `drawn` (a first look), `spread` (the space in its order) or `targeted`.
        seed: of the sweep; another seed has other points.
        picks: in the order to take them; those of one deployment follow one another.
        based_on: fingerprint of the runs that there were (`runs_fingerprint`).
        expected_gpu_hours: what it was thought to take; None where nobody asked.
    """

    sweep: str
    number: int
    kind: str
    seed: int
    picks: tuple[Pick, ...]
    based_on: str
    expected_gpu_hours: float | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A sweep as it stood after a round, and how good a predictor that learnt from it is.

    Attributes:
        based_on: fingerprint of the runs that there were.
        points: settled batch points of all rounds so far.
        gpu_hours: of all launches of the sweep so far.
        accuracy: on the points that never teach, by their traffic; None where there was none, or nothing was trained.
        worst: where the predictor is wrong, worst first, in words.
        note: why nothing was trained, or "".
    """

    number: int
    kind: str
    based_on: str
    points: int
    gpu_hours: float
    accuracy: Accuracy | None
    worst: tuple[str, ...]
    note: str = ""


def runs_fingerprint(results: Path, point_ids: frozenset[str]) -> str:
    """sha256 of the settled repetitions of some points, in whatever order they were stored."""
    lines = sorted(
        f"{row.point_id} {row.environment_id} {row.repetition} {row.status} {row.gpu_energy_j!r}"
        for row in read_ledger(results)
        if row.status in SETTLED and row.purpose == "sweep" and row.point_id in point_ids
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_rounds(results: Path, sweep: str) -> tuple[Round, ...]:
    """The rounds of a sweep that were begun, in order.

    Raises:
        UnreadableFile: a file that is none, or one missing between two others.
    """
    found: list[Round] = []
    while (path := _path(results, sweep, len(found) + 1)).is_file():
        content = _read(path)
        try:
            picks = tuple(Pick(**pick) for pick in content.pop("picks"))
            found.append(Round(**content, picks=picks))
        except (AttributeError, KeyError, TypeError) as error:
            raise _unreadable(path) from error
    return tuple(found)


def begin(results: Path, made: Round) -> Round:
    """Put a round into the folder, or read the one that somebody else put there meanwhile.

    Raises:
        StoreError: it cannot be written.
    """
    path = _path(results, made.sweep, made.number)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            write_whole(temporary, _text(made))
            # A link is made whole, and only where nothing is: two that begin a round at once have the same one.
            os.link(temporary, path)
        except FileExistsError:
            return read_rounds(results, made.sweep)[made.number - 1]
        finally:
            temporary.unlink(missing_ok=True)
    return made


def read_scored(results: Path, sweep: str, number: int) -> Scored | None:
    """What was learnt after a round, if anything was.

    Raises:
        UnreadableFile: a file that is none.
    """
    path = _scored_path(results, sweep, number)
    if not path.is_file():
        return None
    content = _read(path)
    try:
        accuracy = content.pop("accuracy")
        worst = tuple(content.pop("worst"))
        return Scored(**content, accuracy=None if accuracy is None else Accuracy(**accuracy), worst=worst)
    except (AttributeError, KeyError, TypeError) as error:
        raise _unreadable(path) from error


def write_scored(results: Path, sweep: str, scored: Scored) -> None:
    """In one step, in the place of what was there.

    Raises:
        StoreError: it cannot be written.
    """
    write_whole(_scored_path(results, sweep, scored.number), _text(scored))


def point_ids(rounds: Iterable[Round]) -> frozenset[str]:
    """Of all their picks."""
    return frozenset(pick.point_id for made in rounds for pick in made.picks)


def _path(results: Path, sweep: str, number: int) -> Path:
    return results / FOLDER / f"{sweep}-{number:04d}.json"


def _scored_path(results: Path, sweep: str, number: int) -> Path:
    return results / FOLDER / f"{sweep}-{number:04d}.scored.json"


def _text(content: Round | Scored) -> bytes:
    return (json.dumps(asdict(content), indent=1) + "\n").encode()


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path) from error
    return content


def _unreadable(path: Path) -> UnreadableFile:
    return UnreadableFile(f"{path}: not a round of a sweep; move it out of the folder, and the rounds after it")
