"""A model as a folder: the config.json of a Llama-shaped decoder, for engines that make up its weights."""

import json
from pathlib import Path

from harness.engines.base import LaunchOptions
from harness.errors import DiskTooSmall, WeightsUnavailable
from harness.points import Deployment, ModelShape

_DTYPES = {32: "float32", 16: "float16", 8: "float16"}


def llama_config(shape: ModelShape, bits: int) -> dict[str, object]:
    """What transformers' LlamaConfig needs; norms and rotary positions as Llama 2 has them."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_context_tokens,
        "tie_word_embeddings": shape.tied_embeddings,
        "attention_bias": shape.attention_bias,
        "mlp_bias": False,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": _DTYPES[bits],
    }


def model_folder(deployment: Deployment, options: LaunchOptions, folder: Path) -> str:
    """The folder of the deployment's model; for dummy weights one is written.

    Raises:
        WeightsUnavailable: real weights without a path, or a path without config.json.
        DiskTooSmall: the folder cannot be written.
    """
    if deployment.weights == "real":
        return _real(deployment, options.weights_path)
    model = folder / "model"
    try:
        model.mkdir(exist_ok=True)
        content = json.dumps(llama_config(deployment.model, deployment.bits), indent=1)
        (model / "config.json").write_text(content, "utf-8")
    except OSError as error:
        raise DiskTooSmall(f"{model} cannot be written: {error}") from error
    return str(model)


def _real(deployment: Deployment, weights_path: str) -> str:
    if not weights_path:
        raise WeightsUnavailable(f"{deployment.model.name}: real weights, but `weights` does not say where they lie")
    path = Path(weights_path).expanduser()
    if not (path / "config.json").is_file():
        raise WeightsUnavailable(f"{path}: no config.json there; `weights` is the folder that holds the weights")
    return str(path.resolve())
