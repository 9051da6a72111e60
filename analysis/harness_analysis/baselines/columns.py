"""Columns that forests and boosting learn from."""

import numpy as np

from harness.points import FloatArray
from harness_analysis.baselines.terms import Physics, terms
from harness_analysis.configurations import Configurations
from harness_analysis.graph import global_features

_RAW = ("bits", "tp", "pp", "batch_size", "prompt_tokens", "generated_tokens")
_SHAPE = ("hidden_size", "intermediate_size", "layers", "heads", "kv_heads", "vocab_size")
_GPU = ("peak_flops", "memory_bandwidth_bytes_per_s", "tdp_w")


def raw_columns(c: Configurations) -> FloatArray:
    """(n, columns) what was asked for, and dimensions and data-sheet figures instead of names."""
    return np.stack([*(getattr(c, name) for name in _RAW), *c.shape_values(*_SHAPE), *c.gpu_values(*_GPU)], axis=1)


def physical_columns(c: Configurations) -> FloatArray:
    """(n, columns) logarithms of the graph's features of the whole and of the white box's terms."""
    physics = Physics.of(c)
    whole = global_features(physics.configurations, physics.totals).astype(np.float64)
    return np.concatenate((whole, np.log(np.maximum(terms(physics), 1e-12))), axis=1)


def kernel_columns(c: Configurations) -> FloatArray:
    """(n, columns) operations, bytes and roofline time of each kernel over the whole batch, phases apart."""
    features = Physics.of(c).features
    phases = (features.prefill, features.decode)
    columns = [
        phase.of(name) * phase.of("executions")
        for phase in phases
        for name in ("operations", "weight_bytes", "activation_bytes", "kv_bytes", "network_bytes", "time_s")
    ]
    return np.concatenate(columns, axis=1)
