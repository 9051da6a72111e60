"""A diary of completed runs that a sweep's process keeps apart from the store, and the folder held against it.

Three entries for each run, each on the disk before anything else happens: `completed` (the agent has it), `storing`
(the store is about to be asked), `stored` (the store has said that it is there).
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from harness.records import RunBundle
from harness.schema import joined_steps

KEY = ["point_id", "environment_id", "launch_id", "repetition", "attempt"]
DETAILS = ("requests", "iterations", "power")
_SYNC = os.fsync
"""Kept, since children count what the store does with it."""


class Diary:
    """Written by the process that is to be killed."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def note(self, what: str, bundles: Iterable[RunBundle]) -> None:
        lines = [json.dumps({"what": what, "pid": os.getpid(), **entry(bundle)}) + "\n" for bundle in bundles]
        os.write(self._file, "".join(lines).encode())
        _SYNC(self._file)


def entry(bundle: RunBundle) -> dict[str, object]:
    """What must be found of a run: its outcome, its energy, and how many rows it has in each table."""
    gpu = bundle.run.energies.get("gpu")
    return {
        "run": bundle.run.run_id,
        "status": bundle.run.status,
        "reason": bundle.run.reason,
        "energy_j": None if gpu is None else gpu.energy_j,
        "requests": sum(len(detail.requests) for detail in bundle.details),
        "iterations": sum(len(joined_steps(detail.steps)[1]) for detail in bundle.details),
        "power": sum(len(trace.time_s) for detail in bundle.details for trace in detail.power),
    }


@dataclass(frozen=True)
class Found:
    """What is in a folder.

    Attributes:
        in_hand: runs that were complete and are not there: what their process was storing when it ended.
    """

    runs: int
    in_hand: int


def check(
    diary: Path,
    results: Path,
    losers: Iterable[int] = (),
    held: bool = False,
    reopened: bool = False,
    stopped: Iterable[int] = (),
) -> Found:
    """Hold a folder against the diary: every completed run is there exactly once, with all its details.

    Args:
        losers: pids that may have lost what they were storing: one run, the last one.
        held: they may have lost more, having held it back: simulated runs.
        stopped: pids that were asked to end: they may lose a run that was complete that instant, and was not given to
            the store.
        reopened: a writer has looked at the folder since, so that no details are left of what was lost.
    """
    entries = [json.loads(line) for line in diary.read_text("utf-8").splitlines()] if diary.exists() else []
    told: dict[str, dict[str, dict[str, object]]] = {"completed": {}, "storing": {}, "stored": {}}
    for one in entries:
        told[one["what"]][one["run"]] = one
    runs = _read(results, "runs")
    assert not runs.duplicated(KEY).any(), "a run is there twice"
    ids = runs[KEY].astype(str).agg(".".join, axis=1).tolist() if len(runs) else []
    there = set(ids)
    assert set(told["stored"]) <= there, f"{len(set(told['stored']) - there)} stored runs are gone"
    assert there <= set(told["storing"]), f"{len(there - set(told['storing']))} runs that nobody stored"
    _check_rows(runs, ids, told["storing"])
    _check_details(results, there, told["storing"], reopened)
    lost = defaultdict(list)
    for run, one in told["completed"].items():
        if run not in there:
            lost[one["pid"]].append(run)
    assert set(lost) <= {*losers, *stopped}, "a process that was not killed lost completed runs"
    last = {one["pid"]: one["run"] for one in entries if one["what"] == "completed"}
    for pid, missing in lost.items():
        may_hold = held and pid in losers
        assert may_hold or missing == [last[pid]], f"{len(missing)} completed runs are gone, not the last one alone"
        assert pid in losers or missing[0] not in told["storing"], "a request to end tore a write"
    return Found(len(there), sum(map(len, lost.values())))


def _check_rows(runs: pd.DataFrame, ids: list[str], storing: dict[str, dict[str, object]]) -> None:
    for run, row in zip(ids, runs.to_dict("records"), strict=True):
        told = storing[run]
        assert (row["status"], row["reason"]) == (told["status"], told["reason"]), run
        energy_j = row["gpu_energy_j"]
        assert pd.isna(energy_j) if told["energy_j"] is None else energy_j == told["energy_j"], run


def _check_details(results: Path, there: set[str], storing: dict[str, dict[str, object]], reopened: bool) -> None:
    for table in DETAILS:
        found = Counter(_read(results, table)["run_id"].tolist())
        wanted = {run: storing[run][table] for run in there if storing[run][table]}
        assert {run: found[run] for run in found if run in there} == wanted, f"{table}: other rows than were stored"
        orphans = set(found) - there
        assert orphans <= set(storing), f"{table}: rows of runs that nobody stored"
        assert not (reopened and orphans), f"{table}: rows of {len(orphans)} runs that are not there"


def check_complete(results: Path, expected: int) -> None:
    """Every repetition of every point is settled, once."""
    runs = _read(results, "runs").query("purpose == 'sweep' and status == 'ok'")
    sizes = runs.groupby(["point_id", "environment_id", "repetition"]).size()
    assert set(sizes) == {1}, "a repetition was settled twice"
    assert len(sizes) == expected, f"{len(sizes)} of {expected} repetitions are settled"


def _read(results: Path, table: str) -> pd.DataFrame:
    """As a researcher would, and each file by itself."""
    folder = results / table
    files = [path for path in folder.iterdir() if not path.name.startswith((".", "_"))] if folder.exists() else []
    if not files:
        return pd.DataFrame(columns=[*KEY, "run_id", "purpose", "status", "reason", "gpu_energy_j"])
    for path in files:
        pq.read_metadata(path)
    return pd.read_parquet(results / table)
