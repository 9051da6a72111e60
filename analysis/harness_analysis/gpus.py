"""Data-sheet figures of GPUs by kind: those of the bundled nodes, and of cards that others have measured on."""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from harness.deployment.catalog import bundled_names, node_spec
from harness.points import GpuSpec
from harness.units import BYTES_PER_GIB

GH200 = GpuSpec(
    kind="gh200",
    name="NVIDIA GH200 96GB HBM3",
    memory_bytes=96 * BYTES_PER_GIB,
    peak_flops=989.5e12,
    memory_bandwidth_bytes_per_s=4.0e12,
    link_bandwidth_bytes_per_s=450e9,
    idle_w=75.0,
    tdp_w=700.0,
)
"""Rates of the GH200 data sheet (96 GB HBM3). Its 1000 W are of the whole module: the powers here are those of an H200,
the same chip without the processor."""


@cache
def known_gpus() -> Mapping[str, GpuSpec]:
    """Every kind that the project has figures of: a100, a100-40gb, h100, h200 and gh200.

    Raises:
        BadInput: a bundled node file that cannot be used.
    """
    found = {GH200.kind: GH200}
    for name in bundled_names("nodes", ".yaml"):
        gpu = node_spec(name).gpu
        if gpu is not None:
            found[gpu.kind] = gpu
    return MappingProxyType(found)
