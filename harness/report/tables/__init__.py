"""The tables of a report, one function each: from frames to a frame that a notebook can use as well.

Begin with `results = harness.report.data.read_results(Path(FOLDER))`. Energies are gross; half-widths are of 95%
t-intervals over repetitions, without the boards' gain (systematic, about 5%); units are in the names of columns.
Each column of every table has its line in `harness.report.columns.COLUMNS`.
"""

from harness.report.tables.energy import batch_energy, batch_points, replay_energy
from harness.report.tables.inventory import deployments, environments, reasons
from harness.report.tables.latency import latencies, outcomes
from harness.report.tables.lengths import length_histogram, length_quantiles
from harness.report.tables.quality import baselines, flags, provenance, quality
from harness.report.tables.steps import decode_batch_histogram, decode_batches

__all__ = [
    "baselines",
    "batch_energy",
    "batch_points",
    "decode_batch_histogram",
    "decode_batches",
    "deployments",
    "environments",
    "flags",
    "latencies",
    "length_histogram",
    "length_quantiles",
    "outcomes",
    "provenance",
    "quality",
    "reasons",
    "replay_energy",
]
