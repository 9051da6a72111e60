"""Reading the step log that an engine writes as it goes (harness/engines/inside/steplog.py)."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.engines.base import Steps
from harness.engines.inside.steplog import ARRIVED, FORMAT_VERSION, GATE, HEADER, MAGIC, RECORD_BYTES, REQUEST, STEP
from harness.errors import VersionUnsupported
from harness.points import IntArray


def _layout(**fields: tuple[str, int]) -> np.dtype[np.void]:
    """A structured type over one record: name -> (type, offset)."""
    return np.dtype(
        {
            "names": list(fields),
            "formats": [kind for kind, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": RECORD_BYTES,
        }
    )


HEADER_RECORD = _layout(kind=("u1", 0), magic=("S8", 8), version=("<u4", 16), pid=("<u4", 20), opened_s=("<f8", 24))
STEP_RECORD = _layout(
    start_s=("<f8", 8),
    end_s=("<f8", 16),
    prefill_requests=("<u4", 24),
    prefill_tokens=("<u4", 28),
    decode_requests=("<u4", 32),
    context_tokens=("<u8", 40),
)
GATE_RECORD = _layout(closed=("<u4", 4), at_s=("<f8", 8))
ARRIVED_RECORD = _layout(number=("<u8", 8), arrived_s=("<f8", 16))
REQUEST_RECORD = _layout(
    finished=("<u4", 4),
    number=("<u8", 8),
    arrived_s=("<f8", 16),
    admitted_s=("<f8", 24),
    first_token_s=("<f8", 32),
    finished_s=("<f8", 40),
    prompt_tokens=("<u4", 48),
    generated_tokens=("<u4", 52),
)
Structured = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """What the log holds between two looks; structured arrays with the fields of the layouts above."""

    steps: Structured
    arrivals: Structured
    requests: Structured
    gates: Structured

    def __len__(self) -> int:
        return len(self.steps) + len(self.arrivals) + len(self.requests) + len(self.gates)

    @staticmethod
    def joined(parts: "Sequence[Records]") -> "Records":
        if not parts:
            return _sorted_out(b"")
        return Records(
            np.concatenate([part.steps for part in parts]),
            np.concatenate([part.arrivals for part in parts]),
            np.concatenate([part.requests for part in parts]),
            np.concatenate([part.gates for part in parts]),
        )

    def to_steps(self, batch_index: IntArray, stages: int) -> Steps:
        """As the engine protocol has them; `batch_index` (n,) in the order of the records.

        With one pipeline stage a step begins to compute when the one before it has ended, however early it was
        scheduled (asynchronous scheduling is one step ahead).
        """
        order = np.argsort(self.steps["start_s"], kind="stable")
        steps = self.steps[order]
        start_s, end_s = steps["start_s"].copy(), steps["end_s"]
        if stages == 1 and len(steps):
            start_s[1:] = np.maximum(start_s[1:], np.minimum(np.maximum.accumulate(end_s)[:-1], end_s[1:]))
        return Steps(
            start_s=start_s,
            duration_s=end_s - start_s,
            batch_index=batch_index[order],
            prefill_requests=steps["prefill_requests"].astype(np.int64),
            prefill_tokens=steps["prefill_tokens"].astype(np.int64),
            decode_requests=steps["decode_requests"].astype(np.int64),
            context_tokens=steps["context_tokens"].astype(np.int64),
        )


class StepTail:
    """A place in a step log; each look returns what was written since the last one. A record being written is left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset_bytes = 0

    def look(self) -> Records:
        """New records; none as long as there is no file."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return _sorted_out(b"")
        try:
            new_bytes = os.fstat(fd).st_size - self._offset_bytes
            data = os.pread(fd, new_bytes, self._offset_bytes)
        finally:
            os.close(fd)
        whole_bytes = len(data) - len(data) % RECORD_BYTES
        self._offset_bytes += whole_bytes
        return _sorted_out(data[:whole_bytes])

    def skip(self) -> None:
        """To the end of the log."""
        if self.path.exists():
            size_bytes = self.path.stat().st_size
            self._offset_bytes = size_bytes - size_bytes % RECORD_BYTES


def _sorted_out(data: bytes) -> Records:
    kinds = np.frombuffer(data, _layout(kind=("u1", 0)))["kind"]
    return Records(
        np.frombuffer(data, STEP_RECORD)[kinds == STEP],
        np.frombuffer(data, ARRIVED_RECORD)[kinds == ARRIVED],
        np.frombuffer(data, REQUEST_RECORD)[kinds == REQUEST],
        np.frombuffer(data, GATE_RECORD)[kinds == GATE],
    )


def check_attached(path: Path) -> None:
    """The engine writes its step log, in the format that is read here.

    Raises:
        VersionUnsupported: no log, or another format.
    """
    if not path.exists() or path.stat().st_size < RECORD_BYTES:
        raise VersionUnsupported(
            f"the engine is up but writes no step records to {path}: does its environment see PYTHONPATH, "
            "and its container this folder?"
        )
    with path.open("rb") as file:
        header = np.frombuffer(file.read(RECORD_BYTES), HEADER_RECORD)[0]
    if header["kind"] != HEADER or header["magic"] != MAGIC or header["version"] != FORMAT_VERSION:
        raise VersionUnsupported(f"{path} is no step log of format {FORMAT_VERSION}")


def read_description(path: Path) -> dict[str, object]:
    """The configuration that the engine resolved, from beside its step log; empty if it wrote none."""
    described = path.with_name(path.name + ".json")
    if not described.exists():
        return {}
    content: dict[str, object] = json.loads(described.read_text("utf-8"))
    return content
