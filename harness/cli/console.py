"""How tables are shown: aligned, and in full also where the output is narrow or no terminal."""

import shutil
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.texts import printable

_TABLE_WIDTH = 125
_PIPED_WIDTH = 160


class _PlainConsole(Console):
    """Shows texts as they are: what is in them commands neither the terminal nor rich."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str("\n".join(map(printable, text.split("\n"))), **how)


def console() -> Console:
    """A console as wide as the terminal, but never so narrow that a table loses figures."""
    least = _TABLE_WIDTH if sys.stdout.isatty() else _PIPED_WIDTH
    width = max(least, shutil.get_terminal_size().columns)
    return _PlainConsole(width=width, highlight=False, markup=False, emoji=False)
