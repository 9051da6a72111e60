"""What all sections of a file share: strict records, bounded figures, and pydantic's errors as one line."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import BadInput
from harness.units import format_duration, parse_duration_s

PositiveInt = Annotated[int, Field(ge=1, le=10**7)]


class Strict(BaseModel):
    """No unknown fields, no values converted from another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_ACCEPTED = {
    "extra_forbidden": "no such field here (docs/sweep-files.md lists them)",
    "missing": "a value: the field is required",
    "finite_number": "a finite number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "int_parsing_size": "a whole number of a usual size",
    "float_type": "a number",
    "string_pattern_mismatch": "letters, digits, dots, dashes and underscores",
    "string_type": "text: in quotes where it looks like a number, and a duration with its unit, such as 60s",
    "string_unicode": "text in Unicode",
    "too_short": "at least one entry",
    "bool_type": "true or false",
    "list_type": "a list",
    "model_type": "a mapping",
}


def bad_input_of(error: ValidationError, where: str) -> BadInput:
    """The complaint of `error` that lies deepest, with the path of the field inside the file `where`."""
    # Where one of several forms is accepted, the form that got furthest is the one that was meant.
    worst = max(error.errors(include_url=False), key=lambda item: len(item["loc"]))
    forms = {"str", "_Model", "int", "float"}
    parts = [part for part in worst["loc"] if part not in forms]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in parts).lstrip(".")
    accepted = _ACCEPTED.get(worst["type"]) or worst["msg"]
    for words in ("Input should be ", "String should have ", "Value error, "):
        accepted = accepted.removeprefix(words)
    value = "(missing)" if worst["type"] == "missing" else worst["input"]
    return BadInput(f"{where}: {place}" if place else where, value, accepted)


def _key(name: str) -> str:
    """A key as messages write it: in quotes where it is no plain word."""
    return name if name.isascii() and name.isidentifier() else repr(name)


def bounded_s(text: str, field: str, least_s: float, most_s: float) -> float:
    """Seconds of a duration such as `90s`.

    Raises:
        BadInput: no duration, or out of range.
    """
    duration_s = parse_duration_s(text, field)
    if not least_s <= duration_s <= most_s:
        raise BadInput(field, text, f"{format_duration(least_s)} to {format_duration(most_s)}")
    return duration_s
