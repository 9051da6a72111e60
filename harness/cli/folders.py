"""Which results folders a command is about when none is named."""

from pathlib import Path

from harness.errors import BadInput

RESULTS = Path("results")


def known_folders(root: Path = RESULTS) -> list[Path]:
    """Results folders under `root`, as sweeps make them: SOURCE/SWEEP, or directly in it."""
    return sorted({path.parent for path in (*root.glob("*/*/runs"), *root.glob("*/runs"))})


def chosen_folders(given: tuple[Path, ...]) -> tuple[Path, ...]:
    """The folders that were named, each once, or all known ones.

    Raises:
        BadInput: one that is no folder, or none at all.
    """
    for folder in given:
        if not folder.is_dir():
            raise BadInput("--results", str(folder), "a folder that a sweep wrote", "check the path")
    found = tuple(dict.fromkeys(given)) or tuple(known_folders())
    if not found:
        raise BadInput(
            "--results", f"(none found under {RESULTS}/)", "a folder that a sweep wrote", "run harness sweep"
        )
    return found
