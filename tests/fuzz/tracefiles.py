"""Request traces, and what is made of them: other formats, wrong cells, damaged files."""

import gzip
from datetime import datetime, timedelta

from hypothesis import strategies as st

from tests.fuzz import values

HEAD = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_STAMPS = (
    "", "0001-01-01 00:00:00", "9999-12-31 23:59:59.9999999", "2023-11-16", "2023-11-16T18:15:46Z", "1700158546",
    "2023-02-30 00:00:00", "2023-11-16 25:00:00", "2023-11-16 18:15:46.68059000000", "2023-11-16 18:15:46+01:00",
    "2023-11-16 18:15:46 PM", "18:15", "NaT", "0000-00-00 00:00:00", "２０２３-11-16 18:15:46", "2023-11-16 18:15:60",
    "16/11/2023 18:15", "2023-11-16 18:15:46,68", "1970-01-01 00:00:00", "2023-11-16 18:15:46+00:00",
)  # fmt: skip
_COUNTS = (
    "", "0", "-1", "nan", "NaN", "inf", "1.0", "1e3", "1_000", "1,000", "10000000", "10000001", "9" * 5000, "0x10",
    " 5 ", "+5", "٣", "①", "5\x00", "\x1b[31m5", "<b>5</b>", '"5"', "5;", "true", "0005", "-0", "1" + "0" * 30,
)  # fmt: skip
_HEADS = (
    "", "TIMESTAMP,ContextTokens", "timestamp,contexttokens,generatedtokens", "TIMESTAMP;ContextTokens;GeneratedTokens",
    "TIMESTAMP\tContextTokens\tGeneratedTokens", "TIMESTAMP,ContextTokens,GeneratedTokens,ContextTokens",
    "GeneratedTokens,ContextTokens,TIMESTAMP", "TIMESTAMP, ContextTokens , GeneratedTokens",
    "\ufeffTIMESTAMP,ContextTokens,GeneratedTokens",
    '"TIMESTAMP","ContextTokens","GeneratedTokens"', "TIMESTAMP,ContextTokens,GeneratedTokens,",
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
    "arrived_at,num_prefill_tokens,num_decode_tokens",
    "\x1b[2J,a,b", "TIMESTAMP,ContextTokens,GeneratedTokens,\x1b[31mextra", '"TIMESTAMP', "a" * 200_000,
)  # fmt: skip
_ENDS = ("\n", "\r\n", "\r", "\n\n", "\n\r", "\x0b", "\u2028", "")
WHOLE_FILES: tuple[bytes, ...] = (
    b"", b"\n\n\n", b"\x00" * 50, b"\x1f\x8b", gzip.compress(b""), gzip.compress(b"x" * 50)[:-9],
    b"PK\x03\x04" + b"x" * 90,
    b"PAR1", b'{"a": 1}\n', b"<html>", b"\xff\xfeT\x00I\x00", gzip.compress(b"\x00" * (600 << 20), 1),
    gzip.compress(gzip.compress(b"TIMESTAMP")), ",".join(HEAD).encode(), ",".join(HEAD).encode() + b"\n" * 100_000,
    b'"' + b"x" * 300_000, b"\x1b[2J\n1,2,3\n", ("\u202e" + ",".join(HEAD)).encode(),
)  # fmt: skip

stamps = st.sampled_from(_STAMPS) | st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(str) | values.texts
counts = st.sampled_from(_COUNTS) | st.integers(-10, 10**8).map(str) | values.texts


@st.composite
def good_rows(draw: st.DrawFn, most: int = 60) -> list[list[str]]:
    """Rows as the published traces have them: in order, with bursts, gaps and equal times."""
    gaps = draw(st.lists(st.sampled_from((0, 0.0000001, 0.01, 0.5, 1, 3, 59, 4000)), min_size=1, max_size=most))
    at, rows = datetime(2023, 11, 16, 18, 15, 46, 680590), []
    for gap_s in gaps:
        at += timedelta(seconds=gap_s)
        tokens = draw(st.integers(1, 9000)), draw(st.integers(1, 2000))
        rows.append([at.strftime("%Y-%m-%d %H:%M:%S.%f") + "0", str(tokens[0]), str(tokens[1])])
    return rows


def written(head: str, rows: list[list[str]], end: str = "\n") -> str:
    return end.join([head, *(",".join(row) for row in rows)]) + end


@st.composite
def odd_traces(draw: st.DrawFn) -> bytes:
    """A trace with something unusual in it; some are good all the same."""
    rows, head, end = draw(good_rows()), ",".join(HEAD), "\n"
    for _ in range(draw(st.integers(1, 3))):
        index = draw(st.integers(0, len(rows) - 1))
        match draw(
            st.sampled_from(("head", "stamp", "stamp", "count", "count", "order", "cells", "end", "quote", "blank"))
        ):
            case "head":
                head = draw(st.sampled_from(_HEADS))
            case "stamp":
                rows[index][:1] = [draw(stamps)]
            case "count":
                rows[index][draw(st.integers(1, 2)) :] = [draw(counts)]
            case "order":
                rows = draw(st.permutations(rows))
            case "cells":
                rows[index] = draw(st.lists(values.texts, max_size=5))
            case "end":
                end = draw(st.sampled_from(_ENDS))
            case "quote":
                rows[index] = [f'"{cell}"' for cell in rows[index]]
                rows[index][0] += draw(st.sampled_from(("", '"', "\n", "x")))
            case _:
                rows.insert(index, [draw(st.sampled_from(("", " ", "#", ",,", ",")))])
        if not rows:
            break
        rows = [row or [""] for row in rows]
    text = written(head, rows, end).encode(
        draw(st.sampled_from(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16"))), "replace"
    )
    match draw(st.sampled_from(("plain", "plain", "plain", "gzip", "cut", "tail", "flip"))):
        case "gzip":
            text = gzip.compress(text, 1)
        case "cut":
            text = gzip.compress(text, 1)[: draw(st.integers(0, 60))]
        case "tail":
            text = gzip.compress(text, 1) + b"rubbish"
        case "flip":
            at = draw(st.integers(0, len(text) - 1))
            text = text[:at] + bytes([draw(st.integers(0, 255))]) + text[at + 1 :]
    return text
