"""Prompts: different, in range, and the same for ever."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.prompts import prompt_ids, request_seed


def test_prompts_are_the_same_on_every_platform_and_numpy() -> None:
    """Recorded runs name their prompts by seed only."""
    seed = request_seed("0123456789abcdef", 1, 0)
    assert seed == 4561027578987686753
    assert prompt_ids(seed, 0, 4, 32000).tolist() == [7723, 591, 13918, 12371]
    assert prompt_ids(seed, 7, 4, 128256).tolist() == [18460, 20417, 45714, 89752]


def test_requests_repetitions_attempts_and_points_differ() -> None:
    runs = [("a", 0, 0), ("a", 1, 0), ("a", 0, 1), ("a", 1, 1), ("b", 0, 0), ("a", 10, 0)]
    prompts = {prompt_ids(request_seed(*run), request, 32, 32000).tobytes() for run in runs for request in range(200)}
    assert len(prompts) == len(runs) * 200


def test_no_two_requests_of_neighbouring_seeds_share_a_prompt() -> None:
    """Full and prefill-only batches of a repetition use seeds next to one another; so may 2**32 and 0."""
    seeds = (0, 1, 2, 1 << 32, (1 << 32) + 1, 1 << 61)
    prompts = {prompt_ids(seed, request, 32, 32000).tobytes() for seed in seeds for request in range(100)}
    assert len(prompts) == len(seeds) * 100


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**63), st.integers(0, 10**6), st.integers(0, 50), st.integers(4, 300_000))
def test_ids_are_ordinary_tokens_of_the_vocabulary(seed: int, request_index: int, n_tokens: int, vocab: int) -> None:
    ids = prompt_ids(seed, request_index, n_tokens, vocab)
    assert ids.shape == (n_tokens,)
    assert ids.dtype == np.int64
    assert ((ids >= 3) & (ids < vocab)).all()


@pytest.mark.parametrize("vocab", [128256, 50432])
def test_special_tokens_and_padding_rows_at_the_top_are_left_out(vocab: int) -> None:
    first_special = {128256: 128000, 50432: 50277}[vocab]
    assert prompt_ids(1, 0, 200_000, vocab).max() < first_special


def test_ids_are_uniform() -> None:
    counts = np.bincount(prompt_ids(5, 0, 100_000, 103), minlength=103)
    assert counts[:3].sum() == 0
    assert counts[102] == 0
    ordinary = counts[3:102]
    expected = 100_000 / 99
    # Chi-square with 98 degrees of freedom: mean 98, standard deviation 14.
    assert ((ordinary - expected) ** 2 / expected).sum() == pytest.approx(98, abs=70)


@pytest.mark.parametrize(("n_tokens", "vocab"), [(1, 3), (1, 0), (-1, 100)])
def test_impossible_prompt_is_an_error(n_tokens: int, vocab: int) -> None:
    with pytest.raises(ValueError, match="from a vocabulary"):
        prompt_ids(0, 0, n_tokens, vocab)
