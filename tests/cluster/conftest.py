"""Fixtures of the tests with a real Ray cluster."""

from pathlib import Path

import pytest

from tests.cluster.support import token


@pytest.fixture
def secret(tmp_path: Path) -> dict[str, str]:
    """A token, as the variables by which Ray finds it."""
    return token(tmp_path)
