"""Downloads from a real server on this machine: cut, resumed, refused, damaged."""

import contextlib
import hashlib
import re
import resource
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.errors import BadInput, HarnessError
from harness.workload.download import download

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behaviour:
    """What the server does, and what it was asked."""

    content: bytes = CONTENT
    ranges: bool = True
    cut_after: int | None = None
    cuts: int = 0
    statuses: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


def handler_of(behaviour: Behaviour) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            behaviour.asked.append(asked)
            if behaviour.statuses:
                self.send_error(behaviour.statuses.pop(0))
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and behaviour.ranges else 0
            if start > len(behaviour.content):
                self.send_error(416)
                return
            body = behaviour.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            if start:
                end = len(behaviour.content)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
            self.end_headers()
            if behaviour.cut_after is not None and behaviour.cuts > 0:
                behaviour.cuts -= 1
                body = body[: behaviour.cut_after]
            # A client that refuses the answer hangs up before its end.
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    return Handler


@pytest.fixture
def behaviour() -> Behaviour:
    return Behaviour()


@pytest.fixture
def url(behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(behaviour))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/trace.csv"
    server.shutdown()
    server.server_close()
    thread.join()


def fetched(url: str, target: Path, sha256: str = SHA256) -> Path:
    return download(url, target, sha256, len(CONTENT), pause_s=0.01)


def test_file_arrives_whole_and_is_not_asked_for_twice(url: str, behaviour: Behaviour, tmp_path: Path) -> None:
    target = tmp_path / "new" / "trace.csv"
    seen: list[tuple[int, int]] = []
    download(url, target, SHA256, len(CONTENT), lambda have, total: seen.append((have, total)))
    assert target.read_bytes() == CONTENT
    assert seen == sorted(seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in target.parent.iterdir()] == ["trace.csv"]
    assert fetched(url, target) == target
    assert behaviour.asked == [""]


def test_connection_cut_in_the_middle_is_resumed_where_it_ended(url: str, behaviour: Behaviour, tmp_path: Path) -> None:
    behaviour.cut_after, behaviour.cuts = 100_000, 2
    assert fetched(url, tmp_path / "trace.csv").read_bytes() == CONTENT
    assert len(behaviour.asked) == 3
    resumed = [int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) for asked in behaviour.asked[1:]]  # type: ignore[index]
    assert 0 < resumed[0] < resumed[1]


def test_server_without_ranges_starts_over(url: str, behaviour: Behaviour, tmp_path: Path) -> None:
    behaviour.ranges, behaviour.cut_after, behaviour.cuts = False, 300_000, 1
    assert fetched(url, tmp_path / "trace.csv").read_bytes() == CONTENT


def test_part_of_an_earlier_call_is_kept_and_resumed(url: str, behaviour: Behaviour, tmp_path: Path) -> None:
    behaviour.cut_after, behaviour.cuts = 20_000, 5
    with pytest.raises(HarnessError, match="after 5 attempts") as caught:
        fetched(url, tmp_path / "trace.csv")
    assert url in str(caught.value)
    assert f"save that address as {tmp_path / 'trace.csv'}" in str(caught.value)
    kept = (tmp_path / "trace.csv.part").stat().st_size
    assert kept > 50_000
    assert not (tmp_path / "trace.csv").exists()
    assert fetched(url, tmp_path / "trace.csv").read_bytes() == CONTENT
    assert behaviour.asked[-1] == f"bytes={kept}-"


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 5])
def test_stale_part_of_full_length_does_not_stop_a_fetch(url: str, tmp_path: Path, size: int) -> None:
    (tmp_path / "trace.csv.part").write_bytes(b"x" * size)
    if size == len(CONTENT):
        with pytest.raises(HarnessError, match="wrong checksum"):
            fetched(url, tmp_path / "trace.csv")
    assert fetched(url, tmp_path / "trace.csv").read_bytes() == CONTENT


def test_wrong_checksum_removes_the_part_and_says_so(url: str, behaviour: Behaviour, tmp_path: Path) -> None:
    behaviour.content = CONTENT[:-1] + b"\0"
    with pytest.raises(HarnessError, match=f"wrong checksum .* expected {SHA256}; the partial file was removed"):
        fetched(url, tmp_path / "trace.csv")
    assert list(tmp_path.iterdir()) == []


def test_wrong_target_is_replaced_only_by_a_verified_file(url: str, behaviour: Behaviour, tmp_path: Path) -> None:
    target = tmp_path / "trace.csv"
    target.write_text("edited")
    behaviour.content = CONTENT[:-1] + b"\0"
    with pytest.raises(HarnessError):
        fetched(url, target)
    assert target.read_text() == "edited"
    behaviour.content = CONTENT
    assert fetched(url, target).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [b"<html>please log in</html>", CONTENT * 2])
def test_answer_of_another_length_is_refused_at_once(
    url: str, behaviour: Behaviour, tmp_path: Path, content: bytes
) -> None:
    behaviour.content = content
    with pytest.raises(HarnessError, match=f"offers {len(content)} bytes, not the expected {len(CONTENT)}"):
        fetched(url, tmp_path / "trace.csv")
    assert len(behaviour.asked) == 1


def test_busy_server_is_asked_again_and_a_missing_file_is_not(url: str, behaviour: Behaviour, tmp_path: Path) -> None:
    behaviour.statuses = [503, 429]
    assert fetched(url, tmp_path / "a.csv").read_bytes() == CONTENT
    assert len(behaviour.asked) == 3
    behaviour.statuses = [404]
    with pytest.raises(HarnessError, match=r"cannot fetch http.*: HTTP 404 Not Found"):
        fetched(url, tmp_path / "b.csv")
    assert len(behaviour.asked) == 4


def test_refused_range_starts_over(url: str, behaviour: Behaviour, tmp_path: Path) -> None:
    (tmp_path / "trace.csv.part").write_bytes(CONTENT[:500])
    behaviour.statuses = [416]
    assert fetched(url, tmp_path / "trace.csv").read_bytes() == CONTENT
    assert behaviour.asked == ["bytes=500-", ""]


def test_no_network_is_one_line_with_the_address_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    address = "http://127.0.0.1:9/trace.csv"
    with pytest.raises(HarnessError) as caught:
        fetched(address, tmp_path / "trace.csv")
    message = str(caught.value)
    assert "\n" not in message
    assert address in message
    assert "no connection" in message
    assert f"save that address as {tmp_path / 'trace.csv'} (sha256 {SHA256})" in message


def test_folder_that_cannot_be_written_is_bad_input(url: str, behaviour: Behaviour, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="traces folder") as caught:
        fetched(url, tmp_path / "file" / "trace.csv")
    assert caught.value.value == str(tmp_path / "file")
    assert behaviour.asked == []


def test_file_system_that_takes_no_more_is_one_line_and_the_part_stays(url: str, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(HarnessError, match=r"cannot write .*trace.csv.part: File too large; fetch again to resume"):
            fetched(url, tmp_path / "trace.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "trace.csv.part").stat().st_size > 100_000
    assert fetched(url, tmp_path / "trace.csv").read_bytes() == CONTENT
