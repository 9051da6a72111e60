"""Answers as tables of text, each with a line that names what beats ours."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from harness_analysis.scoring.pooled import MEAN, Line, Make, ModelLine, Task, line_of, model_lines, pooled_each

Say = Callable[[str], None]
HEADER = (
    f"{'predictor':30} {'n':>6} {'MAPE %':>14} {'(95% interval)':>15} {'median':>7} {'EBA5':>6} {'EBA10':>6} "
    f"{'EBA30':>6} {'bias':>7} {'rank':>7} {'cover':>6} {'fit s':>7} {'ask s':>6}"
)
PAPER_TABLES: Mapping[str, tuple[str, ...]] = {"table3": ("mape_pct",), "table4": ("eba10_pct", "eba30_pct")}
"""What is printed of each model and predictor in the place of the LLMCO2 paper's tables."""
_TITLES = {"mape_pct": "MAPE in %", "eba10_pct": "EBA(10) in %", "eba30_pct": "EBA(30) in %"}


def shown(line: Line) -> str:
    """One row under `HEADER`."""
    interval = f"({line.mape_low_pct:.2f} to {line.mape_high_pct:.2f})"
    return (
        f"{line.predictor:30} {line.n:6} {line.mape_pct:7.2f} ±{line.mape_spread_pct:5.2f} {interval:>15} "
        f"{line.median_ape_pct:7.2f} {line.eba5_pct:6.1f} {line.eba10_pct:6.1f} {line.eba30_pct:6.1f} "
        f"{line.bias_pct:7.2f} {line.rank_correlation:7.4f} {line.coverage_pct:6.1f} {line.fit_s:7.1f} "
        f"{line.predict_s:6.2f}"
    )


def verdict(lines: Sequence[Line]) -> str:
    """Which predictors have a smaller MAPE than ours."""
    ours = next((line for line in lines if line.predictor == "ours"), None)
    if ours is None:
        return ""
    better = [f"{line.predictor} ({line.mape_pct:.2f}%)" for line in lines if line.mape_pct < ours.mape_pct]
    return f"better than ours: {', '.join(better) or 'none'}"


def scored_all(tasks: Iterable[Task], makes: Mapping[str, Make], seeds: int, say: Say, jobs: int = 1) -> list[Line]:
    """A line for each task and predictor; `say` gets each as it is ready, and what beats ours after each task.

    Args:
        jobs: fits at a time.
    """
    lines: list[Line] = []
    for task in tasks:
        say(f"\n{task.name}: {len(task.splits)} split(s), {len(task.examples)} examples, {seeds} seed(s)\n{HEADER}")
        mine: list[Line] = []
        for answers in pooled_each(task, makes.values(), seeds, jobs):
            mine.append(line_of(answers))
            say(shown(mine[-1]))
        say(verdict(mine))
        lines += mine
    return lines


def paper_tables(
    tasks: Iterable[Task], makes: Mapping[str, Make], seeds: int, scores: Sequence[str], say: Say, jobs: int = 1
) -> list[ModelLine]:
    """For each task and each of `scores` a table of models and their mean by predictors; `jobs` fits at a time.

    Returns:
        The lines of all predictors and models, with all their scores.
    """
    lines: list[ModelLine] = []
    for task in tasks:
        answers = dict(zip(makes, pooled_each(task, makes.values(), seeds, jobs), strict=True))
        mine = {name: model_lines(found) for name, found in answers.items()}
        for score in scores:
            say(f"\n{task.name}: {_TITLES[score]}, mean of {seeds} seed(s)")
            for row in by_model(mine, score):
                say(row)
        say(verdict([line_of(found, resamples=1) for found in answers.values()]))
        lines += [line for found in mine.values() for line in found.values()]
    return lines


def by_model(lines: Mapping[str, Mapping[str, ModelLine]], score: str) -> list[str]:
    """Rows of text: a header, a row for each predictor of `lines`, a column for each model, `MEAN` last."""
    models = list(next(iter(lines.values())))
    rows = [" ".join([f"{'predictor':24}", *(f"{model[:16]:>16}" for model in models)])]
    for predictor, found in lines.items():
        cells = [f"{getattr(found[model], score):16.2f}" for model in models]
        mean = found[MEAN]
        about = f"  ±{mean.mape_spread_pct:.2f} ({mean.mape_low_pct:.2f} to {mean.mape_high_pct:.2f})"
        rows.append(" ".join([f"{predictor:24}", *cells]) + (about if score == "mape_pct" else ""))
    return rows
