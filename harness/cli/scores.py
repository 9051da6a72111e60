"""Tables of scores, as `harness train` and `harness score` print them."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from harness.trainer import Score, Scores

OURS = "ours"


def print_scores(splits: Mapping[str, Sequence[Scores]], out: Console) -> None:
    """One table for each split: a line for each model and predictor, then the means over models."""
    for split, found in splits.items():
        out.print(f"split: {split}")
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("model", "predictor", "points", "MAPE %", "EBA10 %", "EBA30 %"):
            table.add_column(name, justify="left" if name in ("model", "predictor") else "right", no_wrap=True)
        for model in found[0].per_model:
            for scores in found:
                table.add_row(model, scores.predictor, *_cells(scores.per_model[model]))
        for scores in found:
            table.add_row("mean of models", scores.predictor, *_cells(scores.mean), style="bold")
        out.print(table)
        if line := verdict(split, found):
            out.print(line)
        out.print()


def verdict(split: str, found: Sequence[Scores]) -> str:
    """Which predictors have a smaller mean MAPE than ours; empty where ours has nothing beside it."""
    ours = next((one for one in found if one.predictor == OURS), None)
    if ours is None or len(found) == 1:
        return ""
    better = [f"{one.predictor} ({one.mean.mape_pct:.2f}%)" for one in found if one.mean.mape_pct < ours.mean.mape_pct]
    return f"better than {OURS} ({ours.mean.mape_pct:.2f}%) on {split}: {', '.join(better) or 'none'}"


def _cells(score: Score) -> tuple[str, ...]:
    return (str(score.n), f"{score.mape_pct:.2f}", f"{score.eba10_pct:.1f}", f"{score.eba30_pct:.1f}")
