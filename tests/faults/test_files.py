"""Files in the results folder that are cut short, damaged, or of somebody else."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness.errors import UnreadableFile
from harness.schema import TABLES
from harness.store import read_table
from tests.faults.amounts import dice, times
from tests.faults.table import Faults
from tests.faults.trial import Nursery, Trial

pytestmark = pytest.mark.faults
Damage = Callable[[Path, random.Random], None]
"""Is given the path of a segment."""


@pytest.fixture(scope="module")
def half(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A sweep killed in its middle, to be copied."""
    trial = Trial(tmp_path_factory.mktemp("half"), nursery, measured=True)
    child = trial.start(die_after=75)
    child.whole()
    trial.died(child)
    return trial


def copied(half: Trial, nursery: Nursery, folder: Path) -> Trial:
    trial = Trial(folder, nursery, measured=True)
    shutil.copytree(half.results, trial.results, symlinks=True)
    shutil.copy(half.diary, trial.diary)
    trial._losers = set(half._losers)
    return trial


def truncated(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def damaged(path: Path, rng: random.Random) -> None:
    """A stretch of its pages is other bytes; what they are is at the end of the file."""
    data = bytearray(path.read_bytes())
    begin, end = pages(path)
    at = rng.randrange(begin, end)
    length = rng.randint(1, 64)
    for index in range(at, min(at + length, end)):
        data[index] ^= rng.randint(1, 255)
    path.write_bytes(bytes(data))


def pages(path: Path) -> tuple[int, int]:
    """Where they begin and end, bytes."""
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    begins = [one.dictionary_page_offset or one.data_page_offset for one in columns]
    return min(begins), max(begin + one.total_compressed_size for begin, one in zip(begins, columns, strict=True))


def segments(results: Path, table: str) -> list[Path]:
    return sorted(path for path in (results / table).resolve().iterdir() if not path.name.startswith("."))


def foreign_segment(path: Path, rng: random.Random) -> None:
    pd.DataFrame({"run_id": ["a"], "status": ["ok"]}).to_parquet(path.with_name("999990.parquet"))


def foreign_table(path: Path, rng: random.Random) -> None:
    pd.DataFrame({"energy_j": [1.0]}).to_parquet(path.with_name("notes.parquet"))


def foreign_text(path: Path, rng: random.Random) -> None:
    path.with_name("notes.txt").write_text("measured on a Tuesday\n")


def contents(results: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in results.rglob("*.parquet") if path.is_file()}


@pytest.mark.parametrize("table", TABLES)
def test_a_truncated_segment(table: str, faults: Faults, nursery: Nursery, half: Trial, tmp_path: Path) -> None:
    """Nothing is touched until it is put right, from a backup here."""
    rng = dice(f"truncated {table}")
    with faults.of(f"truncated Parquet file in {table}") as row:
        for number in range(times(2)):
            trial = copied(half, nursery, tmp_path / str(number))
            victim = rng.choice(segments(trial.results, table))
            backup = victim.read_bytes()
            truncated(victim, rng)
            before = contents(trial.results)
            ended = trial.start().whole()
            assert (ended.code, victim.name in ended.line, "; move it out of" in ended.line) == (1, True, True), ended
            assert contents(trial.results) == before
            victim.write_bytes(backup)
            row.happened("exit 1: FILE is named, move it out of the results folder; nothing is touched")
            row.finished(trial.resume())


def test_a_truncated_segment_moved_away(faults: Faults, nursery: Nursery, half: Trial, tmp_path: Path) -> None:
    """Without a backup: what was in it is measured again, and nothing else."""
    rng = dice("moved away")
    with faults.of("truncated Parquet file in runs, moved away") as row:
        for number in range(times(2)):
            trial = copied(half, nursery, tmp_path / str(number))
            victim = rng.choice([path for path in segments(trial.results, "runs") if pq.read_metadata(path).num_rows])
            gone = set(run_ids(pd.read_parquet(victim)))
            kept = set(run_ids(pd.read_parquet(trial.results / "runs"))) - gone
            truncated(victim, rng)
            assert trial.start().whole().code == 1
            victim.rename(tmp_path / f"away-{number}.parquet")
            ended = trial.start().whole()
            assert ended.code == 0, ended
            runs = pd.read_parquet(trial.results / "runs")
            there = run_ids(runs)
            assert len(set(there)) == len(there)
            assert kept <= set(there)
            assert not gone & set(there)
            done = runs.query("purpose == 'sweep' and status == 'ok'")
            assert (done.groupby(["point_id", "environment_id", "repetition"]).size() == 1).all()
            assert len(done) == trial.expected
            row.happened("exit 1 until it is moved; then its runs are measured again, the others are there once")
            row.folders += 1
            row.resumed += 1
            row.runs += len(runs)


def run_ids(runs: pd.DataFrame) -> list[str]:
    columns = ["point_id", "environment_id", "launch_id", "repetition", "attempt"]
    return list(runs[columns].astype(str).agg(".".join, axis=1))


@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_segment(table: str, faults: Faults, nursery: Nursery, half: Trial, tmp_path: Path) -> None:
    """It never gives other values: reading it is refused, and so is the sweep as soon as it needs it.

    The few bytes of a page's header that say nothing of its rows (sizes of statistics and the like) may differ unseen.
    """
    rng = dice(f"damaged {table}")
    with faults.of(f"corrupted Parquet file in {table}") as row:
        for number in range(times(3)):
            trial = copied(half, nursery, tmp_path / str(number))
            filled = [path for path in segments(trial.results, table) if pq.read_metadata(path).num_rows]
            victim, whole = rng.choice(filled), read_table(trial.results, table)
            backup = victim.read_bytes()
            damaged(victim, rng)
            broken = victim.read_bytes()
            refusal = ""
            try:
                assert read_table(trial.results, table).equals(whole), "it was read as other values"
            except UnreadableFile as error:
                refusal = str(error)
            unseen = not refusal
            assert unseen or victim.name in refusal
            child = trial.start()
            ended = child.whole()
            trial.may_lose(child)
            # Where nothing of it was seen, a compaction may have taken it up.
            same = [path for path in segments(trial.results, table) if path.name == victim.name]
            still = [path for path in same if path.read_bytes() == broken]
            if ended.code == 0:
                assert unseen or still, "it was taken for whole"
                how = "no value differs" if unseen else "not needed, left as it is; reading it is refused"
                row.happened(f"exit 0: {how}")
            else:
                assert (ended.code, victim.name in ended.line) == (1, True), ended
                row.happened("exit 1: FILE is named; reading it is refused as well")
            for path in still:
                # Compactions link files from one generation to the next: all names are this file.
                path.write_bytes(backup)
            row.finished(trial.resume())


@pytest.mark.parametrize("make", [foreign_segment, foreign_table, foreign_text])
def test_a_foreign_file(make: Damage, faults: Faults, nursery: Nursery, half: Trial, tmp_path: Path) -> None:
    """Found there when the sweep begins, and put there while it runs."""
    rng = dice(make.__name__)
    with faults.of(f"{make.__name__.replace('_', ' ')} in the folder") as row:
        for number in range(times(2)):
            trial = copied(half, nursery, tmp_path / str(number))
            folder = segments(trial.results, rng.choice(TABLES))[0]
            known = set(folder.parent.iterdir())
            make(folder, rng)
            (stranger,) = set(folder.parent.iterdir()) - known
            before = contents(trial.results)
            ended = trial.start().whole()
            assert (ended.code, stranger.name in ended.line, "; move it out of" in ended.line) == (1, True, True), ended
            assert contents(trial.results) == before
            stranger.unlink()
            row.happened("exit 1: FILE is named, move it out of the results folder; nothing is touched")
            row.finished(trial.resume())
