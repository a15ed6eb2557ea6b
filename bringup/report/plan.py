"""A plan for people: the verdict, the card's memory as a bar, each value with its reason, findings; and two plans side by side."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bringup.catalog.loader import nearest
from bringup.errors import BringupError
from bringup.findings import Finding
from bringup.findings.host import ORDER
from bringup.plan.capacity import MemoryBudget
from bringup.plan.driver import DriverPlan
from bringup.plan.limits import LineCheck
from bringup.plan.model import Plan
from bringup.report.facts import findings_table

_BAR_CELLS = 72
_VERDICTS = {"impossible": "bold red", "tight": "yellow", "comfortable": "green", "unknown": "dim"}


def plan_page(plan: Plan, blockers: Sequence[str], findings: Sequence[Finding]) -> RenderableType:
    """The whole page; `findings` are the machine's own, beside the plan's."""
    every = sorted((*plan.findings, *findings), key=lambda finding: ORDER.index(finding.level))
    parts: list[RenderableType] = [_verdict(plan, blockers), Text()]
    if plan.predicted.memory is not None:
        parts += [memory_bar(plan.predicted.memory), Text()]
    if plan.checks:
        parts.append(_checks(plan.checks))
    parts += [_decisions(plan), _host_settings(plan), findings_table(every)]
    return Group(*parts)


def _verdict(plan: Plan, blockers: Sequence[str]) -> Text:
    predicted = plan.predicted
    text = Text.assemble(("would be refused", "bold red") if blockers else ("fits", "bold green"))
    text.append(f"  {plan.repository} on {plan.engine}, profile {plan.profile}", style="bold")
    for blocker in blockers:
        text.append(f"\n  {blocker}", style="red")
    if plan.driver is not None and not plan.driver.blockers:
        text.append(f"\nfirst     {_driver(plan.driver)}")
    sure = "measured formula" if predicted.calibrated else "not measured on such a card"
    text.append(
        f"\nreaches   {predicted.kv_cache_tokens:,} tokens of KV cache ({sure}): {predicted.requests_of_full_length:g} requests of "
        f"{plan.vllm['max-model-len']:,} tokens; longest single request {predicted.max_model_len:,}"
    )
    if predicted.ms_per_token_floor is not None:
        ceiling = ", ".join(f"{value:,.0f} at {streams}" for streams, value in predicted.tokens_per_s_ceiling.items())
        load = f"; weights over its link {predicted.load_s_floor:g} s" if predicted.load_s_floor else ""
        text.append(
            f"\nno faster than   {predicted.ms_per_token_floor:g} ms a token, first token {predicted.ttft_floor_ms:g} ms, whole "
            f"answer {predicted.e2e_floor_ms:,g} ms; tokens/s at most {ceiling} streams{load}"
        )
    return text


def _driver(driver: DriverPlan) -> str:
    if driver.state == "absent":
        return driver.why
    what = f"version {driver.version}" if driver.version else f"branch {driver.branch}"
    return f"{what} of the NVIDIA driver is installed or kept ({driver.modules} modules, {driver.build}): {driver.why}"


def _shares(memory: MemoryBudget) -> Iterator[tuple[str, int, str]]:
    yield "weights", memory.weights_bytes, "blue"
    yield "activation", memory.peak_bytes, "magenta"
    yield "libraries", memory.non_torch_bytes, "cyan"
    yield "graphs", memory.graphs_bytes, "yellow"
    yield "buffers", memory.buffers_bytes, "bright_black"
    yield "KV cache", max(0, memory.kv_cache_bytes), "green"
    yield "margin", memory.margin_bytes, "bright_green"
    yield "context", memory.context_bytes, "bright_cyan"
    yield "left", max(0, memory.left_bytes), "white"


def memory_bar(memory: MemoryBudget) -> RenderableType:
    """The card's memory as a bar, with its legend in GiB."""
    bar, legend = Text(), Text()
    for name, size, colour in _shares(memory):
        bar.append("█" * round(size / memory.total_bytes * _BAR_CELLS), style=colour)
        legend.append("■ ", style=colour)
        legend.append(f"{name} {size / 2**30:.2f}  ")
    legend.append(f"of {memory.total_bytes / 2**30:.2f} GiB that CUDA sees; vLLM may take {memory.budget_bytes / 2**30:.2f}")
    return Group(bar, legend)


def _checks(checks: Sequence[LineCheck]) -> RenderableType:
    table = Table("Line", "At most", "Floor", "Verdict", box=box.SIMPLE)
    for check in checks:
        floor = f"{check.floor_ms:,.0f} ms" if check.floor_ms is not None else "?"
        table.add_row(check.metric, f"{check.at_most_ms:,g} ms", floor, Text(check.verdict, style=_VERDICTS[check.verdict]))
    return table


def _decisions(plan: Plan) -> RenderableType:
    table = Table("Setting", "Value", "Why", "Source", box=box.SIMPLE)
    for decision in plan.decisions:
        table.add_row(decision.key, escape(str(decision.value)), escape(decision.why), Text(decision.source, style="dim"))
    return table


def _host_settings(plan: Plan) -> RenderableType:
    offered = [setting for setting in plan.host if not setting.default_on]
    if not offered:
        return Text()
    table = Table("Offered, not set", "Value", "Now", "Why", "Evidence", box=box.SIMPLE)
    for setting in offered:
        table.add_row(setting.key, escape(setting.value), setting.now or "?", escape(setting.why), setting.evidence)
    return table


def explain(plan: Plan, key: str) -> RenderableType:
    """One value in depth, with its formula and the numbers filled in.

    Raises:
        BringupError: the plan has no such value; the message names the nearest.
    """
    key = key.replace("_", "-") if "." not in key else key
    decision = next((decision for decision in plan.decisions if decision.key in (key, key.replace("-", "_"))), None)
    setting = next((setting for setting in plan.host if setting.key in (key, key.replace("-", "_"))), None)
    memory = plan.predicted.memory
    if decision is None and setting is None and key != "kv-cache":
        keys = [decision.key for decision in plan.decisions] + [setting.key for setting in plan.host] + ["kv-cache"]
        raise BringupError(f"the plan decides nothing called '{key}': {nearest(key, keys)}")
    text = Text()
    if decision is not None:
        text.append(f"{decision.key} = {decision.value}\n", style="bold")
        text.append(f"why     {decision.why}\nsource  {decision.source}\n")
    if setting is not None:
        text.append(f"\n{setting.key}: {'set' if setting.default_on else 'offered, not set'}\n", style="bold")
        text.append(f"now     {setting.now or 'not known'}\nevidence  {setting.evidence}\nread back with  {setting.read_back}\n")
    if memory is not None and key in _MEMORY_KEYS:
        text.append(_memory_formula(memory))
    return text


_MEMORY_KEYS = ("kv-cache", "max-model-len", "gpu-memory-utilization", "max-num-seqs", "max-num-batched-tokens", "kv-cache-dtype")


def _memory_formula(memory: MemoryBudget) -> str:
    subtracted = [
        ("graphs", memory.graphs_bytes, memory.graphs_in_budget),
        ("buffers", memory.buffers_bytes, memory.buffers_in_budget),
    ]
    lines = [
        "\nbytes, as vLLM accounts for them (plan/capacity.py):",
        f"  {memory.budget_bytes:>15,}  budget: utilisation × {memory.total_bytes:,} that CUDA sees",
        f"- {memory.weights_bytes:>15,}  weights, rotary table, what the allocator rounds up",
        f"- {memory.peak_bytes:>15,}  peak of the largest batch",
        f"- {memory.non_torch_bytes:>15,}  CUDA libraries",
        *(f"- {size:>15,}  {name}" for name, size, inside in subtracted if inside),
        f"- {memory.margin_bytes:>15,}  margin, not counted on",
        f"= {memory.kv_cache_bytes:>15,}  KV cache",
        f"/ {memory.bytes_per_token * memory.block_tokens:>15,}  bytes a block of {memory.block_tokens} tokens "
        f"({memory.bytes_per_token:,} a token)",
        f"= {memory.kv_cache_tokens:>15,}  tokens in whole blocks",
    ]
    return "\n".join(lines) + "\n"


def compare_plans(before: dict[str, Any], after: dict[str, Any]) -> RenderableType:
    """What differs between two plans as `bringup plan --json` prints them, and why the second has its value."""
    old = {item["key"]: item for item in before["decisions"]}
    new = {item["key"]: item for item in after["decisions"]}
    table = Table("Setting", "Before", "After", "Why", box=box.SIMPLE)
    for key in [*new, *(key for key in old if key not in new)]:
        was, now = old.get(key, {}).get("value", "unset"), new.get(key, {}).get("value", "unset")
        if was != now:
            table.add_row(key, escape(str(was)), escape(str(now)), escape(new.get(key, old.get(key, {})).get("why", "")))
    for name in ("kv_cache_tokens", "max_model_len", "ms_per_token_floor"):
        was, now = (plan.get("predicted", {}).get(name) for plan in (before, after))
        if was != now:
            table.add_row(f"predicted {name}", str(was), str(now), "")
    return table if table.row_count else Text("The plans decide the same.", style="green")
