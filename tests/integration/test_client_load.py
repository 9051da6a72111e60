"""Ten thousand requests at 500 a second: none lost, every token counted, memory flat."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.mock_openai import Mock, compile_mock

CHILD = Path(__file__).parent / "client_load_child.py"
REQUESTS, RATE = 10_000, 500
PACE_MS = 5.0
MOST_GROWTH_MIB = 24.0
"""2.4 KiB for each request: its last event, kept until the load is over, and the connections (a few hundred). The
streams of 64 tokens come to 135 MiB."""


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [8, 64])
def test_ten_thousand_requests(tokens: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = compile_mock(tmp_path)
    if program is None:
        pytest.skip("no C compiler for the mock server")
    with Mock(program, PACE_MS) as mock:
        command = [sys.executable, str(CHILD), str(mock.port), str(REQUESTS), str(RATE), str(tokens)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        book = mock.book()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\n{REQUESTS} requests at {RATE}/s, {tokens} tokens: {found}")
    assert found["outcomes"] == {"finished": REQUESTS}
    assert found["generated"] == [tokens, tokens]
    assert found["prompt"] == [100, 100]
    assert found["early"] == 0
    assert len(book.arrival_s) == REQUESTS
    assert book.tokens == REQUESTS * tokens
    assert book.aborted == 0
    assert (book.asked_tokens == tokens).all()
    took_s = float(np.ptp(book.arrival_s))
    assert took_s >= 0.99 * (REQUESTS - 1) / RATE, "faster than the schedule"
    assert found["growth_mib"] <= MOST_GROWTH_MIB
