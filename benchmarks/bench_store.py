"""What the store costs: an append, the ledger, pandas, a compaction; beside one file per run.

Prints a table and writes results/bench/store.json.

    python benchmarks/bench_store.py [--runs 100000]
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from harness import __version__  # noqa: E402
from harness.records import RunBundle  # noqa: E402
from harness.schema import TABLES, tables_of  # noqa: E402
from harness.store import Writer  # noqa: E402
from tests.unit.store_factory import make_bundle  # noqa: E402

PER_APPEND = 1_000
SINGLE = 200
NAIVE_RUNS = 2_000
REPEATS = 3
DETAILS_EVERY = 20
"""Bulk runs that carry details, so that the benchmark is about `runs`; single appends always carry them."""
Row = dict[str, object]


def bundles(first: int, count: int) -> list[RunBundle]:
    return [make_bundle(number, details=number % DETAILS_EVERY == 0) for number in range(first, first + count)]


def seconds(action: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    action()
    return time.perf_counter() - start_s


def median_s(action: Callable[[], object]) -> float:
    return statistics.median(seconds(action) for _ in range(REPEATS))


def row(what: str, runs: int, value: float, unit: str, **more: object) -> Row:
    return {"what": what, "runs_stored": runs, "value": round(value, 6), "unit": unit, **more}


def single_appends(results: Path, stored: int, durable: bool) -> Row:
    """Median, and 99th percentile, over appends of one run with the details of its two windows."""
    taken_s = []
    first = 10_000_000 + stored * 10 + SINGLE * durable
    with Writer(results, "simulated", "bench", durable=durable) as writer:
        for number in range(first, first + SINGLE):
            bundle = make_bundle(number)
            taken_s.append(seconds(partial(writer.append, [bundle])))
    name = "append one run, durable" if durable else "append one run"
    p99_ms = round(sorted(taken_s)[int(SINGLE * 0.99)] * 1e3, 3)
    return row(name, stored, statistics.median(taken_s) * 1e3, "ms", p99_ms=p99_ms)


def in_process(code: str, results: Path) -> tuple[float, float]:
    """Seconds that `code` takes in a fresh process (imports left out), and the process's peak memory, MB.

    The peak is VmHWM: a child's ru_maxrss begins at its parent's.
    """
    script = f"""
import sys, time
from pathlib import Path
import pandas as pd
from harness.store import read_ledger
results = Path(sys.argv[1])
start_s = time.perf_counter()
{code}
taken_s = time.perf_counter() - start_s
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(taken_s, int(peak.split()[1]) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", script, str(results)], check=True, capture_output=True, text=True)
    taken_s, peak_mb = done.stdout.split()
    return float(taken_s), float(peak_mb)


def reading(results: Path, runs: int) -> Iterator[Row]:
    for what, code in (
        (
            "read_ledger and go through it",
            "assert sum(outcome.status == 'ok' for outcome in read_ledger(results)) >= {runs}",
        ),
        ("pandas.read_parquet of runs", "assert len(pd.read_parquet(results / 'runs')) >= {runs}"),
    ):
        taken = sorted(in_process(code.format(runs=runs), results) for _ in range(REPEATS))
        yield row(what, runs, taken[REPEATS // 2][0], "s", peak_mb=round(max(peak for _, peak in taken), 1))
    yield row(
        "open a writer", runs, median_s(lambda: Writer(results, "simulated", "bench", durable=False).close()), "s"
    )
    yield row("files", runs, sum(path.is_file() for table in TABLES for path in (results / table).iterdir()), "files")


def store_rows(results: Path, most: int) -> Iterator[Row]:
    stored = 0
    bulk_s = compaction_s = 0.0
    for stage in sorted({1_000, 10_000, most}):
        with Writer(results, "simulated", "bench", durable=False) as writer:
            while stored < stage:
                more = bundles(stored, min(PER_APPEND, stage - stored))
                bulk_s += seconds(partial(writer.append, more))
                compaction_s += seconds(writer.compact)
                stored += len(more)
        yield single_appends(results, stage, durable=False)
        yield from reading(results, stage)
    yield single_appends(results, most, durable=True)
    yield row(f"append {PER_APPEND} runs at once, per run", most, bulk_s / most * 1e3, "ms")
    yield row("all compactions on the way, together", most, compaction_s, "s")
    yield row("longest compaction: all of runs joined anew", most, longest_compaction_s(results), "s")


def longest_compaction_s(results: Path) -> float:
    """Seconds to write one segment of all of `runs`."""
    from harness.store.files import write_parquet
    from harness.store.layout import file_schema, table_segments
    from harness.store.reader import stream

    target, schema = results / ".bench.parquet", file_schema("runs", "simulated")
    parts = stream(table_segments(results, "runs"), "runs", "simulated")
    taken_s = seconds(lambda: write_parquet(target, schema, parts, small=False, durable=False))
    target.unlink()
    return taken_s


def naive_rows(folder: Path) -> Iterator[Row]:
    """One Parquet file per run and table against the store, at the same runs."""
    runs = [make_bundle(number) for number in range(NAIVE_RUNS)]
    for table in TABLES:
        (folder / "naive" / table).mkdir(parents=True)

    def write_naive() -> None:
        for number, bundle in enumerate(runs):
            for table, rows in tables_of([bundle]).items():
                pq.write_table(rows, folder / "naive" / table / f"{number}.parquet")

    def write_ours() -> None:
        with Writer(folder / "ours", "simulated", "bench", durable=False) as writer:
            for bundle in runs:
                writer.append([bundle])
            writer.compact()

    yield row("write, one file per run", NAIVE_RUNS, seconds(write_naive), "s")
    yield row("write, store", NAIVE_RUNS, seconds(write_ours), "s")
    read_s = {name: median_s(partial(pd.read_parquet, folder / name / "runs")) for name in ("naive", "ours")}
    yield row("read runs, one file per run", NAIVE_RUNS, read_s["naive"], "s")
    yield row("read runs, store", NAIVE_RUNS, read_s["ours"], "s", ratio=round(read_s["naive"] / read_s["ours"], 1))


def report(rows: Sequence[Row]) -> None:
    table = Table("what", "runs stored", "value", "also", title="store")
    for item in rows:
        also = ", ".join(f"{key} {value}" for key, value in item.items() if key in ("p99_ms", "peak_mb", "ratio"))
        table.add_row(str(item["what"]), f"{item['runs_stored']:,}", f"{item['value']:.4g} {item['unit']}", also)
    Console().print(table)
    place = REPOSITORY / "results" / "bench" / "store.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    versions = {"harness": __version__, "pyarrow": pa.__version__, "pandas": pd.__version__}
    content = {
        "name": "store",
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version(), **versions},
        "rows": rows,
    }
    place.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000, help="runs in the largest folder")
    most = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        rows = list(store_rows(Path(folder) / "results", most))
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append(row(f"peak memory while writing, {PER_APPEND} runs at once", most, peak_mb, "MB"))
        rows += naive_rows(Path(folder))
    report(rows)


if __name__ == "__main__":
    main()
