"""The page of a report: nothing from the data can run, nothing is fetched, and it does without matplotlib."""

import base64
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from harness.report.page import MOST_ROWS, NO_PLOTS, page
from harness.report.terminal import as_json, print_report
from tests.unit.report_factory import REQUESTS, STEPS, batch, replay, results_of

EVIL = "<script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)> & $\\frac{1}{$ '\" 书生"
EVIL_COLUMNS = ("sweep", "model", "trace", "engine", "node", "cpu", "gpu_name", "driver_version", "reason")


class Elements(HTMLParser):
    """Every element that a browser would make of the page, and its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def evil_page(tmp_path: Path) -> str:
    evil = dict.fromkeys(EVIL_COLUMNS, EVIL)
    bundles = [batch(0, 900.0, **evil), batch(1, 910.0, **evil), replay(5, 300.0, REQUESTS, STEPS, **evil)]
    bundles += [batch(10, 900.0, **evil | {"status": "failed"}, flags=(EVIL,)), batch(15, 900.0, flags=(EVIL,))]
    return page(results_of(tmp_path, *bundles))


def test_no_text_from_data_becomes_an_element(evil_page: str) -> None:
    elements = Elements(evil_page).found
    assert "script" not in {tag for tag, _ in elements}
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    assert evil_page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= len(EVIL_COLUMNS)


def test_nothing_is_fetched_and_nothing_may_run(evil_page: str) -> None:
    elements = Elements(evil_page).found
    links = [attributes[name] for _, attributes in elements for name in ("src", "href") if name in attributes]
    assert links
    assert all(link is not None and link.startswith(("#", "data:image/svg+xml;base64,")) for link in links)
    assert "url(" not in evil_page
    assert "@import" not in evil_page
    policies = [attributes["content"] for tag, attributes in elements if attributes.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_the_images_hold_no_script_either(evil_page: str) -> None:
    images = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", evil_page)
    assert len(images) == 6
    for image in images:
        drawn = Elements(base64.b64decode(image).decode()).found
        assert "script" not in {tag for tag, _ in drawn}
        assert not [1 for _, attributes in drawn if "http" in (attributes.get("href") or "")]


def test_the_first_line_says_whether_anything_was_measured(tmp_path: Path) -> None:
    simulated = page(results_of(tmp_path, batch(0, 900.0)))
    assert '<p class="headline simulated">SIMULATED: no hardware was measured' in simulated
    (tmp_path / "real").mkdir()
    measured = page(results_of(tmp_path / "real", batch(0, 900.0, source="measured")))
    assert '<p class="headline">Measured on hardware.' in measured
    assert "SIMULATED" not in measured


def test_without_matplotlib_the_tables_are_there_and_a_line_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = results_of(tmp_path, batch(0, 900.0), batch(1, 910.0))
    for name in [name for name in sys.modules if name.startswith(("matplotlib", "harness.report.plots"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("harness.report.plots", raising=False)
    monkeypatch.delattr("harness.report.style", raising=False)
    monkeypatch.delitem(sys.modules, "harness.report.style", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = page(results)
    assert NO_PLOTS.replace("'", "&#x27;") in text
    assert "<figure>" not in text
    assert "J/token" in text


def test_a_long_table_is_cut_and_says_so(tmp_path: Path) -> None:
    points = MOST_ROWS + 7
    bundles = [batch(5 * number, 900.0, launch_id="one") for number in range(points)]
    results = results_of(tmp_path, *bundles)
    assert f"The first {MOST_ROWS} of {points} rows; all of them: harness report --json." in page(results)
    assert len(as_json(results)["tables"]["batch_points"]["rows"]) == points


def test_json_has_every_table_with_its_columns_explained(tmp_path: Path) -> None:
    results = results_of(tmp_path, batch(0, 900.0), replay(5, 300.0, REQUESTS, STEPS))
    report = json.loads(json.dumps(as_json(results), allow_nan=False))
    assert report["report_version"] == 1
    assert report["sources"] == ["simulated"]
    assert set(report["tables"]) == {
        "environments", "deployments", "reasons", "replay_energy", "batch_energy", "batch_points", "length_quantiles",
        "length_histogram", "decode_batches", "latencies", "outcomes", "decode_batch_histogram", "quality", "flags",
        "baselines", "provenance",
    }  # fmt: skip
    for table in report["tables"].values():
        assert all(column["heading"] and column["meaning"] for column in table["columns"].values())
        assert all(set(row) == set(table["columns"]) for row in table["rows"])
    (energy,) = report["tables"]["replay_energy"]["rows"]
    assert energy["j_per_request"] == pytest.approx(75.0)
    assert energy["j_per_request_half_width"] is None
    (environment,) = report["tables"]["environments"]["rows"]
    assert environment["first_started_at"] == "2026-11-03T08:30:00+00:00"


def test_the_terminal_shows_names_as_they_are(tmp_path: Path) -> None:
    results = results_of(
        tmp_path, batch(0, 900.0, model="[red]m[/red] \x1b[2J", sweep="\x1b[2J"), batch(1, 910.0, model="b")
    )
    out = Console(width=160, markup=False, highlight=False, file=io.StringIO())
    print_report(results, out)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]m[/red]" in text
    assert "\x1b[2J" not in text
    assert text.startswith("SIMULATED")
