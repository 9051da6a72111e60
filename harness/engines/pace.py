"""How often to look at streams so that each look finds at most one new token of each, and few looks find none."""

SHORTEST_S, LONGEST_S, FIRST_S = 0.002, 0.025, 0.005
SHARE = 0.75
"""Of the time between tokens. Of tokens of one stream within one look all have the time of the last, so it is below 1;
engines give all streams their tokens in the same step, so it need not be far below."""
_KEPT = 0.9
"""Of what was seen before, for each look: some ten looks decide."""


class Pace:
    """The time between tokens, from how many of the followed streams have moved since the last look.

    Where a look finds every stream moved, tokens may come faster than it can tell: the period shrinks until some
    have not.
    """

    def __init__(self) -> None:
        self.period_s = FIRST_S
        self._moved = 8.0
        self._stream_s = self._moved * FIRST_S / SHARE
        self._before_s: float | None = None

    def note(self, now_s: float, followed: int, moved: int) -> None:
        """A look at `now_s` found that `moved` of the `followed` streams had something new."""
        if self._before_s is not None:
            self._stream_s = _KEPT * self._stream_s + (now_s - self._before_s) * max(followed, moved)
            self._moved = _KEPT * self._moved + moved
            self.period_s = min(max(SHARE * self._stream_s / max(self._moved, 1e-3), SHORTEST_S), LONGEST_S)
        self._before_s = now_s if followed else None
