"""What predictors learn from: checked columns, labels of own runs, and what published measurements become."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.deployment.catalog import model_shape, node_spec
from harness.errors import BadInput
from harness.points import NO_GPU, Point
from harness.records import Energy, RunBundle
from harness.store import Writer
from harness_analysis.examples import (
    MLENERGY_PROMPT_TOKENS,
    Configurations,
    Examples,
    concatenated,
    from_argonne,
    from_mlenergy,
    from_released,
    from_runs,
)
from harness_analysis.gpus import GH200, known_gpus
from harness_analysis.predictor import Prediction, Predictor
from harness_analysis.public import argonne, mlenergy
from tests.unit.builders import batch_point
from tests.unit.store_factory import make_bundle

SHAPES = {name: model_shape(name) for name in ("llama-2-7b", "llama-2-70b")}
ROW: dict[str, Any] = {
    "gpu": "h100", "model": "llama-2-7b", "bits": 16, "tp": 2, "pp": 1, "batch_size": 8, "prompt_tokens": 512,
    "generated_tokens": 128, "engine": "vllm", "token_budget": 8192,
}  # fmt: skip


def configurations(*rows: dict[str, Any]) -> Configurations:
    return Configurations.from_frame(pd.DataFrame([ROW | row for row in rows]), SHAPES, known_gpus())


def examples(*rows: dict[str, Any], source: str = "simulated") -> Examples:
    made = configurations(*rows)
    labels = np.arange(1.0, len(rows) + 1)
    return Examples(made, labels / 2, labels, np.full(len(rows), source))


# Configurations


def test_a_frame_survives_the_round_trip() -> None:
    made = configurations({}, {"model": "llama-2-70b", "tp": 8, "prompt_tokens": 100.5, "engine": "sarathi"})
    again = Configurations.from_frame(made.to_frame(), SHAPES, known_gpus())
    pd.testing.assert_frame_equal(again.to_frame(), made.to_frame())
    assert made.to_frame()["prompt_tokens"].tolist() == [512, 100.5]


def test_who_serves_need_not_be_said() -> None:
    """Published data and simple questions have neither engine nor token budget: no engine, and prompts in one pass."""
    frame = pd.DataFrame([ROW, ROW | {"engine": None, "token_budget": None}])
    assert Configurations.from_frame(frame, SHAPES, known_gpus()).token_budget.tolist() == [8192, np.inf]
    silent = Configurations.from_frame(frame.drop(columns=["engine", "token_budget"]), SHAPES, known_gpus())
    assert silent.engine.tolist() == ["", ""]
    assert silent.token_budget.tolist() == [np.inf, np.inf]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"model": "gpt-9"}, "llama-2-7b"),
        ({"gpu": "tpu"}, "a100-40gb"),
        ({"batch_size": 0}, "at least 1"),
        ({"prompt_tokens": np.nan}, "at least 1"),
        ({"generated_tokens": "many"}, "at least 1"),
        ({"bits": 1}, "at least 2"),
        ({"tp": -2}, "at least 1"),
    ],
)
def test_bad_values_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=next(iter(wrong))) as caught:
        configurations({}, wrong)
    assert named in str(caught.value)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(BadInput, match="without the column pp"):
        Configurations.from_frame(pd.DataFrame([ROW]).drop(columns="pp"), SHAPES, known_gpus())


def test_lookups_are_per_configuration() -> None:
    made = configurations({"model": "llama-2-70b"}, {"gpu": "a100"})
    hidden, layers = made.shape_values("hidden_size", "layers")
    assert (hidden.tolist(), layers.tolist()) == ([8192, 4096], [80, 32])
    assert made.gpu_values("peak_flops").tolist() == [[989.5e12, 312e12]]
    assert made.n_gpus.tolist() == [2, 2]


@pytest.mark.parametrize("index", [np.array([2, 0]), np.array([True, False, True]), slice(1, None)])
def test_taking_keeps_columns_together(index: Any) -> None:
    some = examples({"tp": 1}, {"tp": 2}, {"tp": 4})
    taken = some.take(index)
    assert taken.configurations.tp.tolist() == np.array([1, 2, 4])[index].tolist()
    assert taken.total_j.tolist() == np.array([1, 2, 3])[index].tolist()
    assert len(taken) == len(taken.prefill_j) == len(taken.source) == len(taken.noise) == len(taken.point_id)


def test_groups_ignore_who_serves() -> None:
    """The same batch on the same GPUs under another engine or budget: no split may separate the two."""
    groups = configurations({}, {"engine": "sarathi", "token_budget": 512}, {"pp": 2}, {"bits": 8}).groups()
    assert groups[0] == groups[1]
    assert len(set(groups.tolist())) == 3


# Examples


def test_labels_must_fit() -> None:
    with pytest.raises(ValueError, match="one label"):
        Examples(configurations({}), np.ones(2), np.ones(1), np.array(["simulated"]))


def test_what_published_data_do_not_say_is_unknown() -> None:
    some = examples({}, {})
    assert np.isnan(some.noise).all()
    assert some.point_id.tolist() == some.environment_id.tolist() == ["", ""]
    with pytest.raises(ValueError, match="one label"):
        replace(some, noise=np.ones(3))


def test_energy_per_token_is_of_generated_ones() -> None:
    some = examples({"batch_size": 4, "generated_tokens": 10})
    assert some.token_j.tolist() == [1 / 40]


def test_sources_are_concatenated_in_order() -> None:
    known = replace(examples({"tp": 1}), noise=np.array([0.01]), point_id=np.array(["0123456789abcdef"]))
    joined = concatenated([known, examples({"tp": 4}, {"model": "llama-2-70b"}, source="measured")])
    assert joined.configurations.tp.tolist() == [1, 4, 2]
    assert joined.source.tolist() == ["simulated", "measured", "measured"]
    assert joined.total_j.tolist() == [1, 1, 2]
    assert joined.point_id.tolist() == ["0123456789abcdef", "", ""]
    np.testing.assert_array_equal(joined.noise, [0.01, np.nan, np.nan])


def test_one_name_for_two_shapes_is_refused() -> None:
    """Features would be those of the wrong model, silently."""
    some = examples({})
    changed = Configurations.from_frame(
        some.configurations.to_frame(), {"llama-2-7b": SHAPES["llama-2-70b"]}, known_gpus()
    )
    other = Examples(changed, some.prefill_j, some.total_j, some.source)
    with pytest.raises(BadInput, match="llama-2-7b"):
        concatenated([some, other])


# Own runs


def run(
    number: int, gpu_j: float | None, prefill_j: float = 100.0, point: Point | None = None, **changes: Any
) -> RunBundle:
    """Repetition `number` of a point with a total and a prefill energy."""
    point = point or batch_point(prompt=512, generated=128, tp=2)
    energies = {
        **make_bundle(number).run.energies,
        "gpu": Energy.absent("no meter") if gpu_j is None else Energy(gpu_j, 1.0, "simulated"),
        "gpu_prefill": Energy(prefill_j, 1.0, "simulated"),
    }
    columns = {"energies": energies, "point": point.to_json(), "point_id": point.point_id, "repetition": number}
    return make_bundle(number, **{"details": False, **columns, **changes})


def folder_of(folder: Path, *bundles: RunBundle) -> Path:
    with Writer(folder, source=bundles[0].run.source, owner="test") as writer:
        writer.append(list(bundles))
    return folder


def test_repetitions_are_averaged(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "runs", run(1, 900, 90), run(2, 1000, 110), run(3, 1100, purpose="probe"))
    found = from_runs(folder)
    assert len(found) == 1
    assert (found.total_j[0], found.prefill_j[0]) == (1000, 100)
    [row] = found.configurations.to_frame().to_dict("records")
    assert row == ROW
    assert found.configurations.shapes["llama-2-7b"] == SHAPES["llama-2-7b"]
    assert found.source.tolist() == ["simulated"]


def test_noise_is_the_standard_error_of_the_mean(tmp_path: Path) -> None:
    """Of 900, 1000 and 1100 J: a standard deviation of 100 J over the root of 3, of 1000 J; of one run: unknown."""
    other = batch_point(prompt=512, generated=128, tp=4)
    folder = folder_of(tmp_path / "runs", run(1, 900), run(2, 1000), run(3, 1100), run(1, 700, point=other))
    found = from_runs(folder)
    order = np.argsort(found.configurations.tp)
    np.testing.assert_allclose(found.noise[order], [0.1 / np.sqrt(3), np.nan])
    assert found.point_id[order].tolist() == [batch_point(prompt=512, generated=128, tp=2).point_id, other.point_id]
    assert set(found.environment_id) == {make_bundle(1).run.environment_id}


def test_what_is_no_valid_batch_teaches_nothing(tmp_path: Path) -> None:
    bad = {"status": "invalid"}, {"status": "failed"}, {"purpose": "warmup"}, {"workload": "replay"}, {"gpu": NO_GPU}
    others = [run(number, 5000, **changes) for number, changes in enumerate(bad, 2)]
    found = from_runs(folder_of(tmp_path / "runs", run(1, 900), *others, run(9, None)))
    assert found.total_j.tolist() == [900]


def test_environments_are_not_mixed(tmp_path: Path) -> None:
    """Another driver is another machine: two examples of one group."""
    found = from_runs(folder_of(tmp_path / "runs", run(1, 900), run(2, 1100, environment_id="0123456789ab")))
    assert sorted(found.total_j.tolist()) == [900, 1100]
    assert len(set(found.groups.tolist())) == 1


def test_simulated_and_measured_are_mixed_only_when_asked(tmp_path: Path) -> None:
    folders = [
        folder_of(tmp_path / "simulated", run(1, 900)),
        folder_of(tmp_path / "measured", run(1, 1100, source="measured")),
    ]
    with pytest.raises(BadInput, match="measured and simulated"):
        from_runs(folders)
    assert from_runs(folders, mix_sources=True).source.tolist() == ["simulated", "measured"]
    assert from_runs(folders[1]).source.tolist() == ["measured"]


def test_a_folder_without_batches_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="harness sweep"):
        from_runs(folder_of(tmp_path / "runs", run(1, 900, status="failed")))


def test_a_gpu_without_figures_is_refused_or_given(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "runs", run(1, 900, gpu="b200"))
    with pytest.raises(BadInput, match="b200"):
        from_runs(folder)
    assert from_runs(folder, gpus={"b200": GH200}).configurations.gpu_values("tdp_w").tolist() == [[700]]


def test_known_gpus_are_those_of_the_bundled_nodes() -> None:
    assert {"a100", "a100-40gb", "h100", "h200", "gh200"} <= set(known_gpus())
    assert known_gpus()["h100"] == node_spec("dgx-h100").gpu
    assert all(kind == spec.kind and spec.idle_w < spec.tdp_w for kind, spec in known_gpus().items())


# Published measurements


@pytest.fixture(scope="module")
def public_dir(data_dir: Path) -> Path:
    folder = data_dir / "public"
    if not folder.is_dir():
        pytest.skip("no published measurements: set HARNESS_TEST_DATA to a folder with public/")
    return folder


def test_released_rows_are_one_gpu_without_a_unit(public_dir: Path) -> None:
    train, validation = from_released(public_dir), from_released(public_dir, "val")
    assert (len(train), len(validation)) == (8000, 1000)
    c = train.configurations
    assert set(c.model) == {"llama-2-7b", "internlm-20b", "llama-2-70b"}
    assert {set(column.tolist()).pop() for column in (c.tp, c.pp)} == {1}
    raw = pd.read_parquet(public_dir / "llmco2_released_train.parquet").iloc[0]
    assert (train.prefill_j[0], train.total_j[0]) == (raw["prefill_label"], raw["total_label"])
    assert set(train.source) == {"llmco2_released_train"}


def test_mlenergy_gives_the_published_energy_per_token(public_dir: Path) -> None:
    """273 rows without Mixtral; prompts are imputed by task, and no prefill energy is known."""
    found, rows = from_mlenergy(public_dir), mlenergy.read(public_dir)
    rows = rows[~rows["model"].str.contains("Mixtral")]
    assert len(found) == len(rows) == 273
    np.testing.assert_allclose(found.token_j, rows["energy_per_token_j"])
    assert found.configurations.prompt_tokens.tolist() == rows["task"].map(MLENERGY_PROMPT_TOKENS).tolist()
    assert np.isnan(found.prefill_j).all()
    longer = from_mlenergy(public_dir, {"chat": 300, "code": 200})
    assert set(longer.configurations.prompt_tokens) == {200, 300}


def test_argonne_gives_joules_of_a_batch_without_the_idle_second(public_dir: Path) -> None:
    """A second of idle in the average hides energy of the batch: a sixth in the shortest, 1% in the longest."""
    found, rows = from_argonne(public_dir), argonne.read(public_dir)
    rows = rows[rows["energy_j"].notna()]
    assert len(found) == len(rows) == 48
    gain = found.total_j / rows["energy_j"].to_numpy() - 1
    order = np.argsort(rows["latency_s"].to_numpy())
    assert (gain > 0).all()
    assert gain[order[0]] == pytest.approx(0.148, abs=0.02)
    assert gain[order[-1]] < 0.015
    assert set(found.configurations.gpu) == {"a100-40gb", "h100", "gh200"}


# Predictions


class _Mean:
    """The simplest predictor: the mean of what it was fitted on."""

    name = "mean"

    def __init__(self) -> None:
        self._mean_j = 0.0

    def fit(self, examples: Examples, seed: int) -> None:
        self._mean_j = float(examples.total_j.mean())

    def predict(self, configurations: Configurations) -> Prediction:
        return Prediction.without_interval(np.full(len(configurations), self._mean_j))


def test_a_predictor_is_what_fits_and_predicts() -> None:
    predictor: Predictor = _Mean()
    some = examples({}, {}, {})
    predictor.fit(some, seed=0)
    prediction = predictor.predict(some.configurations)
    assert isinstance(predictor, Predictor)
    assert prediction.total_j.tolist() == [2, 2, 2]
    assert np.isnan(prediction.low_j).all()
    assert len(prediction.take(np.array([0, 2]))) == 2


def test_a_prediction_has_one_value_for_each() -> None:
    three, two = np.ones(3), np.ones(2)
    with pytest.raises(ValueError, match="one value"):
        Prediction(three, three, two, three)
    with pytest.raises(ValueError, match=r"\(n,\)"):
        Prediction.without_interval(np.ones((3, 2)))
