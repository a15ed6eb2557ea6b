"""`bringup facts`: what hosts are, and what is wrong or wasted on them."""

import datetime
import json
import subprocess
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bringup.catalog import Catalog, load_catalog
from bringup.drive import probe_hosts
from bringup.errors import BringupError
from bringup.findings import host_findings
from bringup.hardware import HostFacts
from bringup.probe.host import parse_host
from bringup.probe.sections import probe_script
from bringup.recording import RecordingInfo, recording_named, save_recording
from bringup.report.facts import render_facts

EXIT_INCOMPLETE = 1


@click.command(epilog="Exit code: 0, or 1 where a host could not be looked at.")
@click.argument("hosts", nargs=-1, metavar="[HOST...|INVENTORY]")
@click.option("--recording", metavar="NAME|DIR", help="Look at a recorded host: one that comes with bringup, or a folder.")
@click.option("--json", "as_json", is_flag=True, help="Print facts and findings as JSON.")
@click.option(
    "--save", type=click.Path(path_type=Path), metavar="DIR", help="Record the host there (several: a folder each), scrubbed."
)
@click.option("--limit", multiple=True, metavar="HOST", help="Only this host or group of the inventory; repeatable.")
@click.option("--user", metavar="USER", help="SSH user.")
@click.option("--port", type=int, metavar="PORT", help="SSH port.")
@click.option("--key", metavar="FILE", help="SSH key.")
@click.pass_context
def facts(
    context: click.Context,
    hosts: tuple[str, ...],
    recording: str | None,
    as_json: bool,
    save: Path | None,
    limit: tuple[str, ...],
    user: str | None,
    port: int | None,
    key: str | None,
) -> None:
    """Show what hosts are: findings first, then each part with how it was learnt. Nothing is changed.

    Without a HOST it is this machine. HOSTs are names or addresses for SSH, @local or @replay/NAME; an INVENTORY is a file.
    """
    if recording is not None and (hosts or save):
        raise click.UsageError("--recording is a host by itself: name no other, and save nothing")
    complete = True
    if recording is not None:
        found = recording_named(recording)
        texts = {found.info.name: found.probe_text(int(datetime.datetime.now(tz=datetime.UTC).timestamp()))}
    elif hosts:
        options = {"--user": user, "--port": port, "--key": key}
        arguments = [word for name, value in options.items() if value is not None for word in (name, str(value))]
        arguments += [word for name in limit for word in ("--limit", name)]
        texts, complete = probe_hosts(",".join(hosts), arguments)
    else:
        texts = {"this machine": _probe_here()}
    seen, wrong = _parse(texts)
    if save is not None:
        _save(save, {name: texts[name] for name in seen}, seen)
    _show(seen, load_catalog(), as_json)
    for name, reason in wrong.items():
        click.echo(f"{name}: {reason}", err=True)
    context.exit(0 if complete and not wrong else EXIT_INCOMPLETE)


def _probe_here() -> str:
    done = subprocess.run(["/bin/sh", "-c", probe_script()], capture_output=True, text=True, errors="replace", check=False)
    return done.stdout


def _parse(texts: dict[str, str]) -> tuple[dict[str, HostFacts], dict[str, str]]:
    seen: dict[str, HostFacts] = {}
    wrong: dict[str, str] = {}
    for name, text in texts.items():
        try:
            seen[name] = parse_host(text)
        except ValueError as error:
            wrong[name] = str(error)
    return seen, wrong


def _show(seen: dict[str, HostFacts], catalog: Catalog, as_json: bool) -> None:
    if as_json:
        hosts: dict[str, Any] = {
            name: {
                "facts": facts.model_dump(mode="json"),
                "findings": [finding.model_dump(mode="json") for finding in host_findings(facts, catalog)],
            }
            for name, facts in seen.items()
        }
        click.echo(json.dumps({"hosts": hosts}, indent=2, ensure_ascii=False))
        return
    console = Console()
    for name, facts in seen.items():
        console.print(render_facts(name, facts, host_findings(facts, catalog), catalog))


def _save(directory: Path, texts: dict[str, str], seen: dict[str, HostFacts]) -> None:
    if not texts:
        raise BringupError("nothing was recorded: no host could be looked at")
    for name, text in texts.items():
        folder = directory if len(texts) == 1 else directory / name.removeprefix("@").replace("/", "-")
        facts = seen[name]
        cards = " + ".join(sorted({gpu.driver_name or gpu.pci_id for gpu in facts.gpus})) or "no NVIDIA card"
        info = RecordingInfo(
            name=folder.name,
            title=f"{cards}, {facts.cpu.model}, {facts.os.name}",
            kind="recorded",
            date=datetime.datetime.now(tz=datetime.UTC).date(),
            made_from="bringup facts --save: the probe's output, scrubbed",
        )
        save_recording(text, folder, info)
        click.echo(f"recorded {name} in {folder}", err=True)
