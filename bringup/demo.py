"""`bringup demo`: the whole deploy on a throw-away host, for somebody who sees bringup for the first time."""

import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.rule import Rule

from bringup.drive import project_root, run
from bringup.errors import BringupError
from bringup.lab import hosts
from bringup.lab.model import ensure_demo_model
from bringup.lab.state import LabState, lab_dir
from bringup.report.load import read_record
from bringup.report.text import render

DEPLOY = "deploys/qwen.py"


@click.command()
def demo() -> None:
    """Provision a throw-away host and show its smoke report; where none can be started, show a dry run against this machine."""
    console = Console(stderr=True)
    root = project_root()
    console.print(Rule("1/3 a throw-away host with nothing but systemd and sshd", align="left"))
    try:
        state = hosts.up(console=console)
    except BringupError as error:
        sys.exit(_dry_run_here(error.message, console))
    console.print(Rule("2/3 a real small model", align="left"))
    console.print(f"{ensure_demo_model(lab_dir(), console)}", markup=False)
    console.print(Rule(f"3/3 pyinfra -y inventories/lab.py {DEPLOY}", align="left"))
    began_s = time.time()
    code = run(["-y", "inventories/lab.py", DEPLOY])
    console.print(Rule("result", align="left"))
    _show_reports(state, root / "reports", newer_than_s=began_s if code else 0)
    if code:
        name = state.hosts[0].name
        raise BringupError(f"the deploy failed; the messages above say where. The host is still up: bringup lab ssh {name}")
    _say_what_next(state, console)


def _dry_run_here(reason: str, console: Console) -> int:
    console.print(f"No throw-away host can be started here. {reason}", markup=False)
    console.print("So this is the same deploy as a dry run against this machine itself; it changes nothing.")
    code = run(["inventories/here.py", DEPLOY, "--dry", "--diff"])
    console.print("Next: read the README's section on a real host, or run `make demo` where a host can be started.")
    return code


def _show_reports(state: LabState, reports: Path, newer_than_s: float) -> None:
    """Show each host's newest report; after a failed deploy only one that the deploy itself made."""
    for host in state.hosts:
        records = sorted(path for path in (reports / host.name).glob("*.json") if path.stat().st_mtime >= newer_than_s)
        if records:
            Console().print(render(read_record(records[-1]), records[-1]))


def _say_what_next(state: LabState, console: Console) -> None:
    first = state.hosts[0]
    address = f"http://127.0.0.1:{first.service_port}"
    console.print(
        f"{first.name} serves on {address}. Next:\n"
        f"  .venv/bin/bringup smoke {address}     measure it again\n"
        f"  .venv/bin/bringup diff inventories/lab.py     nothing has drifted\n"
        f"  .venv/bin/bringup lab ssh {first.name}     look around\n"
        "  .venv/bin/bringup lab down     remove it all",
        markup=False,
        highlight=False,
    )
