"""Clocks: the machine's, and a virtual one for the simulated node.

Windows are placed on the monotonic clock; the wall clock only stamps records
(a wall clock may be set back in the middle of a run).
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What an experiment may know of time."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back; its origin means nothing."""
        ...

    def utc(self) -> datetime:
        """The wall clock, time-zone aware, in UTC."""
        ...

    def sleep(self, duration_s: float) -> None:
        """Let `duration_s` seconds pass."""
        ...


class WallClock:
    """The machine's own clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def utc(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, duration_s: float) -> None:
        time.sleep(duration_s)


class VirtualClock:
    """A clock that moves only when told to, so that simulated hours take seconds."""

    def __init__(self, start_utc: datetime, now_s: float = 0.0) -> None:
        self._start_utc = start_utc
        self._origin_s = now_s
        self._now_s = now_s

    def monotonic_s(self) -> float:
        return self._now_s

    def utc(self) -> datetime:
        return self._start_utc + timedelta(seconds=self._now_s - self._origin_s)

    def sleep(self, duration_s: float) -> None:
        self.advance_to(self._now_s + duration_s)

    def advance_to(self, time_s: float) -> None:
        """Move to `time_s`; a time in the past is a programming error (ValueError)."""
        if time_s < self._now_s:
            raise ValueError(f"virtual clock asked to go back from {self._now_s} to {time_s}")
        self._now_s = time_s
