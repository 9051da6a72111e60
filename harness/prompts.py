"""Prompts as token ids: random, seeded, different for every request and repetition.

Random contents make prefix caches miss, and vary the operands whose values move a GPU's power.
Only bit generators and seed sequences of numpy are used: numpy keeps their streams stable across
platforms and versions, which it does not promise for the methods of `Generator`.
"""

import hashlib

import numpy as np

from harness.points import IntArray

FIRST_ORDINARY_ID = 3
"""Ids 0 to 2 are unknown, begin and end of sequence in the Llama family, 0 or 1 end of text elsewhere."""
_TOP_SHARE = 100
"""The last hundredth of a vocabulary is left out: special tokens (Llama 3, Qwen) and padding rows
(GPT-NeoX) lie there, and an engine may refuse an id that its tokenizer does not know."""


def request_seed(point_id: str, repetition: int, attempt: int) -> int:
    """The seed (62 bits) of all prompts of one run."""
    digest = hashlib.sha256(f"{point_id}/{repetition}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def prompt_ids(seed: int, request_index: int, n_tokens: int, vocab_size: int) -> IntArray:
    """The (n_tokens,) token ids of one request, uniform over the ordinary ids of the vocabulary.

    Args:
        seed: not negative, see `request_seed`.
        request_index: not negative, counted over all batches of a run.

    Raises:
        ValueError: a vocabulary without ordinary ids, or a negative argument.
    """
    ordinary = vocab_size - vocab_size // _TOP_SHARE - FIRST_ORDINARY_ID
    if ordinary < 1 or n_tokens < 0 or request_index < 0:
        raise ValueError(f"no {n_tokens} ids for request {request_index} from a vocabulary of {vocab_size}")
    bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(request_index,)))
    # The modulo of 64 random bits favours no id by more than 1e-13.
    offsets = bits.random_raw(n_tokens) % np.uint64(ordinary)
    return offsets.astype(np.int64) + FIRST_ORDINARY_ID
