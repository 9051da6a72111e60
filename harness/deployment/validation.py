"""Turns a pydantic error into the one line that a person is shown."""

from pydantic import ValidationError

from harness.errors import BadInput

_ACCEPTED = {
    "extra_forbidden": "no such field here",
    "missing": "a value: the field is required",
    "finite_number": "a finite number",
    "int_from_float": "a whole number",
    "string_pattern_mismatch": "letters, digits, dots, dashes and underscores",
}


def bad_input_of(error: ValidationError, where: str) -> BadInput:
    """The first complaint of `error`, with the path of the field inside the file `where`."""
    first = error.errors(include_url=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    accepted = _ACCEPTED.get(first["type"]) or first["msg"].removeprefix("Input should be ").removeprefix(
        "Value error, "
    )
    value = "(missing)" if first["type"] == "missing" else first["input"]
    more = error.error_count() - 1
    return BadInput(f"{where}: {place}" if place else where, value, accepted, f"{more} more like it" if more else "")
