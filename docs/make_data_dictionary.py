"""Writes docs/data-dictionary.md from the schemas, so that the two cannot differ."""

from pathlib import Path

from harness.schema import DETAIL_COLUMNS, RUN_COLUMNS, SCHEMA_VERSION, SCHEMAS

TARGET = Path(__file__).parent / "data-dictionary.md"

HEAD = f"""# Data dictionary

Printed from the code by `make docs`; schema version {SCHEMA_VERSION}. Each table is read with
`pandas.read_parquet("RESULTS/TABLE")`. Energies are gross unless the column says net; a column that ends in
`_uncertainty_j` is the 95% half-width of the random part only, and the boards' gain
(`gpu_gain_uncertainty`, systematic) comes on top. A null energy has its reason in the `_reason` column beside it.
A run's key is (`point_id`, `environment_id`, `launch_id`, `repetition`, `attempt`); `run_id` is the same as one
string, in all four tables. Take columns by name (`runs["flags"]`): pandas has an attribute `flags` of its own.

Of a window of batches, `requests` and `iterations` hold the first batch only (the others are alike); of a replay they
hold everything. `power` also holds the quiet time beside the window: keep `0 <= time_s <= window_s`. Of a saturated
replay with the flag `steady_state_window`, times count from the steady state's start, so earlier ones are negative.
`started_at` of a simulated run is the virtual clock, which begins with the sweep.

Status: `ok`; `invalid` (measured, but not to be believed: `reason`); `failed` (the engine did not do its work);
`infeasible` (screened before a launch); `saturated` (a replay whose backlog grew: its energies are of the steady
state where that lasted 30 s). The mean over the repetitions of a point uses `status == "ok"` (batches) or
`ok` and `saturated` (replays), and never `purpose == "warmup"`.
"""


def section(title: str, columns: dict[str, str], types: dict[str, str]) -> str:
    lines = [f"\n## {title}\n", "| column | type | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {types[name]} | {doc} |" for name, doc in columns.items()]
    return "\n".join(lines) + "\n"


def data_dictionary() -> str:
    """The whole page."""
    page = HEAD
    docs = {"runs": RUN_COLUMNS} | {
        name: {column: doc for column, (_, doc) in columns.items()} for name, columns in DETAIL_COLUMNS.items()
    }
    for name, columns in docs.items():
        types = {field.name: str(field.type) for field in SCHEMAS[name]}
        page += section(name, columns, types)
    return page


if __name__ == "__main__":
    TARGET.write_text(data_dictionary(), "utf-8")
