"""How tables are shown: aligned, and in full also where the output is narrow or no terminal."""

import shutil
import sys

from rich.console import Console

_TABLE_WIDTH = 125
_PIPED_WIDTH = 160


def console() -> Console:
    """A console as wide as the terminal, but never so narrow that a table loses figures."""
    least = _TABLE_WIDTH if sys.stdout.isatty() else _PIPED_WIDTH
    return Console(width=max(least, shutil.get_terminal_size().columns), highlight=False, markup=False)
