"""What one engine step holds, as the scheduler hands it to the latency and power models."""

from typing import Generic, NamedTuple, TypeVar

from harness.points import FloatArray

Number = TypeVar("Number", float, FloatArray)


class StepShape(NamedTuple, Generic[Number]):
    """Contents of one step, each a float, or of n steps, each an (n,) array.

    Attributes:
        prefill_requests: sequences with a prompt chunk in the step.
        prefill_tokens: tokens of these chunks.
        prefill_context_tokens: keys read by the chunks' attention, summed over them.
        prefill_pairs: query-key pairs of the chunks' attention.
        decode_requests: sequences that decode, one token each.
        decode_context_tokens: keys read by their attention, summed over them.
    """

    prefill_requests: Number
    prefill_tokens: Number
    prefill_context_tokens: Number
    prefill_pairs: Number
    decode_requests: Number
    decode_context_tokens: Number
