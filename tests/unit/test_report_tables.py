"""The tables of a report say of small folders what can be worked out by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.errors import BadInput
from harness.records import Energy
from harness.report import plots, tables
from harness.report.columns import COLUMNS, text_of
from harness.report.data import Results, read_results
from harness.report.sections import sections
from harness.workload.library import find_trace
from tests.unit.report_factory import REQUESTS, STEPS, batch, replay, requests_of, results_of, steps_of
from tests.unit.store_factory import make_bundle

ENERGIES_J = (1000.0, 1010.0, 1020.0, 1030.0, 1040.0)


@pytest.fixture
def mixed(tmp_path: Path) -> Results:
    """A batch point of five repetitions, a replay of two, and what must not count."""
    bundles = [batch(number, energy_j) for number, energy_j in enumerate(ENERGIES_J)]
    bundles += [replay(5, 300.0, REQUESTS, STEPS), replay(6, 330.0, REQUESTS, STEPS, status="saturated", reason="full")]
    lost = requests_of([0.1, 0.1], [0.5, 0.5], [9, 9], [9, 9], outcome="lost")
    bundles.append(replay(7, 9e9, lost, STEPS, status="failed", reason="engine died at 7 s"))
    bundles.append(replay(8, 9e9, lost, STEPS, status="failed", reason="engine died at 8 s"))
    bundles.append(batch(9, 9e9, purpose="warmup", repetition=0, point_id=f"{0:016x}"))
    return results_of(tmp_path, *bundles)


def only(table: pd.DataFrame) -> dict[str, object]:
    assert len(table) == 1, table
    return table.iloc[0].to_dict()


def test_energy_of_batches_per_token_with_its_interval(mixed: Results) -> None:
    row = only(tables.batch_points(mixed.runs))
    assert (row["n"], row["launches"], row["batch_size"]) == (5, 1, 8)
    assert row["gpu_j"] == pytest.approx(1020.0)
    assert row["j_per_token"] == pytest.approx(1020.0 / (8 * 128))
    sd_j = float(np.std(ENERGIES_J, ddof=1))
    assert row["half_width_pct"] == pytest.approx(100 * 2.776 * sd_j / 5**0.5 / 1020.0, rel=1e-3)
    assert row["cv_pct"] == pytest.approx(100 * sd_j / 1020.0)
    assert row["prefill_share_pct"] == pytest.approx(100 * 300 / 1020)
    by_size = only(tables.batch_energy(tables.batch_points(mixed.runs)))
    assert (by_size["points"], by_size["runs"]) == (1, 5)
    assert by_size["j_per_token_max"] == by_size["j_per_token_min"] == row["j_per_token"]


def test_energy_of_replays_per_request_and_token(mixed: Results) -> None:
    row = only(tables.replay_energy(mixed.runs))
    assert (row["n"], row["saturated"]) == (2, 1)
    assert row["replay"] == "azure2023-conv 60s+30s capacity:0.8"
    assert row["j_per_request"] == pytest.approx(315.0 / 4)
    assert row["j_per_token"] == pytest.approx(315.0 / 40)
    half_width_j = 12.706 * np.std([300.0, 330.0], ddof=1) / 2**0.5
    assert row["j_per_request_half_width"] == pytest.approx(half_width_j / 4, rel=1e-3)
    assert row["requests_per_s"] == pytest.approx(0.4)


def test_batch_sizes_by_count_and_by_time(mixed: Results) -> None:
    table = tables.decode_batch_histogram(mixed).set_index("decode_requests")
    assert table["steps"].to_dict() == {2: 2, 4: 4, 8: 2}
    assert table["time_s"].to_dict() == pytest.approx({2: 2.0, 4: 2.0, 8: 6.0})
    assert table["share_of_steps_pct"].to_dict() == pytest.approx({2: 25.0, 4: 50.0, 8: 25.0})
    assert table["share_of_time_pct"].to_dict() == pytest.approx({2: 20.0, 4: 20.0, 8: 60.0})
    row = only(tables.decode_batches(mixed))
    assert (row["n"], row["steps"]) == (2, 10)
    assert row["mixed_steps_pct"] == pytest.approx(20.0)
    assert row["mixed_time_pct"] == pytest.approx(50.0)
    assert row["prefill_only_time_pct"] == pytest.approx(100 / 6)
    assert row["mean"] == pytest.approx((2 + 4 + 4 + 8) / 4)
    assert (row["p10"], row["p50"], row["p90"], row["max"]) == (2, 4, 8, 8)
    assert row["time_mean"] == pytest.approx((2 * 1 + 4 * 1 + 8 * 3) / 5)
    assert row["time_p50"] == 8


def test_of_a_steady_state_only_what_is_inside_counts(tmp_path: Path) -> None:
    steps = steps_of((-2.0, 1.0, 0, 99), (1.0, 1.0, 0, 3), (11.0, 1.0, 0, 77))
    # Due at 0, 1 and 2 s of a window of 10 s: the last finishes behind it.
    requests = requests_of([0.1, 0.2, 0.3], [1.0, 2.0, 9.0], [10, 20, 30], [1, 2, 3])
    flagged = replay(0, 10.0, requests, steps, status="saturated", reason="full", flags=("steady_state_window",))
    results = results_of(tmp_path, flagged)
    assert only(tables.decode_batches(results))["max"] == 3
    assert set(tables.latencies(results)["n"]) == {2}
    assert only(tables.outcomes(results))["finished"] == 3


def test_times_are_counted_from_the_schedule(mixed: Results) -> None:
    table = tables.latencies(mixed).set_index("part")
    assert table["n"].to_dict() == {"lag": 6, "formation": 6, "latency": 6}
    assert table["mean_s"].to_dict() == pytest.approx({"lag": 0.001, "formation": 0.2, "latency": 2.0})
    assert table.loc["formation", "max_s"] == pytest.approx(0.3)


def test_outcomes_count_the_requests_of_failed_runs_too(mixed: Results) -> None:
    row = only(tables.outcomes(mixed))
    assert (row["runs"], row["requests"]) == (4, 12)
    assert (row["finished"], row["timeout"], row["lost"], row["refused"]) == (6, 2, 4, 0)


def test_lengths_are_those_that_were_served_beside_the_trace(mixed: Results) -> None:
    table = tables.length_quantiles(mixed).set_index(["tokens", "of"])
    assert table.loc[("prompt_tokens", "replays"), "n"] == 6
    assert table.loc[("prompt_tokens", "replays"), "p50"] == 200
    assert table.loc[("generated_tokens", "replays"), "max"] == 30
    # A point counts once, whatever its batch size.
    assert table.loc[("prompt_tokens", "batch points"), "n"] == 1
    assert table.loc[("generated_tokens", "batch points"), "mean"] == 128
    trace = find_trace("azure2023-conv")
    (of,) = set(table.index.get_level_values("of")) - {"replays", "batch points"}
    assert of == ("trace" if trace.source == "file" else "trace's profile")
    assert table.loc[("prompt_tokens", of), "p50"] == np.median(trace.prompt_tokens)
    share_below = float((trace.generated_tokens <= 30).mean())
    assert table.loc[("generated_tokens", "replays"), "apart_pct"] >= 100 * (1 - share_below) - 1e-9
    histogram = tables.length_histogram(mixed)
    assert histogram.groupby(["tokens", "of"])["share_pct"].sum().to_numpy() == pytest.approx(100.0)
    served = histogram[(histogram["of"] == "replays") & (histogram["tokens"] == "prompt_tokens")]
    holding = served[served["share_pct"] > 0]
    assert holding["from_tokens"].iloc[0] <= 100 < holding["below_tokens"].iloc[0]


def test_another_driver_is_another_row_and_says_so(tmp_path: Path) -> None:
    newer = {"environment_id": "ffffffffffff", "driver_version": "600.1", "point_id": f"{0:016x}"}
    bundles = [batch(0, 100.0), batch(1, 100.0), batch(2, 200.0, **newer), batch(3, 200.0, **newer)]
    results = results_of(tmp_path, *bundles, batch(5, 50.0, model="other", point_id="other"))
    energies = tables.batch_points(results.runs).set_index("deployment")["gpu_j"].to_dict()
    assert energies == {
        "h100 llama-2-7b tp2 pp1 vllm@8192 driver_version=550.90.07": 100.0,
        "h100 llama-2-7b tp2 pp1 vllm@8192 driver_version=600.1": 200.0,
        "h100 other tp2 pp1 vllm@8192": 50.0,
    }
    assert len(tables.environments(results.runs)) == 2


def test_inventory_counts_runs_by_status_and_reasons_by_kind(mixed: Results) -> None:
    row = only(tables.deployments(mixed.runs))
    assert (row["ok"], row["saturated"], row["failed"], row["infeasible"]) == (6, 1, 2, 0)
    assert (row["batch_points"], row["replay_points"]) == (1, 1)
    reasons = tables.reasons(mixed.runs).set_index("status")["example"].to_dict()
    assert reasons["failed"].startswith("engine died at 7 s")


def test_quality_flags_baselines_and_provenance(tmp_path: Path) -> None:
    absent = {**make_bundle(0).run.energies, "dram": Energy.absent("no DRAM counter")}
    bundles = [batch(number, 1000.0 + number) for number in range(5)] + [make_bundle(5, energies=absent)]
    runs = results_of(tmp_path, *bundles).runs
    quality = tables.quality(runs).set_index("figure")
    assert quality.loc["GPU random uncertainty, %", "n"] == 6
    assert quality.loc["GPU random uncertainty, %", "min"] == pytest.approx(100 / 1004)
    assert quality.loc["GPU gain (systematic), %", "p50"] == pytest.approx(5.0)
    assert quality.loc["GPU CV over repetitions, %", "n"] == 1
    flags = only(tables.flags(runs))
    assert (flags["flag"], flags["runs"], flags["batch_runs"]) == ("sw_power_cap", 2, 2)
    assert flags["share_pct"] == pytest.approx(100 * 2 / 6)
    idle = only(tables.baselines(runs))
    assert (idle["launches"], idle["gpu_cold_idle_w"], idle["gpu_loaded_idle_w"]) == (1, 70.0, 118.0)
    provenance = tables.provenance(runs).set_index(["domain", "source"])
    assert provenance.loc[("dram", "absent"), "reason"] == "no DRAM counter"
    assert provenance.loc[("dram", "simulated"), "runs"] == 5


@pytest.mark.parametrize("name", ["mixed", "no replays", "infeasible only", "failed only", "empty"])
def test_every_table_is_explained_and_every_plot_drawn(name: str, tmp_path: Path, mixed: Results) -> None:
    gone = {domain: Energy.absent("run is failed") for domain in make_bundle().run.energies}
    (tmp_path / name).mkdir()
    made = {
        "mixed": lambda: mixed,
        "no replays": lambda: results_of(tmp_path / name, batch(0, 5.0), batch(1, 5.0)),
        "infeasible only": lambda: results_of(
            tmp_path / name,
            make_bundle(0, False, status="infeasible", reason="too big", repetition=0, launch_id="", energies=gone),
        ),
        "failed only": lambda: results_of(
            tmp_path / name, make_bundle(0, False, status="failed", reason="died", energies=gone)
        ),
        "empty": lambda: read_results(tmp_path / name),
    }
    found = sections(made[name]())
    assert bool(found) == (name != "empty")
    for section in found:
        for table in section.tables:
            assert not set(table.frame) - set(COLUMNS), table.name
        for plot in section.plots:
            figure = plots.FIGURES[plot.name](plot.frame)
            assert (figure is None) == plot.frame.empty or plot.name == "spread"
            if figure is not None:
                assert plots.style.render(figure).startswith(b"<?xml")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="a results folder"):
        read_results(tmp_path)


def test_what_has_no_place_in_a_plot_is_named() -> None:
    names = [f"h100 m{index} tp1 pp1 vllm@1" for index in range(70)]
    sizes = pd.DataFrame({"deployment": names, "replay": "r", "decode_requests": range(1, 71)})
    sizes = sizes.assign(share_of_steps_pct=100.0, share_of_time_pct=100.0)
    figure = plots.decode_batches(sizes)
    assert figure is not None
    assert sum(axes.get_visible() for axes in figure.axes) == plots.MOST_PANELS
    energy = pd.DataFrame({"deployment": names, "replay": "r", "j_per_request": np.arange(1.0, 71)})
    energy = energy.assign(j_per_token=1.0, j_per_request_half_width=np.nan, j_per_token_half_width=0.1)
    figure = plots.replay_energy(energy)
    assert figure is not None
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(shown) == plots.MOST_ROWS
    assert shown[0].startswith("h100 m0 ")
    note = figure.get_supxlabel()
    assert "h100 m60 " in note
    assert "and 2 more" in note


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.5, "1,234"), (0.012345, "0.0123"), (45.0, "45"), (0.0, "0"), (float("nan"), "-"), (None, "-"),
        (12345, "12,345"), (pd.NaT, "-"), (pd.Timestamp("2026-11-03 08:30:12", tz="UTC"), "2026-11-03 08:30"),
        ("a", "a"), (-0.5, "-0.500"),
    ],
)  # fmt: skip
def test_cells_have_three_digits_and_no_exponents(value: object, text: str) -> None:
    assert text_of(value) == text
