"""Which configurations teach, which test, and which stay unseen: the same ones whenever and wherever it is asked.

A configuration's part follows from its own content. So as results grow, what tested goes on testing and never teaches,
and the scores of two trainings compare.
"""

import hashlib

import numpy as np

from harness.points import StrArray
from harness_analysis.configurations import Configurations

TRAIN, TEST, UNSEEN = "train", "test", "unseen"
TEST_SHARE = UNSEEN_SHARE = 0.1
"""Expected; of a small folder they may be anything."""
RULE = "configuration-sha256: 0.1 test, 0.1 unseen"
"""Goes into a predictor's card: one that was divided otherwise may have learnt from what tests here."""
_COLUMNS = ("gpu", "model", "bits", "tp", "pp", "batch_size", "prompt_tokens", "generated_tokens")


def part_of(c: Configurations) -> StrArray:
    """(n,) `TRAIN`, `TEST` or `UNSEEN`: the same for those that differ at most in who serves them."""
    columns = [getattr(c, name).tolist() for name in _COLUMNS]
    shares = np.array([_share(row) for row in zip(*columns, strict=True)], np.float64)
    return np.select([shares < TEST_SHARE, shares < TEST_SHARE + UNSEEN_SHARE], [TEST, UNSEEN], TRAIN)


def _share(row: tuple[str | float, ...]) -> float:
    """Where a configuration falls, evenly from 0 to 1."""
    text = "|".join(value if isinstance(value, str) else repr(float(value)) for value in row)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
