"""The `harness` command and its subcommands."""

import click

from harness import __version__
from harness.cli.collect import nightly
from harness.cli.doctor import doctor
from harness.cli.merge import merge
from harness.cli.next import next_points
from harness.cli.predict import predict
from harness.cli.regions import regions
from harness.cli.report import report
from harness.cli.score import score
from harness.cli.status import status
from harness.cli.sweep import replay, sweep
from harness.cli.traces import traces
from harness.cli.train import train


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="harness")
def cli() -> None:
    """Measure what LLM inference costs in energy.

    \b
    Example, without any GPU:
        harness sweep deployments/simulated-dgx.yaml
    """


for command in (
    doctor, traces, sweep, replay, nightly, status, report, merge, next_points, train, score, regions, predict,
):  # fmt: skip
    cli.add_command(command)
