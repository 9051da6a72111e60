"""Splits: nothing on both sides, no configuration torn apart, and the sides that their names promise."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.deployment.catalog import model_shape, node_spec
from harness.errors import BadInput
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples, from_released
from harness_analysis.splits import (
    Split,
    few_shot,
    leave_one_gpu_out,
    leave_one_model_out,
    leave_one_parallelism_out,
    length_extrapolation,
    random_parts,
    random_split,
)

MODELS = ("llama-2-7b", "llama-2-13b", "llama-2-70b", "llama-3-70b")
"""The last two differ in vocabulary only."""


def examples(n: int = 300, seed: int = 0, distinct_lengths: int = 4) -> Examples:
    """Examples of which many share a configuration, in any order."""
    rng = np.random.default_rng(seed)
    gpus = {spec.kind: spec for spec in (node_spec(name).gpu for name in ("dgx-a100", "dgx-h100")) if spec}
    frame = pd.DataFrame(
        {
            "gpu": rng.choice(list(gpus), n),
            "model": rng.choice(MODELS, n),
            "bits": 16,
            "tp": rng.choice([1, 2], n),
            "pp": rng.choice([1, 2], n),
            "batch_size": rng.choice([1, 8], n),
            "prompt_tokens": 700 * rng.integers(1, distinct_lengths + 1, n),
            "generated_tokens": rng.choice([100, 300, 500], n),
            "engine": rng.choice(["vllm", "sarathi"], n),
        }
    )
    shapes = {name: model_shape(name) for name in MODELS}
    labels = rng.uniform(1, 100, n)
    return Examples(Configurations.from_frame(frame, shapes, gpus), labels / 2, labels, np.full(n, "simulated"))


def assert_clean(split: Split, of: Examples, groups_apart: bool = True) -> None:
    for side in (split.train, split.test):
        assert len(side)
        assert (np.diff(side) > 0).all()
    assert not np.intersect1d(split.train, split.test).size
    if groups_apart:
        assert not np.intersect1d(of.groups[split.train], of.groups[split.test]).size


@settings(deadline=None)
@given(seed=st.integers(0, 1000), distinct=st.sampled_from([1, 4, 500]))
def test_a_configuration_is_never_on_both_sides(seed: int, distinct: int) -> None:
    """Also not when another engine served it."""
    some = examples(seed=seed, distinct_lengths=distinct)
    assert_clean(random_split(some, seed), some)


def test_random_shares_are_of_examples() -> None:
    some = examples(4000, distinct_lengths=400)
    split = random_split(some, 1)
    assert len(split.train) == pytest.approx(0.8 * 4000, rel=0.02)
    assert len(split.test) == pytest.approx(0.1 * 4000, rel=0.05)


def test_random_parts_cover_everything_once() -> None:
    some = examples()
    parts = random_parts(some, (0.5, 0.3, 0.2), 7)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(some)))
    assert all(not np.intersect1d(some.groups[one], some.groups[other]).size for one, other in pairwise(parts))


def test_seeds_decide() -> None:
    some = examples()
    first, again, other = (random_split(some, seed).test.tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("shares", [(0.8, 0.3), (0.8, 0), (-0.1, 0.5)])
def test_impossible_shares_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(BadInput, match="shares"):
        random_parts(examples(), shares, 0)


def test_lengths_are_extrapolated_in_either_direction() -> None:
    """Short in both teaches; long in one tests; what lies between is on neither side."""
    some = examples()
    split = length_extrapolation(some)
    assert_clean(split, some)
    c = some.configurations
    assert (c.prompt_tokens[split.train] == 700).all()
    assert (c.generated_tokens[split.train] == 100).all()
    assert set(zip(c.prompt_tokens[split.test], c.generated_tokens[split.test], strict=True)) == {
        (prompt, generated)
        for prompt in (700, 1400, 2100, 2800)
        for generated in (100, 300, 500)
        if prompt > 2000 or generated > 400
    }
    unused = np.setdiff1d(np.arange(len(some)), np.concatenate((split.train, split.test)))
    assert set(c.prompt_tokens[unused]) == {700, 1400}


def test_the_released_data_extrapolates_as_published_comparisons_did(data_dir: Path) -> None:
    folder = data_dir / "public"
    if not folder.is_dir():
        pytest.skip("no published measurements: set HARNESS_TEST_DATA to a folder with public/")
    split = length_extrapolation(from_released(folder))
    assert (len(split.train), len(split.test)) == (3497, 2726)


LEFT_OUT = {
    "model": (leave_one_model_out, ["model"], sorted(MODELS)),
    "gpu": (leave_one_gpu_out, ["gpu"], ["a100", "h100"]),
    "parallelism": (leave_one_parallelism_out, ["tp", "pp"], ["tp1pp1", "tp1pp2", "tp2pp1", "tp2pp2"]),
}


@pytest.mark.parametrize("what", LEFT_OUT)
def test_what_is_left_out_is_all_that_tests(what: str) -> None:
    splits, columns, names = LEFT_OUT[what]
    some = examples()
    found = splits(some)
    assert [split.name for split in found] == [f"{what}={name}" for name in names]
    values = some.configurations.to_frame()[columns].astype(str).agg(" ".join, axis=1).to_numpy()
    for split in found:
        assert_clean(split, some)
        [tested] = set(values[split.test])
        assert tested not in values[split.train]
        assert len(split.train) + len(split.test) == len(some)


def test_twins_leave_with_their_model() -> None:
    """A model of the same dimensions under another name would give the answer away."""
    some = examples()
    by_name = {split.name: split for split in leave_one_model_out(some, twins_too=True)}
    split = by_name["model=llama-2-70b"]
    assert set(some.configurations.model[split.test]) == {"llama-2-70b"}
    assert set(some.configurations.model[split.train]) == {"llama-2-7b", "llama-2-13b"}
    assert set(some.configurations.model[by_name["model=llama-2-7b"].train]) == set(MODELS) - {"llama-2-7b"}


@pytest.mark.parametrize("shots", [1, 10, 50])
def test_shots_move_from_test_to_train(shots: int) -> None:
    """Other examples of the same configuration leave the test, or it would be half known."""
    some = examples(distinct_lengths=40)
    [split, _] = leave_one_gpu_out(some)
    shot = few_shot(split, some, shots, seed=3)
    assert_clean(shot, some)
    gained = np.setdiff1d(shot.train, split.train)
    assert len(gained) == shots
    assert np.isin(gained, split.test).all()
    assert np.isin(split.train, shot.train).all()
    assert np.isin(shot.test, split.test).all()
    assert shot.name == f"gpu=a100 k={shots}"


@pytest.mark.parametrize("shots", [0, 10_000])
def test_impossible_shots_are_refused(shots: int) -> None:
    some = examples()
    with pytest.raises(BadInput, match="shots"):
        few_shot(leave_one_gpu_out(some)[0], some, shots, 0)
