"""Traces by name: the manifest, the folder, and the profile that stands in."""

import gzip
import shutil
from pathlib import Path

import pytest

from harness.bundled import bundled_path
from harness.errors import BadInput
from harness.workload import library
from harness.workload.azure import load_trace
from harness.workload.library import fetch, find_trace, manifest, traces_folder

NAMES = ["azure2023-code", "azure2023-conv"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_TRACES", str(tmp_path))
    return tmp_path


def test_manifest_describes_the_published_files(data_dir: Path) -> None:
    assert [entry.name for entry in manifest()] == NAMES
    for entry in manifest():
        path = data_dir / "azure" / entry.file
        trace = load_trace(path)
        assert (trace.sha256, len(trace), path.stat().st_size) == (entry.sha256, entry.rows, entry.bytes)
        assert entry.url.endswith("/" + entry.file)


@pytest.mark.parametrize("name", NAMES)
def test_trace_that_was_not_fetched_is_its_profile_and_says_so(folder: Path, name: str) -> None:
    trace = find_trace(name, seed=1)
    assert (trace.name, trace.source) == (f"{name}-profile", "profile")
    assert trace.sha256 == find_trace(f"{name}-profile", seed=1).sha256
    assert trace.sha256 != find_trace(name, seed=2).sha256


@pytest.mark.parametrize("zipped", [False, True])
def test_fetched_trace_is_found_by_its_name(folder: Path, data_dir: Path, zipped: bool) -> None:
    entry = manifest()[0]
    content = (data_dir / "azure" / entry.file).read_bytes()
    if zipped:
        (folder / (entry.file + ".gz")).write_bytes(gzip.compress(content))
    else:
        (folder / entry.file).write_bytes(content)
    trace = find_trace(entry.name)
    assert (trace.name, trace.source, trace.sha256) == (entry.name, "file", entry.sha256)
    assert find_trace(entry.name + "-profile").source == "profile"


def test_edited_file_is_not_taken_for_the_published_one(folder: Path, data_dir: Path) -> None:
    entry = manifest()[0]
    shutil.copyfile(data_dir / "azure" / entry.file, folder / entry.file)
    (folder / entry.file).chmod(0o600)
    with (folder / entry.file).open("a") as file:
        file.write("\n2023-11-16 20:00:00,1,1\n")
    with pytest.raises(BadInput, match="fetch it again"):
        find_trace(entry.name)
    by_path = find_trace(str(folder / entry.file))
    assert (by_path.name, len(by_path)) == ("AzureLLMInferenceTrace_code", entry.rows + 1)


@pytest.mark.parametrize("name", ["azure", "azure2023-conv-profile-profile", "", "azure2024-code"])
def test_unknown_name_lists_the_known_ones(folder: Path, name: str) -> None:
    with pytest.raises(BadInput) as caught:
        find_trace(name)
    assert all(known in caught.value.accepted for known in NAMES)
    assert caught.value.value == name


@pytest.mark.parametrize("file", ["absent.csv", "./absent", "~no-such-user/absent.csv"])
def test_absent_file_is_bad_input(file: str) -> None:
    with pytest.raises(BadInput, match="check the path"):
        find_trace(file)


def test_unknown_name_is_not_fetched(folder: Path) -> None:
    with pytest.raises(BadInput, match="azure2023-code"):
        fetch("azure2023-code-profile")


def test_fetch_finds_a_file_that_was_placed_by_hand(folder: Path, data_dir: Path, tmp_path: Path) -> None:
    entry = manifest()[1]
    shutil.copyfile(data_dir / "azure" / entry.file, folder / entry.file)
    assert fetch(entry.name) == folder / entry.file


def test_folder_is_the_variables_then_the_checkouts_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_TRACES", str(tmp_path / "chosen"))
    assert traces_folder() == tmp_path / "chosen"
    monkeypatch.delenv("HARNESS_TRACES")
    assert traces_folder() == bundled_path("traces")
    assert (traces_folder() / "manifest.yaml").is_file()
    inside_wheel = tmp_path / "site-packages" / "harness" / "bundled" / "traces"
    inside_wheel.mkdir(parents=True)
    monkeypatch.setattr(library, "bundled_path", lambda *_parts: inside_wheel)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert traces_folder() == tmp_path / "cache" / "harness" / "traces"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert traces_folder() == tmp_path / "home" / ".cache" / "harness" / "traces"
