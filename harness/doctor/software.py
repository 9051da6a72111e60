"""The interpreter, engines, traces and the folder of results."""

import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness import __version__
from harness.doctor.check import Check
from harness.errors import HarnessError
from harness.trainer import EXTRA, missing_packages
from harness.units import BYTES_PER_GIB
from harness.workload.library import fetched_state, manifest, traces_folder

_PACKAGES = ("numpy", "pandas", "pyarrow", "nvidia-ml-py", "pyRAPL")
_VERSION_LIMIT_S = 120
_FREE_BYTES_WANTED = 5 * BYTES_PER_GIB


def check_python() -> Iterable[Check]:
    """The interpreter, and the packages whose version decides what is read."""
    found = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    yield Check("python", "ok", f"{platform.python_version()}, harness {__version__}, {found}")
    try:
        shadow = version("pynvml")
    except PackageNotFoundError:
        return
    yield Check("pynvml", "warn", f"the deprecated distribution pynvml {shadow} is installed", "pip uninstall pynvml")


def check_engines() -> Iterable[Check]:
    """Serving engines on PATH."""
    path = shutil.which("vllm")
    if path is None:
        fix = (
            "install vLLM in an environment of its own and put its vllm command on PATH,"
            " or name it as `command` in the sweep file (docs/engines.md)"
        )
        yield Check("vllm", "missing", "no command vllm on PATH", fix)
    else:
        yield _check_command("vllm", path)
    yield Check("sarathi", "warn", "cannot be detected: it installs no command; a sweep that uses it finds out")


def _check_command(name: str, path: str) -> Check:
    try:
        done = subprocess.run(  # noqa: S603
            [path, "--version"], capture_output=True, text=True, timeout=_VERSION_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Check(name, "warn", f"{path} --version took over {_VERSION_LIMIT_S} s", "run it by hand")
    except OSError as error:
        return Check(name, "missing", f"{path} cannot be run: {error.strerror}", "install it again")
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines() or ["it printed nothing"]
    if done.returncode:
        return Check(name, "missing", f"{path} --version failed: {lines[-1]}", "run it by hand to see why")
    return Check(name, "ok", f"{lines[-1]} at {path}")


def check_trainer() -> Iterable[Check]:
    """What training and prediction need, which measuring does not."""
    if missing := missing_packages():
        detail = f"{', '.join(missing)} not installed: no train, score, regions and predict"
        yield Check("trainer", "warn", detail, EXTRA)
    else:
        yield Check("trainer", "ok", f"torch {version('torch')}")


def check_traces() -> Iterable[Check]:
    """Which traces were fetched; their bundled profiles stand in for the others."""
    try:
        entries = manifest()
        states = {entry.name: fetched_state(entry) for entry in entries}
    except HarnessError as error:
        yield Check("traces", "missing", str(error), "install the harness again")
        return
    except OSError as error:
        yield Check("traces", "missing", f"{error.filename}: {error.strerror}", "let it be read, or set HARNESS_TRACES")
        return
    fetched = [name for name, state in states.items() if state == "fetched"]
    wrong = [name for name, state in states.items() if state == "wrong content"]
    missing = [name for name, state in states.items() if state == "profile only"]
    where = f"in {traces_folder()}"
    if fetched:
        yield Check("traces", "ok", f"{', '.join(fetched)} {where}")
    if wrong:
        yield Check(
            "traces", "missing", f"{', '.join(wrong)} {where}: not the published file", "harness traces fetch all"
        )
    if missing:
        detail = f"{', '.join(missing)} not {where}: bundled profiles stand in"
        yield Check("traces", "warn", detail, f"harness traces fetch {missing[0] if len(missing) == 1 else 'all'}")


def check_results(results: Path) -> Iterable[Check]:
    """Whether results can be written where they would land."""
    folder = results.absolute()
    existing = folder
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
        free_bytes = shutil.disk_usage(existing).free
    except OSError as error:
        yield Check("results", "missing", f"{existing}: {error.strerror}", "give another folder with --results")
        return
    detail = f"{folder} can be written, {free_bytes / BYTES_PER_GIB:.1f} GiB free"
    if free_bytes < _FREE_BYTES_WANTED:
        yield Check("results", "warn", detail, "free some space, or give another folder with --results")
    else:
        yield Check("results", "ok", detail)
