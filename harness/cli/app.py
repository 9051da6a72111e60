"""The `harness` command: its subcommands, and how errors become one line and an exit code."""

import signal
import sys
from types import FrameType

import click

from harness import __version__
from harness.cli.doctor import doctor
from harness.cli.merge import merge
from harness.cli.next import next_points
from harness.cli.status import status
from harness.cli.sweep import replay, sweep
from harness.cli.traces import traces
from harness.errors import HarnessError, Interrupted

EXIT_BAD_INPUT = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="harness")
def cli() -> None:
    """Measure what LLM inference costs in energy.

    \b
    Example, without any GPU:
        harness sweep deployments/simulated-dgx.yaml
    """


for command in (doctor, traces, sweep, replay, status, merge, next_points):
    cli.add_command(command)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Interrupted("ended by SIGTERM; run the same command again to resume")


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 bad input, 3 finished with failures, 130 interrupted."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = cli.main(standalone_mode=False)
    except HarnessError as error:
        click.echo(f"harness: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        hint = f"; see '{error.ctx.command_path} --help'" if isinstance(error, click.UsageError) and error.ctx else ""
        click.echo(f"harness: {' '.join(error.format_message().split())}{hint}", err=True)
        sys.exit(EXIT_BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        click.echo("harness: interrupted; run the same command again to resume", err=True)
        sys.exit(Interrupted.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone (`harness status | head`); nothing is left to say.
        sys.stderr.close()
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
