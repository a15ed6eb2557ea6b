"""`bringup lab`: throw-away hosts on this machine."""

import os

import click
from rich.console import Console
from rich.table import Table

from bringup.errors import BringupError
from bringup.lab import container, hosts
from bringup.lab.model import ensure_demo_model
from bringup.lab.state import LabState, lab_dir, read_state


@click.group()
def lab() -> None:
    """Throw-away hosts on this machine, to try a deploy on.

    Each is a systemd-nspawn container with real systemd and sshd, on the network of this machine. The state folder is
    /var/lib/bringup-lab, or what BRINGUP_LAB_DIR names.
    """


@lab.command()
@click.option("--hosts", "count", type=click.IntRange(1, 64), default=1, show_default=True, help="How many shall be up.")
@click.option("--release", metavar="CODENAME", help="Another release of this machine's distribution: trixie.")
@click.option("--nested", is_flag=True, help="The hosts can run containers of their own (Podman).")
@click.option("--rented", is_flag=True, help="The hosts are like rented containers: no systemd, the rights of a Docker container.")
def up(count: int, release: str | None, nested: bool, rented: bool) -> None:
    """Start hosts until there are as many as asked for; those that are up are kept."""
    console = Console(stderr=True)
    state = hosts.up(count, console=console, release=release, nested=nested, rented=rented)
    _print_table(state)
    console.print(f"Log in with `bringup lab ssh {state.hosts[0].name}`; remove everything with `bringup lab down`.")


@lab.command("list")
def list_hosts() -> None:
    """Show the hosts, their state and their ports."""
    _print_table(read_state(lab_dir()))


@lab.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str, command: tuple[str, ...]) -> None:
    """Log in to the host NAME as root, or run COMMAND there."""
    state = read_state(lab_dir())
    host = state.host(name)
    if not container.is_up(host):
        raise BringupError(f"{name} is not up; `bringup lab up` starts it again with its files.")
    os.execvp("ssh", [*container.ssh_command(state, host), *command])  # noqa: S606 - becomes ssh, without a shell


@lab.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--base", is_flag=True, help="Remove the cached base root file system too.")
def down(names: tuple[str, ...], base: bool) -> None:
    """Remove the hosts NAME, or all of them, with everything that is in them."""
    if names and base:
        raise click.UsageError("--base is for all hosts at once; name none.")
    removed = hosts.down(names, base=base)
    click.echo(f"Removed {', '.join(removed)}." if removed else "There was no host to remove.")


@lab.command()
def model() -> None:
    """Make the demo's model (SmolLM2-135M-Instruct) once and print its folder."""
    click.echo(ensure_demo_model(lab_dir(), Console(stderr=True)))


def _print_table(state: LabState) -> None:
    table = Table("Host", "State", "SSH port", "Service port")
    for host in state.hosts:
        status = "up" if container.is_up(host) else "stopped"
        table.add_row(host.name, status, str(host.ssh_port), str(host.service_port))
    Console().print(table if state.hosts else "There is no host; `bringup lab up` starts one.")
