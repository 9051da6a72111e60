"""Measured, simulated and ratio for every anchor, fitted and held back; then what was asked for and whether it holds.

    python benchmarks/calibration/compare.py --public DIR --kernel-tables FILE

Writes results/bench/calibration.json (every anchor) and calibration_targets.json. Exits with 1 where a target is not
met, so that a change to the models cannot lose them unseen.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from anchors import Anchor, all_anchors
from hidden import hidden_change_pct
from scipy.stats import spearmanr
from simulate import Simulation

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import report

from harness.simulator.constants import constants_of

Row = dict[str, object]
Pairs = list[tuple[Anchor, float]]
"""Anchors with simulated over measured."""


def rows_of(pairs: Pairs) -> list[Row]:
    return [
        {
            "measured by": f"{anchor.source}, {anchor.engine}" if anchor.engine not in anchor.source else anchor.source,
            "use": anchor.use,
            "where": anchor.where,
            "batch x lengths": f"{anchor.batch_size:.4g} x {anchor.prompt_tokens:g}+{anchor.generated_tokens:.4g}",
            "quantity": anchor.quantity,
            "measured": anchor.value,
            "simulated": anchor.value * ratio,
            "ratio": ratio,
        }
        for anchor, ratio in pairs
    ]


def summary_of(pairs: Pairs) -> list[Row]:
    """Spread of the ratios of each source, quantity and kind of GPU, fitted and held back apart."""
    groups: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for anchor, ratio in pairs:
        by = anchor.source if anchor.source.startswith("aiconfigurator") else f"{anchor.source}, {anchor.engine}"
        groups[by, anchor.quantity, anchor.gpu.kind, anchor.use].append(ratio)
    rows: list[Row] = []
    for (by, quantity, gpu, use), ratios in sorted(groups.items()):
        low, middle, high = np.percentile(ratios, [10, 50, 90])
        spread = {"10%": float(low), "median": float(middle), "90%": float(high)}
        rows.append({"measured by": by, "quantity": quantity, "gpu": gpu, "use": use, "n": len(ratios), **spread})
    return rows


def targets(pairs: Pairs) -> list[Row]:
    """One row for each thing asked of the simulator."""

    def some(keep: Callable[[Anchor], bool]) -> Pairs:
        return [pair for pair in pairs if keep(pair[0])]

    floors = some(lambda one: one.source.startswith("aiconfigurator") and one.batch_size == 1)
    rows = [_all_within("kernel tables, batch 1", floors, 0.8, 2.0)]
    rows += [_rising("kernel tables: ratio rises with TP", floors, lambda item: item.deployment.tensor_parallel)]
    tables = some(lambda one: one.source.startswith("aiconfigurator") and one.quantity == "tpot_s")
    rows += [_rising("kernel tables, TPOT: ratio rises with batch", tables, lambda item: int(item.batch_size))]
    for gpu in ("h100", "gh200"):
        latency = [pair for pair in pairs if pair[0].quantity == "latency_s" and pair[0].gpu.kind == gpu]
        rows.append(_share_within(f"argonne latency, {gpu}", latency, 0.75, 1.33, 80.0))
    rows.append(_all_within("argonne power, h100, vllm", some(_power("h100", 1e9)), 0.85, 1.15))
    rows.append(_all_within("argonne power, a100, vllm, batch 1 to 16", some(_power("a100-40gb", 16)), 0.85, 1.15))
    rows += _leaderboard(some(lambda one: one.serving))
    change_pct = hidden_change_pct()
    rows.append(_row("energy change without hidden terms, median %", change_pct, "> 10", change_pct > 10))
    return rows


def _power(gpu: str, most: float) -> Callable[[Anchor], bool]:
    return lambda one: (
        one.source == "argonne"
        and one.quantity == "power_w"
        and one.engine == "vllm"
        and one.gpu.kind == gpu
        and one.batch_size <= most
    )


def _row(what: str, found: float, asked: str, met: bool, count: int = 0) -> Row:
    return {"what": what, "anchors": count, "found": found, "asked": asked, "met": "yes" if met else "NO"}


def _all_within(what: str, pairs: Pairs, low: float, high: float) -> Row:
    ratios = np.array([ratio for _, ratio in pairs])
    worst = float(ratios[np.argmax(np.abs(np.log(ratios / np.sqrt(low * high))))])
    met = bool(((ratios >= low) & (ratios <= high)).all())
    return _row(f"{what}: worst ratio", worst, f"{low:g} to {high:g}", met, len(pairs))


def _share_within(what: str, pairs: Pairs, low: float, high: float, least_pct: float) -> Row:
    ratios = np.array([ratio for _, ratio in pairs])
    share_pct = 100 * float(((ratios >= low) & (ratios <= high)).mean())
    return _row(
        f"{what}: % within {low:g} to {high:g}", share_pct, f">= {least_pct:g}", share_pct >= least_pct, len(pairs)
    )


def _rising(what: str, pairs: Pairs, size: Callable[[Anchor], int]) -> Row:
    """Share of neighbouring sizes at which the ratio does not fall by more than 2%."""
    series: dict[tuple[object, ...], list[tuple[int, float]]] = defaultdict(list)
    by_tp = "TP" in what and "batch" not in what.rsplit("rises", 1)[1]
    for anchor, ratio in pairs:
        item = anchor.deployment
        if by_tp and item.pipeline_parallel > 1:
            continue
        other = anchor.batch_size if by_tp else (item.tensor_parallel, item.pipeline_parallel)
        series[item.gpu, item.model.name, anchor.quantity, other].append((size(anchor), ratio))
    steps = [after / before for one in series.values() for (_, before), (_, after) in pairwise(sorted(one))]
    rising_pct = 100 * float(np.mean([step > 0.98 for step in steps]))
    return _row(f"{what}: % of neighbours", rising_pct, ">= 90", rising_pct >= 90, len(steps))


def _leaderboard(pairs: Pairs) -> list[Row]:
    ratios = np.array([ratio for _, ratio in pairs])
    factor = float(np.median(np.exp(np.abs(np.log(ratios)))))
    held = np.array([anchor.use == "held back" for anchor, _ in pairs])
    held_factor = float(np.median(np.exp(np.abs(np.log(ratios[held])))))
    measured = np.array([anchor.value for anchor, _ in pairs])
    rank = float(spearmanr(measured, measured * ratios).statistic)
    return [
        _row("ml.energy J/token: median factor", factor, "<= 1.5", factor <= 1.5, len(pairs)),
        _row("the same, models held back", held_factor, "<= 1.5", held_factor <= 1.5, int(held.sum())),
        _row("ml.energy J/token: rank correlation", rank, ">= 0.9", rank >= 0.9, len(pairs)),
    ]


CONTRADICTIONS = (
    "H100, 8B, 64 sequences: Argonne draws 455 W and takes 18 ms a step (prompts of 1024, no server), ML.ENERGY 305 W"
    " and 35 ms (prompts of people, vLLM 0.5.4's online server): two engines, with host times of their own.",
    "H100, TensorRT-LLM stays at 444 to 452 W from batch 16 to 64 where vLLM reaches 595 W: a power limit on that host;"
    " held back, not fitted.",
    "70B on A100 at TP 2, 4, 8 (294, 239, 174 W) falls faster than kernels with Argonne's joules per byte explain: its"
    " engine waits more; a loose anchor.",
    "H100 7B TP4 takes 5.8 ms a token (Argonne), twice the kernel tables' 2.7 ms and past the bound of 2.0: fitted"
    " between the two.",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--public", type=Path, required=True, help="folder of published measurements")
    parser.add_argument("--kernel-tables", type=Path, required=True, help="what kernel_tables.py wrote")
    arguments = parser.parse_args()
    anchors = all_anchors(arguments.public, arguments.kernel_tables)
    gpus = {anchor.gpu.kind: anchor.gpu for anchor in anchors}
    simulation = Simulation({kind: constants_of(gpu) for kind, gpu in gpus.items()})
    pairs = [(anchor, simulation.value(anchor) / anchor.value) for anchor in anchors]
    report("calibration", "Published figures and the simulator", rows_of(pairs))
    report("calibration_summary", "\nSimulated over measured", summary_of(pairs))
    found = targets(pairs)
    report("calibration_targets", "\nAsked of the simulator", found)
    print("\nAnchors that contradict one another:")
    for line in CONTRADICTIONS:
        print(f"- {line}")
    return 0 if all(row["met"] == "yes" for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
