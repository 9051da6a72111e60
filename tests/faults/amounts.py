"""How much `make faults` does, and with which dice."""

import os
import random

SEED = int(os.environ.get("HARNESS_FAULTS_SEED") or 20261121)
ASKED = os.environ.get("HARNESS_FAULTS_KILLS", "")
"""Empty: nobody asked for the table; a few of each will do."""
KILLS = int(ASKED or 16)
SHARES = {"sweep": 0.4, "writer": 0.4, "engine": 0.1, "agent": 0.1}


def kills(what: str) -> int:
    """How many of all kills are of this kind of process; one at least."""
    return max(1, round(KILLS * SHARES[what]))


def times(most: int) -> int:
    """How often to try something that is not a kill: `most` with 200 kills, once at least."""
    return max(1, min(most, most * KILLS // 200))


def dice(what: str) -> random.Random:
    """Numbers of its own for each test, so that one may be run alone."""
    return random.Random(f"{SEED} {what}")
