"""`python -m bringup.lab`: the same commands as `bringup lab`."""

import sys

import click

from bringup.errors import BringupError
from bringup.lab.cli import lab

if __name__ == "__main__":
    try:
        lab(prog_name="python -m bringup.lab")
    except BringupError as error:
        click.echo(error.message, err=True)
        sys.exit(1)
