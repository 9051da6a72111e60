"""How the plain PyTorch engine is started (inside/transformers_server.py): one process, one GPU or the CPU."""

from collections.abc import Mapping, Sequence

from harness.engines.asking import ask_python
from harness.engines.base import LaunchOptions
from harness.engines.modelfolder import model_folder
from harness.engines.recipe import Site
from harness.errors import VersionUnsupported
from harness.points import Deployment

SERVER = "transformers_server"
_DTYPES = {16: "float16", 32: "float32"}
_PINNED = frozenset(
    [
        "host",
        "port",
        "dtype",
        "max-sequences",
        "token-budget",
        "max-context-tokens",
        "stream-interval",
        "seed",
        "real-weights",
    ]
)
_ASK = "from importlib.metadata import version; print(version('transformers') + '+torch' + version('torch'))"


class Transformers:
    """Static batches of a dense Llama-shaped model; TP = PP = 1."""

    command: Sequence[str] = ("{python}", "-m", SERVER, "--model", "{model}", "{arguments}")

    marker: Sequence[str] = ("-m", SERVER)

    def pinned(self, dummy_weights: bool) -> frozenset[str]:
        return _PINNED

    def model(self, deployment: Deployment, options: LaunchOptions, site: Site) -> str:
        return model_folder(deployment, options, site.folder)

    def arguments(self, deployment: Deployment, options: LaunchOptions, site: Site) -> list[str]:
        limits = deployment.limits
        if deployment.gpus != 1:
            raise VersionUnsupported(
                f"the transformers engine serves tp 1 pp 1, not tp {deployment.tensor_parallel} pp"
                f" {deployment.pipeline_parallel}: vllm and sarathi serve several GPUs"
            )
        if deployment.bits not in _DTYPES:
            raise VersionUnsupported(f"the transformers engine serves 16 or 32 bits, not {deployment.bits}")
        pinned = {
            "host": "127.0.0.1",
            "port": site.port,
            "dtype": _DTYPES[deployment.bits],
            "max-sequences": limits.max_sequences,
            "token-budget": limits.token_budget,
            "max-context-tokens": limits.max_context_tokens,
            "stream-interval": limits.stream_interval,
            "seed": site.seed,
        }
        words = [word for name, value in pinned.items() for word in (f"--{name}", str(value))]
        return [*words, "--real-weights"] if deployment.weights == "real" else words

    def environment(self, deployment: Deployment, options: LaunchOptions, site: Site) -> Mapping[str, str]:
        return {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            # As many threads as it may use processors; torch counts the machine's.
            "OMP_NUM_THREADS": str(len(site.cpus)),
        }

    def version(self, words: Sequence[str], environment: Mapping[str, str]) -> str:
        """As `5.23.0+torch2.13.0`: of the environment that the command's Python belongs to."""
        fix = "install the extra `transformers`, or name a Python that has it in `command`"
        return ask_python(words, SERVER, _ASK, environment, fix)
