"""Results folders as something else left them."""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from harness.store import Writer
from tests.fuzz import values
from tests.unit.store_factory import make_bundle

PLAN: dict[str, Any] = {
    "sweep": "small", "repetitions": 5, "max_attempts": 3, "pid": 1, "points": [["0" * 16, "0f3a5c77be10"]],
    "probes": [], "probe_launches": 0,
}  # fmt: skip
ROUND: dict[str, Any] = {
    "sweep": "small", "number": 1, "kind": "spread", "seed": 0, "picks": [{"point_id": "0" * 16, "why": "x"}],
    "based_on": "", "expected_gpu_hours": 1.0,
}  # fmt: skip
ACCURACY: dict[str, Any] = {
    "n": 3, "mape_pct": 1.0, "mape_low_pct": 0.5, "mape_high_pct": 2.0, "eba10_pct": 90.0, "eba10_low_pct": 80.0,
    "eba10_high_pct": 99.0,
}  # fmt: skip
SCORED: dict[str, Any] = {
    "number": 1, "kind": "spread", "based_on": "", "points": 1, "gpu_hours": 1.0, "accuracy": ACCURACY, "worst": ["x"],
    "note": "",
}  # fmt: skip


def write_results(folder: Path, **changes: Any) -> None:
    """Ten runs of two points, the sweep's plan, a round with its scores, and the card of a predictor."""
    with Writer(folder, source="simulated", owner="test") as writer:
        writer.append([make_bundle(number, **changes) for number in range(10)])
    write_json(folder / "plan-small.json", PLAN)
    write_json(folder / "rounds" / "small-0001.json", ROUND)
    write_json(folder / "rounds" / "small-0001.scored.json", SCORED)
    write_json(folder / "predictor" / "two-gnn.json", {"version": 1})


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


@st.composite
def odd_json(draw: st.DrawFn, document: dict[str, Any]) -> bytes:
    """A document with one entry wrong, or no JSON at all."""
    made = dict(document)
    match draw(st.sampled_from(("change", "change", "drop", "add", "whole", "text"))):
        case "change":
            made[draw(st.sampled_from(sorted(made)))] = draw(values.anything)
        case "drop":
            del made[draw(st.sampled_from(sorted(made)))]
        case "add":
            made[draw(values.texts)] = draw(values.anything)
        case "whole":
            return json.dumps(draw(values.anything)).encode()
        case _:
            return draw(
                st.sampled_from(
                    (b"", b"{", b"\x00", b"\xff", b"[" * 100_000, b"9" * 5000, b'{"a": NaN}', b"null", b"[]")
                )
            )
    return json.dumps(made).encode()


@st.composite
def disturbed(draw: st.DrawFn, folder: Path) -> str:
    """Do something to a results folder; returns what."""
    tables = ("runs", "requests", "iterations", "power")
    table = draw(st.sampled_from(tables))
    segments = sorted((folder / table).glob("*.parquet"))
    what = draw(
        st.sampled_from(
            ("cut", "flip", "empty", "foreign", "text", "nested", "link", "file", "gone", "loop", "generations", "lock",
             "plan", "plan", "round", "round", "scored", "scored", "card", "card", "rounds", "none", "other",
             "fifo", "named", "swap")
        )
    )  # fmt: skip
    match what:
        case "cut" if segments:
            size = segments[0].stat().st_size
            os.truncate(segments[0], draw(st.integers(0, size)))
        case "flip" if segments:
            content = bytearray(segments[0].read_bytes())
            for _ in range(draw(st.integers(1, 20))):
                content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
            segments[0].write_bytes(content)
        case "empty" if segments:
            segments[0].write_bytes(b"")
        case "foreign" | "named":
            import pandas as pd

            name = (
                "000001.parquet"
                if what == "foreign"
                else draw(st.sampled_from(("x.parquet", "000009.parquet", "a\x1b[31mb.parquet")))
            )
            pd.DataFrame({"a": [1, 2], "run_id": ["x", "<b>"]}).to_parquet(folder / table / name)
        case "text":
            (folder / table / draw(st.sampled_from(("notes.txt", "000002.parquet", ".hidden", "_x")))).write_text(
                "hello"
            )
        case "nested":
            (folder / table / "000002.parquet").mkdir()
        case "fifo":
            os.mkfifo(folder / table / "000002.parquet")
        case "swap" if segments:
            other = sorted((folder / draw(st.sampled_from(tables))).glob("*.parquet"))
            if other:
                shutil.copy(other[0], folder / table / "000002.parquet")
        case "link" | "file" | "gone" | "loop":
            place = folder / table
            place.unlink() if place.is_symlink() else shutil.rmtree(place, ignore_errors=True)
            if what == "link":
                place.symlink_to("nowhere")
            elif what == "file":
                place.write_text("x")
            elif what == "loop":
                place.symlink_to(table)
        case "generations":
            shutil.rmtree(folder / ".generations")
        case "lock":
            (folder / ".lock").unlink(missing_ok=True)
            (folder / ".lock").write_bytes(draw(st.binary(max_size=40)))
        case "plan":
            (folder / "plan-small.json").write_bytes(draw(odd_json(PLAN)))
        case "round":
            (folder / "rounds" / "small-0001.json").write_bytes(draw(odd_json(ROUND)))
        case "scored":
            accuracy = draw(odd_json(ACCURACY)) if draw(st.booleans()) else b""
            document = SCORED
            with contextlib.suppress(ValueError, RecursionError):
                document = {**SCORED, "accuracy": json.loads(accuracy)}
            (folder / "rounds" / "small-0001.scored.json").write_bytes(draw(odd_json(document)))
        case "card":
            (folder / "predictor" / "two-gnn.json").write_bytes(draw(odd_json({"version": 1})))
        case "rounds":
            shutil.rmtree(folder / "rounds")
            (folder / "rounds").write_text("x")
        case "none":
            shutil.rmtree(folder)
            folder.mkdir()
        case _:
            (folder / draw(st.sampled_from(("x.txt", "plan-x.json", "predictor/x", "rounds/y.json")))).write_text("{}")
    return what
