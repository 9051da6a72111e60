"""What an answer says, read after the load is over: usage, metrics, errors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.engines.base import Outcome

LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Said:
    """Content of one answer; counts are -1 where it has none."""

    outcome: Outcome
    message: str = ""
    prompt_tokens: int = -1
    generated_tokens: int = -1
    metrics: Mapping[str, float] = field(default_factory=dict)
    last_event_bears_token: bool = True


def shorten(text: str) -> str:
    """One line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 3] + "..."


def read_answer(status: int, events: bool, body: bytes) -> Said:
    """Of a whole answer: its status, whether it is a stream of events, its body (of a stream, the end will do)."""
    text = body.decode("utf-8", "replace").strip()
    if status != 200:
        return Said("refused", _error(text) or shorten(text) or f"HTTP {status}")
    last = text
    if events:
        done = text.endswith("data: [DONE]")
        last = text.removesuffix("data: [DONE]").rstrip().rpartition("data: {")[2]
        last = "{" + last
        if not done:
            return Said("malformed", shorten(f"the stream ends without [DONE]: {last[-100:]}"))
    try:
        content = json.loads(last)
    except ValueError:
        return Said("malformed", shorten(f"not JSON: {last[:100]}"))
    if not isinstance(content, dict):
        return Said("malformed", shorten(f"not an object: {last[:100]}"))
    if "error" in content:
        return Said("lost" if events else "refused", _error(last) or "error without a message")
    usage = content.get("usage")
    prompt = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    generated = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if not isinstance(prompt, int) or not isinstance(generated, int):
        return Said("malformed", "no usage in the answer; was it asked for (stream_options.include_usage)?")
    return Said("finished", "", prompt, generated, _numbers(content.get("metrics")), bool(content.get("choices")))


def _error(text: str) -> str:
    """The message of an error as OpenAI's API words it, or of FastAPI's; "" where there is none."""
    try:
        content: Any = json.loads(text)
    except ValueError:
        return ""
    found = content.get("error", content.get("detail", content.get("message"))) if isinstance(content, dict) else None
    if isinstance(found, dict):
        found = found.get("message")
    return shorten(found) if isinstance(found, str) else ""


def _numbers(metrics: object) -> dict[str, float]:
    """The fields that are numbers; a server writes null for what it did not measure."""
    if not isinstance(metrics, dict):
        return {}
    return {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
