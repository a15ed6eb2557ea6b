"""`bringup verify`: compares hosts with what was deployed to them, at any time, and says it with its exit code."""

import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bringup.diff import EXIT_DRIFT, EXIT_ERROR, EXIT_IN_STEP, ExitsOneOnBadUsage
from bringup.drive import read_hosts
from bringup.errors import BringupError
from bringup.verify.compare import Check, compare
from bringup.verify.reading import parse_reading

_STYLES = {"ok": None, "drift": "red", "cannot": "yellow", "reboot": "yellow"}


def checks_of(text: str) -> tuple[Check, ...]:
    """Read and compare one host.

    Raises:
        BringupError: it could not be read, or nothing of bringup's is there.
    """
    if not text.strip():
        raise BringupError("it has no python3, which every deploy installs: run the deploy first")
    try:
        checks = compare(parse_reading(text))
    except ValueError as error:
        raise BringupError(str(error)) from None
    if not checks:
        raise BringupError("nothing was deployed to it: there is nothing to compare with")
    return checks


@click.command(
    cls=ExitsOneOnBadUsage,
    epilog="Exit code: 0 in order (what only a machine's owner can set is told and does not count), 2 something differs, 1 error.",
)
@click.argument("inventory")
@click.option("--limit", multiple=True, metavar="HOST", help="Only this host or group; repeatable.")
@click.option("--data", multiple=True, metavar="NAME=VALUE", help="Override a setting; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--all", "every", is_flag=True, help="Also show what is in order.")
def verify(inventory: str, limit: tuple[str, ...], data: tuple[str, ...], as_json: bool, every: bool) -> None:
    """Compare every setting of the hosts of INVENTORY, and where their server's processes run, with the plan they were given."""
    arguments = [word for host in limit for word in ("--limit", host)] + [word for item in data for word in ("--data", item)]
    texts, all_answered = read_hosts(inventory, "facts.tuning.HostReadingText", arguments)
    results: dict[str, tuple[Check, ...]] = {}
    errors: dict[str, str] = {}
    for host, text in texts.items():
        try:
            results[host] = checks_of(text)
        except BringupError as error:
            errors[host] = error.message
    if as_json:
        click.echo(json.dumps(_record(results, errors), indent=2, ensure_ascii=False))
    else:
        _show(results, errors, every)
    if not all_answered:
        click.echo("Error: not every host could be looked at; the messages above say which and why.", err=True)
    if errors or not all_answered or not results:
        sys.exit(EXIT_ERROR)
    differs = any(check.status in ("drift", "reboot") for checks in results.values() for check in checks)
    sys.exit(EXIT_DRIFT if differs else EXIT_IN_STEP)


def _record(results: dict[str, tuple[Check, ...]], errors: dict[str, str]) -> dict[str, Any]:
    hosts: dict[str, Any] = {host: {"checks": [check.model_dump() for check in checks]} for host, checks in results.items()}
    return {"hosts": hosts | {host: {"error": message} for host, message in errors.items()}}


def _show(results: dict[str, tuple[Check, ...]], errors: dict[str, str], every: bool) -> None:
    console = Console()
    for host, checks in results.items():
        table = Table("", "Expected", "Found", "", title=host, title_justify="left")
        for check in checks:
            if every or check.status != "ok" or check.why:
                status = check.why if check.status == "ok" else f"{check.status}: {check.why}"
                table.add_row(check.subject, check.expected, check.found, status or "ok", style=_STYLES[check.status])
        if table.row_count:
            console.print(table)
        drifted = sum(check.status in ("drift", "reboot") for check in checks)
        owners = sum(check.status == "cannot" for check in checks)
        said = f"{drifted} of {len(checks)} differ" if drifted else f"{len(checks) - owners} checked, all in order"
        console.print(f"{host}: {said}{f', {owners} only its owner can set' if owners else ''}", highlight=False)
    for host, message in errors.items():
        console.print(f"{host}: error: {message}", style="red", highlight=False)
