"""Ways to divide examples into those that teach and those that test.

Examples of one configuration (`Configurations.groups`) are always on the same side: a predictor that has seen a
configuration is not asked about it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.errors import BadInput
from harness.points import BoolArray, IntArray, ModelShape, StrArray
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Positions of examples, sorted; no position is on both sides.

    Attributes:
        name: for tables, such as `model=llama-2-7b`.
        train, test: positions.
    """

    name: str
    train: IntArray
    test: IntArray


def random_parts(examples: Examples, shares: Sequence[float], seed: int) -> tuple[IntArray, ...]:
    """Positions at random, in as many parts as `shares`, of about that share of the examples each.

    Raises:
        BadInput: shares that are not positive or more than 1 together.
    """
    if min(shares) <= 0 or sum(shares) > 1 + 1e-9:
        raise BadInput("shares", tuple(shares), "positive numbers that sum to at most 1")
    groups = examples.groups
    order = np.random.default_rng(seed).permutation(int(groups.max(initial=-1)) + 1)
    # A group belongs where its first example falls when all are laid out in a random order.
    sizes = np.bincount(groups, minlength=len(order))[order]
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1])) if len(order) else sizes
    part_of_group = np.empty(len(order), np.int64)
    part_of_group[order] = np.searchsorted(np.cumsum(shares) * len(examples) - 1e-6, starts, side="right")
    part = part_of_group[groups]
    return tuple(np.flatnonzero(part == number) for number in range(len(shares)))


def random_split(examples: Examples, seed: int, train_share: float = 0.8, test_share: float = 0.1) -> Split:
    """A random share teaches and another tests; the rest (a tenth, if not said otherwise) stays unseen for later.

    Raises:
        BadInput: as `random_parts`.
    """
    train, test = random_parts(examples, (train_share, test_share), seed)
    return Split("random", train, test)


def length_extrapolation(
    examples: Examples,
    train_prompt_tokens: float = 1200,
    train_generated_tokens: float = 250,
    test_prompt_tokens: float = 2000,
    test_generated_tokens: float = 400,
) -> Split:
    """Short requests (both lengths at most so long) teach, longer ones (either length above) test."""
    prompt, generated = examples.configurations.prompt_tokens, examples.configurations.generated_tokens
    short = (prompt <= train_prompt_tokens) & (generated <= train_generated_tokens)
    long = (prompt > test_prompt_tokens) | (generated > test_generated_tokens)
    return Split("lengths", np.flatnonzero(short & ~long), np.flatnonzero(long))


def leave_one_model_out(examples: Examples, twins_too: bool = False) -> tuple[Split, ...]:
    """A split for each model: it tests, all others teach.

    Args:
        twins_too: leave out with it the models of the same dimensions, which compute the same under another name.
    """
    configurations = examples.configurations
    twins = _first_of_same_dimensions(configurations)
    return tuple(
        _left_out(
            f"model={model}",
            configurations.model == model,
            twins == twins[configurations.model == model][0] if twins_too else configurations.model == model,
        )
        for model in np.unique(configurations.model)
    )


def leave_one_gpu_out(examples: Examples) -> tuple[Split, ...]:
    """A split for each kind of GPU: it tests, all others teach."""
    return _leave_one_out("gpu", examples.configurations.gpu)


def leave_one_parallelism_out(examples: Examples) -> tuple[Split, ...]:
    """A split for each pair of TP and PP: it tests, all others teach."""
    configurations = examples.configurations
    pairs = zip(configurations.tp.astype(int), configurations.pp.astype(int), strict=True)
    return _leave_one_out("parallelism", np.array([f"tp{tp}pp{pp}" for tp, pp in pairs], np.str_))


def few_shot(split: Split, examples: Examples, shots: int, seed: int) -> Split:
    """`split` with `shots` of its test examples, drawn at random, to teach as well.

    Other examples of their configurations leave the test side too.

    Raises:
        BadInput: not fewer shots than test examples, or none.
    """
    if not 1 <= shots < len(split.test):
        raise BadInput("shots", shots, f"1 to {len(split.test) - 1}, fewer than the {len(split.test)} test examples")
    groups = examples.groups
    drawn = np.random.default_rng(seed).choice(split.test, shots, replace=False)
    kept = split.test[~np.isin(groups[split.test], groups[drawn])]
    return Split(f"{split.name} k={shots}", np.sort(np.concatenate((split.train, drawn))), kept)


def _leave_one_out(column: str, values: StrArray) -> tuple[Split, ...]:
    return tuple(_left_out(f"{column}={value}", values == value, values == value) for value in np.unique(values))


def _left_out(name: str, tested: BoolArray, hidden: BoolArray) -> Split:
    return Split(name, np.flatnonzero(~hidden), np.flatnonzero(tested))


def _first_of_same_dimensions(configurations: Configurations) -> StrArray:
    """(n,) for each configuration one name that all models of its dimensions share."""

    def dimensions(shape: ModelShape) -> tuple[object, ...]:
        return (
            shape.hidden_size,
            shape.intermediate_size,
            shape.layers,
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
        )

    first: dict[tuple[object, ...], str] = {}
    names, position = np.unique(configurations.model, return_inverse=True)
    twins = [first.setdefault(dimensions(configurations.shapes[name]), str(name)) for name in names]
    return np.array(twins, np.str_)[position] if twins else configurations.model
