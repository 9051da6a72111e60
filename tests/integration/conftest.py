"""Fixtures of the integration tests."""

from pathlib import Path

import pytest

from tests.fixtures.nvml.build import build_fake_nvml
from tests.integration.machine import Machine


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for libnvidia-ml.so.1; skips without a C compiler."""
    return build_fake_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def machine(tmp_path: Path, nvml_library: Path) -> Machine:
    """A node with two GPUs and two sockets."""
    return Machine(tmp_path, nvml_library)
