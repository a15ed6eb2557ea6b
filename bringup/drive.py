"""Drives pyinfra as a command, and reads what it says."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bringup.errors import BringupError
from bringup.hardware import Frozen
from bringup.report.load import read_record, records_of
from bringup.smoke.model import SmokeReport

_REFUSED = "refused: "
"""How deploys/steps/preflight.py begins the name of the operation that refuses a host."""


class Drift(Frozen):
    """One operation that would change something, and where."""

    operation: str
    hosts: tuple[str, ...]


class DryRun(Frozen):
    """What a dry run found."""

    drifts: tuple[Drift, ...]
    """Operations that would change a host; those that only may (conditional ones) are not drift."""
    refused: tuple[Drift, ...]
    """Reasons why hosts cannot be deployed to at all."""
    all_hosts_looked_at: bool
    """False when a host could not be reached or failed while it was looked at."""


def project_root() -> Path:
    """The folder that pyinfra must be run from.

    Raises:
        BringupError: the current folder is not the project's.
    """
    root = Path.cwd()
    if not (root / "deploys/qwen.py").is_file():
        raise BringupError(f"{root} is not bringup's project folder (it has no deploys/qwen.py): run this from there")
    return root


def _pyinfra() -> str:
    """pyinfra of the environment that we run in."""
    return str(Path(sys.executable).parent / "pyinfra")


def run(arguments: Sequence[str]) -> int:
    """Run pyinfra with its output on the terminal; returns its exit code."""
    return subprocess.run([_pyinfra(), *arguments], cwd=project_root(), check=False).returncode


def dry_run(inventory: str, deploy: str, arguments: Sequence[str] = ()) -> DryRun:
    """Find out what a deploy would change; file diffs go to the terminal (stderr). No host is changed.

    Raises:
        BringupError: pyinfra could not make the dry run at all; its own message was shown before.
    """
    command = [_pyinfra(), inventory, deploy, *arguments, "--dry", "--diff", "--json"]
    done = subprocess.run(
        command, cwd=project_root(), check=False, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        operations = json.loads(done.stdout)["plan"]
    except (ValueError, KeyError) as error:
        raise BringupError(f"the dry run of {deploy} on {inventory} did not get through; pyinfra's message stands above") from error
    return read_plan(operations, all_hosts_looked_at=done.returncode == 0)


def probe_hosts(inventory: str, arguments: Sequence[str] = ()) -> tuple[dict[str, str], bool]:
    """Run the probe on every host; see `read_hosts`."""
    return read_hosts(inventory, "facts.host.HostProbeText", arguments)


def read_hosts(inventory: str, fact: str, arguments: Sequence[str] = ()) -> tuple[dict[str, str], bool]:
    """Read a fact that is text from every host; returns host → what it printed, and whether every host answered.

    Raises:
        BringupError: pyinfra could not look at any host; its own message was shown before.
    """
    facts, all_answered = _facts(inventory, fact, arguments)
    return {host: text for host, text in facts.items() if isinstance(text, str)}, all_answered


def measure_hosts(
    inventory: str, arguments: Sequence[str], changes: Mapping[str, Any], reports_dir: Path
) -> dict[str, SmokeReport | None]:
    """Run the smoke benchmark on every host; returns host → its report, None where there is none.

    Args:
        inventory: hosts or a file, as pyinfra takes them.
        arguments: further words for pyinfra.
        changes: values of the release's request to replace.
        reports_dir: where the records go, in a folder for each host.

    Raises:
        BringupError: pyinfra could not look at any host; its own message was shown before.
    """
    hosts, _ = _facts(inventory, "server.Hostname", arguments)
    before = {name: set(records_of(reports_dir, name)) for name in hosts}
    words = [f"{name}={json.dumps(value, default=_plain, ensure_ascii=False)}" for name, value in changes.items()]
    command = [_pyinfra(), "-y", inventory, "deploys/smoke.py", *arguments, "--data", f"x_smoke_set={json.dumps(words)}"]
    command += ["--data", f"x_smoke_reports={reports_dir}", "--data", "x_smoke_quiet=true"]
    # the report is for standard output, and the caller prints it
    subprocess.run(command, cwd=project_root(), check=False, stdout=sys.stderr)
    reports: dict[str, SmokeReport | None] = {}
    for name in hosts:
        new = sorted(set(records_of(reports_dir, name)) - before[name])
        reports[name] = read_record(new[-1]) if new else None
    return reports


def _facts(inventory: str, fact: str, arguments: Sequence[str]) -> tuple[dict[str, Any], bool]:
    """Return host → fact, and whether every host answered; BringupError where pyinfra could not look at any."""
    command = [_pyinfra(), inventory, *arguments, "fact", fact, "--json"]
    done = subprocess.run(command, cwd=project_root(), check=False, stdout=subprocess.PIPE, text=True, errors="replace")
    try:
        (facts,) = json.loads(done.stdout).values()
        return dict(facts), done.returncode == 0
    except (ValueError, AttributeError, TypeError) as error:
        raise BringupError(f"{inventory} could not be looked at; pyinfra's message stands above") from error


def _plain(value: Frozen) -> dict[str, object]:
    return value.model_dump(mode="json")


def read_plan(operations: Sequence[dict[str, object]], all_hosts_looked_at: bool) -> DryRun:
    """Sort the operations of pyinfra's JSON plan into drift and refusals."""
    drifts: list[Drift] = []
    refused: list[Drift] = []
    for operation in operations:
        hosts = tuple(str(name) for name in _list(operation["hosts_with_change"]))
        if not hosts:
            continue
        names = sorted(str(name) for name in _list(operation["names"]))
        into = refused if any(_REFUSED in name for name in names) else drifts
        into.append(Drift(operation=", ".join(names), hosts=hosts))
    return DryRun(drifts=tuple(drifts), refused=tuple(refused), all_hosts_looked_at=all_hosts_looked_at)


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []
