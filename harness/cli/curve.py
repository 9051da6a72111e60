"""How a sweep in rounds went: the learning curve, the worst regions before and after, and why it stopped."""

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from harness.rounds import RoundsOutcome
from harness.trainer import Accuracy

_COLUMNS = ("round", "picked", "points", "GPU-hours", "MAPE %", "(95%)", "EBA10 %", "(95%)", "test points")


def print_rounds(outcome: RoundsOutcome, out: Console) -> None:
    """One line for each round that was learnt from."""
    table = Table(
        title="\nlearning curve",
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=None,
        pad_edge=False,
    )
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name == "picked" else "right", no_wrap=True)
    for one in outcome.scored:
        cells = _cells(one.accuracy)
        table.add_row(str(one.number), one.kind, f"{one.points:,}", f"{one.gpu_hours:.2f}", *cells)
    if outcome.scored:
        out.print(table)
        out.print(
            "  MAPE, EBA10: of the predictor's energies on the points that never teach, weighted by the assumed traffic"
            " (95%: bootstrap).\n  GPU-hours: every GPU of a node counts, since a launch has the node to itself.",
            style="dim",
        )
        for words, one in (("the first", outcome.scored[0]), ("the last", outcome.scored[-1])):
            for line in one.worst:
                out.print(f"  worst after {words} round: {line}", markup=False, highlight=False)
        for note in dict.fromkeys(one.note for one in outcome.scored if one.note):
            out.print(f"  nothing was learnt: {note}", markup=False, highlight=False)
    out.print(f"Rounds ended: {outcome.stopped}.\n", markup=False, highlight=False)


def rounds_json(outcome: RoundsOutcome) -> dict[str, object]:
    """The same for programs."""
    found: dict[str, object] = json.loads(json.dumps(asdict(outcome)))
    return found


def _cells(accuracy: Accuracy | None) -> tuple[str, ...]:
    if accuracy is None:
        return ("-", "", "-", "", "0")
    return (
        f"{accuracy.mape_pct:.2f}",
        f"{accuracy.mape_low_pct:.1f}-{accuracy.mape_high_pct:.1f}",
        f"{accuracy.eba10_pct:.1f}",
        f"{accuracy.eba10_low_pct:.0f}-{accuracy.eba10_high_pct:.0f}",
        str(accuracy.n),
    )
