"""A wheel, installed elsewhere, carries all it needs: sweep files, node kinds, models, profiles."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.integration.support import environment


@pytest.mark.slow
def test_an_installed_wheel_sweeps_outside_the_checkout(tmp_path: Path) -> None:
    run = {"check": True, "capture_output": True, "text": True, "timeout": 900}
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(REPOSITORY)], **run)  # type: ignore[call-overload]
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    bin_folder = tmp_path / "venv" / "bin"
    subprocess.run([bin_folder / "pip", "-q", "install", str(wheel)], **run)  # type: ignore[call-overload]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = ["sweep", "simulated-dgx.yaml", "--points", "2", "--repetitions", "1"]
    done = subprocess.run(
        [bin_folder / "harness", *words], cwd=elsewhere, env=environment(), capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "azure2023-conv-profile" in done.stdout
    assert (elsewhere / "results" / "simulated" / "simulated-dgx" / "runs").exists()
    listed = subprocess.run([bin_folder / "harness", "traces", "list"], cwd=elsewhere, env=environment(), **run)  # type: ignore[call-overload]
    assert "azure2023-conv" in listed.stdout
    asked = subprocess.run(
        [bin_folder / "harness", "train"], cwd=elsewhere, env=environment(), capture_output=True, text=True, check=False
    )
    assert asked.returncode == 2
    # It found the trainer, and not what that needs.
    assert "is not installed: needs pip install 'llm-energy-harness[analysis]'" in asked.stderr
