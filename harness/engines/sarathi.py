"""How Sarathi-Serve is started: the shim (inside/sarathi_shim.py) in Sarathi's own environment, every limit pinned.

Has not been run on a GPU; docs/sarathi.md says what was tested, and how Sarathi is installed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.engines.asking import ask_python
from harness.engines.base import LaunchOptions
from harness.engines.kit import INSIDE
from harness.engines.modelfolder import model_folder
from harness.engines.recipe import Site
from harness.errors import VersionUnsupported
from harness.feasibility import MEMORY_UTILISATION
from harness.points import Deployment

SHIM = "sarathi_shim"
_DTYPES = {16: "float16", 32: "float32"}
_NO_GPU = "none"
_PINNED = frozenset(
    [
        "host",
        "port",
        "stream-interval",
        "model-config-load-format",
        "model-config-dtype",
        "model-config-max-model-len",
        "model-config-seed",
        "model-config-revision",
        "parallel-config-tensor-parallel-size",
        "parallel-config-pipeline-parallel-size",
        "sarathi-scheduler-config-chunk-size",
        "sarathi-scheduler-config-max-num-seqs",
        "worker-config-gpu-memory-utilization",
        "metrics-config-enable-op-level-metrics",
        "metrics-config-enable-cpu-op-level-metrics",
    ]
)


class Sarathi:
    """The shim around Sarathi's `LLMEngine`.

    The default command looks for Sarathi beside the harness, where it cannot be (its torch is another). A sweep file
    names the Python of its environment: `[/opt/sarathi/bin/python, -m, sarathi_shim, --model_config_model, "{model}"]`.
    """

    command: Sequence[str] = ("{python}", "-m", SHIM, "--model_config_model", "{model}", "{arguments}")

    marker: Sequence[str] = ("-m", SHIM)

    def pinned(self, dummy_weights: bool) -> frozenset[str]:
        return _PINNED

    def model(self, deployment: Deployment, options: LaunchOptions, site: Site) -> str:
        return model_folder(deployment, options, site.folder)

    def arguments(self, deployment: Deployment, options: LaunchOptions, site: Site) -> list[str]:
        limits, shape = deployment.limits, deployment.model
        if deployment.gpu == _NO_GPU:
            raise VersionUnsupported("sarathi computes on NVIDIA GPUs only; without one: vllm or transformers")
        if deployment.bits not in _DTYPES:
            raise VersionUnsupported(
                f"sarathi serves 16 or 32 bits, not {deployment.bits}: it knows no quantised weights"
            )
        if shape.head_dim * shape.heads != shape.hidden_size:
            raise VersionUnsupported(
                f"sarathi takes a head to be hidden_size / heads wide, {shape.name} has heads of {shape.head_dim}"
            )
        pinned = {
            "host": "127.0.0.1",
            "port": site.port,
            "stream-interval": limits.stream_interval,
            "model_config_load_format": "dummy" if deployment.weights == "dummy" else "auto",
            "model_config_dtype": _DTYPES[deployment.bits],
            "model_config_max_model_len": limits.max_context_tokens,
            "model_config_seed": site.seed,
            "parallel_config_tensor_parallel_size": deployment.tensor_parallel,
            "parallel_config_pipeline_parallel_size": deployment.pipeline_parallel,
            "sarathi_scheduler_config_chunk_size": limits.token_budget,
            "sarathi_scheduler_config_max_num_seqs": limits.max_sequences,
            "worker_config_gpu_memory_utilization": MEMORY_UTILISATION,
            # Events around single operations; an empty word is Sarathi's "false".
            "metrics_config_enable_op_level_metrics": "",
            "metrics_config_enable_cpu_op_level_metrics": "",
        }
        if deployment.revision and deployment.weights == "real":
            pinned["model_config_revision"] = deployment.revision
        return [word for name, value in pinned.items() for word in (f"--{name}", str(value))]

    def environment(self, deployment: Deployment, options: LaunchOptions, site: Site) -> Mapping[str, str]:
        added = {
            # Bare `ray.init()`, which Sarathi calls, would join any cluster that it finds.
            "RAY_ADDRESS": "local",
            "RAY_USAGE_STATS_ENABLED": "0",
            "WANDB_MODE": "disabled",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if deployment.weights == "dummy" or Path(options.weights_path).expanduser().exists():
            added |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        return added

    def version(self, words: Sequence[str], environment: Mapping[str, str]) -> str:
        """As `0.1.8+96f9911790ec`: what is installed in the command's environment, and the commit it was built from."""
        # The text itself, not the file: a container need not see the harness's folder.
        code = (INSIDE / "sarathi_version.py").read_text("utf-8")
        return ask_python(words, SHIM, code, environment, "`command` names the Python of Sarathi's environment")
