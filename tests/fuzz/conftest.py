"""Counts the generated cases and how they ended, and prints the table."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.amounts import FACTOR, SEED

_KEY = pytest.StashKey[Counter[tuple[str, str]]]()


@pytest.fixture(scope="session")
def counted(request: pytest.FixtureRequest) -> Counter[tuple[str, str]]:
    """(kind of case, how it ended) -> cases."""
    return request.config.stash.setdefault(_KEY, Counter())


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder under which every case makes its own."""
    with tempfile.TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as folder:
        yield Path(folder)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(_KEY, Counter())
    if FACTOR == 1 or not found:
        return
    ends = sorted({end for _, end in found})
    kinds = list(dict.fromkeys(kind for kind, _ in found))
    rows = [("kind of case", *ends, "all")]
    rows += [(kind, *(str(found[kind, end]) for end in ends), str(_total(found, kind))) for kind in kinds]
    rows.append(("all", *(str(sum(found[kind, end] for kind in kinds)) for end in ends), str(found.total())))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    chosen = "derandomised; SEED=N for others" if SEED is None else f"SEED={SEED}"
    terminalreporter.section(f"generated cases and how they ended ({chosen})")
    for row in rows:
        cells = (
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        terminalreporter.write_line("  ".join(cells))


def _total(found: Counter[tuple[str, str]], kind: str) -> int:
    return sum(count for (one, _), count in found.items() if one == kind)
