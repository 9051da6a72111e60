"""How much of the KV cache is taken, in blocks, without a look at the requests that decode.

A decoding request grows by a token per step, so it takes a new block every `block_tokens` steps. How many of them do
so in a step is kept for each remainder of the step's number, which makes a step's growth one look-up.
"""

from harness.points import IntArray
from harness.simulator.policy import Policy


class KvBlocks:
    """Blocks of one engine's cache.

    Args:
        policy: its `block_tokens` and `watermark`.
        kv_tokens: size of the cache; what does not fill a block is not used.

    Attributes:
        limit, used: blocks in all, and given out.
        kept_free: blocks that admission leaves free.
    """

    def __init__(self, policy: Policy, kv_tokens: int) -> None:
        self.block_tokens = policy.block_tokens
        self.limit = kv_tokens // policy.block_tokens
        self.kept_free = int(policy.watermark * self.limit)
        self.used = 0
        self._growing = [0] * policy.block_tokens

    def blocks(self, tokens: int) -> int:
        """Blocks that hold so many tokens of one request."""
        return -(-tokens // self.block_tokens)

    def longest_blocks(self, prompt_tokens: IntArray, generated_tokens: IntArray) -> int:
        """Blocks of the longest request; its last token is not read again, so it takes no place."""
        return self.blocks(int((prompt_tokens + generated_tokens).max(initial=1)) - 1)

    def growing(self, step: int) -> int:
        """Blocks that decoding takes in a step."""
        return self._growing[step % self.block_tokens]

    def enter(self, held_tokens: int, step: int) -> None:
        """A request that holds so many tokens decodes from the next step on."""
        self._growing[(1 + step - held_tokens) % self.block_tokens] += 1

    def leave(self, held_tokens: int, step: int, decoded: int) -> int:
        """One that began so has decoded so many tokens, and gives its blocks back: the tokens in them."""
        self._growing[(1 + step - held_tokens) % self.block_tokens] -= 1
        self.used -= self.blocks(held_tokens + decoded)
        return held_tokens + decoded

    def grows(self, held_tokens: int, entered: int, step: int) -> bool:
        """Whether one that began so after the step `entered` takes a block in a later step."""
        return (1 + entered - held_tokens - step) % self.block_tokens == 0
