"""Published measurements: what readers keep, drop and convert; files they refuse; the shapes of the models."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from harness.errors import BadInput
from harness_analysis.public import READERS, argonne, mlenergy, read_public, released, tokenpowerbench, wilkins
from harness_analysis.public.frame import COLUMNS, read_table, tidy
from harness_analysis.public.shapes import SHAPES

LARGE, POWER, PARALLEL = "bench Plots/All_results.csv", "bench Plots/power_results.csv", "bench Plots/TP_PP_Results.csv"
NEVER_NULL = ["source", "engine", "gpu", "n_gpus", "model", "batch_size", "covers", "requests", "notes"]
Cells = dict[str, object]


@pytest.fixture(scope="module")
def public_dir(data_dir: Path) -> Path:
    folder = data_dir / "public"
    if not folder.is_dir():
        pytest.skip("no published measurements: set HARNESS_TEST_DATA to a folder with public/argonne.parquet")
    return folder


@pytest.fixture(scope="module")
def published(public_dir: Path) -> pd.DataFrame:
    return read_public(public_dir)


def batch(latency_s: float, **cells: object) -> Cells:
    """A row as in the file of argonne; `tokens` are both lengths."""
    tokens = cells.pop("tokens", 1024)
    row: Cells = {
        "source": LARGE,
        "gpu": "Nvidia H100 GPU",
        "n_gpus": 1,
        "engine": "vLLM",
        "model": "meta-llama/Llama-2-7b-hf",
        "batch_size": 16,
        "prompt_tokens": tokens,
        "generated_tokens": tokens,
        "latency_s": latency_s,
        "avg_power_w": np.nan,
        "total_energy_j": np.nan,
        "parallelism": None,
    }
    return row | cells


def argonne_of(folder: Path, *rows: Cells) -> pd.DataFrame:
    pd.DataFrame(list(rows)).to_parquet(folder / "argonne.parquet")
    return argonne.read(folder)


def refusal(call: object, *arguments: object) -> str:
    assert callable(call)
    with pytest.raises(BadInput) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What the reader of argonne makes of its rows


def test_a_row_with_power_replaces_its_repetition_in_the_large_table(tmp_path: Path) -> None:
    """They are one measurement: kept twice, it would weigh double in every fit."""
    power = batch(13.17, source=POWER, avg_power_w=495.0, total_energy_j=495.0 * 13.17)
    [row] = argonne_of(tmp_path, batch(13.17), power, batch(13.17, source=PARALLEL)).to_dict("records")
    assert row["power_w"] == 495.0
    assert row["energy_per_token_j"] == pytest.approx(495.0 * 13.17 / (16 * 1024))
    assert "idle" in row["notes"]


def test_another_latency_of_one_configuration_is_another_measurement(tmp_path: Path) -> None:
    assert list(argonne_of(tmp_path, batch(13.0), batch(13.2))["latency_s"]) == [13.0, 13.2]


def test_a_batch_that_was_cut_off_at_the_context_is_dropped(tmp_path: Path) -> None:
    """Faster than half its tokens: the engine did not generate. A slow first batch is no reason to drop the second."""
    kept = argonne_of(
        tmp_path,
        batch(7.0, tokens=1024),
        batch(0.05, tokens=2048),
        batch(3.0, tokens=128, engine="other"),
        batch(2.0, tokens=256, engine="other"),
        batch(0.05, tokens=2048, model="without half"),
    )
    assert sorted(kept["latency_s"]) == [0.05, 2.0, 3.0, 7.0]
    assert kept.loc[kept["latency_s"] == 0.05, "model"].item() == "without half"


@pytest.mark.parametrize(
    ("way", "gpus", "tp", "pp"),
    [
        (None, 4, 4, 1),
        ("Tensor Parallelism", 2, 2, 1),
        ("PP", 4, 1, 4),
        ("Pipeline Parallelism", 1, 1, 1),
        ("Hybird Tensor (2) and Pipeline (2) Parallelism", 4, 2, 2),
        ("Hybrid TP = 2 and PP = 2", 4, 2, 2),
    ],
)
def test_ways_to_divide_become_parallel_sizes(tmp_path: Path, way: str | None, gpus: int, tp: int, pp: int) -> None:
    [row] = argonne_of(tmp_path, batch(1.0, n_gpus=gpus, parallelism=way)).to_dict("records")
    assert (row["tp"], row["pp"]) == (tp, pp)


def test_expert_parallelism_has_no_parallel_sizes_but_is_named(tmp_path: Path) -> None:
    rows = argonne_of(tmp_path, batch(1.0, n_gpus=4, parallelism="EP"))
    assert rows[["tp", "pp"]].isna().all(axis=None)
    assert rows["notes"].item() == "EP"


def test_the_batch_of_llama_cpp_is_a_chunk_of_one_prompt(tmp_path: Path) -> None:
    """`llama-bench -b`: taken for sequences, 64 of them would be as fast as one."""
    [row] = argonne_of(tmp_path, batch(9.8, engine="llama.cpp", batch_size=64)).to_dict("records")
    assert (row["batch_size"], row["requests"]) == (1, 1)
    assert "64" in row["notes"]


def test_the_idle_second_is_taken_out_of_a_mean_power() -> None:
    """Nine seconds at 300 W and one at 100 W were published as 280 W."""
    assert argonne.without_idle_second(np.array([280.0]), np.array([9.0]), 100.0) == pytest.approx([300.0])


# Refusals


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    said = refusal(READERS[name], tmp_path)
    assert f"{name}.parquet" in said
    assert "no such file" in said


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "wilkins.parquet"
    path.write_text("model,energy\n", "utf-8")
    assert str(path) in refusal(wilkins.read, tmp_path)


def test_a_table_of_somebody_else_is_told_what_it_lacks(tmp_path: Path) -> None:
    pd.DataFrame({"source": ["x"], "gpu": ["y"]}).to_parquet(tmp_path / "mlenergy_v2.parquet")
    assert "without the columns task, n_gpus" in refusal(mlenergy.read, tmp_path)


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"a": []}).to_parquet(tmp_path / "t.parquet")
    assert "no rows" in refusal(read_table, tmp_path, "t", ["a"])


def test_an_unknown_gpu_is_refused_not_dropped(tmp_path: Path) -> None:
    said = refusal(argonne_of, tmp_path, batch(1.0), batch(2.0, gpu="Nvidia B200 GPU"))
    assert "Nvidia B200 GPU" in said
    assert "Nvidia H100 GPU" in said


def test_a_column_that_the_frame_does_not_have_is_a_mistake_in_a_reader() -> None:
    with pytest.raises(ValueError, match="joules"):
        tidy(pd.DataFrame({"joules": [1.0]}))


# The published files themselves


def test_all_sources_come_in_the_columns_of_the_frame(published: pd.DataFrame) -> None:
    assert {column: str(dtype) for column, dtype in published.dtypes.items()} == dict(COLUMNS)
    assert not published[NEVER_NULL].isna().any(axis=None)
    assert (published[["n_gpus", "batch_size", "generated_tokens", "requests"]] > 0).all(axis=None)
    assert len(published) == 4832 + 314 + 185 + 2701


def test_energy_is_power_times_cards_times_time(published: pd.DataFrame) -> None:
    timed = published[published["energy_j"].notna() & published["latency_s"].notna()]
    assert set(timed["covers"]) == {"batch", "request", "run"}
    power_w = timed["energy_j"] / timed["latency_s"] / timed["n_gpus"].astype(float)
    np.testing.assert_allclose(power_w, timed["power_w"], rtol=1e-9)


def test_energy_per_token_is_per_generated_token_everywhere(published: pd.DataFrame) -> None:
    metered = published[published["energy_j"].notna()]
    tokens = metered["requests"].astype(float) * metered["generated_tokens"]
    np.testing.assert_allclose(metered["energy_per_token_j"] * tokens, metered["energy_j"], rtol=1e-9)


def test_parallel_sizes_use_all_cards(published: pd.DataFrame) -> None:
    divided = published[published["tp"].notna()]
    assert (divided["tp"] * divided["pp"] == divided["n_gpus"]).all()


def test_argonne_gives_its_known_powers(public_dir: Path) -> None:
    """Llama-2-7b with vLLM, batch 1 and 64, as printed in its table."""
    rows = argonne.read(public_dir)
    rows = rows[rows["power_w"].notna()]
    assert len(rows) == 48
    vllm = rows[(rows["engine"] == "vllm") & (rows["model"] == "meta-llama/Llama-2-7b-hf")]
    powers_w = vllm.set_index(["gpu", "batch_size"])["power_w"].round()
    assert [powers_w["a100-40gb", 1], powers_w["a100-40gb", 64]] == [222, 344]
    assert [powers_w["h100", 1], powers_w["h100", 64]] == [367, 595]


def test_argonne_has_each_measurement_once_and_none_cut_off(public_dir: Path) -> None:
    """326 of its 5,191 rows are said twice, 33 ended at the model's context."""
    rows = argonne.read(public_dir)
    setting = ["engine", "gpu", "model", "n_gpus", "tp", "pp", "batch_size", "prompt_tokens", "latency_s"]
    assert not rows[rows["engine"] != "llama.cpp"].duplicated(setting).any()
    vllm = rows[rows["engine"] == "vllm"]
    assert (vllm["latency_s"] / vllm["generated_tokens"]).min() > 0.002
    assert not ((rows["model"] == "huggyllama/llama-7b") & (rows["prompt_tokens"] == 2048)).any()


def test_every_dense_model_of_mlenergy_has_a_shape(public_dir: Path) -> None:
    rows = mlenergy.read(public_dir)
    without = rows[~rows["model"].isin(list(SHAPES))]
    assert set(without["model"].str.extract("(Mixtral)")[0]) == {"Mixtral"}
    assert len(rows) - len(without) == 273


def test_the_llama_like_models_of_argonne_have_shapes(public_dir: Path) -> None:
    rows = argonne.read(public_dir)
    shaped = rows[(rows["engine"] == "vllm") & rows["gpu"].isin(["h100", "gh200"]) & rows["model"].isin(list(SHAPES))]
    assert shaped["model"].nunique() == 8


def test_power_of_mlenergy_stays_below_the_cards_limits(public_dir: Path) -> None:
    """The other quotient, energy per token times batch over time per token, would give 1270 W on an H100."""
    most_w = mlenergy.read(public_dir).groupby("gpu")["power_w"].max()
    assert most_w["a100-40gb"] < 400
    assert most_w["h100"] < 700


def test_wilkins_without_invalid_rows_and_impossible_energies(public_dir: Path) -> None:
    rows = wilkins.read(public_dir)
    assert rows["generated_tokens"].min() >= 1
    assert not (rows["cpu_energy_j"] < 0).any()
    assert rows["cpu_energy_j"].isna().sum() == 10


def test_tokenpowerbench_counts_only_the_cards_that_worked(public_dir: Path) -> None:
    """A node of four with one at work: the published energy of Llama-3.1-8B at batch 128 is 1.6 times its card's."""
    rows = tokenpowerbench.read(public_dir)
    assert set(rows["n_gpus"]) == {1, 2}
    assert rows["power_w"].min() > 90
    assert rows.loc[rows["dram_energy_j"].notna(), "n_gpus"].tolist() == [2] * 9
    assert (rows["batch_size"] <= rows["max_sequences"]).all()


def test_the_released_rows_say_which_are_in_both_files(public_dir: Path) -> None:
    rows = released.read(public_dir)
    assert rows["split"].value_counts().to_dict() == {"train": 8000, "val": 1000}
    assert rows.loc[rows["split"] == "val", "in_train"].mean() == pytest.approx(0.138)
    np.testing.assert_allclose(rows["prefill_label"] + rows["decode_label"], rows["total_label"], atol=1e-4)


# Shapes

PUBLISHED_PARAMETERS = {
    "huggyllama/llama-7b": 6_738_415_616,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Meta-Llama-3-70B": 70_553_706_496,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Meta-Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Meta-Llama-3.1-70B-Instruct": 70_553_706_496,
    "meta-llama/Meta-Llama-3.1-405B-Instruct": 405_853_388_800,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "codellama/CodeLlama-7b-hf": 6_738_546_688,
    "codellama/CodeLlama-13b-hf": 13_016_028_160,
    "codellama/CodeLlama-34b-hf": 33_743_970_304,
    "codellama/CodeLlama-70b-hf": 68_976_910_336,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "mistralai/Mistral-Nemo-Instruct-2407": 12_247_782_400,
    "mistralai/Mistral-Large-Instruct-2407": 122_610_069_504,
    "Qwen/Qwen2-7B": 7_615_616_512,
    "Qwen/Qwen2-72B": 72_706_203_648,
    "google/codegemma-1.1-2b": 2_506_172_416,
    "google/codegemma-7b": 8_537_680_896,
    "google/gemma-2-2b-it": 2_614_341_888,
    "google/gemma-2-9b-it": 9_241_705_984,
    "google/gemma-2-27b-it": 27_227_128_320,
    "bigcode/starcoder2-3b": 3_030_371_328,
    "bigcode/starcoder2-7b": 7_173_923_840,
    "bigcode/starcoder2-15b": 15_957_889_024,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/Phi-3-small-8k-instruct": 7_392_272_384,
    "microsoft/Phi-3-medium-4k-instruct": 13_960_238_080,
}
"""Tensor sizes in the safetensors header, as the hub's model pages show them."""


def test_parameters_are_the_published_ones() -> None:
    """Within 0.05%: norms and biases that a Llama shape does not have are below it, a wrong dimension is not."""
    computed = {name: shape.parameters for name, shape in SHAPES.items()}
    assert computed == pytest.approx(PUBLISHED_PARAMETERS, rel=5e-4)


@pytest.mark.parametrize("name", [name for name in SHAPES if "starcoder" in name])
def test_a_gated_mlp_of_two_thirds_weighs_what_two_matrices_do(name: str) -> None:
    shape = SHAPES[name]
    assert 3 * shape.intermediate_size == 2 * 4 * shape.hidden_size


def test_names_of_shapes_are_their_own() -> None:
    assert len({shape.name for shape in SHAPES.values()}) == len(SHAPES)


# Kernel tables


@pytest.fixture
def kernel_tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, beside a stand-in for aiconfigurator: 8 sequences do not fit, 32 are refused."""

    def cli_estimate(path: str, system: str, **asked: object) -> SimpleNamespace:
        if asked["batch_size"] == 32:
            raise ValueError("no table\nfor this")
        warning = "out of memory" if asked["batch_size"] == 8 else None
        return SimpleNamespace(ttft=62.0, tpot=10.0, memory=16.7, backend_version="1.0", kv_cache_warning=warning)

    for name in ("aiconfigurator", "aiconfigurator.cli", "aiconfigurator.cli.api"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["aiconfigurator.cli.api"], "cli_estimate", cli_estimate, raising=False)
    path = Path(__file__).parents[2] / "benchmarks" / "calibration" / "kernel_tables.py"
    spec = importlib.util.spec_from_file_location("kernel_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_kernel_tables_give_seconds_or_a_reason(kernel_tables: ModuleType, tmp_path: Path) -> None:
    """What was refused stays in the file: an anchor that is missing for a reason is not one that was forgotten."""
    rows = {n: kernel_tables.estimate("a100", tmp_path / "llama-2-7b", 2, 1, n) for n in (1, 8, 32)}
    assert (rows[1]["ttft_s"], rows[1]["tpot_s"], rows[1]["reason"]) == (0.062, 0.010, "")
    assert rows[1]["model"] == "llama-2-7b"
    for refused, reason in ((rows[8], "does not fit"), (rows[32], "ValueError: no table for this")):
        assert refused["ttft_s"] is None
        assert refused["tpot_s"] is None
        assert reason in str(refused["reason"])
    assert json.loads(json.dumps(rows[32])) == rows[32]
