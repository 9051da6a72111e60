"""Single kernels of the simulated GPUs: tiles and waves, splits, CUDA graphs, widths of weights, shards."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.points import EngineLimits
from harness.simulator.constants import GpuConstants
from harness.simulator.kernels import Kernels, Table, captured_sizes, head_table, layer_table, padded_to_graph
from tests.unit.simulated import H100, LLAMA_7B, LLAMA_70B, deployment

PLAIN = GpuConstants()
"""Chosen constants, so that a new fit moves nothing here."""
TILE = 128
FULL_WAVE_COLUMNS = TILE * PLAIN.multiprocessors
CAPTURED = captured_sizes(EngineLimits("vllm", 8192, 256, 4096))


def product(rows: list[float], inner: float, columns: float, bits: int = 16, constants: GpuConstants = PLAIN) -> Table:
    return Kernels(H100, constants).product(np.array(rows, np.float64), inner, columns, bits)


def layer(tokens: int, graphs: bool = True, **kwargs: object) -> Table:
    return layer_table(Kernels(H100, PLAIN), deployment(**kwargs), tokens, graphs)


def test_one_tile_row_more_than_full_waves_costs_a_whole_wave():
    """Eight rows of tiles are eight full waves; with one token more a ninth begins."""
    full, more, ninth = product([8 * TILE, 8 * TILE + 1, 9 * TILE], 8192, FULL_WAVE_COLUMNS).time_s
    assert more / full == pytest.approx(9 / 8, rel=0.02)
    assert more == pytest.approx(ninth, rel=1e-3)


def test_without_tiles_the_same_token_costs_next_to_nothing():
    smooth = replace(PLAIN, multiprocessors=0)
    full, more = product([8 * TILE, 8 * TILE + 1], 8192, FULL_WAVE_COLUMNS, constants=smooth).time_s
    assert more / full < 1.002


def test_a_last_wave_with_one_tile_takes_as_long_as_a_full_one():
    """One column of tiles more than the multiprocessors hold."""
    rows = [float(TILE * 4)]
    full = product(rows, 8192, FULL_WAVE_COLUMNS).clocked_s[0]
    one_more = product(rows, 8192, FULL_WAVE_COLUMNS / 4 + TILE).clocked_s[0]
    assert one_more > 0.45 * full, "two waves of the four, for a little more than a quarter of the work"
    assert product(rows, 8192, FULL_WAVE_COLUMNS / 4).clocked_s[0] < 0.3 * full


def test_padding_of_rows_to_tiles_costs_energy_but_less_than_useful_work():
    one, sixteen = product([1, 16], 8192, FULL_WAVE_COLUMNS).clocked_j
    assert one < sixteen < 16 * one


def test_a_small_product_is_split_along_its_inner_dimension():
    """One tile would keep one multiprocessor busy for all its depth; split in eight it takes an eighth."""
    rows = [float(TILE)]
    shallow, deep, deepest = (product(rows, inner, TILE).time_s[0] for inner in (1024, 8192, 8 * 8192))
    assert deep < 2 * shallow, "eight times the work"
    assert deepest < 4 * shallow, "64 times the work"


def test_a_wide_product_gains_nothing_by_a_split():
    """All multiprocessors have a tile of their own: a product eight times as deep takes eight times as long."""
    rows = [8.0 * TILE]
    shallow, deep = (product(rows, inner, FULL_WAVE_COLUMNS).time_s[0] for inner in (1024, 8192))
    assert deep / shallow > 6


def test_a_row_or_two_are_bound_by_reading_the_weights_and_do_not_feel_the_clock():
    table = product([1, 4096], 4096, 3 * 4096)
    few, many = table.clocked_s / table.time_s
    assert few < 0.1
    assert many > 0.9
    reading_s = 4096 * 3 * 4096 * 2 / (H100.memory_bandwidth_bytes_per_s * PLAIN.memory_efficiency)
    assert table.time_s[0] == pytest.approx(reading_s + PLAIN.kernel_s, rel=0.05)


@settings(max_examples=60, deadline=None)
@given(st.integers(64, 9000), st.integers(64, 30_000), st.sampled_from([8, 16]))
def test_more_rows_never_cost_less(inner: int, columns: int, bits: int):
    table = product([float(rows) for rows in range(600)], float(inner), float(columns), bits)
    for column in (table.time_s, table.clocked_j, table.memory_j):
        assert (np.diff(column) >= -1e-9 * column[1:]).all()
    assert (table.clocked_s <= table.time_s).all()
    assert table.time_s[0] == table.memory_j[0] == table.clocked_j[0] == 0, "nothing to compute: no kernel"


def test_8_bit_weights_halve_what_a_decoding_layer_reads():
    wide, narrow = layer(4), layer(4, bits=8)
    assert narrow.memory_j[1] / wide.memory_j[1] == pytest.approx(0.5, abs=0.02)
    assert 0.5 < narrow.time_s[1] / wide.time_s[1] < 0.75, "kernels start as often"


def test_the_output_head_stays_in_16_bits():
    kernels = Kernels(H100, PLAIN)
    heads = [head_table(kernels, deployment(bits=bits), 8).memory_j for bits in (16, 8)]
    np.testing.assert_array_equal(*heads)


def test_faster_8_bit_products_cost_less_energy_in_the_same_proportion():
    twice = replace(PLAIN, eight_bit_speed=2.0)
    slow, fast = (product([4096.0], 4096, 4096, 8, constants).clocked_j[0] for constants in (PLAIN, twice))
    assert slow == pytest.approx(2 * fast)
    assert product([4096.0], 4096, 4096, 16, twice).clocked_j[0] == slow


# ---- CUDA graphs


def test_tokens_are_padded_to_the_next_captured_size():
    tokens = np.array([0, 1, 2, 3, 5, 8, 9, 250, 256, 257, 512, 513, 4000], np.float64)
    assert padded_to_graph(tokens, CAPTURED).tolist() == [0, 1, 2, 4, 8, 8, 16, 256, 256, 272, 512, 513, 4000]


@pytest.mark.parametrize(
    ("budget", "sequences", "largest"), [(8192, 256, 512), (8192, 128, 256), (64, 256, 64), (8192, 3, 4), (1, 1, 1)]
)
def test_graphs_are_captured_up_to_twice_the_sequences_and_the_budget(budget: int, sequences: int, largest: int):
    """vLLM's rule: `min(2 * max_num_seqs, 512)`, and no more than `max_num_batched_tokens`."""
    captured = captured_sizes(EngineLimits("vllm", budget, sequences, 4096))
    assert captured[0] == 1
    assert captured[-1] == largest
    assert padded_to_graph(np.array([largest + 1.0]), captured).tolist() == [largest + 1]


def test_a_layer_takes_the_same_time_within_a_bucket_and_more_in_the_next():
    time_s = layer(513, max_sequences=256).time_s
    for before, size, after in zip(CAPTURED[:-2], CAPTURED[1:-1], CAPTURED[2:], strict=True):
        assert set(time_s[before + 1 : size + 1]) == {time_s[size]}
        assert time_s[size] < time_s[after]


def test_in_eager_mode_and_above_the_largest_graph_every_token_counts():
    assert (np.diff(layer(700, graphs=False).time_s) > 0).all()
    assert (np.diff(layer(700, max_sequences=256).time_s[513:]) > 0).all()


# ---- tensor-parallel shards


@pytest.mark.parametrize("tokens", [1, 64, 512, 4096])
@pytest.mark.parametrize("model", [LLAMA_7B, LLAMA_70B], ids=lambda model: model.name)
def test_smaller_shards_are_faster_but_less_efficient(model, tokens: int):
    """A GPU's time falls with TP, the time of all GPUs together rises: kernels start, tiles and waves are lost."""
    time_s = [layer(tokens, model=model, tp=tp).time_s[tokens] for tp in (1, 2, 4, 8)]
    assert time_s == sorted(time_s, reverse=True)
    spent_s = [one * tp for one, tp in zip(time_s, (1, 2, 4, 8), strict=True)]
    assert spent_s == sorted(spent_s)
    assert spent_s[-1] > 1.05 * spent_s[0]


def test_key_value_heads_are_kept_more_than_once_where_there_are_fewer_than_gpus():
    """Each of eight GPUs computes one head, whether there are eight of them or two."""
    few, fewer = replace(LLAMA_7B, kv_heads=8), replace(LLAMA_7B, kv_heads=2)
    at_2, at_8 = ([layer(1, model=model, tp=tp).memory_j[1] for model in (few, fewer)] for tp in (2, 8))
    assert at_2[0] > at_2[1], "four heads on a GPU against one"
    assert at_8[0] == at_8[1], "one head on a GPU in both"


def test_moving_bytes_takes_bandwidth_and_a_start_for_each_kernel():
    moved = np.array([0.0, 1e6, 3e6])
    table = Kernels(H100, PLAIN).movement(moved, 3)
    rate = H100.memory_bandwidth_bytes_per_s * PLAIN.memory_efficiency
    np.testing.assert_allclose(table.time_s[1:], moved[1:] / rate + 3 * PLAIN.kernel_s)
    assert table.time_s[0] == 0
    assert (table.clocked_s == 0).all()
    assert (table.clocked_j == 0).all()
    assert table.memory_j[2] == pytest.approx(3 * table.memory_j[1])


def test_tables_add_up_and_scale():
    one = product([16.0, 64.0], 1024, 1024)
    both = one + one * 3
    for name in ("time_s", "clocked_s", "clocked_j", "memory_j"):
        np.testing.assert_allclose(getattr(both, name), 4 * getattr(one, name))
