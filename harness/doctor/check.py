"""One line of what the doctor found."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "missing"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `fix` is empty where nothing needs one."""

    name: str
    status: Status
    detail: str
    fix: str = ""
