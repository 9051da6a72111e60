"""Finds the files that come with the harness: sweep files, node kinds, models, trace profiles.

In a checkout (editable install) they lie in the repository's own `deployments/` and `traces/`; a wheel
carries copies inside the package.
"""

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).parent


def bundled_path(folder: Literal["deployments", "traces"], *parts: str) -> Path:
    """The path of a bundled file or folder; it need not exist."""
    inside_wheel = _PACKAGE / "bundled" / folder
    base = inside_wheel if inside_wheel.is_dir() else _PACKAGE.parent / folder
    return base.joinpath(*parts)
