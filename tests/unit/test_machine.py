"""Which kind of node a machine is, from what its driver and its kernel tell."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness import machine
from harness.machine import GpusFound, gpus_of, processor_name, tree_root
from harness.meters.nvml import NvmlMeter
from tests.unit.builders import node

SXM_A100, PCIE_A100, SMALL_A100, H100 = (
    ("NVIDIA A100-SXM4-80GB", 80), ("NVIDIA A100 80GB PCIe", 80), ("NVIDIA A100-SXM4-40GB", 40),
    ("NVIDIA H100 80GB HBM3", 80),
)  # fmt: skip


class Gpu:
    def __init__(self, board: tuple[str, int]) -> None:
        self.name, self.memory_bytes = board[0], board[1] << 30


class Meter(NvmlMeter):
    """Boards that no driver knows."""

    def __init__(self, *boards: tuple[str, int]) -> None:
        self.gpus = tuple(map(Gpu, boards))  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("boards", "kind", "node_kind"),
    [
        ([SXM_A100] * 8, "a100", "dgx-a100"),
        ([H100] * 8, "h100", "dgx-h100"),
        ([H100], "h100", "h100-1"),
        ([PCIE_A100], "a100", "a100-1"),
        ([SMALL_A100] * 8, "a100-40gb", "dgx-a100-40gb"),
        ([SXM_A100] * 4, "a100", ""),
        ([SXM_A100] * 7 + [H100], "", ""),
        ([("NVIDIA GH200 480GB", 96)], "gh200", "gh200-1"),
        ([("NVIDIA L40S", 48)], "", ""),
    ],
)
def test_gpus_make_a_kind_of_node(boards: list[tuple[str, int]], kind: str, node_kind: str) -> None:
    found = gpus_of(Meter(*boards))
    assert (found.kind, found.node_kind, len(found.boards)) == (kind, node_kind, len(boards))


def test_a_machine_is_a_kind_of_node_with_all_its_gpus_and_no_others() -> None:
    dgx, single = gpus_of(Meter(*[SXM_A100] * 8)), gpus_of(Meter(SXM_A100))
    assert dgx.makes(node("dgx-a100"))
    assert not dgx.makes(node("a100-1"))
    assert not dgx.makes(node("dgx-h100"))
    assert single.makes(node("a100-1"))
    assert not single.makes(node("dgx-a100"))
    # A kind that the harness does not know is known by the board's own name.
    other = gpus_of(Meter(("NVIDIA L40S", 48)))
    spec = node("a100-1")
    assert spec.gpu is not None
    assert other.makes(replace(spec, gpu=replace(spec.gpu, kind="l40s", name="NVIDIA L40S")))
    assert not other.makes(spec)


def test_any_machine_is_a_node_whose_processors_compute() -> None:
    assert GpusFound("", "", "no NVIDIA GPU").makes(node("cpu-only"))
    assert gpus_of(Meter(H100)).makes(node("cpu-only"))


class Process:
    """A chain of processes: 40 (the engine's worker) < 30 < 20 < 10."""

    names: dict[int, str] = {}  # noqa: RUF012 - set by each case

    def __init__(self, pid: int) -> None:
        if pid not in self.names:
            raise machine.psutil.NoSuchProcess(pid)
        self.pid = pid

    def parents(self) -> list["Process"]:
        return [Process(pid) for pid in (30, 20, 10) if pid < self.pid]

    def name(self) -> str:
        return self.names[self.pid]


@pytest.mark.parametrize(
    ("names", "root"),
    [
        (["python", "vllm", "containerd-shim", "systemd"], 30),
        (["python", "containerd-shim-runc-v2", "systemd", "init"], 40),
        (["python", "vllm", "bash", "systemd"], 40),
    ],
)
def test_a_process_of_a_container_belongs_to_all_of_it(
    monkeypatch: pytest.MonkeyPatch, names: list[str], root: int
) -> None:
    monkeypatch.setattr(Process, "names", dict(zip((40, 30, 20, 10), names, strict=True)))
    monkeypatch.setattr(machine.psutil, "Process", Process)
    assert tree_root(40) == root
    assert tree_root(999) == 999, "one that our /proc does not show"


def test_processors_are_named_as_the_kernel_names_them(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    one = "processor\t: {}\nphysical id\t: {}\nmodel name\t: AMD EPYC 7742: 64-Core\n\n"
    cpuinfo.write_text("".join(one.format(i, i // 2) for i in range(4)), "utf-8")
    assert processor_name(cpuinfo) == "2 x AMD EPYC 7742: 64-Core"
    cpuinfo.write_text("processor\t: 0\n", "utf-8")
    assert processor_name(cpuinfo).startswith("1 x ")
