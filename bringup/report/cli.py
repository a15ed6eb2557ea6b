"""The command `bringup report`."""

from pathlib import Path

import click
from rich.console import Console

from bringup.report.load import read_record
from bringup.report.text import render
from bringup.smoke.model import SmokeReport
from bringup.smoke.run import EXIT_CODES, exit_code


@click.command(epilog=EXIT_CODES)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the JSON record instead of the report.")
@click.pass_context
def report(context: click.Context, file: Path, as_json: bool) -> None:
    """Show the smoke record FILE; the exit code is that of the run."""
    found = read_record(file)
    show(found, file.resolve(), as_json)  # latest.json will point elsewhere
    context.exit(exit_code(found))


def show(found: SmokeReport, record: Path | None, as_json: bool) -> None:
    """Print a report for people, or its record."""
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        Console().print(render(found, record))
