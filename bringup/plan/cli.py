"""`bringup plan`: what a host would be, why, and what it will reach, before anything is done to it."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import ValidationError
from rich.console import Console

from bringup.catalog import Catalog, load_catalog
from bringup.catalog.config_json import model_from_folder
from bringup.drive import probe_hosts
from bringup.errors import BringupError
from bringup.findings import host_findings
from bringup.hardware import HostFacts
from bringup.plan.calibrate import read_calibrations, with_calibrations
from bringup.plan.model import Plan
from bringup.plan.plan import make_plan
from bringup.plan.preflight import host_blockers, plan_blockers
from bringup.probe.host import parse_host
from bringup.recording import recording_named
from bringup.report.plan import compare_plans, explain, plan_page
from bringup.settings import Settings, problems_with


@click.command()
@click.argument("host", required=False)
@click.option("--recording", metavar="NAME|DIR", help="A recorded host: one that comes with bringup, or a folder.")
@click.option("--facts", "facts_file", type=click.Path(path_type=Path), metavar="FILE", help="What `bringup facts --json` printed.")
@click.option("--model", help="A model of the catalog, or a folder with its config.json.")
@click.option("--profile", help="What the host is for.")
@click.option("--engine", help="A build of vLLM, or its version: vllm==0.33.0.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="An option of vllm serve; repeatable.")
@click.option(
    "--need", "needs", multiple=True, metavar="KIND=AMOUNT", help="context=128K, e2e_ms=1100, concurrency=16@8K; repeatable."
)
@click.option("--explain", "key", metavar="KEY", help="One value in depth, with its formula and numbers.")
@click.option(
    "--calibration", type=click.Path(path_type=Path), metavar="FILE", help="Constants that bringup calibrate learnt from a log."
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.option("--compare", nargs=2, type=click.Path(path_type=Path), metavar="A B", help="What differs between two plans, and why.")
def plan(
    host: str | None,
    recording: str | None,
    facts_file: Path | None,
    model: str | None,
    profile: str | None,
    engine: str | None,
    overrides: tuple[str, ...],
    needs: tuple[str, ...],
    key: str | None,
    calibration: Path | None,
    as_json: bool,
    compare: tuple[Path, Path] | None,
) -> None:
    """Show what a host would serve: the verdict first, its memory, each value with its reason, findings last.

    HOST is a name or address for SSH, @local or @replay/NAME. Nothing is changed. The files that a deploy would write are shown by
    pyinfra INVENTORY deploys/qwen.py --dry --diff.
    """
    console = Console()
    if as_json and key is not None:
        raise click.UsageError("--json holds every value: leave --explain out")
    if compare is not None:
        if host or recording or facts_file:
            raise click.UsageError("--compare shows two plans that are there: name no host beside them")
        before, after = (read_plan(path) for path in compare)
        console.print(compare_plans(before, after))
        return
    catalog = load_catalog()
    if calibration is not None:
        catalog = with_calibrations(catalog, read_calibrations(calibration))
    now_unix_s = int(time.time())
    facts = _facts(host, recording, facts_file, now_unix_s)
    if model is not None and Path(model, "config.json").is_file():
        found = model_from_folder(Path(model))
        catalog, model = catalog.with_model(found), found.id
    settings = _settings(catalog, _parsed(overrides), model=model, profile=profile, engine=engine, needs=needs or None)
    made = make_plan(facts, settings, catalog)
    if as_json:
        click.echo(made.record(), nl=False)
    elif key is not None:
        console.print(explain(made, key))
    else:
        blockers = [*host_blockers(facts, now_unix_s), *plan_blockers(facts, made)]
        console.print(plan_page(made, blockers, host_findings(facts, catalog), _card_name(made, facts, catalog)))


def _card_name(made: Plan, facts: HostFacts, catalog: Catalog) -> str | None:
    """As it is sold; None on the CPU."""
    known = [catalog.gpu(gpu.pci_id) for gpu in facts.gpus if gpu.pci_address == made.gpu]
    return known[0].name if known and known[0] else None


def _facts(host: str | None, recording: str | None, facts_file: Path | None, now_unix_s: int) -> HostFacts:
    given = [source for source in (host, recording, facts_file) if source is not None]
    if len(given) != 1:
        raise click.UsageError("name one host: HOST, --recording NAME, or --facts FILE")
    if recording is not None:
        return parse_host(recording_named(recording).probe_text(now_unix_s))
    if facts_file is not None:
        return read_facts(facts_file)
    texts, _ = probe_hosts(str(host))
    if len(texts) != 1:
        raise BringupError(f"a plan is made for one host, and {host} gave {len(texts)}")
    try:
        return parse_host(next(iter(texts.values())))
    except ValueError as error:
        raise BringupError(f"{host}: {error}") from error


def read_facts(path: Path) -> HostFacts:
    """Read the facts of one host, as `bringup facts --json` prints them.

    Raises:
        BringupError: the file holds none, or those of several hosts.
    """
    content = _read_json(path)
    hosts = content.get("hosts") if isinstance(content, dict) else None
    if isinstance(hosts, dict):
        if len(hosts) != 1:
            raise BringupError(f"{path} holds {len(hosts)} hosts; a plan is made for one")
        content = next(iter(hosts.values()))
        content = content.get("facts") if isinstance(content, dict) else None
    try:
        return HostFacts.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BringupError(f"{path} holds no facts of a host: {where or 'the file'}: {first['msg']}") from None


def read_plan(path: Path) -> dict[str, Any]:
    """Read a plan.json.

    Raises:
        BringupError: the file is none.
    """
    content = _read_json(path)
    decisions = content.get("decisions") if isinstance(content, dict) else None
    if (
        not isinstance(content, dict)
        or not isinstance(decisions, list)
        or not all(isinstance(item, dict) and "key" in item for item in decisions)
    ):
        raise BringupError(f"{path} is no plan: make one with bringup plan --json")
    return content


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BringupError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BringupError(f"{path} is not JSON: {error}") from error


def _parsed(overrides: Sequence[str]) -> dict[str, Any]:
    """Values are read as YAML: numbers, true and false, text."""
    values: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BringupError(f"--set {text}: write it as KEY=VALUE")
        try:
            values[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise BringupError(f"--set {text}: the value cannot be read: {error}") from error
    return values


def _settings(catalog: Catalog, engine_settings: dict[str, Any], **chosen: Any) -> Settings:
    data = {name: value for name, value in chosen.items() if value is not None}
    if engine_settings:
        data["engine_settings"] = engine_settings
    problems = problems_with(data, catalog, to_deploy=False)
    if problems:
        raise BringupError("; ".join(problems))
    return Settings.model_validate(data)
