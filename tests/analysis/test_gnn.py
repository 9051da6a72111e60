"""Graph networks: the dense layer against torch_geometric's, what fitting must and must not do, intervals, files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from harness.deployment.catalog import model_shape
from harness.errors import BadInput
from harness.points import FloatArray
from harness_analysis.baselines.terms import N_PREFILL, Physics, terms
from harness_analysis.baselines.whitebox import WhiteBox
from harness_analysis.configurations import Configurations
from harness_analysis.examples import Examples, from_released
from harness_analysis.gnn import ours as ours_module
from harness_analysis.gnn.calibration import (
    KNOWN,
    LONGER,
    NEW_DEPLOYMENT,
    NEW_GPU,
    NEW_MODEL,
    Range,
    Rehearsal,
    calibrated,
    conformal_quantile,
    faded,
)
from harness_analysis.gnn.files import load, save
from harness_analysis.gnn.inputs import BOTH_WAYS, GraphInputs, InputScaling, Scaling, graph_inputs
from harness_analysis.gnn.member import Answer, Prepared, Settings, TwoGnn
from harness_analysis.gnn.ours import Ours, folds_of
from harness_analysis.gnn.paper import Nnlqp, PaperSettings, PaperTwoGnn
from harness_analysis.gnn.sage import DenseSage, SageNetwork, mean_matrix, with_neighbours
from harness_analysis.gnn.train import Schedule, train
from harness_analysis.gpus import known_gpus
from harness_analysis.graph import KERNEL_TYPES, NODE_FEATURES, NODES
from harness_analysis.metrics import coverage_pct, mape_pct

MODELS = ("llama-2-7b", "llama-2-13b", "llama-3-8b")
QUICK = Settings(schedule=Schedule(epochs=30, batch_size=64, learning_rate=5e-3, weight_decay=1e-3, clip=1.0))
FACTORS = np.array([0.6, 0.3, 0.4, 0.4, 0.2, 3.0, 2.0, 0.5, 2.0, 0.7, 0.2, 0.3, 0.6, 0.5, 0.9, 1.5, 0.8, 0.5])


def drawn(n: int, seed: int = 0, longest_prompt: float = 2000) -> Configurations:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "gpu": "a100",
            "model": random.choice(MODELS, n),
            "bits": 16,
            "tp": random.choice([1, 2], n),
            "pp": 1,
            "batch_size": random.choice([1, 2, 4, 8, 16, 32], n),
            "prompt_tokens": np.exp(random.uniform(np.log(16), np.log(longest_prompt), n)).round(),
            "generated_tokens": random.integers(2, 400, n),
        }
    )
    return asked(frame)


def asked(frame: pd.DataFrame) -> Configurations:
    return Configurations.from_frame(frame, {name: model_shape(name) for name in MODELS}, known_gpus())


def labelled(c: Configurations, noise: float = 0.0, seed: int = 1) -> Examples:
    """A sum of terms, times something smooth that no term explains: up to 30% with batch and prompt."""
    parts = terms(Physics.of(c)) * FACTORS
    bent = np.exp(0.3 * np.sin(np.log(c.prompt_tokens)) * np.cos(np.log2(c.batch_size)))
    prefill_j = parts[:, :N_PREFILL].sum(axis=1) * bent
    total_j = prefill_j + parts[:, N_PREFILL:].sum(axis=1) * np.sqrt(bent)
    blur = np.exp(noise * np.random.default_rng(seed).standard_normal(len(c)))
    return Examples(c, prefill_j * blur, total_j * blur, np.full(len(c), "made"))


@pytest.fixture(scope="module")
def fitted() -> Ours:
    ours = Ours(QUICK)
    ours.fit(labelled(drawn(500), noise=0.03), 0)
    return ours


# Layers


@pytest.mark.parametrize("unit_length", [False, True])
def test_the_dense_layer_is_torch_geometric_s(unit_length: bool) -> None:
    """On a graph with parallel edges and a node that nothing points to, which has a mean of zero."""
    from torch_geometric import nn as convolutions

    edges = np.array([[0, 1, 1, 2, 4, 4], [1, 2, 3, 3, 3, 3]])
    layer = DenseSage(5, 7, edges, 6, unit_length)
    theirs = convolutions.SAGEConv(5, 7, normalize=unit_length)
    theirs.lin_l.load_state_dict(layer.of_neighbours.state_dict())
    theirs.lin_r.load_state_dict(layer.own.state_dict())
    x = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([theirs(one, torch.as_tensor(edges)) for one in x])
    torch.testing.assert_close(layer(x.transpose(0, 1)).transpose(0, 1), expected)


def test_the_dense_network_is_torch_geometric_s() -> None:
    """The same weights on graphs as objects, collated into batches, give the same answers."""
    from harness_analysis.gnn.pyg import PygNetwork, answers, graphs

    inputs = InputScaling.of(raw := graph_inputs(Physics.of(drawn(10))))(raw)
    network = SageNetwork(inputs.prefill.shape[2], inputs.whole.shape[1], 16, BOTH_WAYS, KERNEL_TYPES)
    found = answers(PygNetwork(network), graphs(inputs.prefill, inputs.whole, BOTH_WAYS), batch_size=4)
    with torch.no_grad():
        paired = with_neighbours(torch.from_numpy(inputs.prefill), BOTH_WAYS)
        expected = network(paired, torch.from_numpy(inputs.whole))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("edges", [np.zeros((3, 2), int), np.array([[0], [5]]), np.array([[-1], [0]])])
def test_edges_that_no_graph_has_are_refused(edges: np.ndarray) -> None:
    """Silently wrapped, they would join the wrong kernels."""
    with pytest.raises(ValueError, match="edges"):
        mean_matrix(edges, 5)


# Inputs


def test_beyond_the_range_of_training_a_feature_stays_at_its_border() -> None:
    """And one that did not vary in training says nothing, whatever it is asked about."""
    scaling = Scaling.of(np.array([[1.0, 5.0], [3.0, 5.0]], np.float32))
    np.testing.assert_allclose(
        scaling(np.array([[9.0, 70.0], [2.0, 5.0], [-4.0, 0.0]], np.float32)), [[1, 0], [0, 0], [-1, 0]]
    )


def test_without_the_roofline_no_input_has_it() -> None:
    """The ablation would not be one if times came in by another door."""
    physics = Physics.of(drawn(20))
    full, less = graph_inputs(physics), graph_inputs(physics, roofline=False)
    # Time and rate of each node, two tiles of the prefill's nodes stay; time and energy of two phases.
    assert less.decode.shape[2] == full.decode.shape[2] - 2 == len(NODE_FEATURES) - 2
    assert less.whole.shape[1] == full.whole.shape[1] - 4


def test_one_graph_for_both_phases_is_the_prefill_s() -> None:
    """As where the last one computed overwrites the other."""
    inputs = graph_inputs(Physics.of(drawn(5)), apart=False)
    np.testing.assert_array_equal(inputs.decode, inputs.prefill)


# Training


def test_the_best_weights_on_held_back_examples_are_kept() -> None:
    """With a rate that makes later epochs worse."""
    torch.manual_seed(0)
    network = torch.nn.Linear(1, 1)
    x = torch.linspace(-1, 1, 32)[:, None]

    def loss(rows: torch.Tensor) -> torch.Tensor:
        squares: torch.Tensor = (network(x[rows]) - 3 * x[rows]) ** 2
        return squares.mean()

    schedule = Schedule(epochs=12, batch_size=32, learning_rate=2.0, decay=1.0)
    every = torch.arange(32)
    losses = train(network, loss, every, schedule, 0, every)
    assert losses[-1] > min(losses)
    with torch.no_grad():
        assert loss(every).item() == pytest.approx(min(losses))


@pytest.mark.parametrize(("n", "size"), [(100, 64), (2400, 100), (100_000, 256)])
def test_few_examples_are_taken_in_small_steps(n: int, size: int) -> None:
    """A few large steps would learn little; the rate goes with the size, so that an epoch goes as far."""
    schedule = Schedule(epochs=1, batch_size=256, smallest_batch_size=64, learning_rate=0.01)
    found = schedule.of(n)
    assert (found.batch_size, found.of(10)) == (size, found)
    assert found.learning_rate / found.batch_size == pytest.approx(0.01 / 256)
    fixed = Schedule(epochs=1, batch_size=256, learning_rate=0.01)
    assert fixed.of(n) == fixed


def test_one_epoch_is_enough_to_try() -> None:
    """Rehearsals train half as long, but never not at all."""
    ours = Ours(replace(QUICK, schedule=replace(QUICK.schedule, epochs=1)))
    ours.fit(labelled(drawn(60)), 0)
    assert np.isfinite(ours.predict(drawn(5)).total_j).all()


def test_the_second_network_hears_the_first_one_only_if_chained() -> None:
    """The chain is what the paper's second input is."""
    prefill, decode, whole = torch.randn(len(NODES), 4, 6), torch.randn(len(NODES), 4, 6), torch.randn(4, 2)
    for chained in (True, False):
        network = TwoGnn((3, 3, 2), 8, chained)
        for one in (network.prefill, network.decode):
            torch.nn.init.normal_(one.answer.weight)
            torch.nn.init.normal_(one.joined.weight)
        before = network(prefill, decode, whole)
        after = network(prefill + 1, decode, whole)
        assert not torch.equal(before[:, 0], after[:, 0])
        assert torch.equal(before[:, 1], after[:, 1]) is not chained


def test_the_networks_learn_what_no_term_explains(fitted: Ours) -> None:
    """They halve the white box's error at least, on configurations that they have not seen."""
    box = WhiteBox()
    box.fit(labelled(drawn(500), noise=0.03), 0)
    test = labelled(drawn(200, seed=5))
    found, crude = fitted.predict(test.configurations), box.predict(test.configurations)
    assert mape_pct(test.total_j, found.total_j) < 0.5 * mape_pct(test.total_j, crude.total_j)
    assert mape_pct(test.prefill_j, found.prefill_j) < 10
    assert (found.prefill_j <= found.total_j * (1 + 1e-9)).all()


def test_equal_seeds_give_equal_answers_and_leave_torch_as_it_was() -> None:
    """A fit must not depend on what was computed before it, nor change what is computed after."""
    examples, ask = labelled(drawn(60), noise=0.02), drawn(20, seed=2)
    brief = replace(QUICK, schedule=replace(QUICK.schedule, epochs=2))
    found: list[FloatArray] = []
    for seed in (4, 4, 5):
        torch.manual_seed(len(found))
        state, threads = torch.random.get_rng_state(), torch.get_num_threads()
        ours = Ours(brief)
        ours.fit(examples, seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.get_num_threads() == threads
        found.append(ours.predict(ask).total_j)
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_labels_need_no_unit() -> None:
    """Equal up to float32."""
    examples, ask = labelled(drawn(60), noise=0.02), drawn(20, seed=2)
    brief = replace(QUICK, schedule=replace(QUICK.schedule, epochs=2))
    small = Examples(examples.configurations, 1e-6 * examples.prefill_j, 1e-6 * examples.total_j, examples.source)
    found = []
    for one in (examples, small):
        ours = Ours(brief)
        ours.fit(one, 0)
        found.append(ours.predict(ask).total_j)
    np.testing.assert_allclose(1e6 * found[1], found[0], rtol=1e-3)


def test_an_unknown_prefill_and_an_unknown_total_are_allowed() -> None:
    """Published totals come without a prefill; an example without a total teaches nothing."""
    examples = labelled(drawn(120))
    total_j = examples.total_j.copy()
    total_j[:20] = np.nan
    ours = Ours(replace(QUICK, schedule=replace(QUICK.schedule, epochs=2)))
    ours.fit(Examples(examples.configurations, np.full(120, np.nan), total_j, examples.source), 0)
    found = ours.predict(examples.configurations)
    assert mape_pct(examples.total_j, found.total_j) < 30
    with pytest.raises(BadInput, match="at least two configurations"):
        ours.fit(Examples(examples.configurations, examples.prefill_j, np.full(120, np.nan), examples.source), 0)


def test_with_one_generated_token_the_prefill_is_all() -> None:
    """The token comes from the prefill."""
    ours = Ours(replace(QUICK, schedule=replace(QUICK.schedule, epochs=2)))
    ours.fit(labelled(drawn(60)), 0)
    c = replace(drawn(5), generated_tokens=np.ones(5))
    found = ours.predict(c)
    np.testing.assert_allclose(found.total_j, found.prefill_j)


def test_nothing_asked_nothing_answered(fitted: Ours) -> None:
    """And nothing is answered before a fit."""
    assert len(fitted.predict(drawn(3).take(np.array([], np.int64)))) == 0
    with pytest.raises(ValueError, match="not fitted"):
        Ours().predict(drawn(1))


@pytest.mark.parametrize("settings", [{"estimate": False}, {"chained": False}, {"apart": False}, {"roofline": False}])
def test_every_part_can_be_left_out(settings: dict[str, bool]) -> None:
    """The ablation's variants fit and answer; without the estimate the networks have all to learn."""
    examples = labelled(drawn(200))
    ours = Ours(replace(QUICK, schedule=replace(QUICK.schedule, epochs=8), **settings))
    ours.fit(examples, 0)
    assert mape_pct(examples.total_j, ours.predict(examples.configurations).total_j) < 60


# Folds and rehearsals


class Seen:
    """In the place of a member: says 1 J of each phase where it saw the configuration in training, 0.5 J elsewhere."""

    def __init__(self, examples: Examples) -> None:
        self.seen = set(self.named(examples.configurations))

    @staticmethod
    def named(c: Configurations) -> list[tuple[object, ...]]:
        return list(c.to_frame().drop(columns=["engine", "token_budget"]).itertuples(index=False, name=None))

    def answer(self, asked: Prepared) -> Answer:
        saw = np.array([one in self.seen for one in self.named(asked.configurations)])
        return Answer(np.where(saw, 1.0, 0.5)[:, None] * np.ones(2), np.zeros((len(saw), 2)))


def test_held_out_predictions_are_by_members_that_saw_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a configuration was measured twice; and they stay at their examples' places."""
    monkeypatch.setattr(ours_module, "fit_member", lambda examples, *_: Seen(examples))
    c = drawn(40)
    frame = c.to_frame()
    twice = asked(pd.concat([frame, frame.assign(engine="another")]))
    total_j = np.ones(80)
    total_j[[3, 50]] = np.nan
    ours = Ours(QUICK)
    ours.fit(Examples(twice, np.full(80, 0.5), total_j, np.full(80, "made")), 0)
    assert ours.held_out is not None
    np.testing.assert_array_equal(ours.held_out.total_j, np.where(np.isnan(total_j), np.nan, 1.0))


def test_held_out_predictions_say_what_new_ones_will_be_worth(fitted: Ours) -> None:
    """Their error is that of fresh questions of the same kind, and as many lie in their intervals."""
    examples, test = labelled(drawn(500), noise=0.03), labelled(drawn(500, seed=8), noise=0.03, seed=9)
    held, found = fitted.held_out, fitted.predict(test.configurations)
    assert held is not None
    expected, real = mape_pct(examples.total_j, held.total_j), mape_pct(test.total_j, found.total_j)
    assert real < 1.2 * expected < 1.6 * real
    assert coverage_pct(examples.total_j, held.low_j, held.high_j) == pytest.approx(90, abs=2)
    assert (held.prefill_j <= held.total_j).all()


def test_folds_keep_groups_together() -> None:
    """A configuration that was measured twice must not be learnt and tested."""
    groups = np.repeat(np.arange(10), 3)
    folds = folds_of(groups, 4, 0)
    assert all(len(set(folds[groups == group])) == 1 for group in range(10))
    assert set(folds.tolist()) == {0, 1, 2, 3}
    assert set(folds_of(np.array([1, 1, 2]), 4, 0).tolist()) == {0, 1}


def test_kinds_of_question() -> None:
    """From known to new; lengths and batch matter for what is known only."""
    frame = drawn(200).to_frame()
    known = asked(frame[(frame["model"] != "llama-3-8b") & ~((frame["model"] == "llama-2-13b") & (frame["tp"] == 2))])
    row = known.to_frame().iloc[[0]].assign(model="llama-2-7b", tp=1, prompt_tokens=100, batch_size=4)
    questions = {
        KNOWN: row,
        LONGER: row.assign(prompt_tokens=4000),
        NEW_DEPLOYMENT: row.assign(model="llama-2-13b", tp=2, prompt_tokens=4000),
        NEW_MODEL: row.assign(model="llama-3-8b"),
    }
    covered = Range.of(known)
    for kind, question in questions.items():
        assert covered.kind(asked(question)).tolist() == [kind]
    assert covered.kind(asked(row.assign(gpu="h100", model="llama-3-8b"))).tolist() == [NEW_GPU]


def test_new_gpus_are_rehearsed_where_there_are_three() -> None:
    """GPUs that are unlike one another in what no data sheet says make the answer for a fourth unsure, and no other."""
    frame = drawn(240).to_frame().assign(gpu=np.tile(["a100", "h100", "h200"], 80))
    alike = labelled(asked(frame))
    factor = np.tile([1.0, 2.0, 0.5], 80)
    unlike = replace(alike, prefill_j=alike.prefill_j * factor, total_j=alike.total_j * factor)
    width = []
    for examples in (alike, unlike):
        ours = Ours(replace(QUICK, schedule=replace(QUICK.schedule, epochs=2)))
        ours.fit(examples, 0)
        assert ours.fitted is not None
        width.append(ours.fitted.calibration.width)
    assert width[1][NEW_GPU] > max(2 * width[0][NEW_GPU], 2 * width[1][NEW_MODEL])


def test_distance_counts_generated_tokens_for_the_decode_only() -> None:
    """A prompt within the range is prefilled as always, however much is generated after it."""
    c = drawn(100)
    covered = Range.of(c)
    longest = replace(c.take(slice(0, 1)), generated_tokens=2 * c.generated_tokens.max()[None])
    np.testing.assert_allclose(covered.distance(longest), [[0, np.log(2)]])
    assert not covered.distance(c).any()


def test_the_conformal_quantile_is_a_rank() -> None:
    """Of 19 errors, the 18th: a twentieth is larger with a chance of 10%. Of few, the largest there is."""
    assert conformal_quantile(np.arange(1.0, 20.0)) == 18
    assert conformal_quantile(np.array([3.0, 1.0])) == 3


def rehearsal(correction: float, errors: np.ndarray, distance: float = 0.0, deployment: str = "one") -> Rehearsal:
    """The networks say `correction`; the estimate is off by `errors`."""
    n = len(errors)
    answer = Answer(np.stack([np.exp(errors), np.zeros(n)], axis=1), np.full((n, 2), correction))
    return Rehearsal(answer, np.ones(n), np.full(n, deployment), np.full((n, 2), distance))


def test_networks_are_trusted_as_far_as_they_help() -> None:
    """A correction that only adds to the error is dropped; one that halves it is kept."""
    errors = 0.02 * np.random.default_rng(0).standard_normal(200)
    found = calibrated({KNOWN: rehearsal(-0.1, 0.1 + errors), NEW_MODEL: rehearsal(-0.1, -0.2 + errors)})
    assert found.trust[KNOWN] == 1
    assert found.trust[NEW_MODEL] == 0
    assert found.trust[NEW_DEPLOYMENT] < 1


def test_trust_fades_beyond_the_range() -> None:
    """Twice as far as training went, the correction at its border counts half."""
    np.testing.assert_allclose(faded(1.0, np.array([[0, np.log(2)]])), [[1, 0.5]])


def test_intervals_widen_with_distance_and_novelty(fitted: Ours) -> None:
    """The further from what was learnt, the less sure; never less than for what is known."""
    row = drawn(500).to_frame().iloc[[0]].assign(batch_size=4, generated_tokens=100)
    near, far, further = (fitted.predict(asked(row.assign(prompt_tokens=p))) for p in (500, 3000, 4096))
    new = fitted.predict(asked(row.assign(prompt_tokens=500, gpu="h100")))
    widths = [float(one.high_j[0] / one.low_j[0]) for one in (near, far, further, new)]
    assert widths[0] <= widths[1] < widths[2]
    assert widths[3] > widths[0]


def test_intervals_hold_what_they_promise(fitted: Ours) -> None:
    """90% on configurations like those learnt, with the same noise."""
    test = labelled(drawn(500, seed=8), noise=0.03, seed=9)
    found = fitted.predict(test.configurations)
    assert 84 <= coverage_pct(test.total_j, found.low_j, found.high_j) <= 97
    assert (found.low_j < found.total_j).all()
    assert (found.total_j < found.high_j).all()


# The paper's networks


def test_the_paper_s_chain_needs_prefill_energies() -> None:
    """A total alone cannot teach its first network."""
    examples = labelled(drawn(50))
    unknown = Examples(examples.configurations, np.full(50, np.nan), examples.total_j, examples.source)
    with pytest.raises(BadInput, match="prefill_j"):
        PaperTwoGnn().fit(unknown, 0)


@pytest.mark.parametrize(
    "make",
    [
        PaperTwoGnn,
        Nnlqp,
        lambda: PaperTwoGnn(PaperSettings(apart=False, roofline=False, chained=False)),
    ],
)
def test_the_published_networks_learn_and_repeat_themselves(make: type[PaperTwoGnn]) -> None:
    """Better than the best constant after 50 epochs; the same again with the same seed."""
    examples = labelled(drawn(300))
    found = []
    for _ in range(2):
        predictor = make()
        predictor.fit(examples, 3)
        found.append(predictor.predict(examples.configurations).total_j)
    np.testing.assert_array_equal(found[0], found[1])
    error = np.abs(found[0] - examples.total_j).mean()
    assert error < 0.5 * np.abs(np.median(examples.total_j) - examples.total_j).mean()
    with pytest.raises(ValueError, match="not fitted"):
        make().predict(examples.configurations)


# Files


def test_a_file_answers_as_what_was_saved(fitted: Ours, tmp_path: Path) -> None:
    """Totals and intervals, also where nothing was learnt; and the card comes back."""
    save(fitted, tmp_path / "models" / "v1.2", {"source": ["simulated"], "scores": {"mape_pct": 1.5}})
    again, card = load(tmp_path / "models" / "v1.2")
    frame = drawn(50, seed=3, longest_prompt=4000).to_frame()
    ask = asked(pd.concat([frame, frame.assign(gpu="h100")]))
    for name in ("prefill_j", "total_j", "low_j", "high_j"):
        np.testing.assert_array_equal(getattr(again.predict(ask), name), getattr(fitted.predict(ask), name))
    assert card == {"source": ["simulated"], "scores": {"mape_pct": 1.5}}
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["v1.2.json", "v1.2.safetensors"]


def test_files_that_cannot_be_used_are_refused(fitted: Ours, tmp_path: Path) -> None:
    """Missing, cut off, of another format, or with a member missing: one line that says to train again."""
    path = tmp_path / "model"
    with pytest.raises(BadInput, match="cannot be read"):
        load(path)
    with pytest.raises(ValueError, match="not fitted"):
        save(Ours(), path, {})
    weights, about = save(fitted, path, {})
    whole, text = weights.read_bytes(), about.read_text()
    weights.write_bytes(whole[:-100])
    with pytest.raises(BadInput, match="cannot be read"):
        load(path)
    weights.write_bytes(whole)
    about.write_text(json.dumps({**json.loads(text), "format": 0}))
    with pytest.raises(BadInput, match="another version"):
        load(path)
    card = json.loads(text)
    card["groups"].append(card["groups"][0])
    about.write_text(json.dumps(card))
    with pytest.raises(BadInput, match="train it again"):
        load(path)


# Published data


def test_ours_beats_its_estimate_on_the_released_data(data_dir: Path) -> None:
    """A sixteenth of the rows and of the time are enough to be clearly better than the white box."""
    train_on = from_released(data_dir / "public").take(slice(0, None, 16))
    test = from_released(data_dir / "public", "val")
    ours, box = Ours(replace(QUICK, schedule=replace(QUICK.schedule, epochs=20))), WhiteBox()
    ours.fit(train_on, 0)
    box.fit(train_on, 0)
    found, crude = ours.predict(test.configurations), box.predict(test.configurations)
    assert mape_pct(test.total_j, found.total_j) < 0.8 * mape_pct(test.total_j, crude.total_j)
    assert 83 <= coverage_pct(test.total_j, found.low_j, found.high_j) <= 97


def test_inputs_can_be_taken_apart() -> None:
    """Folds are rows of what is computed once."""
    inputs = graph_inputs(Physics.of(drawn(6)))
    part = inputs.take(np.array([4, 1]))
    assert isinstance(part, GraphInputs)
    np.testing.assert_array_equal(part.decode, inputs.decode[[4, 1]])
