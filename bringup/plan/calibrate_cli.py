"""`bringup calibrate`: what a server's own start-up log says of the plan's memory formula, as constants for the next plan."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bringup.catalog import Catalog, load_catalog
from bringup.catalog.calibration import Calibration
from bringup.catalog.entries import GpuModel
from bringup.errors import BringupError
from bringup.hardware import HostFacts
from bringup.plan.calibrate import (
    Comparison,
    PlannedServer,
    as_yaml,
    compare,
    learn,
    merged,
    planned_server,
    read_calibrations,
    read_startup_log,
    with_calibrations,
)
from bringup.plan.cli import read_facts, read_plan

_CARD_REASON = "an NVIDIA card: "
"""How a plan's decision on its engine names the card (plan/plan.py)."""
_LEARNT = ("load_mib", "non_torch_mib", "graphs_mib", "graphs_per_sequence_mib")


@click.command()
@click.argument("log", type=click.File("r", encoding="utf-8", errors="replace"))
@click.option(
    "--plan", "plan_file", type=click.Path(path_type=Path), required=True, metavar="FILE", help="plan.json of the release folder."
)
@click.option(
    "--facts",
    "facts_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The host's facts, if the plan does not name its card.",
)
@click.option(
    "--calibration", "used", type=click.Path(path_type=Path), metavar="FILE", help="Constants that the plan was made with, if any."
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Put the entry there; entries of other versions and cards stay."
)
def calibrate(log: TextIO, plan_file: Path, facts_file: Path | None, used: Path | None, out: Path | None) -> None:
    """Learn from LOG, a server's start-up log (- reads standard input), where the plan's memory formula was wrong.

    The log is what `journalctl -u vllm.service` shows, the plan lies on the host beside what is served:
    /opt/bringup/current/plan.json. The entry that is printed or written takes effect where it is named: with bringup plan
    --calibration FILE, or in group data as calibration_file.
    """
    catalog = load_catalog()
    if used is not None:
        catalog = with_calibrations(catalog, read_calibrations(used))
    plan = planned_server(read_plan(plan_file))
    memory = plan.memory
    started = read_startup_log(log.read())
    card = _card(plan, catalog, read_facts(facts_file) if facts_file else None)
    base = catalog.calibration(catalog.engine(plan.engine, "cuda").version, card.compute_capability)
    seen = f"{started.kv_cache_tokens:,} tokens" if started.kv_cache_tokens is not None else f"{started.kv_cache_gib} GiB, refused"
    source = f"bringup calibrate, {datetime.now(UTC):%Y-%m-%d}, {card.name}: {plan.model}, KV cache of {seen}"
    learnt = learn(started, plan, base, card.compute_capability, source)
    kept = read_calibrations(out) if out is not None and out.exists() else ()
    text = as_yaml(merged(kept, learnt))

    console = Console(stderr=out is None)
    console.print(_table(compare(started, plan)))
    if started.kv_cache_tokens is None:
        length = f" (max-model-len {started.max_model_len})" if started.max_model_len else ""
        console.print(f"The server refused its configuration{length}; what it measured before that is used, to 0.01 GiB.")
    if started.graphs_gib is None and memory.graphs_bytes:
        console.print("CUDA graphs were not captured: their constants stay as they were.")
    console.print(_learnt(base, learnt))
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BringupError(f"{out} cannot be written: {error.strerror}") from None
    console.print(f"written to {out}; use it with bringup plan --calibration {out}, or in group data: calibration_file")


def _card(plan: PlannedServer, catalog: Catalog, facts: HostFacts | None) -> GpuModel:
    """The card that the plan is for: by its address in the facts, or by the name in the plan's reasons."""
    if facts is not None:
        pci_id = next((gpu.pci_id for gpu in facts.gpus if gpu.pci_address == plan.gpu), None)
        found = catalog.gpu(pci_id) if pci_id else None
        if found is None:
            raise BringupError(f"the facts are of another host than the plan: they have no known card at {plan.gpu}")
        return found
    why = next((decision.why for decision in plan.decisions if decision.key == "engine"), "")
    for gpu in catalog.gpus:
        if why == _CARD_REASON + gpu.name:
            return gpu
    raise BringupError("the plan does not name its card: give the host's facts too (bringup facts HOST --json, --facts FILE)")


def _table(comparisons: list[Comparison]) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column("", min_width=24)
    for title in ("planned", "logged", "difference"):
        table.add_column(title, justify="right")
    for row in comparisons:
        off = row.logged - row.planned
        part = f" ({off / row.planned:+.2%})" if row.planned else ""
        if row.unit == "tokens":
            cells = (f"{row.planned:,.0f} tokens", f"{row.logged:,.0f} tokens", f"{off:+,.0f}{part}")
        else:
            cells = (f"{row.planned:.3f} GiB", f"{row.logged:.2f} GiB", f"{off * 1024:+.0f} MiB{part}")
        table.add_row(row.name, *cells)
    return table


def _learnt(base: Calibration, learnt: Calibration) -> str:
    before, after = base.model_dump(), learnt.model_dump()
    moved = [f"{name} {before[name]:g} → {after[name]:g}" for name in _LEARNT if before[name] != after[name]]
    if moved:
        return f"learnt: {', '.join(moved)}"
    nothing = "the formula is right, as exactly as the log can tell"
    if base.calibrated and base.margin <= learnt.margin:
        return f"{nothing}; the entry brings nothing over the one that the plan was made with"
    return f"{nothing}; the entry makes this version and card calibrated"
