"""Random generators seeded by content, so that the same names give the same numbers on every machine."""

import numpy as np

from harness.points import FloatArray, content_id


def generator(*content: object) -> np.random.Generator:
    """A generator seeded by a hash of `content` (anything that JSON can hold)."""
    return np.random.default_rng(int(content_id(content, 32), 16))


def noise(random: np.random.Generator, sd: float, shape: tuple[int, ...]) -> FloatArray:
    """Multipliers near 1: normal, cut at three standard deviations."""
    values: FloatArray = 1.0 + sd * np.clip(random.standard_normal(shape), -3.0, 3.0)
    return values


def factor(random: np.random.Generator, sd: float) -> float:
    """One such multiplier."""
    return float(noise(random, sd, ()))
