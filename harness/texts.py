"""Text from data, fit to be shown to a person."""

from pathlib import Path


def printable(text: str) -> str:
    """Text without what would command a terminal, end a line or turn the direction of writing."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def shown_path(path: Path) -> str:
    """A path as messages write it: in quotes where blanks at its ends, or nothing else, would not be seen."""
    text = str(path)
    return text if text.strip() == text else repr(text)
