"""How vLLM is started: every setting that bears on batching, time or energy is pinned, none is left to a default.

vLLM's defaults depend on the GPU (2048 tokens and 256 sequences on an A100, 8192 and 1024 on an H100), so a comparison
of two kinds of GPU without pinned limits compares two schedulers. Flags as in vLLM 0.32.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import which

from harness.engines.base import LaunchOptions
from harness.engines.modelfolder import model_folder
from harness.engines.recipe import Part, Site
from harness.errors import EngineUnavailable
from harness.feasibility import MEMORY_UTILISATION
from harness.points import NO_GPU, Deployment

VERSION_LIMIT_S = 180.0
"""`vllm --version` imports everything: 15 s on a loaded machine."""
_CPU_KV_MOST_BYTES = 2 << 30
_FLOAT32_BYTES_PER_16_BITS = 2
_VARIABLES = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_SERVER_DEV_MODE": "1",  # /pause and /resume
    # Its 5 s would now and then close a connection on which a request is under way to it.
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "3600",
    "VLLM_PLUGINS": "harness_steps",
}
_PINNED = frozenset(
    [
        "host",
        "port",
        "served-model-name",
        "tensor-parallel-size",
        "tp",
        "pipeline-parallel-size",
        "pp",
        "data-parallel-size",
        "dp",
        "max-model-len",
        "max-num-seqs",
        "max-num-batched-tokens",
        "stream-interval",
        "generation-config",
        "seed",
        "shutdown-timeout",
        "enable-chunked-prefill",
        "enable-prefix-caching",
        "enable-per-request-metrics",
        "disable-uvicorn-access-log",
        "revision",
        "gpu-memory-utilization",
        "dtype",
        "quantization",
        "q",
        "enforce-eager",
        "kv-cache-memory-bytes",
        "nnodes",
        "n",
        "node-rank",
        "r",
        "master-addr",
        "master-port",
        "headless",
    ]
)
_PINNED_OF_DUMMY_WEIGHTS = frozenset({"load-format", "skip-tokenizer-init"})


class Vllm:
    """vLLM's own server, `vllm serve`."""

    command: Sequence[str] = ("vllm", "serve", "{model}", "{arguments}")

    marker: Sequence[str] = ("serve",)

    def pinned(self, dummy_weights: bool) -> frozenset[str]:
        return _PINNED | _PINNED_OF_DUMMY_WEIGHTS if dummy_weights else _PINNED

    def model(self, deployment: Deployment, options: LaunchOptions, site: Site) -> str:
        return model_folder(deployment, options, site.folder)

    def arguments(self, deployment: Deployment, options: LaunchOptions, site: Site) -> list[str]:
        limits = deployment.limits
        pinned = {
            "host": "127.0.0.1",
            "port": site.port,
            "served-model-name": deployment.model.name,
            "tensor-parallel-size": deployment.tensor_parallel,
            "pipeline-parallel-size": deployment.pipeline_parallel,
            "max-model-len": limits.max_context_tokens,
            "max-num-seqs": limits.max_sequences,
            "max-num-batched-tokens": limits.token_budget,
            "stream-interval": limits.stream_interval,
            "generation-config": "vllm",
            "seed": site.seed,
            "shutdown-timeout": 0,
        }
        words = [word for name, value in pinned.items() for word in (f"--{name}", str(value))]
        words += ["--enable-chunked-prefill", "--no-enable-prefix-caching", "--enable-per-request-metrics"]
        words += ["--disable-uvicorn-access-log"]
        if deployment.revision and deployment.weights == "real":
            words += ["--revision", deployment.revision]
        if deployment.weights == "dummy":
            # Dummy weights come without a tokenizer; requests are token ids anyway.
            words += ["--load-format", "dummy", "--skip-tokenizer-init"]
        if site.part is not None:
            words += _part_arguments(deployment, site.part)
        return words + (_cpu_arguments(deployment) if deployment.gpu == NO_GPU else _gpu_arguments(deployment, options))

    def environment(self, deployment: Deployment, options: LaunchOptions, site: Site) -> Mapping[str, str]:
        added = dict(_VARIABLES)
        if deployment.weights == "dummy" or Path(options.weights_path).expanduser().exists():
            added |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if site.part is not None:
            added["VLLM_HOST_IP"] = site.part.address
        if deployment.gpu == NO_GPU:
            added["VLLM_CPU_OMP_THREADS_BIND"] = omp_binds(site.cpus, deployment.gpus_per_node)
        return added

    def version(self, words: Sequence[str], environment: Mapping[str, str]) -> str:
        """The version of the distribution beside the command, or what `vllm --version` says."""
        if "serve" not in words:
            raise EngineUnavailable(f"cannot ask {' '.join(words)} for its version: the word `serve` is missing")
        program = list(words[: words.index("serve")])
        found = which(program[0], path=environment.get("PATH"))
        if found is None:
            raise EngineUnavailable(
                f"{program[0]}: no such program; install vLLM, or name its command in the sweep file"
            )
        asked = [found, *program[1:], "--version"]
        python = _interpreter(Path(found)) if len(program) == 1 else None
        if python is not None:
            # Without importing vLLM, which takes some 15 s.
            asked = [python, "-c", "from importlib.metadata import version; print(version('vllm'))"]
        try:
            # With its variables as well: a container's command may pass them on by name, empty where they are not set.
            answer = subprocess.run(  # noqa: S603 - the words are the user's own command
                asked,
                env={**_VARIABLES, **environment},
                capture_output=True,
                text=True,
                timeout=VERSION_LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineUnavailable(f"{' '.join(asked)}: {error}") from error
        said = answer.stdout.split()
        if answer.returncode or not said:
            last = (answer.stderr.strip().splitlines() or ["no output"])[-1]
            raise EngineUnavailable(f"{' '.join(asked)}: {last}", answer.stderr)
        return said[-1]


def omp_binds(cpus: Sequence[int], ranks: int) -> str:
    """CPUs of each rank of a server without a GPU, in the form of VLLM_CPU_OMP_THREADS_BIND: `0,1|2,3`.

    With fewer CPUs than ranks they are shared in turn.
    """
    each = len(cpus) // ranks
    if each == 0:
        return "|".join(str(cpus[rank % len(cpus)]) for rank in range(ranks))
    return "|".join(",".join(map(str, cpus[rank * each : (rank + 1) * each])) for rank in range(ranks))


def _part_arguments(deployment: Deployment, part: Part) -> list[str]:
    """vLLM's own mode for several nodes: a process on each, which meet at a port of the first one."""
    words = ["--nnodes", str(deployment.nodes), "--node-rank", str(part.rank)]
    words += ["--master-addr", part.leader, "--master-port", str(part.port), "--distributed-executor-backend", "mp"]
    return words if part.rank == 0 else [*words, "--headless"]


def _gpu_arguments(deployment: Deployment, options: LaunchOptions) -> list[str]:
    words = [
        "--gpu-memory-utilization",
        str(MEMORY_UTILISATION),
        "--dtype",
        "float32" if deployment.bits == 32 else "float16",
    ]
    if deployment.bits == 8 and not _is_quantised(options.weights_path):
        words += ["--quantization", "fp8"]
    if deployment.limits.enforce_eager:
        words += ["--enforce-eager"]
    return words


def _cpu_arguments(deployment: Deployment) -> list[str]:
    """float32, since bfloat16 can end in SIGILL on CPUs with AMX; nothing is compiled."""
    limits, shape = deployment.limits, deployment.model
    token_bytes = shape.kv_bytes_per_token * _FLOAT32_BYTES_PER_16_BITS
    wanted_bytes = limits.max_sequences * limits.max_context_tokens * token_bytes
    least_bytes = 2 * limits.max_context_tokens * token_bytes
    kv_bytes = max(min(wanted_bytes, _CPU_KV_MOST_BYTES), least_bytes) // deployment.gpus
    words = ["--dtype", "float32", "--kv-cache-memory-bytes", str(kv_bytes)]
    # Pipeline stages do not start with --enforce-eager on a CPU.
    return words + (["-cc.mode=2", "-cc.backend=eager"] if deployment.pipeline_parallel > 1 else ["--enforce-eager"])


def _is_quantised(weights_path: str) -> bool:
    config = Path(weights_path).expanduser() / "config.json"
    return config.is_file() and "quantization_config" in json.loads(config.read_text("utf-8"))


def _interpreter(program: Path) -> str | None:
    """The Python that runs this console script, if it is one."""
    with program.open("rb") as file:
        first = file.readline(512)
    words = first.removeprefix(b"#!").decode("utf-8", "replace").split()
    if not first.startswith(b"#!") or len(words) != 1 or "python" not in Path(words[0]).name:
        return None
    return words[0]
