"""Dimensions of the dense models that the published measurements are of, as the Llama shape that computes the same.

The figures are those of each model's `config.json` on the Hugging Face hub, https://huggingface.co/NAME/blob/main/
config.json with the key of `SHAPES` as NAME; the tests compare parameter counts with the published totals. Where a
model is not Llama-shaped, its shape here has the same matrix products, weights and KV cache as nearly as possible:

- **StarCoder2**: the MLP has two matrices of 4 x hidden. Three of 2/3 of that width have the same weights and
  operations, in three products instead of two. Its layer norms and MLP biases are left out (below 0.1% of the weights).
- **Phi-3 small**: every second layer attends to blocks only (at most 16 blocks of 64 tokens back, and every eighth
  block); here all attend to everything, as below 1,024 tokens they do. Its MLP (`gegelu`) is gated like Llama's.
- **Gemma, Gemma 2**: heads are wider than hidden / heads and the embedding is tied to the output head; both are
  dimensions that the shape has. Left out: GELU instead of SiLU, Gemma 2's two further norms per layer, its soft caps,
  and its windows of 4,096 tokens in every second layer (no difference below).
- **Mistral 7B v0.1, Phi-3 mini and medium, StarCoder2**: windows of 2,047 or 4,096 tokens are left out too.
- **Qwen2**: biases on q, k and v; the shape's `attention_bias` counts one on the output projection as well.

Falcon, Mixtral, DeciLM (key-value heads differ between layers), OPT, BLOOM and GPT-J are not here.
"""

from collections.abc import Mapping
from types import MappingProxyType

from harness.points import ModelShape


def _shape(
    name: str,
    hidden_size: int,
    intermediate_size: int,
    layers: int,
    heads: tuple[int, int],
    vocab_size: int,
    context: int,
    *,
    head_dim: int | None = None,
    tied: bool = False,
    bias: bool = False,
) -> ModelShape:
    """`heads` are query and key-value heads; without `head_dim` it is hidden size / query heads."""
    return ModelShape(
        name=name,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        layers=layers,
        heads=heads[0],
        kv_heads=heads[1],
        head_dim=head_dim or hidden_size // heads[0],
        vocab_size=vocab_size,
        max_context_tokens=context,
        tied_embeddings=tied,
        attention_bias=bias,
    )


_LLAMA_2_13B = (5120, 13824, 40, (40, 40))
_LLAMA_7B = (4096, 11008, 32, (32, 32))
_LLAMA_70B = (8192, 28672, 80, (64, 8))
_LLAMA_3_8B = (4096, 14336, 32, (32, 8))
_GEMMA_2B = (2048, 16384, 18, (8, 1))
_GEMMA_7B = (3072, 24576, 28, (16, 16))
SHAPES: Mapping[str, ModelShape] = MappingProxyType(
    {
        "huggyllama/llama-7b": _shape("llama-7b", *_LLAMA_7B, 32000, 2048),
        "meta-llama/Llama-2-7b-hf": _shape("llama-2-7b", *_LLAMA_7B, 32000, 4096),
        "meta-llama/Llama-2-13b-hf": _shape("llama-2-13b", *_LLAMA_2_13B, 32000, 4096),
        "meta-llama/Llama-2-70b-hf": _shape("llama-2-70b", *_LLAMA_70B, 32000, 4096),
        "meta-llama/Meta-Llama-3-8B": _shape("llama-3-8b", *_LLAMA_3_8B, 128256, 8192),
        "meta-llama/Meta-Llama-3-70B": _shape("llama-3-70b", *_LLAMA_70B, 128256, 8192),
        "meta-llama/Llama-3.1-8B": _shape("llama-3.1-8b", *_LLAMA_3_8B, 128256, 131072),
        "meta-llama/Meta-Llama-3.1-8B-Instruct": _shape("llama-3.1-8b-instruct", *_LLAMA_3_8B, 128256, 131072),
        "meta-llama/Meta-Llama-3.1-70B-Instruct": _shape("llama-3.1-70b-instruct", *_LLAMA_70B, 128256, 131072),
        "meta-llama/Meta-Llama-3.1-405B-Instruct": _shape(
            "llama-3.1-405b-instruct", 16384, 53248, 126, (128, 8), 128256, 131072
        ),
        "meta-llama/Llama-3.2-1B": _shape("llama-3.2-1b", 2048, 8192, 16, (32, 8), 128256, 131072, tied=True),
        "meta-llama/Llama-3.2-3B": _shape("llama-3.2-3b", 3072, 8192, 28, (24, 8), 128256, 131072, tied=True),
        "codellama/CodeLlama-7b-hf": _shape("codellama-7b", *_LLAMA_7B, 32016, 16384),
        "codellama/CodeLlama-13b-hf": _shape("codellama-13b", *_LLAMA_2_13B, 32016, 16384),
        "codellama/CodeLlama-34b-hf": _shape("codellama-34b", 8192, 22016, 48, (64, 8), 32000, 16384),
        "codellama/CodeLlama-70b-hf": _shape("codellama-70b", *_LLAMA_70B, 32016, 16384),
        "mistralai/Mistral-7B-v0.1": _shape("mistral-7b-v0.1", *_LLAMA_3_8B, 32000, 32768),
        "mistralai/Mistral-7B-Instruct-v0.3": _shape("mistral-7b-instruct-v0.3", *_LLAMA_3_8B, 32768, 32768),
        "mistralai/Mistral-Nemo-Instruct-2407": _shape(
            "mistral-nemo-instruct-2407", 5120, 14336, 40, (32, 8), 131072, 131072, head_dim=128
        ),
        "mistralai/Mistral-Large-Instruct-2407": _shape(
            "mistral-large-instruct-2407", 12288, 28672, 88, (96, 8), 32768, 131072
        ),
        "Qwen/Qwen2-7B": _shape("qwen2-7b", 3584, 18944, 28, (28, 4), 152064, 131072, bias=True),
        "Qwen/Qwen2-72B": _shape("qwen2-72b", 8192, 29568, 80, (64, 8), 152064, 131072, bias=True),
        "google/codegemma-1.1-2b": _shape("codegemma-1.1-2b", *_GEMMA_2B, 256000, 8192, head_dim=256, tied=True),
        "google/codegemma-7b": _shape("codegemma-7b", *_GEMMA_7B, 256000, 8192, head_dim=256, tied=True),
        "google/gemma-2-2b-it": _shape("gemma-2-2b-it", 2304, 9216, 26, (8, 4), 256000, 8192, head_dim=256, tied=True),
        "google/gemma-2-9b-it": _shape(
            "gemma-2-9b-it", 3584, 14336, 42, (16, 8), 256000, 8192, head_dim=256, tied=True
        ),
        "google/gemma-2-27b-it": _shape(
            "gemma-2-27b-it", 4608, 36864, 46, (32, 16), 256000, 8192, head_dim=128, tied=True
        ),
        # Widths of 2/3 x 12288, 18432 and 24576.
        "bigcode/starcoder2-3b": _shape("starcoder2-3b", 3072, 8192, 30, (24, 2), 49152, 16384, tied=True, bias=True),
        "bigcode/starcoder2-7b": _shape("starcoder2-7b", 4608, 12288, 32, (36, 4), 49152, 16384, tied=True, bias=True),
        "bigcode/starcoder2-15b": _shape("starcoder2-15b", 6144, 16384, 40, (48, 4), 49152, 16384, bias=True),
        "microsoft/Phi-3-mini-4k-instruct": _shape("phi-3-mini-4k-instruct", 3072, 8192, 32, (32, 32), 32064, 4096),
        "microsoft/Phi-3-small-8k-instruct": _shape(
            "phi-3-small-8k-instruct", 4096, 14336, 32, (32, 8), 100352, 8192, tied=True, bias=True
        ),
        "microsoft/Phi-3-medium-4k-instruct": _shape(
            "phi-3-medium-4k-instruct", 5120, 17920, 40, (40, 10), 32064, 4096
        ),
    }
)
"""By name on the hub: the name that the frame's column `model` has."""
