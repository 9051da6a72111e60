"""The nights of a results folder: what `harness collect` did and found, as a record, a page and a line each.

`reports/2026-11-21T020003Z.json` is the record; the page of the same name is that of `harness report`. Each appears
whole or not at all, at the end of a night that was not cut short.
"""

import html
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.nightprobes import NodeProbes
from harness.store.files import write_whole
from harness.trainer import Accuracy
from harness.units import format_duration

FOLDER = "reports"


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured tonight, and how the sweep stands.

    `withheld`: deployments of which no further launch was begun, and why.
    """

    runs_taken: int
    runs_left: int
    points_done: int
    points_given_up: int
    points_infeasible: int
    budget_spent: bool
    withheld: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Learnt:
    """The predictor tonight, and last night's asked for the same test points.

    Attributes:
        fingerprint: of the runs that there were to learn from.
        accuracy: of tonight's predictor on the points that never teach, each counted once; None without any.
        last_mape_pct, last_eba10_pct: of last night's predictor on the same points; None where there is none.
        note: why nothing was trained or compared, or "".
        regression: in words, where last night's predictor was better than the whole interval of tonight's; or "".
    """

    fingerprint: str
    accuracy: Accuracy | None = None
    last_mape_pct: float | None = None
    last_eba10_pct: float | None = None
    note: str = ""
    regression: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """The folder after the night: runs in it, files and bytes of its tables, bytes left on its disk."""

    runs: int
    files: int
    table_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Night:
    """One night.

    Attributes:
        source: simulated or measured.
        started_at: UTC, ISO 8601.
        measured: None where every node was in use by others.
        skipped: nodes in use by others, and why.
        look: what a person should look at, most urgent first; the command then ends with 3.
        page: name of the page beside the record; "" where there is none.
    """

    sweep: str
    source: str
    harness_version: str
    started_at: str
    took_s: float
    measured: Measured | None
    skipped: tuple[tuple[str, str], ...]
    probes: tuple[NodeProbes, ...]
    learnt: Learnt
    stored: Stored
    look: tuple[str, ...] = ()
    page: str = ""

    def as_json(self) -> dict[str, object]:
        """Plain content; finite numbers only."""
        return asdict(self)


def stem(started_at: datetime) -> str:
    """The name of a night's files, such as 2026-11-21T020003Z; they sort by time."""
    return started_at.strftime("%Y-%m-%dT%H%M%SZ")


def write_night(results: Path, name: str, night: Night) -> Path:
    """Put the record of a night into the folder, in one step.

    Raises:
        StoreError: it cannot be written.
    """
    path = results / FOLDER / f"{name}.json"
    write_whole(path, (json.dumps(night.as_json(), indent=1, allow_nan=False) + "\n").encode())
    return path


def last_learnt(results: Path, sweep: str) -> Learnt | None:
    """What the latest night of a sweep learnt, from the newest record that can be read."""
    for path in sorted((results / FOLDER).glob("*.json"), reverse=True):
        try:
            content: dict[str, Any] = json.loads(path.read_text("utf-8"))
            if content["sweep"] != sweep:
                continue
            learnt = content["learnt"]
            accuracy = learnt.pop("accuracy")
            return Learnt(**learnt, accuracy=None if accuracy is None else Accuracy(**accuracy))
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            continue  # Not one of ours: the night before it is as good.
    return None


def drop_old(results: Path, pages: int) -> None:
    """Remove all but the newest pages, and what killed nights left half written.

    Records stay: they are some kilobytes each, pages are about a megabyte.
    """
    found = sorted((results / FOLDER).glob("*.html"))
    for path in (*found[: max(len(found) - pages, 0)], *(results / FOLDER).glob(".*.tmp")):
        path.unlink(missing_ok=True)


def summary_line(night: Night, record: Path) -> str:
    """The night in one line, for a log that grows by a line each night."""
    parts = [_measuring(night), _probing(night), _learning(night.learnt)]
    if night.look:
        parts.append(f"{len(night.look)} TO LOOK AT")
    said = "; ".join(parts)
    began = night.started_at[:16].replace("T", " ")
    took = format_duration(night.took_s)
    return f"{began} UTC {night.sweep} ({night.source}), {took}: {said}; {record}"


def _measuring(night: Night) -> str:
    if night.measured is None:
        return "nothing measured, in use by others"
    done = night.measured
    left = f"{done.runs_left:,} left" if done.runs_left else "nothing left"
    return f"{done.runs_taken:,} runs, {left}{', budget spent' * done.budget_spent}"


def _probing(night: Night) -> str:
    drifting = [one.node for one in night.probes if one.drifts]
    told = [one for one in night.probes if one.comparisons]
    if drifting:
        return f"{', '.join(drifting)} DRIFTS" if len(drifting) == 1 else f"{', '.join(drifting)} DRIFT"
    if told:
        return f"no drift of {len(told)} node{'s' * (len(told) > 1)}"
    probed = sum(one.points > 0 for one in night.probes)
    return f"{probed} node{'s' * (probed != 1)} probed, drift not known yet"


def _learning(learnt: Learnt) -> str:
    accuracy = learnt.accuracy
    if accuracy is None:
        return learnt.note or "not trained"
    text = (
        f"MAPE {accuracy.mape_pct:.1f}% ({accuracy.mape_low_pct:.1f} to {accuracy.mape_high_pct:.1f})"
        f" on {accuracy.n} test points"
    )
    if learnt.last_mape_pct is not None:
        text += f", last night's {learnt.last_mape_pct:.1f}%" + ", WORSE" * bool(learnt.regression)
    return text + f" ({learnt.note})" * bool(learnt.note)


def with_night(page: str, night: Night) -> str:
    """The page of a results folder with what the night found at its head."""
    lines = [f"Night of {night.started_at[:16].replace('T', ' ')} UTC: {_measuring(night)}; {_learning(night.learnt)}."]
    for one in night.probes:
        found = "; ".join(comparison.line for comparison in one.comparisons if comparison.told) or one.note
        lines.append(f"{one.node}{', ' * bool(one.deployment)}{one.deployment}: {found}.")
    shown = [f"<p>{html.escape(line)}</p>" for line in lines]
    if night.look:
        items = "".join(f"<li>{html.escape(line)}</li>" for line in night.look)
        shown.insert(0, f'<div class="headline simulated">To look at<ul>{items}</ul></div>')
    head, nav, rest = page.partition("<nav>")
    return f"{head}{''.join(shown)}\n{nav}{rest}"
