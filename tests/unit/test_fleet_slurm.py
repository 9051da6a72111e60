"""Nodes from Slurm: who is waited for, who is named, and what lies in the results folder meanwhile."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.cluster import nodes, slurm
from harness.cluster.raytoken import MODE, TOKEN_PATH
from harness.cluster.slurm import FOLDER, SlurmOrder, slurm_fleet
from harness.deployment.sweepfile import Sweep, load_sweep
from harness.errors import BadInput, HarnessError, StoreRefused
from harness.store import Writer
from tests.unit.builders import write_sweep

MIG = BadInput("node dgx01", "MIG is enabled on GPU 3", "8 x H100")
ORDER = SlurmOrder(1, 60.0)


class Fleet:
    """Nodes that are there and refused; an agent joins once it was looked for often enough."""

    def __init__(self, refused: Sequence[str] = (), joins_after: int = 0) -> None:
        self.refused: dict[str, HarnessError] = dict.fromkeys(refused, MIG)
        self._looks_left = joins_after

    def present(self) -> list[Any]:
        self._looks_left -= 1
        return [] if self._looks_left >= 0 else [SimpleNamespace(spec=SimpleNamespace(gpu_kind="h100"), nodes=1)]

    def measuring(self) -> list[dict[str, str]]:
        return [{"NodeID": node} for node in self.refused]

    def teams(self, _: object) -> list[Any]:
        return []

    def close(self) -> None:
        self.refused = {}


def job(done: bool) -> Any:
    return SimpleNamespace(job_id=1, state="PENDING", done=lambda: done, stderr=lambda: "", cancel=lambda check: None)


@pytest.fixture(autouse=True)
def without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def head(*_: object) -> Iterator[str]:
        yield "10.0.0.1:1"

    @contextmanager
    def fleet(*_: object) -> Iterator[Fleet]:
        yield Fleet()

    # submitit is in an extra that the tests of units do without.
    for name, instead in {"_executor": lambda *_: None, "_submit": lambda *_: job(done=False)}.items():
        monkeypatch.setattr(slurm, name, instead)
    monkeypatch.setattr(slurm, "_head", head)
    monkeypatch.setattr(slurm, "ray_fleet", fleet)
    monkeypatch.setattr(slurm, "host_ip", lambda: "10.0.0.1")
    monkeypatch.setattr(slurm.time, "sleep", lambda _: None)
    for name in (MODE, TOKEN_PATH):
        monkeypatch.setenv(name, "")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return load_sweep(write_sweep(tmp_path))


@pytest.fixture
def opened(sweep: Sweep, tmp_path: Path) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: slurm_fleet(sweep, 0, tmp_path / "out", ORDER, print)


def test_a_refused_node_ends_nothing_while_another_may_come() -> None:
    waiting: Any = Fleet(["first"], joins_after=5)
    assert len(slurm._wait_for_nodes(waiting, [job(done=False), job(done=False)], print)) == 1


@pytest.mark.parametrize("ended", [False, True])
def test_where_no_other_can_come_a_refused_node_says_why(ended: bool) -> None:
    waiting: Any = Fleet(["first"], joins_after=5)
    with pytest.raises(BadInput, match="MIG is enabled"):
        slurm._wait_for_nodes(waiting, [job(done=ended), job(done=True)], print)


def test_refused_nodes_of_slurm_are_named_also_where_waiting_is_not(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, said, heard = Fleet(["first"]), list[str](), list[str]()

    @contextmanager
    def given(*_: object) -> Iterator[Fleet]:
        yield fleet

    monkeypatch.setattr(nodes, "slurm_fleet", given)
    with nodes.open_nodes("slurm", sweep, 0, tmp_path, said.append, ORDER, refused=heard.append):
        assert heard == [f"A node does not measure: {MIG}"]
        fleet.refused["second"] = MIG
    assert (len(heard), said) == (2, [])
    with nodes.open_nodes("slurm", sweep, 0, tmp_path, said.append, ORDER):
        assert len(said) == 2


def test_a_folder_in_use_is_refused_before_anything_is_started(
    opened: Callable[[], AbstractContextManager[Any]], tmp_path: Path
) -> None:
    with opened(), Writer(tmp_path / "out", "simulated", "harness sweep of another"):
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
        with pytest.raises(StoreRefused, match=r"held by pid .* harness sweep of another; fix: wait"), opened():
            pass
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_the_token_is_of_one_command_alone_and_goes_with_it(
    opened: Callable[[], AbstractContextManager[Any]], tmp_path: Path
) -> None:
    with opened():
        (token,) = (tmp_path / "out" / FOLDER).glob("token*")
        assert (token.name, os.environ[TOKEN_PATH]) == (f"token-{os.getpid()}", str(token))
    assert not token.exists()


@pytest.mark.parametrize("there_already", [False, True])
def test_nobody_else_can_put_a_job_beside_ours(
    there_already: bool, opened: Callable[[], AbstractContextManager[Any]], tmp_path: Path
) -> None:
    """Jobs load pickles from there."""
    folders = [tmp_path / "out" / FOLDER, tmp_path / "out" / FOLDER / "jobs"]
    mask = os.umask(0)
    try:
        if there_already:
            folders[1].mkdir(parents=True)
        with opened():
            assert [path.stat().st_mode & 0o777 for path in folders] == [0o700, 0o700]
        assert not (tmp_path / "out").stat().st_mode & 0o002 or there_already
    finally:
        os.umask(mask)
