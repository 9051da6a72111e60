"""Results folders with foreign, damaged and missing files: what reads them ends with a line, and leaves them alone."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.amounts import cases
from tests.fuzz.cases import case_folder, check_outcome, run, tree
from tests.fuzz.folders import disturbed, write_results
from tests.unit.builders import write_sweep

Counts = Counter[tuple[str, str]]
LOOKING = (
    ("status", "--results", "R"), ("status", "--results", "R", "--json"), ("report", "R"), ("report", "R", "--json"),
    ("regions", "--results", "R"), ("score", "--results", "R"),
    ("next", "sweep.yaml", "--results", "R", "--points", "2"),
    ("merge", "R", "--results", "new"), ("merge", "good", "R", "--results", "new"), ("merge", "good", "--results", "R"),
    ("train", "--results", "R"),
)  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "results"
    write_results(folder)
    return folder


@cases(10)
@given(data=st.data())
def test_disturbed_folders(good: Path, made: Path, counted: Counts, data: st.DataObject) -> None:
    """A merge into a folder may complete it; everything else changes nothing, and a refused merge makes no folder."""
    with case_folder(made) as folder:
        results = folder / "R"
        shutil.copytree(good, results, symlinks=True)
        shutil.copytree(good, folder / "good", symlinks=True)
        write_sweep(folder)
        data.draw(disturbed(results))
        words = data.draw(st.sampled_from(LOOKING))
        before = tree(folder)
        ended = run(*words, cwd=folder)
        check_outcome(ended)
        if "--json" in words and ended.code == 0:
            json.loads(ended.out)
        after = tree(folder)
        if words[0] != "merge" or ended.code == 2:
            assert after == before
        elif ended.code == 1 and words == ("merge", "R", "--results", "new"):
            assert not list((folder / "new").glob("runs")) or not len(pd.read_parquet(folder / "new" / "runs"))
    counted[f"odd folder: {words[0]}", ended.kind] += 1
