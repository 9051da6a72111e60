"""Prints `VERSION+COMMIT` of the Sarathi-Serve that is installed, without importing it.

Run as `python -c`, by the Python of Sarathi's environment: standard library only. Ends with one line and status 1 where
there is none.
"""

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path


def installed_version() -> str:
    """The commit is left out where it cannot be found. Raises ValueError where Sarathi-Serve is not installed."""
    spec = importlib.util.find_spec("sarathi")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("Sarathi-Serve is not installed in this environment; it is installed from its source")
    folder = Path(spec.submodule_search_locations[0])
    if not (folder / "engine" / "llm_engine.py").is_file():
        raise ValueError(f"{folder} is another project of that name, not Sarathi-Serve: uninstall it")
    found = re.search(r'__version__ = "([^"]+)"', (folder / "__init__.py").read_text("utf-8"))
    commit = commit_of(folder)
    return (found.group(1) if found else "unknown") + (f"+{commit}" if commit else "")


def commit_of(folder: Path) -> str:
    """Of the source that a package came from: as pip recorded it, or as git says; "" where neither knows."""
    try:
        origin = json.loads(importlib.metadata.distribution("sarathi").read_text("direct_url.json") or "{}")
    except importlib.metadata.PackageNotFoundError:
        origin = {}
    commit = str(origin.get("vcs_info", {}).get("commit_id", ""))
    if not commit:
        # Its own checkout only: an environment may lie within another project's.
        top = folder.parent
        if not (top / ".git").exists():
            return ""
        try:
            asked = ["git", "-C", str(top), "rev-parse", "HEAD"]
            done = subprocess.run(asked, capture_output=True, text=True, check=True)  # noqa: S603 - fixed words
        except (OSError, subprocess.CalledProcessError):
            return ""
        commit = done.stdout.strip()
    return commit[:12]


if __name__ == "__main__":
    try:
        print(installed_version())
    except ValueError as error:
        sys.exit(str(error))
