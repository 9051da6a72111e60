"""Reading traces: what the published files hold, what is accepted, and how each fault is named."""

import gzip
import hashlib
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import BadInput
from harness.workload.azure import Trace, load_trace

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROWS = "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n"


def written(folder: Path, content: str | bytes, name: str = "x.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(folder: Path, content: str | bytes, name: str = "x.csv") -> BadInput:
    with pytest.raises(BadInput) as caught:
        load_trace(written(folder, content, name))
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "rows", "span_s", "prompt", "generated", "sha256"),
    [
        (
            "code",
            8819,
            3435.948056,
            (2047.8, 1469, 7437),
            (27.9, 13, 1899),
            "54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
        ),
        (
            "conv",
            19366,
            3501.721937,
            (1154.7, 1020, 14050),
            (211.1, 129, 1000),
            "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
        ),
    ],
)
def test_published_trace_has_its_known_figures(
    data_dir: Path,
    kind: str,
    rows: int,
    span_s: float,
    prompt: tuple[float, int, int],
    generated: tuple[float, int, int],
    sha256: str,
) -> None:
    start = time.perf_counter()
    trace = load_trace(data_dir / "azure" / f"AzureLLMInferenceTrace_{kind}.csv", "azure")
    assert time.perf_counter() - start < 1.0
    assert len(trace) == rows
    assert trace.sha256 == sha256
    assert trace.span_s == pytest.approx(span_s, abs=1e-9)
    for tokens, (mean, median, most) in ((trace.prompt_tokens, prompt), (trace.generated_tokens, generated)):
        assert round(float(tokens.mean()), 1) == mean
        assert (np.median(tokens), tokens.max()) == (median, most)


def test_times_keep_all_seven_digits(tmp_path: Path) -> None:
    rows = "2023-11-16 18:17:03.9799601,1,1\n2023-11-16 18:17:03.9799602,1,1\n2023-11-17 18:17:03.9799604,1,1\n"
    trace = load_trace(written(tmp_path, HEADER + rows))
    assert np.rint(trace.arrival_s * 1e7).astype(int).tolist() == [0, 1, 864000000003]
    assert trace.start_utc == datetime(2023, 11, 16, 18, 17, 3, 979960, tzinfo=UTC)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 10**14), st.integers(0, 7)), min_size=1, max_size=5))
def test_any_number_of_fraction_digits_gives_the_exact_time(
    tmp_path_factory: pytest.TempPathFactory, times: list[tuple[int, int]]
) -> None:
    cells, ticks = [], []
    for tick, digits in sorted((tick - tick % 10 ** (7 - digits), digits) for tick, digits in times):
        second = datetime.fromtimestamp(tick // 10**7, UTC).strftime("%Y-%m-%d %H:%M:%S")
        cells.append(second + ("." + f"{tick % 10**7:07d}"[:digits] if digits else ""))
        ticks.append(tick)
    content = HEADER + "".join(f"{cell},1,1\n" for cell in cells)
    trace = load_trace(written(tmp_path_factory.mktemp("trace"), content))
    assert np.rint(trace.arrival_s * 1e7).astype(int).tolist() == [tick - ticks[0] for tick in ticks]


@pytest.mark.parametrize(
    "content",
    [
        HEADER + ROWS,
        ("\ufeff" + HEADER + ROWS),
        (HEADER + ROWS).replace("\n", "\r\n"),
        (HEADER + ROWS).rstrip(),
        (HEADER + ROWS).replace("\n", "\n\n"),
        HEADER.replace(",", " , ") + ROWS.replace(",", ", "),
        'TIMESTAMP,ContextTokens,"GeneratedTokens"\n' + ROWS.replace("4808", '"4808"'),
        HEADER + ROWS.replace(" ", "T"),
        HEADER + ROWS.replace("00,", "00Z,"),
        HEADER + ROWS.replace("00,", "00+00:00,"),
        "id,GeneratedTokens,ContextTokens,TIMESTAMP,user\n"
        "a,10,4808,2023-11-16 18:17:03.97996,u\nb,8,3180,2023-11-16 18:17:04.0319600,v\n",
    ],
    ids=["plain", "bom", "crlf", "no-last-newline", "blank-lines", "spaces", "quoted", "T", "Z", "+00:00", "columns"],
)
def test_accepted_forms_give_the_same_requests(tmp_path: Path, content: str) -> None:
    trace = load_trace(written(tmp_path, content))
    assert trace.arrival_s.tolist() == [0.0, 0.052]
    assert trace.prompt_tokens.tolist() == [4808, 3180]
    assert trace.generated_tokens.tolist() == [10, 8]
    assert trace.start_utc == datetime(2023, 11, 16, 18, 17, 3, 979960, tzinfo=UTC)


def test_gzipped_trace_is_the_same_trace(tmp_path: Path) -> None:
    plain = load_trace(written(tmp_path, HEADER + ROWS))
    zipped = load_trace(written(tmp_path, gzip.compress((HEADER + ROWS).encode()), "x.csv.gz"))
    assert plain.sha256 == zipped.sha256 == hashlib.sha256((HEADER + ROWS).encode()).hexdigest()
    assert plain.name == zipped.name == "x"
    assert zipped.prompt_tokens.tolist() == plain.prompt_tokens.tolist()


GOOD_TIME = "2023-11-16 18:17:05"


@pytest.mark.parametrize(
    ("row", "place", "value"),
    [
        (f"{GOOD_TIME},12.5,1", "line 4 ContextTokens", "12.5"),
        (f"{GOOD_TIME},abc,1", "line 4 ContextTokens", "abc"),
        (f"{GOOD_TIME},-3,1", "line 4 ContextTokens", "-3"),
        (f"{GOOD_TIME},0,1", "line 4 ContextTokens", "0"),
        (f"{GOOD_TIME},000,1", "line 4 ContextTokens", "000"),
        (f"{GOOD_TIME},1,", "line 4 GeneratedTokens", ""),
        (f"{GOOD_TIME},1,NaN", "line 4 GeneratedTokens", "NaN"),
        (f"{GOOD_TIME},1,1_0", "line 4 GeneratedTokens", "1_0"),
        (f"{GOOD_TIME},1,٣", "line 4 GeneratedTokens", "٣"),
        (f"{GOOD_TIME},10000001,1", "line 4 ContextTokens", "10000001"),
        (f"{GOOD_TIME},{'9' * 5000},1", "line 4 ContextTokens", "9" * 5000),
        (f"{GOOD_TIME},1", "line 4 GeneratedTokens", "(missing cell)"),
        (GOOD_TIME, "line 4 ContextTokens", "(missing cell)"),
        (f"{GOOD_TIME},1,234,5", "line 4", f"{GOOD_TIME},1,234,5"),
        ("2023-11-16 18:17:04.0319599,1,1", "line 4 TIMESTAMP", "2023-11-16 18:17:04.0319599"),
        (f"{GOOD_TIME}+01:00,1,1", "line 4 TIMESTAMP", f"{GOOD_TIME}+01:00"),
        (f"{GOOD_TIME}Z,1,1", "line 4 TIMESTAMP", f"{GOOD_TIME}Z"),
        (f"{GOOD_TIME}.12345678,1,1", "line 4 TIMESTAMP", f"{GOOD_TIME}.12345678"),
        ("2023-02-30 18:17:05,1,1", "line 4 TIMESTAMP", "2023-02-30 18:17:05"),
        ("1700158625,1,1", "line 4 TIMESTAMP", "1700158625"),
        (",1,1", "line 4 TIMESTAMP", ""),
        (HEADER.strip(), "line 4 TIMESTAMP", "TIMESTAMP"),
        (f'"{GOOD_TIME},1,1', "line 4", "unexpected end of data"),
        (f"{GOOD_TIME},1,{'1' * 140000}", "line 4", "field larger than field limit (131072)"),
    ],
)
def test_bad_row_is_named_by_line_column_and_value(tmp_path: Path, row: str, place: str, value: str) -> None:
    error = refused(tmp_path, HEADER + ROWS + row + "\n")
    assert error.field == f"{tmp_path / 'x.csv'} {place}"
    assert error.value == value
    assert error.accepted


def test_line_numbers_count_blank_lines_and_line_breaks_in_cells(tmp_path: Path) -> None:
    content = (
        'TIMESTAMP,ContextTokens,GeneratedTokens,note\n\n2023-11-16 18:17:03,1,1,"a\nb"\n2023-11-16 18:17:04,x,1,c\n'
    )
    assert refused(tmp_path, content).field.endswith("x.csv line 5 ContextTokens")


@pytest.mark.parametrize(
    ("content", "place", "value"),
    [
        (b"", "", "empty file"),
        (HEADER, "", "no requests"),
        ("TIMESTAMP,ContextTokens\n2023-11-16 18:17:03,1\n", " line 1 GeneratedTokens", "missing from the header"),
        (HEADER.replace("Gen", "Context") + ROWS, " line 1 GeneratedTokens", "missing from the header"),
        (HEADER.strip() + ",ContextTokens\n", " line 1 ContextTokens", "twice in the header"),
        (HEADER.replace(",", ";"), " line 1 TIMESTAMP", "missing from the header"),
        (ROWS, " line 1 TIMESTAMP", "missing from the header"),
        ("\n\n", " line 1 TIMESTAMP", "missing from the header"),
        (HEADER.encode() + b"\0\0", "", "binary content"),
        ((HEADER + ROWS).encode("utf-16"), "", "binary content"),
        (HEADER.encode() + b"\xff\xfe\n", "", "binary content"),
        (gzip.compress((HEADER + ROWS).encode())[:-12], "", "damaged gzip"),
        (gzip.compress((HEADER + ROWS).encode())[:-8] + b"\1" * 8, "", "damaged gzip"),
        (b"\x1f\x8b" + b"\1" * 30, "", "damaged gzip"),
    ],
)
def test_damaged_file_is_named(tmp_path: Path, content: str | bytes, place: str, value: str) -> None:
    error = refused(tmp_path, content)
    assert error.field == f"{tmp_path / 'x.csv'}{place}"
    assert str(error.value).startswith(value)


def test_content_beyond_the_limit_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.workload.azure._MAX_BYTES", 1 << 20)
    assert refused(tmp_path, gzip.compress(b"1" * (2 << 20)), "bomb.csv.gz").value == "larger content"


@pytest.mark.parametrize("name", ["absent.csv", ".", "a\0b.csv"])
def test_file_that_cannot_be_opened_is_bad_input(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="check the path"):
        load_trace(tmp_path / name)


def test_equal_times_are_in_order(tmp_path: Path) -> None:
    trace: Trace = load_trace(written(tmp_path, HEADER + f"{GOOD_TIME},1,1\n{GOOD_TIME},2,1\n"))
    assert trace.span_s == 0.0
    assert trace.end_s == 1.0
