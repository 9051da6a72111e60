"""A writer that dies at any moment, readers beside one that lives, a disk that fills up."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from harness.errors import StoreFull
from harness.schema import TABLES
from harness.store import Writer, compact, lock_owner, read_table
from harness.store.reader import KEY_COLUMNS, run_ids
from tests.unit.store_factory import ROWS_PER_BUNDLE, make_bundle

REPOSITORY = Path(__file__).parents[2]
KILLS = 16
DETAILS = [table for table in TABLES if table != "runs"]


Child = subprocess.Popen[str]
StartChild = Callable[..., Child]


@pytest.fixture
def start_child() -> Iterator[StartChild]:
    """Starts `store_child`, which imports what it needs and waits for a line; ends what is left of it."""
    children: list[Child] = []

    def start(*arguments: object) -> Child:
        command = [sys.executable, "-m", "tests.unit.store_child", *map(str, arguments)]
        children.append(
            subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        return children[-1]

    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
            child.communicate()


def let_go(child: Child) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def wait_until_open(child: Child) -> None:
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"


def stored_ids(results: Path) -> list[str]:
    return list(run_ids(read_table(results, "runs", KEY_COLUMNS)).to_pylist())


def test_no_acknowledged_run_is_lost_or_doubled_by_kill_9_at_any_moment(
    tmp_path: Path, start_child: StartChild
) -> None:
    dice = random.Random(4)
    acknowledged: list[str] = []
    reached_work = 0
    # Half die just before some change of names on the disk, half at any time.
    deaths = [(dice.randrange(1, 120), 5.0) for _ in range(KILLS // 2)]
    deaths += [(0, dice.uniform(0.0, 0.5)) for _ in range(KILLS // 2)]
    dice.shuffle(deaths)
    children = [start_child("append", tmp_path, 100_000 * round_, at) for round_, (at, _) in enumerate(deaths)]
    for child, (_, alive_s) in zip(children, deaths, strict=True):
        let_go(child)
        try:
            child.wait(alive_s)
        except subprocess.TimeoutExpired:
            child.kill()
        output = child.communicate()[0].splitlines(keepends=True)
        assert child.returncode == -signal.SIGKILL
        acknowledged += [line.strip() for line in output[1:] if line.endswith("\n")]
        reached_work += len(output) > 1
        check_after_a_kill(tmp_path, acknowledged)
    assert reached_work > KILLS // 2, "the children died before they did anything"


def check_after_a_kill(results: Path, acknowledged: list[str]) -> None:
    before = stored_ids(results) if results.exists() else []
    assert lock_owner(results) == ""
    Writer(results, "simulated", "check", durable=False).close()
    ids = stored_ids(results)
    assert ids == before, "opening changed the runs"
    assert len(set(ids)) == len(ids)
    # Each child may have written one run that it did not live to tell of.
    assert set(acknowledged) <= set(ids)
    assert len(ids) <= len(acknowledged) + KILLS
    wanted = [run_id for run_id in ids if has_details(run_id)]
    for table in DETAILS:
        found = Counter(pd.read_parquet(results / table, columns=["run_id"])["run_id"])
        assert found == dict.fromkeys(wanted, ROWS_PER_BUNDLE[table]), table
    hidden = {path.name for path in results.rglob(".*")}
    assert hidden == {".lock", ".generations"}, "something half made was left"


def has_details(run_id: str) -> bool:
    """As `store_child` gives them: the number of a run follows from its point and repetition."""
    point_id, _, _, repetition, _ = run_id.split(".")
    return (int(point_id, 16) * 5 + int(repetition) - 1) % 4 != 0


def test_readers_beside_a_writer_see_whole_runs_and_never_fewer_than_before(
    tmp_path: Path, start_child: StartChild
) -> None:
    child = start_child("append", tmp_path, 0, 0)
    let_go(child)
    wait_until_open(child)
    ours = theirs = vanished = rounds = 0
    generations = set()
    deadline_s = time.monotonic() + 4
    while time.monotonic() < deadline_s:
        ids = stored_ids(tmp_path)
        assert len(set(ids)) == len(ids) >= ours
        ours = len(ids)
        details = Counter(read_table(tmp_path, "requests", ["run_id"])["run_id"].to_pylist())
        assert set(details.values()) <= {ROWS_PER_BUNDLE["requests"]}
        assert {run_id for run_id in ids if has_details(run_id)} <= set(details)
        try:
            frame = pd.read_parquet(tmp_path / "runs", columns=list(KEY_COLUMNS))
        except FileNotFoundError:
            vanished += 1
        else:
            assert not frame.duplicated().any()
            assert len(frame) >= theirs
            theirs = len(frame)
        generations.add((tmp_path / "runs").resolve().name)
        rounds += 1
    assert child.poll() is None
    assert ours > 20
    assert len(generations) > 3, "the writer did not compact while it was read"
    assert vanished < rounds / 2


def test_a_disk_that_fills_up_costs_the_run_being_written_and_nothing_else(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    stored = 0
    with Writer(tmp_path, "simulated", "test", durable=False) as out:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
        try:
            with pytest.raises(StoreFull, match="free some space"):  # noqa: PT012
                for number in range(10_000):
                    out.append([make_bundle(number)])
                    stored += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert stored > 2
        assert len(stored_ids(tmp_path)) == stored
        assert not list(tmp_path.rglob(".*.tmp"))
        out.append([make_bundle(stored)])
    assert read_table(tmp_path, "requests").num_rows == ROWS_PER_BUNDLE["requests"] * (stored + 1)


def test_a_full_file_system_is_named_and_keeps_what_was_stored(tmp_path: Path) -> None:
    script = (
        f"mount -t tmpfs -o size=600k tmpfs {tmp_path} || exit 77; "
        f"{sys.executable} -m tests.unit.store_child fill {tmp_path} && cp -a {tmp_path}/. {tmp_path}-copy"
    )
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert done.returncode == 0, done.stderr
    stored, message = done.stdout.split(" ", 1)
    assert "No space left on device" in message
    copy = tmp_path.with_name(tmp_path.name + "-copy")
    assert len(stored_ids(copy)) == int(stored) > 2
    with Writer(copy, "simulated", "test", durable=False) as out:
        out.append([make_bundle(int(stored))])
    assert read_table(copy, "power").num_rows == ROWS_PER_BUNDLE["power"] * (int(stored) + 1)


def test_a_dead_owner_leaves_a_free_folder(tmp_path: Path, start_child: StartChild) -> None:
    child = start_child("append", tmp_path, 0, 0)
    let_go(child)
    wait_until_open(child)
    assert f"pid {child.pid} " in lock_owner(tmp_path)
    child.kill()
    child.communicate()
    assert lock_owner(tmp_path) == ""
    assert json.loads((tmp_path / ".lock").read_text())["command"] == "child"
    Writer(tmp_path, "simulated", "next", durable=False).close()


@pytest.mark.parametrize("durable", [True, False])
def test_a_segment_that_is_copied_for_want_of_hard_links_is_flushed(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure its name would lead to an empty file."""

    def no_links(*_: object) -> None:
        raise PermissionError

    flushed: list[str] = []
    monkeypatch.setattr(Path, "hardlink_to", no_links)
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    source, target = tmp_path / "a.parquet", tmp_path / "b.parquet"
    source.write_bytes(b"rows")
    compact._link(source, target, durable)
    assert target.read_bytes() == b"rows"
    assert flushed == ([str(target)] if durable else [])
