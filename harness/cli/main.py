"""Entry point of `harness`: how signals and errors become one line and an exit code.

The commands are imported inside, once signals are taken care of: they bring pandas and pyarrow along.
"""

import errno
import os
import signal
import sys
from types import FrameType

from harness.errors import BadInput, HarnessError, Interrupted
from harness.texts import printable

EXIT_BAD_INPUT = 2
_MOST_LETTERS = 400
"""Of what click has to say."""
_RESUME = "run the same command again to resume"
_BAD_PATHS = {errno.ENAMETOOLONG, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(f"ended by {signal.Signals(number).name}; {_RESUME}")


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 failed, 2 bad input, 3 finished with failures, 130 interrupted."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        # Engines load code from the folder of their launch: not everyone may write there.
        os.umask(os.umask(0o002) | 0o002)
        code = _run()
    except HarnessError as error:
        _say(str(error))
        code = error.exit_code
    except BrokenPipeError:
        # The reader of our output has gone (`harness status | head`); nothing is left to say.
        sys.stderr.close()
        code = 1
    except OSError as error:
        name, reason = error.filename or "input or output", error.strerror or str(error)
        is_bad = error.errno in _BAD_PATHS
        _say(str(BadInput(f"path ({reason})", name, "one that can be used")) if is_bad else f"{name}: {reason}")
        code = EXIT_BAD_INPUT if is_bad else 1
    sys.exit(code)


def _run() -> int:
    import click

    from harness.cli.app import cli

    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 0
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        # Of a flag that was given a value click does not say where.
        where = context.command_path if context else "harness"
        hint = f"; see '{where} --help'" if isinstance(error, click.UsageError) else ""
        kind = error.param.type if isinstance(error, click.BadParameter) and error.param else None
        # Of what is no number at all click does not say the range.
        accepted = (
            f"; accepted: a whole number from {kind.min} to {kind.max}" if isinstance(kind, click.IntRange) else ""
        )
        said = error.format_message().strip().rstrip(".")
        # It repeats arguments whole, however long.
        _say(f"{said if len(said) <= _MOST_LETTERS else said[: _MOST_LETTERS - 3] + '...'}{accepted}{hint}")
        return EXIT_BAD_INPUT
    except click.Abort:
        _say(f"interrupted; {_RESUME}")
        return Interrupted.exit_code
    return code if isinstance(code, int) else 0


def _say(line: str) -> None:
    # One line, whatever a path or a name in it holds.
    print(f"harness: {printable(' '.join(line.split()))}", file=sys.stderr)
