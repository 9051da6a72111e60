"""Every command that the README and the docs show in a `sh` block works as shown."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.deployment.sweepfile import load_sweep
from tests.conftest import REPOSITORY
from tests.integration.support import environment, harness

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```sh([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: Path, kind: str = "") -> list[str]:
    """Lines of its `sh` blocks of one kind: those of `sh make` are not run here, those of `sh analysis` need torch."""
    found = []
    for info, block in BLOCK.findall(page.read_text("utf-8")):
        if info.strip() == kind:
            found += [line for line in block.splitlines() if line.strip() and not line.startswith("#")]
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: the checkout without results, fetched traces and environments."""
    folder = tmp_path_factory.mktemp("checkout") / "repository"
    ignored = shutil.ignore_patterns(
        ".git", ".venv*", "simulated", "measured", "bench", "*.csv", "__pycache__", ".*_cache"
    )
    shutil.copytree(REPOSITORY, folder, ignore=ignored)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_page_run_in_order(page: Path, checkout: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands(page):
        words = shlex.split(command)
        if words[0] == "make":
            # Installing is what the test run itself did; here only that the target exists.
            words = ["make", "-n", *words[1:]]
        done = subprocess.run(
            words, cwd=checkout, env=environment(PATH=path), capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{page.name}: {command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


def test_the_pandas_example_of_the_readme_prints_a_table(checkout: Path) -> None:
    sweep = ["sweep", "deployments/simulated-dgx.yaml", "--points", "9"]
    assert harness(*sweep, cwd=checkout).returncode == 0
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text("utf-8"), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "t_interval" in done.stdout
    assert "nan" not in done.stdout.lower()


def test_the_commented_sweep_file_of_the_docs_loads(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "sweep-files.md").read_text("utf-8")
    (tmp_path / "sweep.yaml").write_text(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0], "utf-8")
    assert load_sweep(tmp_path / "sweep.yaml").name == "my-sweep"


def test_the_sweep_over_two_nodes_of_the_docs_runs(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "cluster.md").read_text("utf-8")
    (tmp_path / "sweep.yaml").write_text(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0], "utf-8")
    done = harness("sweep", "sweep.yaml", "--results", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "h100 llama-2-70b tp8 pp2 2nodes vllm@8192" in done.stdout


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
