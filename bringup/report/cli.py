"""The command `bringup report`: a smoke record in the terminal, as a page, or held against another one."""

from pathlib import Path

import click
from rich.console import Console

from bringup.errors import BringupError
from bringup.report.compare import SEED, compare
from bringup.report.compare_text import render_comparison
from bringup.report.load import read_record
from bringup.report.page import fleet_page, host_page, schema
from bringup.report.text import render
from bringup.smoke.model import SmokeReport
from bringup.smoke.run import EXIT_CODES, exit_code

_RECORD = click.Path(path_type=Path)


class _ShowByDefault(click.Group):
    """`bringup report FILE` shows a record: what is no command is taken for `show`'s arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in self.get_help_option_names(ctx):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ShowByDefault)
def report() -> None:
    """Show smoke records: `bringup report FILE` in the terminal, or one of the commands."""


@report.command(name="show", epilog=EXIT_CODES)
@click.argument("file", type=_RECORD)
@click.option("--json", "as_json", is_flag=True, help="Print the JSON record instead of the report.")
@click.pass_context
def show_command(context: click.Context, file: Path, as_json: bool) -> None:
    """Show the record FILE, whose run gives the exit code; `show` may be left out."""
    found = read_record(file)
    show(found, file.resolve(), as_json)  # latest.json will point elsewhere
    context.exit(exit_code(found))


def show(found: SmokeReport, record: Path | None, as_json: bool) -> None:
    """Print a report for people, or its record."""
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        Console().print(render(found, record))


@report.command()
@click.argument("files", type=_RECORD, nargs=-1, required=True, metavar="RECORD…")
@click.option("-o", "--output", type=_RECORD, required=True, metavar="FILE", help="Where the page goes; `-` is standard output.")
def html(files: tuple[Path, ...], output: Path) -> None:
    """Make one page that needs nothing else: of one RECORD, or of several with a table of the hosts above."""
    records = [(read_record(file), file) for file in files]
    page = host_page(*records[0]) if len(records) == 1 else fleet_page([found for found, _ in records], list(files))
    if str(output) == "-":
        click.echo(page, nl=False)
        return
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BringupError(f"Cannot write the page {output}: {error.strerror}.") from None


_COMPARE_EXITS = "Exit code: 0 nothing shown to be worse, 3 slower, or answers were lost; 1 not comparable, 2 wrong usage."


@report.command(name="compare", epilog=_COMPARE_EXITS)
@click.argument("before", type=_RECORD)
@click.argument("after", type=_RECORD)
@click.option("--anyway", is_flag=True, help="Compare runs of different loads too.")
@click.option("--confidence", type=click.FloatRange(0.5, 1, min_open=True, max_open=True), default=0.95, show_default=True)
@click.option("--seed", type=int, default=SEED, show_default=True, help="Of the bootstrap's draws.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@click.pass_context
def compare_command(
    context: click.Context, before: Path, after: Path, anyway: bool, confidence: float, seed: int, as_json: bool
) -> None:
    """Hold the record AFTER against BEFORE: differences with intervals, and what was configured differently."""
    found = compare(read_record(before), read_record(after), anyway=anyway, confidence=confidence, seed=seed)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        Console().print(render_comparison(found, str(before), str(after)))
    context.exit(3 if found.slower or (found.answers is not None and found.answers.worse) else 0)


@report.command(name="schema")
def schema_command() -> None:
    """Print the JSON Schema of a record."""
    click.echo(schema())
