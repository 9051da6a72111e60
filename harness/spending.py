"""What launches and points took so far, from the runs in a results folder; a rule of thumb where there are none."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.plan import MeasurementRules
from harness.points import NodeSpec
from harness.sampling.candidates import Cost
from harness.store import read_table

LAUNCH_S, REPETITION_S = 75.0, 10.0
"""Node time of a launch and of one repetition of a batch, while nothing was measured: those of a thousand launches of
simulated nodes with windows of 2 s. Only their ratio decides what is picked."""
_QUIET_S = 0.7
"""Of waiting on either side of a window, about: `meters.sampler` waits for its counters."""
_COLUMNS = (
    "sweep", "node_kind", "launch_id", "purpose", "workload", "window_started_s", "window_s",
    "prefill_window_started_s", "prefill_window_s", "load_s", "n_nodes",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spending:
    """Of one kind of node.

    Attributes:
        launches: so many.
        launch_s: mean node time of one, before its first repetition.
        repetition_s: mean node time of one repetition of a batch, warm-ups and gaps included; None without any.
        node_s: of all launches together.
    """

    launches: int
    launch_s: float
    repetition_s: float | None
    node_s: float


def spending(results: Path, sweep: str, rules: MeasurementRules) -> dict[str, Spending]:
    """By kind of node, what the launches of a sweep took; those that never served anything are not known.

    A launch is reckoned from its first warm-up to the end of its last window, by the node's monotonic clock, since the
    wall clock may be set meanwhile; of what comes before, the time to load is recorded, baselines and waiting follow
    from the rules.
    """
    runs = read_table(results, "runs", _COLUMNS).to_pandas()
    runs = runs[(runs["sweep"] == sweep) & (runs["launch_id"] != "") & runs["load_s"].notna()]
    # The prefill's window comes after that of the whole batches.
    ended_s = runs["prefill_window_started_s"] + runs["prefill_window_s"]
    ended_s = ended_s.fillna(runs["window_started_s"] + runs["window_s"].fillna(0.0)) + _QUIET_S
    runs = runs.assign(ended_s=ended_s)
    around_s = rules.spin_s + 2 * rules.idle_s + 4 * _QUIET_S
    found: dict[str, Spending] = {}
    for kind, of_kind in runs.groupby("node_kind"):
        by_launch = of_kind.groupby("launch_id")
        load_s = by_launch["load_s"].first() + around_s
        serving_s = (by_launch["ended_s"].max() - by_launch["window_started_s"].min()).fillna(0.0)
        # Replays take as long as they were told to; they say nothing of batches.
        only_batches = by_launch["workload"].agg(lambda kinds: (kinds == "batch").all())
        repetitions = of_kind[of_kind["purpose"] != "warmup"].groupby("launch_id").size().reindex(serving_s.index)
        counted = repetitions[only_batches].sum()
        found[str(kind)] = Spending(
            launches=len(load_s),
            launch_s=float(load_s.mean()),
            repetition_s=float(serving_s[only_batches].sum() / counted) if counted else None,
            node_s=float(((load_s + serving_s) * by_launch["n_nodes"].first().fillna(1)).sum()),
        )
    return found


def costs(spent: Mapping[str, Spending], nodes: Iterable[NodeSpec], repetitions: int) -> dict[str, Cost]:
    """By kind of GPU, what a launch and a point are expected to cost on the kinds of node of a sweep."""
    found: dict[str, Cost] = {}
    for node in nodes:
        known = spent.get(node.kind)
        launch_s = LAUNCH_S if known is None else known.launch_s
        repetition_s = known.repetition_s if known is not None and known.repetition_s else REPETITION_S
        gpus = max(node.gpus, 1)
        found[node.gpu_kind] = Cost(launch_s * gpus, repetition_s * repetitions * gpus)
    return found


def gpu_hours(spent: Mapping[str, Spending], nodes: Iterable[NodeSpec]) -> float:
    """Of all GPUs of the nodes, since a launch has a node to itself."""
    gpus = {node.kind: node.gpus for node in nodes}
    return sum(one.node_s * gpus.get(kind, 0) for kind, one in spent.items()) / 3600
