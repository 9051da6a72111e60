"""The client is pinned away from the engine, whole cores at a time, and not at all on a small machine."""

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.placement import FEWEST_CPUS, place, plan


def hyperthreads(cores: int) -> dict[int, frozenset[int]]:
    """CPU n and n + cores share a core, as Linux numbers them."""
    return {cpu: frozenset({cpu % cores, cpu % cores + cores}) for cpu in range(2 * cores)}


def test_a_small_machine_is_left_alone_and_says_so() -> None:
    usable = frozenset(range(FEWEST_CPUS - 1))
    placed = plan(usable, {cpu: frozenset({cpu}) for cpu in usable}, {0: usable}, frozenset())
    assert placed.client is None
    assert placed.engine is None
    assert "too few" in placed.reason


def test_the_client_gets_two_whole_cores_of_a_node_without_the_engines_gpus() -> None:
    nodes = {0: frozenset({0, 1, 2, 3, 8, 9, 10, 11}), 1: frozenset({4, 5, 6, 7, 12, 13, 14, 15})}
    placed = plan(frozenset(range(16)), hyperthreads(8), nodes, frozenset({0}))
    assert placed.client == frozenset({4, 12, 5, 13})
    assert placed.engine == frozenset(range(16)) - {4, 12, 5, 13}
    assert plan(frozenset(range(16)), hyperthreads(8), nodes, frozenset({1})).client == frozenset({0, 8, 1, 9})


def test_gpus_on_every_node_leave_the_last_one_to_share() -> None:
    nodes = {0: frozenset({0, 1, 4, 5}), 1: frozenset({2, 3, 6, 7})}
    placed = plan(frozenset(range(8)), hyperthreads(4), nodes, frozenset({0, 1}))
    assert placed.client == frozenset({2, 6, 3, 7})
    assert "the engine uses as well" in placed.reason


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 63), min_size=FEWEST_CPUS), st.integers(1, 4), st.sets(st.integers(0, 3)))
def test_no_cpu_is_given_to_both_and_none_is_lost(usable: set[int], nodes: int, beside: set[int]) -> None:
    of_node = {node: frozenset(cpu for cpu in range(64) if cpu % nodes == node) for node in range(nodes)}
    placed = plan(frozenset(usable), hyperthreads(32), of_node, frozenset(beside))
    assert placed.client is not None
    assert placed.engine is not None
    assert placed.client
    assert placed.client | placed.engine == usable
    assert not placed.client & placed.engine
    assert len({cpu % 32 for cpu in placed.client}) <= 2


def test_this_machine_can_be_placed() -> None:
    assert place(("GPU-none",)).reason
