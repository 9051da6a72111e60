"""What works on this machine, what does not, and the fix for each thing that does not.

Nothing is changed: GPUs, counters, engines and folders are only looked at, for about a second each. What a
meter does is measured on the spot: how often its counter moves, and how long a reading takes.
"""

from pathlib import Path

from harness.doctor.check import Check, Status
from harness.doctor.meters import check_cpu, check_gpus, check_node_power, check_rapl
from harness.doctor.software import check_engines, check_python, check_results, check_traces, check_trainer

__all__ = ["Check", "Status", "examine"]


def examine(results: Path) -> list[Check]:
    """All checks, in the order in which they are shown; what fails is a check, never an error."""
    return [
        *check_python(),
        *check_gpus(),
        *check_rapl(),
        *check_node_power(),
        *check_engines(),
        *check_traces(),
        *check_trainer(),
        *check_results(results),
        *check_cpu(),
    ]
