"""Small builders of what tests need, with believable values."""

from pathlib import Path

from harness.deployment.catalog import model_shape, node_spec
from harness.points import BatchWorkload, Deployment, EngineLimits, NodeSpec, Point

LIMITS = EngineLimits(engine="vllm", token_budget=8192, max_sequences=128, max_context_tokens=4096)


def node(kind: str = "dgx-h100") -> NodeSpec:
    return node_spec(kind)


def deployment(model: str = "llama-2-7b", tp: int = 1, pp: int = 1, gpu: str = "h100", **limits: object) -> Deployment:
    return Deployment(
        gpu=gpu,
        model=model_shape(model),
        bits=16,
        limits=EngineLimits(**{**_as_dict(LIMITS), **limits}),
        tensor_parallel=tp,
        pipeline_parallel=pp,
        weights="dummy",
    )


def _as_dict(limits: EngineLimits) -> dict[str, object]:
    return {name: getattr(limits, name) for name in limits.__dataclass_fields__}


def batch_point(batch: int = 8, prompt: int = 128, generated: int = 16, **kwargs: object) -> Point:
    return Point(deployment(**kwargs), BatchWorkload(batch, prompt, generated))


SMALL_SWEEP = """\
sweep: small
simulate: true
nodes: [dgx-h100]
models: [llama-2-7b]
parallelism: [{tp: 1}, {tp: 2}]
engines:
  - {name: vllm, token_budget: 8192, max_sequences: 128, max_context_tokens: 4096}
batches:
  - sizes: [1, 8]
    grid: {prompt_tokens: [128], generated_tokens: [16]}
measurement: {repetitions: 2, window: 500ms, idle: 1s}
"""


def write_sweep(folder: Path, *replacements: tuple[str, str], text: str = SMALL_SWEEP) -> Path:
    """A sweep file, with pieces of its text replaced; each piece must be there."""
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "sweep.yaml"
    path.write_text(text, "utf-8")
    return path
