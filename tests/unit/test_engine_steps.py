"""What an engine writes to its step log is what the harness reads, also while it is being written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.inside.steplog import (
    RECORD_BYTES,
    StepLog,
    request_id,
    request_number,
    write_description,
)
from harness.engines.steps import Records, StepTail, check_attached, read_description
from harness.errors import VersionUnsupported

NAN = float("nan")


def test_records_come_back_as_written(tmp_path: Path) -> None:
    log = StepLog(str(tmp_path / "log"))
    log.gate(True, 0.5)
    log.arrived(2**53, 1.0)
    log.step(1.5, 1.75, 8, 512, 120, 2**40)
    log.request(2**53, 1.0, 1.5, 1.75, 9.25, 100, 28)
    log.request(7, 1.0, NAN, NAN, 2.0, 100, 0, finished=False)
    log.gate(False, 3.5)
    log.close()
    records = StepTail(tmp_path / "log").look()
    assert records.steps.tolist() == [(1.5, 1.75, 8, 512, 120, 2**40)]
    assert records.arrivals.tolist() == [(2**53, 1.0)]
    assert records.requests[0].tolist() == (1, 2**53, 1.0, 1.5, 1.75, 9.25, 100, 28)
    assert records.requests[1]["finished"] == 0
    assert np.isnan(records.requests[1]["admitted_s"])
    assert records.gates.tolist() == [(1, 0.5), (0, 3.5)]
    assert len(records) == 6


def test_a_look_returns_only_what_is_new_and_leaves_a_torn_record(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = StepTail(path)
    assert len(tail.look()) == 0  # no file yet
    log = StepLog(str(path))
    log.step(1.0, 2.0, 1, 10, 0, 10)
    assert tail.look().steps["start_s"].tolist() == [1.0]
    log.step(2.0, 3.0, 0, 0, 1, 11)
    torn = path.read_bytes()[-RECORD_BYTES:]
    with path.open("ab") as file:
        file.write(torn[:40])
    assert tail.look().steps["start_s"].tolist() == [2.0]
    assert len(tail.look()) == 0
    with path.open("ab") as file:
        file.write(torn[40:])
    assert tail.look().steps["start_s"].tolist() == [2.0]
    log.step(4.0, 5.0, 0, 0, 1, 12)
    tail.skip()
    assert len(tail.look()) == 0


def test_what_a_killed_process_wrote_is_there(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from harness.engines.inside.steplog import StepLog\n"
        "log = StepLog(sys.argv[1])\n"
        "for step in range(1000): log.step(step, step + 0.5, 0, 0, 1, step)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "log"
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert StepTail(path).look().steps["context_tokens"].tolist() == list(range(1000))


def test_steps_are_sorted_with_their_batches(tmp_path: Path) -> None:
    log = StepLog(str(tmp_path / "log"))
    for start_s in (3.0, 1.0, 2.0):
        log.step(start_s, start_s + 0.5, 1, 2, 3, 4)
    records = StepTail(tmp_path / "log").look()
    steps = records.to_steps(np.array([2, 0, 1]), stages=2)
    assert steps.start_s.tolist() == [1.0, 2.0, 3.0]
    assert steps.batch_index.tolist() == [0, 1, 2]
    assert steps.duration_s.tolist() == [0.5] * 3
    assert steps.prefill_tokens.dtype == np.int64


def test_a_step_scheduled_ahead_begins_when_the_one_before_it_ends_but_not_with_pipeline_stages(tmp_path: Path) -> None:
    log = StepLog(str(tmp_path / "log"))
    for start_s, end_s in ((1.0, 2.0), (1.2, 3.0), (2.1, 4.0), (5.0, 6.0)):
        log.step(start_s, end_s, 0, 0, 1, 1)
    records = StepTail(tmp_path / "log").look()
    index = np.zeros(4, np.int64)
    ahead = records.to_steps(index, stages=1)
    assert ahead.start_s.tolist() == [1.0, 2.0, 3.0, 5.0]
    assert ahead.duration_s.tolist() == [1.0, 1.0, 1.0, 1.0]
    assert records.to_steps(index, stages=2).start_s.tolist() == [1.0, 1.2, 2.1, 5.0]


def test_parts_are_joined_in_order(tmp_path: Path) -> None:
    assert len(Records.joined([])) == 0
    log, tail = StepLog(str(tmp_path / "log")), StepTail(tmp_path / "log")
    parts = []
    for number in range(3):
        log.arrived(number, float(number))
        parts.append(tail.look())
    assert Records.joined(parts).arrivals["number"].tolist() == [0, 1, 2]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**18 - 1), st.sampled_from(["{}", "cmpl-{}-0-9f3a11bc", "chatcmpl-{}", "cmpl-{}"]))
def test_a_number_survives_what_engines_do_to_a_request_id(number: int, form: str) -> None:
    assert request_number(form.format(request_id(number))) == number


@pytest.mark.parametrize("text", ["cmpl-8f7e-0", "", "harness-", "harness-x1", "harness-" + "1" * 30])
def test_a_stranger_has_no_number(text: str) -> None:
    assert request_number(text) == -1


def test_an_engine_that_writes_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VersionUnsupported, match="no step records"):
        check_attached(tmp_path / "absent")
    (tmp_path / "other").write_bytes(os.urandom(256))
    with pytest.raises(VersionUnsupported, match="no step log"):
        check_attached(tmp_path / "other")
    StepLog(str(tmp_path / "log"))
    check_attached(tmp_path / "log")


def test_the_resolved_configuration_lies_beside_the_log(tmp_path: Path) -> None:
    assert read_description(tmp_path / "log") == {}
    write_description(str(tmp_path / "log"), {"max_num_seqs": 128})
    assert read_description(tmp_path / "log") == {"max_num_seqs": 128}
