"""How many cases a property is tried on, and from which seed."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import hypothesis
import pytest

FACTOR = float(os.environ.get("HARNESS_FUZZ_FACTOR", "1"))
"""How many times the cases of the quick suite are generated; `make fuzz` sets it."""
SEED = os.environ.get("HARNESS_FUZZ_SEED") or None
"""Of other cases than the usual ones, which are always the same."""
_Test = TypeVar("_Test", bound=Callable[..., None])


def cases(quick: float, shrinks: bool = True) -> Callable[[_Test], _Test]:
    """So many cases of a test in the quick suite, and `FACTOR` times as many in `make fuzz`.

    Args:
        shrinks: whether a case that fails is made as small as can be, which takes a hundred further ones.
    """
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    chosen = hypothesis.settings(
        max_examples=max(1, int(quick * FACTOR)),
        deadline=None,
        database=None,
        derandomize=SEED is None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[*phases, hypothesis.Phase.shrink] if shrinks else phases,
    )

    def applied(test: _Test) -> _Test:
        made = chosen(test)
        return made if SEED is None else hypothesis.seed(int(SEED))(made)

    return applied


def slow_if_large(index: int, content: bytes) -> Any:
    """A parameter: the index of a file, for the slow suite where it takes seconds to refuse it."""
    return pytest.param(index, marks=pytest.mark.slow if len(content) > 4500 else ())
