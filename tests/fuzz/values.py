"""Values that people, programs and accidents put where others are expected."""

from typing import Any

from hypothesis import strategies as st

NASTY_TEXTS = (
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "[red]text[/red]", "[/]", "[bold", "<script>alert(1)</script>", "&lt;",
    "a\nb", "a\r\nb", "a\tb", "\u202eevil\u202c", "\u200f", "é" * 40, "模型", "🦙", " ", "a\u2028b\u00a0c",
    "\u200b", "\ufeffx", "%s %d {0} {}",
    "$(id)", "`id`", "' OR 1=1", "\x00", "\x7f", "\x9b31m", "$x^2$", "\\", "null", "true", "NaN", "-0", "0x10", "1_000",
)  # fmt: skip
"""Texts that something may take for more than text: a terminal, markup, a page, a shell, a formula, a number."""

PATHS = (
    "/", ".", "..", "/dev/null", "/dev/zero", "/proc/self/mem", "/nonexistent/x", "~", "~nobody-here", "~root/x", "a/b",
    "x" * 300, "x/" * 3000, "./fifo", "./folder", "./loop", "./empty", "/dev/stdin", "\x00", "./fifo/x", "http://x/y",
)  # fmt: skip
"""`fifo`, `folder`, `loop` and `empty` are what a case's folder holds."""

NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 5, 7, 64, 1000, 10**7, 10**7 + 1, 2**31, 2**63, 10**30, 0.0, -0.0, 0.5, 1.5, 1e-300, 1e300, -1e300,
    float("nan"), float("inf"), float("-inf"), True, False,
)  # fmt: skip

DURATIONS = (
    "", "0s", "0", "6x", "-1s", "1", "s", "1e9s", "1e9h", "600s", "601s", "1ms", "0.2s", "1h30m", "99999999999999d",
    "9" * 400 + "s", "1s1s1s", "NaN", "infs", "٣s", " 2s ", "2S", "½s", "1.5.5s", "2 s",
)  # fmt: skip

RATES = (
    "",
    "0",
    "x0",
    "x1.5",
    "-1",
    "capacity:0.8",
    "capacity:0",
    "capacity:9",
    "capacity:",
    "1e9",
    "nan",
    "inf",
    "٣",
    "x",
)
SLICES = ("median", "busiest", "start:0", "start:1e9", "start:-1", "start:", "start:99999999999", "start:nan", "middle")

numbers = st.sampled_from(NUMBERS) | st.integers(-(10**12), 10**12) | st.floats()
texts = st.sampled_from(NASTY_TEXTS + PATHS + DURATIONS + RATES + SLICES) | st.text(
    st.characters(exclude_categories=("Cs",)), max_size=30
)
scalars = st.none() | numbers | texts
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
