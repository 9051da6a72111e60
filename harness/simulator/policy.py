"""How serving engines schedule, as far as it shows in what their steps hold.

vLLM and Sarathi-Serve agree on most of it: running requests first, in order of arrival, then the waiting ones; a token
budget per step, which the last prompt of the step may fill with a part of itself; a limit on running sequences; when
the KV cache runs out, the request that arrived last loses its cache, goes back to the head of the queue, and is
computed again from its first token; nothing is admitted in a step that preempted. The fields of `Policy` are where
they differ.

Not modelled: asynchronous scheduling in vLLM, which plans a step while the one before it runs, so that an arrival, or
the place of a request that has finished, is seen one step later; prefix caching; priorities; the separate batches that
pipeline stages hold.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """What an engine does when it forms a step.

    Attributes:
        block_tokens: the KV cache is given out in blocks of so many tokens.
        whole_prompt: admission takes the blocks of the whole prompt. Otherwise it only asks that they be free, and each
            chunk takes its own when it is computed: until then decoding may use them.
        watermark: share of all blocks that admission leaves free.
        spare_block: a decoding sequence goes on only while a block is free, even in a step in which it needs none.
        static: requests enter as a batch with prompts of one length, when the batch before has ended. All prompts are
            computed, each whole if it fits the budget, before any of them decodes.
    """

    block_tokens: int
    whole_prompt: bool = False
    watermark: float = 0.0
    spare_block: bool = False
    static: bool = False


VLLM = Policy(block_tokens=16)
"""vLLM's V1 scheduler: `Scheduler.schedule` in vllm/v1/core/sched/scheduler.py, `KVCacheManager.allocate_slots` in
vllm/v1/core/kv_cache_manager.py, `SchedulerConfig` in vllm/config/scheduler.py, of github.com/vllm-project/vllm.

That a waiting request's whole prompt must find free blocks (`scheduler_reserve_full_isl`, on by default) came with pull
request 37307 of March 2026; before it, the first chunk was enough. `watermark` is 0 by default.
"""

SARATHI = Policy(block_tokens=16, whole_prompt=True, watermark=0.01, spare_block=True)
"""Sarathi-Serve: `SarathiScheduler._schedule` in sarathi/core/scheduler/sarathi_scheduler.py; `can_allocate`,
`can_append_slot` and the watermark in sarathi/core/block_space_manager/base_block_space_manager.py; the block's size in
sarathi/config/config.py, of github.com/microsoft/sarathi-serve. Its budget is `chunk_size`, 512 by default: the token
budget of the deployment, as for the other engines.
"""

STATIC = Policy(block_tokens=1, static=True)
"""The plain PyTorch engine (harness/engines/inside/transformers_server.py). It keeps no count of its cache, and would
fail where memory ends; here a batch takes no more requests than the cache can hold to their last token.
"""

_POLICIES = {"vllm": VLLM, "sarathi": SARATHI, "transformers": STATIC}


def policy_of(engine: str) -> Policy:
    """How the engine of this name schedules; as vLLM does, if the name is not known."""
    return _POLICIES.get(engine, VLLM)
