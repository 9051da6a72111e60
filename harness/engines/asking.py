"""Asking the Python of an engine's command a question, without starting the engine."""

import subprocess
from collections.abc import Mapping, Sequence

from harness.errors import EngineUnavailable

ANSWER_LIMIT_S = 60.0


def ask_python(words: Sequence[str], module: str, code: str, environment: Mapping[str, str], fix: str) -> str:
    """What `code` prints in the environment where `words` run `module`: they are kept up to `-m`, then `-c code`.

    Args:
        words: a command with every placeholder filled; `-m` and the module are words of their own.
        fix: what to do where it does not work.

    Raises:
        EngineUnavailable: the command is no such command, or the code failed; with its last line.
    """
    at = words.index("-m") if "-m" in words else -1
    if at < 1 or words[at + 1 : at + 2] != [module]:
        raise EngineUnavailable(f"cannot ask {' '.join(words)} for its version: the words `-m {module}` are missing")
    try:
        answer = subprocess.run(  # noqa: S603 - the words are the user's own command
            [*words[:at], "-c", code],
            env=dict(environment),
            capture_output=True,
            text=True,
            timeout=ANSWER_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineUnavailable(f"{words[0]}: {error}; {fix}") from error
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["no output"])[-1]
        raise EngineUnavailable(f"{words[0]}: {last}; {fix}", answer.stderr)
    return answer.stdout.strip()
