"""A sample of the same cases in processes of their own, as they are really run."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.amounts import cases
from tests.fuzz.cases import LIMIT_S, Ended, case_folder, check_outcome, tree
from tests.fuzz.commandlines import command_lines
from tests.fuzz.documents import damaged, furnish, mutated, sweeps, written
from tests.fuzz.test_command_lines import LOOKING, furnished
from tests.fuzz.tracefiles import odd_traces

Counts = Counter[tuple[str, str]]


def really_run(*words: str, cwd: Path) -> Ended:
    environment = {**os.environ, "HARNESS_TRACES": os.devnull, "COLUMNS": "160", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words], cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=2 * LIMIT_S, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Ended(words, cwd, done.returncode, done.stdout, done.stderr)


@cases(1.2, shrinks=False)
@given(data=st.data())
def test_processes(made: Path, counted: Counts, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(("sweep file", "trace", "command line")))
    with case_folder(made) as folder:
        match kind:
            case "sweep file":
                furnish(folder)
                text = data.draw(mutated(sweeps()).flatmap(written))
                (folder / "sweep.yaml").write_bytes(data.draw(st.just(text) | damaged(text)))
                words = ["sweep", "sweep.yaml", "--dry-run", "--points", "2"]
            case "trace":
                furnish(folder)
                (folder / "day.csv").write_bytes(data.draw(odd_traces()))
                words = ["traces", "describe", "./day.csv"]
            case _:
                furnished(folder)
                words = data.draw(command_lines(LOOKING))
        before = tree(folder)
        ended = really_run(*words, cwd=folder)
        check_outcome(ended)
        assert tree(folder) == before
    counted[f"process: {kind}", ended.kind] += 1
