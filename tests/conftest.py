"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Public traces and measurements: `HARNESS_TEST_DATA`, or `shared/data` beside the checkout."""
    folder = Path(os.environ.get("HARNESS_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no public data: set HARNESS_TEST_DATA to a folder with azure/AzureLLMInferenceTrace_*.csv")
    return folder
