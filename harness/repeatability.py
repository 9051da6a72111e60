"""How well a sweep's runs repeat one another, in one paragraph: spread, outliers, decode energy two ways."""

from dataclasses import asdict, dataclass

import pandas as pd

from harness.statistics import (
    OUTLIERS_BY_CHANCE,
    Component,
    decode_cross_check,
    mark_outliers,
    relative_components,
    repeated_runs,
    settled_runs,
)

COLUMNS = ("point_id", "environment_id", "launch_id", "purpose", "status", "gpu_uuids", "gpu_energy_j",
           "gpu_prefill_energy_j", "workload", "batch_size", "prompt_tokens", "generated_tokens")  # fmt: skip
"""Columns of `runs` that are looked at."""
_ENERGY = "gpu_energy_j"


@dataclass(frozen=True, slots=True)
class Spread:
    """One component of the variance of the GPUs' energy.

    Attributes:
        sd_pct: standard deviation, percent of the mean; 0 where it is too small to be seen; None: not known.
        df: degrees of freedom: with five, a standard deviation is known to within a factor of about two.
        note: why it is not known, or what it holds besides.
    """

    sd_pct: float | None
    df: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Repeatability:
    """What is known of the spread of a sweep's runs.

    Attributes:
        repetition, launch, board: spread within a launch, between launches on one board, between boards.
        points, launches, boards: what that is known from.
        runs, outliers: settled runs, and those that `mark_outliers` marks.
        decode_lengths, decode_agree: rows of `decode_cross_check`, and those that agree.
    """

    repetition: Spread
    launch: Spread
    board: Spread
    points: int
    launches: int
    boards: int
    runs: int
    outliers: int
    decode_lengths: int
    decode_agree: int

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def paragraph(self) -> str:
        """For people; empty where there is nothing to say."""
        if not self.runs:
            return ""
        known = {"repetitions": self.repetition, "launches": self.launch, "boards": self.board}
        parts = [
            f"{_percent(spread.sd_pct)} between {name}" + (f" ({spread.note})" if spread.note else "")
            for name, spread in known.items()
            if spread.sd_pct is not None
        ]
        text = f"Spread of GPU energy (standard deviation): {', '.join(parts) or 'not known'}"
        if self.launches > 1:
            points = f"{self.points} point{'s' * (self.points > 1)}"
            text += f"; from {points} in {self.launches} launches on {self.boards} boards"
        text += "."
        unknown: dict[str, list[str]] = {}
        for name, spread in known.items():
            if spread.sd_pct is None:
                unknown.setdefault(spread.note, []).append(name)
        for note, names in unknown.items():
            text += f" Not known: between {' and '.join(names)}, since {note}."
        text += (
            f" Outliers among the repetitions of a launch: {self.outliers} of {self.runs} runs"
            f" ({OUTLIERS_BY_CHANCE:.0%} by chance); kept; harness.statistics.mark_outliers names them."
        )
        if self.decode_lengths:
            text += (
                f" Decode energy by difference agrees with the fit over generated lengths for {self.decode_agree} of"
                f" {self.decode_lengths} batches (2 standard errors; harness.statistics.decode_cross_check)."
            )
        return text


def repeatability(runs: pd.DataFrame) -> Repeatability:
    """What a frame of runs (with `COLUMNS`) says of its own spread.

    Components are of the batch points that were measured in more than one launch; where there are none, only the
    spread between repetitions is known, from all batches (or replays, where nothing else was measured).
    """
    settled = settled_runs(runs, _ENERGY)
    batches = settled[settled["workload"] == "batch"]
    repeated = repeated_runs(batches, _ENERGY)
    used = next((frame for frame in (repeated, batches) if not frame.empty), settled)
    checked = decode_cross_check(runs)
    repetition, launch, board = _spreads(*relative_components(used, _ENERGY))
    return Repeatability(
        repetition=repetition,
        launch=launch,
        board=board,
        points=len(repeated.drop_duplicates(["point_id", "environment_id"])),
        launches=repeated["launch_id"].nunique(),
        boards=repeated["gpu_uuids"].map(sorted).map(tuple).nunique(),
        runs=len(settled),
        outliers=int(mark_outliers(settled, _ENERGY).sum()),
        decode_lengths=len(checked),
        decode_agree=int(checked["agrees"].sum()),
    )


def _spreads(repetition: Component, launch: Component, board: Component) -> tuple[Spread, Spread, Spread]:
    launch_note = board_note = ""
    if launch.variance is None and board.variance is None:
        launch_note = board_note = "no point was measured in two launches (measurement.probes would)"
    elif launch.variance is None:
        launch_note, board_note = "no two launches of a point held the same GPUs", "that of launches included"
    elif board.variance is None:
        board_note = "all launches of a point held the same GPUs"
    repetition_note = "" if repetition.variance is not None else "no point has two repetitions in one launch"
    return _spread(repetition, repetition_note), _spread(launch, launch_note), _spread(board, board_note)


def _spread(component: Component, note: str) -> Spread:
    if component.variance is None:
        return Spread(None, component.df, note)
    # A negative estimate of a variance: it is small against what lies below it.
    return Spread(100.0 * max(component.variance, 0.0) ** 0.5, component.df, note)


def _percent(value: float | None) -> str:
    return f"{value:.2g}%" if value else "too little to be seen"
