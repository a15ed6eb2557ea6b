"""`bringup diff`: what a deploy would change, with an exit code that a script can use."""

import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bringup.drive import DryRun, dry_run

EXIT_IN_STEP, EXIT_ERROR, EXIT_DRIFT = 0, 1, 2


def exit_code(result: DryRun) -> int:
    """0 in step, 2 drift, 1 where a host could not be looked at or would be refused."""
    if result.refused or not result.all_hosts_looked_at:
        return EXIT_ERROR
    return EXIT_DRIFT if result.drifts else EXIT_IN_STEP


class ExitsOneOnBadUsage(click.Command):
    """Wrong usage exits 1: click's own 2 would read as drift."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the command line."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            error.show()
            sys.exit(EXIT_ERROR)


@click.command(
    cls=ExitsOneOnBadUsage, epilog="Exit code: 0 in step, 2 drift, 1 error (pyinfra's own dry run exits 0 whatever it finds)."
)
@click.argument("inventory")
@click.argument("deploy", default="deploys/qwen.py")
@click.option("--limit", multiple=True, metavar="HOST", help="Only this host or group; repeatable.")
@click.option("--data", multiple=True, metavar="NAME=VALUE", help="Override a setting; repeatable.")
def diff(inventory: str, deploy: str, limit: tuple[str, ...], data: tuple[str, ...]) -> None:
    """Show what DEPLOY would change on the hosts of INVENTORY, and change nothing."""
    arguments = [word for host in limit for word in ("--limit", host)] + [word for item in data for word in ("--data", item)]
    result = dry_run(inventory, deploy, arguments)
    console = Console()
    table = Table("Operation", "Hosts", title="Would change", title_justify="left")
    for drift in (*result.refused, *result.drifts):
        table.add_row(drift.operation, ", ".join(drift.hosts), style="red" if drift in result.refused else None)
    if table.row_count:
        console.print(table)
    hosts = {host for drift in result.drifts for host in drift.hosts}
    if not result.all_hosts_looked_at:
        console.print("Error: not every host could be looked at; the messages above say which and why.")
    elif result.refused:
        console.print("Error: a host would be refused; the red lines say why.")
    elif result.drifts:
        console.print(f"Drift: {len(result.drifts)} operations would change {', '.join(sorted(hosts))}.")
    else:
        console.print("In step: nothing would change.")
    sys.exit(exit_code(result))
