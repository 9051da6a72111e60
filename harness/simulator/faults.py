"""Faults that a test may ask a simulated node to have; by default it has none."""

from dataclasses import dataclass

FOREIGN_PID = 4242
"""The process that is not the engine's."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, and when. Times are of the node's monotonic clock, which starts at zero.

    Attributes:
        driver_reload_s: every GPU counter starts again at zero then.
        counter_lost_s: the GPU counters named by `gpu_index` stop answering from then on.
        foreign_process_s: from and to: another process is on the GPUs named by `gpu_index`.
        thermal_slowdown_s: from and to: those GPUs report `hw_thermal_slowdown`.
        gpu_index: which GPU the three faults above concern; None: all.
        crash_at: the engine crashes as it begins these batches, counted from 1 over the node's life
            (a replay counts as one batch). It is over once it has happened: a new launch works.
        failing_deployments: deployment ids whose launch fails.
        busy_until_s: until then the node is found in use by others before a launch.
    """

    driver_reload_s: float | None = None
    counter_lost_s: float | None = None
    foreign_process_s: tuple[float, float] | None = None
    thermal_slowdown_s: tuple[float, float] | None = None
    gpu_index: int | None = None
    crash_at: frozenset[int] = frozenset()
    failing_deployments: frozenset[str] = frozenset()
    busy_until_s: float | None = None

    def concerns(self, gpu_index: int) -> bool:
        """Whether the GPU faults are of this GPU."""
        return self.gpu_index is None or self.gpu_index == gpu_index


NO_FAULTS = Faults()
