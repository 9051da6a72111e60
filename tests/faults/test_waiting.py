"""A request to end waits for a run that is being written; it is not forgotten."""

import os
import signal
from pathlib import Path

import pytest

from harness.cli.main import _stop
from harness.errors import Interrupted
from harness.store import Writer, read_table, writer
from tests.unit.store_factory import make_bundle


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_mid_write_comes_after_it(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = writer.write_parquet

    def told_to_end(*given: object, **named: object) -> None:
        os.kill(os.getpid(), number)
        write(*given, **named)  # type: ignore[arg-type]

    before = signal.signal(number, _stop)
    try:
        with Writer(tmp_path, "simulated", "test", durable=False) as out:
            monkeypatch.setattr(writer, "write_parquet", told_to_end)
            with pytest.raises(Interrupted, match=signal.Signals(number).name):
                out.append([make_bundle(0)])
            monkeypatch.undo()
            out.append([make_bundle(1)])
        assert signal.getsignal(number) is _stop
    finally:
        signal.signal(number, before)
    assert read_table(tmp_path, "runs").num_rows == 2
