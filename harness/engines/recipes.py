"""The engines that can be launched, by the name that deployments use."""

from harness.engines.recipe import Recipe
from harness.engines.sarathi import Sarathi
from harness.engines.transformers import Transformers
from harness.engines.vllm import Vllm
from harness.errors import EngineUnavailable


def recipe(engine: str) -> Recipe:
    """How to start it.

    Raises:
        EngineUnavailable: no such engine.
    """
    known: dict[str, Recipe] = {"vllm": Vllm(), "sarathi": Sarathi(), "transformers": Transformers()}
    if engine not in known:
        raise EngineUnavailable(f"{engine}: not one of the engines that can be launched: {', '.join(sorted(known))}")
    return known[engine]
