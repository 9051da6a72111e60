"""Rows say what the records say, and merge only steps that are alike."""

from pathlib import Path

import numpy as np

from docs.make_data_dictionary import data_dictionary
from harness.engines.base import Requests, Served, Steps
from harness.meters.base import PowerTrace
from harness.records import ENERGY_DOMAINS, Energy, RunBundle, WindowDetail
from harness.schema import RUN_COLUMNS, run_row, tables_of
from tests.conftest import REPOSITORY
from tests.unit.store_factory import make_bundle


def steps(prefill: list[int], decode: list[int]) -> Steps:
    count = len(prefill)
    integers = np.zeros(count, np.int64)
    return Steps(
        start_s=100.0 + np.arange(count),
        duration_s=np.full(count, 0.5),
        batch_index=integers,
        prefill_requests=(np.array(prefill) > 0).astype(np.int64),
        prefill_tokens=np.array(prefill),
        decode_requests=np.array(decode),
        context_tokens=np.arange(count) + 10,
    )


def bundle_with(detail: WindowDetail) -> RunBundle:
    return RunBundle(make_bundle().run, (detail,))


def test_alike_decoding_steps_become_one_row_and_sums_stay() -> None:
    detail = WindowDetail("full", 100.0, no_requests(), steps([64, 64, 0, 0, 0, 0], [0, 1, 2, 2, 2, 1]))
    rows = tables_of([bundle_with(detail)])["iterations"].to_pandas()
    assert rows["n_steps"].tolist() == [1, 1, 3, 1]
    assert rows["step_index"].tolist() == [0, 1, 2, 5]
    assert rows["start_s"].tolist() == [0.0, 1.0, 2.0, 5.0]
    assert rows["duration_s"].sum() == 3.0
    assert rows["context_tokens"].sum() == sum(range(10, 16))
    assert (rows["decode_requests"] * rows["n_steps"]).sum() == 8


def test_steps_that_take_turns_in_a_pipeline_become_one_row_each() -> None:
    """Micro-batches of 8 and 7 sequences alternate; prompt chunks stay apart, and what comes after them begins anew."""
    detail = WindowDetail(
        "replay", 100.0, no_requests(), steps([0] * 6 + [64, 64] + [0] * 3, [8, 7] * 3 + [0, 0, 7, 8, 7])
    )
    rows = tables_of([bundle_with(detail)])["iterations"].to_pandas()
    assert rows["decode_requests"].tolist() == [8, 7, 0, 0, 7, 8]
    assert rows["n_steps"].tolist() == [3, 3, 1, 1, 2, 1]
    assert rows["step_index"].tolist() == [0, 1, 6, 7, 8, 9]
    assert rows["start_s"].tolist() == [0.0, 1.0, 6.0, 7.0, 8.0, 9.0]
    assert rows["context_tokens"].tolist() == [10 + 12 + 14, 11 + 13 + 15, 16, 17, 18 + 20, 19]


def test_times_are_relative_and_what_never_came_is_null() -> None:
    requests = Requests(
        batch_index=np.zeros(2, np.int64),
        scheduled_s=np.array([100.0, 101.0]),
        sent_s=np.array([100.0, 101.5]),
        admitted_s=np.array([100.1, np.nan]),
        first_token_s=np.array([100.2, np.nan]),
        finished_s=np.array([100.3, np.nan]),
        queue_s=np.array([0.1, np.nan]),
        prefill_s=np.array([0.1, np.nan]),
        decode_s=np.array([0.1, np.nan]),
        prompt_tokens=np.array([5, 6]),
        generated_tokens=np.array([2, 0]),
        asked_tokens=np.array([2, 2]),
        outcome=np.array(["finished", "timeout"]),
    )
    detail = WindowDetail("replay", 100.0, requests, steps([], []))
    tables = tables_of([bundle_with(detail)])
    rows = tables["requests"].to_pandas()
    assert rows["sent_s"].tolist() == [0.0, 1.5]
    assert rows["finished_s"].isna().tolist() == [False, True]
    assert tables["requests"]["finished_s"].null_count == 1
    assert tables["requests"]["decode_s"].null_count == 1
    assert rows["outcome"].tolist() == ["finished", "timeout"]
    assert tables["iterations"].num_rows == 0


def test_power_rows_keep_their_gpu() -> None:
    traces = (
        PowerTrace("GPU-a", np.array([100.0, 100.1]), np.array([300.0, 310.0])),
        PowerTrace("GPU-b", np.array([100.05]), np.array([200.0])),
    )
    rows = tables_of([bundle_with(WindowDetail("full", 100.0, no_requests(), steps([], []), traces))])["power"]
    assert rows["gpu_uuid"].to_pylist() == ["GPU-a", "GPU-a", "GPU-b"]
    assert rows["power_w"].to_pylist() == [300.0, 310.0, 200.0]


def test_a_missing_domain_is_null_with_a_reason_never_zero() -> None:
    run = make_bundle().run
    energies = {"gpu": Energy(5.0, 0.1, "simulated"), "dram": Energy.absent("no DRAM counter")}
    row = run_row(type(run)(**{**{name: getattr(run, name) for name in run.__slots__}, "energies": energies}))
    assert (row["gpu_energy_j"], row["gpu_reason"]) == (5.0, None)
    assert (row["dram_energy_j"], row["dram_source"], row["dram_reason"]) == (None, None, "no DRAM counter")
    assert all(row[f"{domain}_reason"] for domain in ENERGY_DOMAINS if domain != "gpu")


def test_every_column_has_a_line_in_the_data_dictionary() -> None:
    assert all(RUN_COLUMNS.values())
    written = Path(REPOSITORY, "docs", "data-dictionary.md").read_text("utf-8")
    assert written == data_dictionary(), "run `make docs`"


def no_requests() -> Requests:
    return Served.nothing(0.0, 0.0).requests
