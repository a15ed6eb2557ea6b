"""`bringup plan`: what a host would be, and why, before anything is done to it."""

import time
from pathlib import Path

import click
from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bringup.catalog import load_catalog
from bringup.findings import host_findings
from bringup.plan.model import Plan
from bringup.plan.plan import make_plan
from bringup.plan.preflight import host_blockers, plan_blockers
from bringup.probe.host import parse_host
from bringup.recording import recording_named
from bringup.report.facts import findings_table
from bringup.settings import Settings


@click.command()
@click.option("--recording", metavar="NAME|DIR", required=True, help="A recorded host: one that comes with bringup, or a folder.")
@click.option("--model", default=None, help="A model of the catalog.")
@click.option("--profile", default=None, help="What the host is for.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(recording: str, model: str | None, profile: str | None, as_json: bool) -> None:
    """Show what a recorded host would serve, with the reason of each value. Nothing is changed.

    A host that can be reached shows the same, with its files: pyinfra INVENTORY deploys/qwen.py --dry --diff.
    """
    catalog = load_catalog()
    now_unix_s = int(time.time())
    facts = parse_host(recording_named(recording).probe_text(now_unix_s))
    chosen = {name: value for name, value in (("model", model), ("profile", profile)) if value is not None}
    settings = Settings.model_validate(chosen)
    made = make_plan(facts, settings, catalog, catalog.model(settings.model).revision or "main")
    if as_json:
        click.echo(made.record(), nl=False)
        return
    blockers = [*host_blockers(facts, now_unix_s), *plan_blockers(facts, made)]
    Console().print(_page(made, blockers, Group(findings_table((*made.findings, *host_findings(facts, catalog))))))


def _page(made: Plan, blockers: list[str], findings: RenderableType) -> RenderableType:
    verdict = Text.assemble(("would be refused", "bold red") if blockers else ("can be deployed", "bold green"))
    for blocker in blockers:
        verdict.append(f"\n  {blocker}")
    verdict.append(f"\n{Path(made.model).name} in {made.predicted.kv_cache_tokens:,} tokens of KV cache, predicted", style="bold")
    table = Table("Setting", "Value", "Why", "Source", box=box.SIMPLE)
    for decision in made.decisions:
        table.add_row(decision.key, escape(str(decision.value)), escape(decision.why), Text(decision.source, style="dim"))
    return Group(verdict, table, findings)
