"""Fixtures of the fault suite, and its table."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.common import report
from tests.faults.amounts import ASKED, SEED
from tests.faults.table import Faults
from tests.faults.trial import Nursery
from tests.fixtures.nvml.driver import compile_fake_nvml

_TABLE = pytest.StashKey[Faults]()


@pytest.fixture(scope="session")
def faults(request: pytest.FixtureRequest) -> Faults:
    return request.config.stash.setdefault(_TABLE, Faults())


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The stand-in for NVML; None without a C compiler."""
    return compile_fake_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def nursery(library: Path | None) -> Iterator[Nursery]:
    made = Nursery(library)
    yield made
    made.close()


@pytest.fixture(scope="session")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Whether file systems can be mounted here."""
    folder = tmp_path_factory.mktemp("mount")
    if os.geteuid() != 0:
        return False
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False).returncode:
        return False
    subprocess.run(["umount", folder], check=True)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash.get(_TABLE, Faults())
    if not table.rows:
        return
    rows = [row.as_row() for row in table.rows]
    title = f"faults and what became of them (SEED={SEED})"
    if ASKED:
        report("faults", title, [{**row, "seed": SEED} for row in rows], ("pyarrow", "pandas"), unprinted=("seed",))
        return
    terminalreporter.section(title)
    for row in rows:
        terminalreporter.write_line("  ".join(map(str, row.values())))
