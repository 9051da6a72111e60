"""Constants of the simulated hardware and engines: their meaning here, their fitted values in `fitted.json`.

`benchmarks/calibration/fit.py` writes the file from published measurements and names them in it; what is not in it is
chosen, and docs/simulator.md says so. Rates are shares of the data sheet's, powers shares of `tdp_w - idle_w`, so
that any kind of GPU has constants: those of its architecture, or Hopper's.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from harness.points import GpuSpec

FITTED = Path(__file__).with_name("fitted.json")
_ARCHITECTURES = {"a100": "ampere", "h100": "hopper", "h200": "hopper", "gh200": "hopper"}
OTHER_ARCHITECTURE = "hopper"
_FABRIC_BYTES_PER_S = {"ampere": 25e9, "hopper": 50e9}
"""Between nodes, for each GPU and one direction: 200 Gb/s of a DGX A100 and 400 Gb/s of a DGX H100 (data sheets)."""
FABRIC_HOP_S = 5e-6
"""More than inside a node, for any message; chosen."""


@dataclass(frozen=True, slots=True)
class GpuConstants:
    """How kernels use one architecture.

    Attributes:
        multiprocessors: tiles that run at a time; 0: tiles and waves cost nothing.
        compute_efficiency: achieved share of the peak rate in full waves of matrix products.
        eight_bit_speed: that rate with 8-bit weights over the one with 16.
        memory_efficiency: achieved share of the memory bandwidth, streaming weights.
        kv_efficiency: the same in decode attention, reading keys and values.
        group_reread: in decode attention, how much of a key is read again for each further query head of its group.
        attention_efficiency: achieved share of the peak rate in prefill attention on long chunks.
        attention_half_tokens: chunk length at which it is half of that.
        kernel_s: start and drain of one kernel inside a CUDA graph.
        roofline_sharpness: exponent of the smooth maximum of compute and memory time.
        link_efficiency: achieved share of the link's bandwidth.
        all_reduce_s, all_reduce_gpu_s: an all-reduce of nothing over two GPUs, and more of it for each further GPU.
        loaded_share: power above idle, with a model resident and no work.
        active_share: power above loaded idle while any kernel runs.
        compute_share: above that, in full waves at the achieved rate.
        memory_share: the same, streaming weights at the achieved rate.
        kv_share: the same, in decode attention.
        attention_share: the same, in prefill attention.
        collective_share: above loaded idle, during an all-reduce.
        bubble_share: above loaded idle, waiting for another pipeline stage or for the host.
        padding_share: energy of a padded multiply over that of a useful one.
        static_share: of a matrix product's energy, what does not fall with the clock's voltage.
        leakage_share_per_c: power per degree above the temperature of an idle board.
    """

    multiprocessors: int = 132
    compute_efficiency: float = 0.75
    eight_bit_speed: float = 1.0
    memory_efficiency: float = 0.85
    kv_efficiency: float = 0.75
    group_reread: float = 0.0
    attention_efficiency: float = 0.5
    attention_half_tokens: float = 128.0
    kernel_s: float = 2e-6
    roofline_sharpness: float = 4.0
    link_efficiency: float = 0.8
    all_reduce_s: float = 8e-6
    all_reduce_gpu_s: float = 1e-6
    loaded_share: float = 0.035
    active_share: float = 0.1
    compute_share: float = 0.8
    memory_share: float = 0.5
    kv_share: float = 0.5
    attention_share: float = 0.6
    collective_share: float = 0.2
    bubble_share: float = 0.08
    padding_share: float = 0.6
    static_share: float = 0.4
    leakage_share_per_c: float = 1e-3

    def loaded_idle_w(self, gpu: GpuSpec) -> float:
        """Power of a GPU with a model resident and no work, W."""
        return gpu.idle_w + self.loaded_share * (gpu.tdp_w - gpu.idle_w)


@dataclass(frozen=True, slots=True)
class EngineConstants:
    """What an engine's host adds to a step.

    Attributes:
        host_step_s: time of a step outside kernels.
        host_sequence_s: more of it for each sequence.
        launch_s: launch of one kernel where no CUDA graph holds it; kernels cannot follow one another faster.
        graphs: decoding and small mixed steps run in CUDA graphs, padded to the next captured size.
    """

    host_step_s: float = 2e-3
    host_sequence_s: float = 1e-5
    launch_s: float = 5e-6
    graphs: bool = True


@dataclass(frozen=True, slots=True)
class HostConstants:
    """The processors' and memory's part; shares are of the node's `tdp_w - idle_w`.

    Attributes:
        core_share: one busy core, of the processors' range.
        serving_cores: busy cores beside one worker per GPU while serving: engine core, API server.
        resident_cores: what a loaded engine keeps busy without work.
        token_core_s: core seconds of the server and the client for one streamed token.
        dram_core_share: of the DRAM's range, for each busy core.
        spin_s: how long workers spin after the last message.
    """

    core_share: float = 0.015
    serving_cores: float = 2.0
    resident_cores: float = 1.0
    token_core_s: float = 1.5e-4
    dram_core_share: float = 0.02
    spin_s: float = 1.0

    def over(self, nodes: int) -> "HostConstants":
        """Of an engine over several nodes: shares of the range of all of them; each keeps its own share resident."""
        return replace(
            self,
            core_share=self.core_share / nodes,
            dram_core_share=self.dram_core_share / nodes,
            resident_cores=self.resident_cores * nodes,
        )


@dataclass(frozen=True, slots=True)
class Constants:
    """All of a node: its GPUs' architecture, the engines by name, the host."""

    gpu: GpuConstants
    engines: dict[str, EngineConstants]
    host: HostConstants

    def engine(self, name: str, enforce_eager: bool) -> EngineConstants:
        """Those of an engine; an unknown one is taken for vLLM without CUDA graphs."""
        found = self.engines.get(name)
        if found is None:
            return replace(self.engines["vllm"], graphs=False)
        return replace(found, graphs=False) if enforce_eager else found


def constants_of(gpu: GpuSpec, path: Path = FITTED) -> Constants:
    """The fitted constants for a kind of GPU.

    Kinds are told by what their name begins with (`a100-40gb` is an A100); any other gets Hopper's shares.
    """
    fitted = json.loads(path.read_text("utf-8"))
    known = {name: GpuConstants(**values) for name, values in fitted["gpus"].items()}
    engines = {name: EngineConstants(**values) for name, values in fitted["engines"].items()}
    return Constants(known[architecture_of(gpu.kind)], engines, HostConstants())


def fabric_bytes_per_s(kind: str) -> float:
    """Between nodes with GPUs of this kind, for each GPU, one direction."""
    return _FABRIC_BYTES_PER_S[architecture_of(kind)]


def architecture_of(kind: str) -> str:
    """`ampere` or `hopper`, by the name of a kind of GPU."""
    family = kind.split("-")[0]
    return _ARCHITECTURES.get(family, OTHER_ARCHITECTURE)
