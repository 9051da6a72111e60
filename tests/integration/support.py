"""Runs the real command line in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from tests.unit.builders import write_sweep

__all__ = ["HARNESS", "environment", "harness", "outcome_json", "read", "write_sweep"]

HARNESS = [sys.executable, "-m", "harness"]


def environment(**more: str) -> dict[str, str]:
    """The environment of a child: no traces but the bundled profiles, unless one is given."""
    kept = {key: value for key, value in os.environ.items() if key not in ("HARNESS_TRACES",)}
    return kept | {"HARNESS_TRACES": os.devnull, "COLUMNS": "160"} | more


def harness(*arguments: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HARNESS, *map(str, arguments)], cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


def outcome_json(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def read(results: Path, table: str = "runs") -> pd.DataFrame:
    """As a researcher reads it: with pandas alone."""
    return pd.read_parquet(results / table)
