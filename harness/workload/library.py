"""The traces that the harness knows by name: where they come from, where they lie, what stands in for them.

`traces/manifest.yaml` lists them. A trace that was not fetched is replaced by its bundled statistical
profile, whose name ends in `-profile`: runs never say that they replayed what they did not have.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from harness.bundled import bundled_path
from harness.errors import BadInput
from harness.workload.azure import Trace, load_trace
from harness.workload.datafile import read_datafile
from harness.workload.download import download
from harness.workload.profile import load_profile

PROFILE_SUFFIX = "-profile"
FOLDER_VARIABLE = "HARNESS_TRACES"


class TraceEntry(BaseModel):
    """One trace of the manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    about: str
    url: Annotated[str, Field(pattern=r"^https?://")]
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(gt=0)]
    rows: Annotated[int, Field(gt=0)]
    licence: str
    citation: str


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    traces: tuple[TraceEntry, ...]


def manifest() -> tuple[TraceEntry, ...]:
    """The known traces.

    Raises:
        BadInput: the manifest is damaged.
    """
    return read_datafile(bundled_path("traces", "manifest.yaml"), _Manifest).traces


def traces_folder() -> Path:
    """Where fetched traces lie; it need not exist.

    `HARNESS_TRACES` if set, the checkout's `traces/` when running from one, else `harness/traces` in the
    user's cache folder (`XDG_CACHE_HOME`, or `~/.cache`).
    """
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return _without_tilde(chosen)
    beside_package = bundled_path("traces")
    if beside_package.parent.name != "bundled" and beside_package.is_dir():
        return beside_package
    return _without_tilde(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "harness" / "traces"


def fetched_file(entry: TraceEntry) -> Path | None:
    """The file of a trace in the traces folder, plain or gzipped, or None."""
    plain = traces_folder() / entry.file
    return next((path for path in (plain, plain.with_name(plain.name + ".gz")) if path.is_file()), None)


def fetched_state(entry: TraceEntry) -> str:
    """`fetched`, `wrong content` (not the published file: it would be refused) or `profile only`."""
    if fetched_file(entry) is None:
        return "profile only"
    try:
        find_trace(entry.name)
    except BadInput:
        return "wrong content"
    return "fetched"


def find_trace(name_or_file: str, seed: int = 0) -> Trace:
    """A trace by its name, or from a file.

    A name of the manifest gives the fetched file, or the bundled profile where there is none; a name that
    ends in `-profile` gives the profile; anything with a `/` or ending in `.csv` or `.csv.gz` is a file.

    Args:
        seed: of the sample, where a profile is used.

    Raises:
        BadInput: an unknown name, a file that is no trace, or a fetched file that is not the published one.
    """
    if "/" in name_or_file or name_or_file.endswith((".csv", ".csv.gz")):
        trace = load_trace(_without_tilde(name_or_file))
        published = {entry.name: entry.sha256 for entry in manifest()}
        if published.get(trace.name, trace.sha256) != trace.sha256:
            return replace(trace, name=f"{trace.name}-modified")  # Never under the published one's name.
        return trace
    entry = _entry(name_or_file.removesuffix(PROFILE_SUFFIX), name_or_file, ", or the path of a .csv file")
    file = None if name_or_file.endswith(PROFILE_SUFFIX) else fetched_file(entry)
    if file is None:
        return load_profile(bundled_path("traces", f"{entry.name}{PROFILE_SUFFIX}.json")).sample(seed)
    trace = load_trace(file, entry.name)
    if trace.sha256 != entry.sha256:
        accepted = f"the published file, sha256 {entry.sha256}"
        fix = f"fetch it again (harness traces fetch {entry.name}), or give an edited file by its path"
        raise BadInput(str(file), f"sha256 {trace.sha256}", accepted, fix)
    return trace


def fetch(name: str, folder: Path | None = None, progress: Callable[[int, int], None] | None = None) -> Path:
    """Download a trace of the manifest, or find it there already; returns its file.

    Args:
        folder: by default `traces_folder()`.
        progress: called with the bytes that are there and the bytes of the whole file.

    Raises:
        BadInput: an unknown name, or a folder that cannot be written to.
        HarnessError: the download failed; running it again resumes.
    """
    entry = _entry(name, name)
    target = (folder or traces_folder()) / entry.file
    return download(entry.url, target, entry.sha256, entry.bytes, progress)


def _entry(name: str, asked: str, alternative: str = "") -> TraceEntry:
    entries = {entry.name: entry for entry in manifest()}
    if name not in entries:
        raise BadInput("trace", asked, ", ".join(entries) + alternative, "see harness traces list")
    return entries[name]


def _without_tilde(path: str) -> Path:
    # Path.expanduser raises a RuntimeError for an unknown user; this leaves the path as it is.
    return Path(os.path.expanduser(path))  # noqa: PTH111
