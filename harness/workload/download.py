"""Downloads one file whose size and checksum are known: resumable, verified, put in place in one step."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import requests

from harness.errors import BadInput, HarnessError

_ATTEMPTS = 5
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 10.0, 30.0
_CHUNK_BYTES = 8 << 10  # what a cut connection may lose: a chunk that did not come whole is not handed on
_TRY_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE_REFUSED = 416

Progress = Callable[[int, int], None]


class _Interruption(Exception):
    """What came is worth keeping, and asking again may bring the rest."""


def download(
    url: str, target: Path, sha256: str, size_bytes: int, progress: Progress | None = None, pause_s: float = 0.5
) -> Path:
    """The file at `target` with the given checksum; nothing is downloaded when it is there already.

    Bytes go to `target` + `.part`, from which a later call resumes (HTTP Range). The part replaces the target
    once its checksum is right; a part with a wrong one is removed.

    Args:
        progress: called with the bytes that are there and the bytes of the whole file.
        pause_s: before the second of five attempts; it doubles with each.

    Raises:
        BadInput: the folder cannot be written to.
        HarnessError: no answer, a refusal, a wrong checksum, or a full disk.
    """
    part = target.with_name(target.name + ".part")
    try:
        if target.is_file() and _sha256(target) == sha256:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        fix = "choose another one with --folder or HARNESS_TRACES"
        raise BadInput("traces folder", str(target.parent), "a folder that can be written to", fix) from error
    by_hand = f"to place it by hand, save that address as {target} (sha256 {sha256})"
    try:
        _fill(url, part, size_bytes, progress or (lambda _have, _total: None), pause_s, by_hand)
        found = _sha256(part)
        if found != sha256:
            part.unlink()
            raise HarnessError(
                f"{url}: wrong checksum {found}, expected {sha256}; the partial file was removed: fetch again,"
                " and if it stays wrong, the published file has changed"
            )
        part.replace(target)
    except OSError as error:
        raise HarnessError(f"cannot write {part}: {error.strerror or error}; fetch again to resume") from error
    return target


def _fill(url: str, part: Path, size_bytes: int, progress: Progress, pause_s: float, by_hand: str) -> None:
    """Ask until the part has all its bytes, at most five times."""
    reason = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(pause_s * 2 ** (attempt - 1))
        try:
            _append(url, part, size_bytes, progress)
        except _Interruption as error:
            reason = str(error)
        else:
            return
    raise HarnessError(f"cannot fetch {url} after {_ATTEMPTS} attempts: {reason}; fetch again to resume; {by_hand}")


def _append(url: str, part: Path, size_bytes: int, progress: Progress) -> None:
    """One request for the bytes that the part lacks, if any."""
    have = part.stat().st_size
    if have == size_bytes:
        return
    # Content must come as it is stored, or sizes and ranges mean nothing.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with requests.get(url, headers=headers, stream=True, timeout=(_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S)) as response:
            have = _accepted_offset(response, url, part, have, size_bytes)
            with part.open("r+b") as file:
                file.truncate(have)
                file.seek(have)
                for chunk in response.iter_content(_CHUNK_BYTES):
                    have += len(chunk)
                    if have > size_bytes:
                        raise _refused(part, url, f"the server sends more than the expected {size_bytes} bytes")
                    file.write(chunk)
                    progress(have, size_bytes)
                file.flush()
                os.fsync(file.fileno())
    except requests.RequestException as error:
        raise _Interruption(_reason(error)) from error
    if have < size_bytes:
        raise _Interruption(f"the connection ended at {have} of {size_bytes} bytes")


def _accepted_offset(response: requests.Response, url: str, part: Path, have: int, size_bytes: int) -> int:
    """From which byte on the answer's content is; refuses an answer that is not the file."""
    status = response.status_code
    if status == _RANGE_REFUSED:
        part.write_bytes(b"")
        raise _Interruption("the server refused to resume")
    if status in _TRY_LATER:
        raise _Interruption(f"HTTP {status} {response.reason}")
    if status not in (200, 206):
        raise HarnessError(f"cannot fetch {url}: HTTP {status} {response.reason}")
    offset = have if status == 206 else 0
    if status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        part.write_bytes(b"")
        raise _Interruption("the server resumed at another byte")
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and offset + int(length) != size_bytes:
        raise _refused(part, url, f"the server offers {offset + int(length)} bytes, not the expected {size_bytes}")
    return offset


def _refused(part: Path, url: str, reason: str) -> HarnessError:
    part.unlink()
    return HarnessError(
        f"cannot fetch {url}: {reason}; the partial file was removed; is a proxy or login page between?"
    )


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    if isinstance(error, requests.ConnectionError):
        return "no connection (is there a network, or a proxy to set in HTTPS_PROXY?)"
    return type(error).__name__


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
