"""Names of units: durations and sizes as people write them, and their formatting."""

import math
import re

from harness.errors import BadInput

BYTES_PER_GIB = 1 << 30
MS_PER_S = 1000.0
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_duration_s(text: str, field: str) -> float:
    """Seconds in a duration such as `90s`, `6h` or `1h30m`.

    Raises:
        BadInput: naming `field`, when the text is not a positive duration.
    """
    compact = text.strip().lower()
    if _DURATION.fullmatch(compact):
        total_s = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(compact))
        if 0 < total_s < math.inf:
            return total_s
    raise BadInput(field, text, "a positive duration such as 90s, 45m, 6h, 1h30m or 2d", "write a unit")


def format_duration(duration_s: float) -> str:
    """A duration for people: `850ms`, `12s`, `4m05s`, `3h20m`, `2d04h`."""
    if duration_s < 1:
        return f"{duration_s * MS_PER_S:.0f}ms"
    seconds = round(duration_s)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86400}d{seconds % 86400 // 3600:02d}h"
