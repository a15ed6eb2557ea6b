"""The command `bringup`."""

import sys

import click

from bringup import __version__
from bringup.demo import demo
from bringup.diff import diff
from bringup.errors import BringupError
from bringup.lab.cli import lab
from bringup.plan.calibrate_cli import calibrate
from bringup.plan.cli import plan
from bringup.probe.cli import facts
from bringup.report.cli import report
from bringup.smoke_cli import smoke
from bringup.verify.cli import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def bringup() -> None:
    """Takes a bare Linux machine to a tuned, verified vLLM server."""


for command in (calibrate, demo, diff, facts, lab, plan, report, smoke, verify):
    bringup.add_command(command)


def main() -> None:
    """Run the command line; an error that the user can mend is one message and exit code 1."""
    try:
        bringup()
    except BringupError as error:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {error.message}", err=True)
        sys.exit(1)
