"""How tables are shown: aligned, in full also where the output is no terminal."""

import shutil
import sys

from rich.console import Console

_PIPED_WIDTH = 160


def console() -> Console:
    """A console as wide as the terminal; wide enough for every table when the output is piped."""
    width = None if sys.stdout.isatty() else max(_PIPED_WIDTH, shutil.get_terminal_size().columns)
    return Console(width=width, highlight=False, soft_wrap=False)
