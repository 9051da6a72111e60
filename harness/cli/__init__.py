"""The command line: click commands, nothing else."""

from harness.cli.app import main

__all__ = ["main"]
