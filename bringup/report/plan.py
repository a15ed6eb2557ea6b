"""A plan for people: the verdict, the card's memory as a bar, each value with its reason, findings; and two plans side by side."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bringup.catalog.loader import nearest
from bringup.errors import BringupError
from bringup.findings import Finding
from bringup.findings.host import ORDER
from bringup.plan.capacity import MemoryBudget
from bringup.plan.decision import Decision
from bringup.plan.driver import DriverPlan
from bringup.plan.host import HostSetting
from bringup.plan.model import Plan

_MOST_CELLS = 100
_CHECK_STYLES = {"impossible": "bold red", "tight": "yellow", "comfortable": "green", "unknown": "dim"}
_CHECK_MEANS = {
    "impossible": "no software can; the findings say how it could be met",
    "tight": "above the floor, but faster than was reached anywhere",
    "comfortable": "possible; the smoke benchmark shows whether it is met",
    "unknown": "no floor is known",
}
_LEVEL_STYLES = {"problem": "bold red", "impossible": "bold red", "warning": "yellow", "note": "dim"}
_METRICS = {"ttft": "time to the first token", "itl": "time between two tokens", "e2e": "time of a whole answer"}
_SHORT, _LONG = 60, 300
"""Characters of a reason that may be repeated, and that is shown whole."""
_STATES = {"set": "", "offered": " (offered, not set)", "kept": " (kept as it is: inventory)"}
_ORDINARY = {"service-manager": "systemd"}
"""Decisions that are told only where they are others than almost everywhere; `--explain` tells them anyway."""
_TOLD_BY_BLOCKERS = ("no-systemd", "no-root")
_TOLD_BY_VERDICT = ("uncalibrated",)
_AT_ADDRESS = re.compile(r" at ([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f])")


def plan_page(plan: Plan, blockers: Sequence[str], findings: Sequence[Finding], card_name: str | None = None) -> RenderableType:
    """The whole page.

    Args:
        plan: what it shows.
        blockers: why a deploy would refuse the host as it is now.
        findings: the machine's own, beside the plan's.
        card_name: of the card that serves; None on the CPU.
    """
    hidden = (*_TOLD_BY_VERDICT, *(_TOLD_BY_BLOCKERS if blockers else ()))
    every = [finding for finding in (*plan.findings, *findings) if finding.id not in hidden]
    parts: list[RenderableType] = [_verdict(plan, blockers, card_name), _summary(plan)]
    if plan.predicted.memory is not None:
        parts.append(MemoryBar(plan.predicted.memory))
    parts += [_checks(plan), _decisions(plan)]
    offered = [setting for setting in plan.host if setting.state == "offered" and setting.now != setting.value]
    parts += [_offered(offered)] if offered else []
    parts.append(_findings(sorted(merged(every), key=lambda finding: ORDER.index(finding.level))))
    return Group(*(line for part in parts[:-1] for line in (part, Text())), parts[-1])


def _verdict(plan: Plan, blockers: Sequence[str], card_name: str | None) -> Text:
    text = Text()
    if blockers:
        text.append("would be refused", style="bold red").append(" as the host is now; once that is mended: ")
    over_mib = -plan.predicted.memory.left_bytes // 2**20 if plan.predicted.memory else 0
    impossible, tight = (
        " and ".join(check.metric for check in plan.checks if check.verdict == verdict) for verdict in ("impossible", "tight")
    )
    if over_mib > 0:
        text.append(f"does not fit: {over_mib:,} MiB more than the card has", style="bold red")
    elif int(plan.vllm["max-model-len"]) > plan.predicted.max_model_len:
        text.append("does not fit: a context longer than the KV cache", style="bold red")
    elif impossible:
        text.append(f"fits, but cannot meet {impossible}", style="bold yellow")
    elif tight:
        text.append(f"fits, but {tight} will hardly be met", style="bold yellow")
    else:
        text.append("fits", style="bold green")
    where = f"{card_name} at {plan.gpu}" if card_name else plan.gpu or "the CPU"
    text.append(f"\n{plan.repository} on {where}, {plan.engine}, profile {plan.profile}", style="bold")
    for blocker in blockers:
        text.append(f"\n- {blocker}", style="red")
    return text


def _driver(driver: DriverPlan) -> str:
    if driver.state == "absent":
        return driver.why
    what = f"version {driver.version}" if driver.version else f"branch {driver.branch}"
    return f"{what} of the NVIDIA driver is installed or kept ({driver.modules} modules, {driver.build}): {driver.why}"


def _summary(plan: Plan) -> RenderableType:
    """What it reaches and what limits it."""
    predicted, memory = plan.predicted, plan.predicted.memory
    planned = int(plan.vllm["max-model-len"])
    rows = Table.grid(padding=(0, 2))
    if plan.driver is not None and not plan.driver.blockers:
        rows.add_row("first", _driver(plan.driver))
    starts = f"the server would start with up to {predicted.max_model_len:,}"
    rows.add_row("context", f"{planned:,} tokens a request ({_context_limit(plan)}); {starts}")
    held = (
        f"{predicted.kv_cache_tokens:,} tokens of KV cache: {predicted.requests_of_full_length:g} requests of full context at once"
    )
    if memory is None:
        rows.add_row("memory", held)
        rows.add_row("speed", "no floor is known for a CPU: the smoke benchmark measures it")
        return rows
    sure = "predicted with constants that were measured with this vLLM on such a card"
    if not predicted.calibrated:
        sure = (
            f"predicted; uncalibrated: this vLLM was not measured on such a card, so {_gib(memory.margin_bytes)} GiB are kept back"
        )
    rows.add_row("memory", f"{held}\n{sure}")
    if predicted.ms_per_token_floor is not None:
        rows.add_row("one user", _one_user(plan, predicted.ms_per_token_floor))
        many = [f"{rate:,.0f} for {streams}" for streams, rate in predicted.tokens_per_s_ceiling.items() if streams > 1]
        rows.add_row("many users", f"at best, in tokens/s of all together: {', '.join(many)} at once" if many else "one at a time")
    if predicted.load_s_floor is not None:
        rows.add_row("start", f"at best {predicted.load_s_floor:g} s for the weights over the card's link; the disk may be slower")
    return rows


def _context_limit(plan: Plan) -> str:
    """What the planned context is limited by."""
    decision = next(decision for decision in plan.decisions if decision.key == "max-model-len")
    planned, longest, memory = int(decision.value), plan.predicted.max_model_len, plan.predicted.memory
    if decision.source == "inventory: engine_settings":
        return "as you set it"
    if planned < longest:
        return "all that profile and needs ask for"
    holds = plan.predicted.kv_cache_tokens - (memory.block_tokens if memory else 0)
    return "limited by memory" if longest == holds else "limited by the model"


def _one_user(plan: Plan, token_ms: float) -> str:
    predicted = plan.predicted
    first_ms, answer_ms = predicted.ttft_floor_ms or 0.0, predicted.e2e_floor_ms or 0.0
    # where a prompt takes no longer than reading the weights once, arithmetic does not matter
    prompt = "" if first_ms <= round(token_ms, 1) else "; the first token by its arithmetic"
    return (
        f"at best {token_ms:.2f} ms a token ({1000 / token_ms:,.0f} tokens/s), the first after {first_ms:,g} ms, the smoke "
        f"benchmark's answer of {plan.smoke.max_tokens} tokens after {answer_ms:,.0f} ms\n"
        f"limited by the card's memory bandwidth: each token reads all weights{prompt}"
    )


class Share(NamedTuple):
    """One part of a card's memory."""

    letter: str
    """That stands for it in the bar."""
    name: str
    size_bytes: int
    colour: str
    in_budget: bool
    """Whether vLLM takes it out of its budget."""


def shares(memory: MemoryBudget) -> list[Share]:
    """The parts of a card's memory, those within vLLM's budget first; together they are all of it, and more where it runs out."""
    found = [
        Share("W", "weights", memory.weights_bytes, "blue", True),
        Share("A", "activation", memory.peak_bytes, "magenta", True),
        Share("L", "libraries", memory.non_torch_bytes, "cyan", True),
        Share("G", "graphs", memory.graphs_bytes, "yellow", memory.graphs_in_budget),
        Share("S", "sampler", memory.buffers_bytes, "red", memory.buffers_in_budget),
        Share("K", "KV cache", max(0, memory.kv_cache_bytes), "green", True),
        Share("m", "kept back", memory.margin_bytes, "bright_green", True),
        Share("C", "context", memory.context_bytes, "bright_cyan", False),
        Share(".", "left", max(0, memory.left_bytes), "white", False),
    ]
    return sorted(found, key=lambda share: not share.in_budget)


def cells(sizes: Sequence[int], total: int) -> list[int]:
    """Divide a bar's cells by size: all of them are given away, and what is there at all has one at least."""
    rest = total - sum(size > 0 for size in sizes)
    given = [(size > 0) + size * rest // sum(sizes) for size in sizes]
    largest = max(range(len(sizes)), key=lambda index: sizes[index])
    given[largest] += total - sum(given)
    return given


class MemoryBar:
    """The card's memory as a bar of letters, so that it can be read without colours; brackets hold what vLLM may take."""

    def __init__(self, memory: MemoryBudget) -> None:
        """Keep what is shown."""
        self.memory = memory

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it as wide as the terminal allows."""
        memory, parts = self.memory, shares(self.memory)
        sizes = (memory.total_bytes, memory.budget_bytes, memory.total_bytes - memory.budget_bytes)
        labels = [f"{_gib(size)} GiB" for size in sizes]
        width = options.max_width - max(map(len, labels)) - len("  []")
        bars, legends = {True: Text(), False: Text()}, {True: Text(), False: Text()}
        counts = cells([share.size_bytes for share in parts], max(len(parts), min(_MOST_CELLS, width)))
        for share, count in zip(parts, counts, strict=True):
            bars[share.in_budget].append(share.letter * count, style=f"bold {share.colour}")
            if share.size_bytes:
                legend = legends[share.in_budget]
                legend.append(", " if legend else "").append(share.letter, style=f"bold {share.colour}")
                legend.append(f" {share.name} {_gib(share.size_bytes)}")
        rows = Table.grid(padding=(0, 2))
        rows.add_column(justify="right")
        rows.add_row(labels[0], Text.assemble("[", bars[True], "]", bars[False]))
        rows.add_row(labels[1], Text("[ ] vLLM's budget: ").append_text(legends[True]))
        rows.add_row(labels[2], Text("beyond it: ").append_text(legends[False]))
        yield rows


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f}"


def _checks(plan: Plan) -> RenderableType:
    checked = {check.metric: check for check in plan.checks}
    table = _table("Acceptance line", "What it is", "At most", "Floor", "Verdict", "")
    for metric, at_most_ms in plan.smoke.lines.items():
        name, _, percentile = metric.removesuffix("_ms").partition("_")
        what = f"{_METRICS.get(name, name)}, {percentile.upper()}"
        check = checked.get(metric)
        verdict = check.verdict if check else "unknown"
        floor = f"{check.floor_ms:,.0f} ms" if check and check.floor_ms is not None else "?"
        shown = Text(verdict, style=_CHECK_STYLES[verdict])
        table.add_row(metric, what, f"{at_most_ms:,g} ms", floor, shown, Text(_CHECK_MEANS[verdict], style="dim"))
    return table


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _decisions(plan: Plan) -> RenderableType:
    table = _table("Setting")
    table.add_column("Value", max_width=30, overflow="fold")
    table.add_column("Why [source; whole, with its formula: --explain SETTING]".replace("[", r"\["))
    first_with: dict[str, str] = {}
    for decision in (*plan.decisions, *_set_beside(plan)):
        if _ORDINARY.get(decision.key) == decision.value:
            continue
        alike = first_with.setdefault(decision.why, decision.key)
        repeated = alike != decision.key and len(decision.why) > _SHORT
        why = Text(f"as for {alike}" if repeated else _folded(decision.why))
        source, _, more = decision.source.partition("; ")
        why.append(f" [{source}{' …' if more else ''}]", style="dim")
        table.add_row(decision.key, escape(str(decision.value)), why)
    return table


def _folded(why: str) -> str:
    """Cut off the end of what is very long, such as the list of all that was tried in vain."""
    return why if len(why) <= _LONG else f"{why[:_LONG].rpartition('; ')[0] or why[:_LONG]}; …"


def _set_beside(plan: Plan) -> Iterator[Decision]:
    """Settings of the host that the plan makes and that are no decisions of their own yet."""
    decided = {decision.key for decision in plan.decisions}
    for setting in plan.host:
        if setting.state == "set" and setting.key not in decided:
            yield Decision(key=setting.key, value=setting.value, why=setting.why, source=setting.source)


def _offered(settings: Iterable[HostSetting]) -> RenderableType:
    table = _table("Offered, not set", "Now", "Would be", "Evidence", "Why")
    for setting in settings:
        table.add_row(setting.key, escape(setting.now or "?"), escape(setting.value), setting.evidence, escape(setting.why))
    return table


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """One finding in place of several that differ in nothing but the card's address."""
    together: dict[tuple[str, str, str], list[tuple[Finding, str]]] = {}
    for finding in findings:
        addresses = _AT_ADDRESS.findall(finding.text)
        about = _AT_ADDRESS.sub("", finding.text) if len(set(addresses)) == 1 else finding.text
        together.setdefault((finding.level, about, finding.cost), []).append((finding, addresses[0] if addresses else ""))
    return [
        alike[0][0]
        if len(alike) == 1
        else alike[0][0].model_copy(update={"text": f"{about} ({len(alike)} cards: {', '.join(address for _, address in alike)})"})
        for (_, about, _), alike in together.items()
    ]


def _findings(findings: Sequence[Finding]) -> RenderableType:
    if not findings:
        return Text("Nothing wrong or wasted was found.", style="green")
    table = _table("", "Found → what it may cost")
    for finding in findings:
        text = Text(finding.text)
        if finding.cost:
            text.append(f" → {finding.cost}", style="dim")
        table.add_row(Text(finding.level, style=_LEVEL_STYLES[finding.level]), text)
    return table


def explain(plan: Plan, key: str) -> RenderableType:
    """One value in depth, with its formula and the numbers filled in.

    Raises:
        BringupError: the plan has no such value; the message names the nearest.
    """
    memory = plan.predicted.memory
    decisions = {decision.key: decision for decision in plan.decisions}
    settings = {setting.key: setting for setting in plan.host}
    known = [*decisions, *settings, *(["kv-cache"] if memory is not None else [])]
    # vLLM's options have dashes, the host's settings underscores; people write either
    found = next((name for name in known if name.replace("_", "-") == key.strip().lstrip("-").replace("_", "-")), None)
    if found is None:
        raise BringupError(f"the plan decides nothing called '{key}': {nearest(key, known)}")
    text = Text()
    decision, setting = decisions.get(found), settings.get(found)
    if decision is not None:
        text.append(f"{decision.key} = {decision.value}\n", style="bold")
        text.append(f"why             {decision.why}\nsource          {decision.source}\n")
    elif setting is not None:
        text.append(f"{setting.key} = {setting.value}", style="bold").append(
            {"set": "", "offered": " (offered, not set)", "kept": " (kept as it is: inventory)"}[setting.state]
        )
        text.append(f"\nwhy             {setting.why}\nsource          {setting.source}\n")
    if setting is not None:
        text.append(f"now             {setting.now or 'not known'}\nevidence        {setting.evidence}\n")
        text.append(f"read back with  {setting.read_back}\n")
    if memory is not None and found in _MEMORY_KEYS:
        text.append(_memory_formula(memory))
        text.append(_context_formula(plan, memory))
    return text


_MEMORY_KEYS = (
    "kv-cache",
    "weights",
    "max-model-len",
    "gpu-memory-utilization",
    "max-num-seqs",
    "max-num-batched-tokens",
    "kv-cache-dtype",
    "block-size",
    "enforce-eager",
)


def _memory_formula(memory: MemoryBudget) -> str:
    terms = {
        "weights": "weights, rotary table, what the allocator rounds up",
        "activation": "peak of the largest batch (max-num-batched-tokens, max-num-seqs)",
        "libraries": "CUDA libraries and kernels",
        "graphs": "CUDA graphs (max-num-seqs)",
        "sampler": "the sampler's tables (max-num-seqs)",
        "kept back": "kept back: not measured with this vLLM on such a card",
        "context": "CUDA context",
    }
    parts = [share for share in shares(memory) if share.name in terms and share.size_bytes]
    inside = [f"- {share.size_bytes:>15,}  {terms[share.name]}" for share in parts if share.in_budget]
    beyond = [f"- {share.size_bytes:>15,}  {terms[share.name]}" for share in parts if not share.in_budget]
    block = f"{memory.bytes_per_token:,} a token × {memory.block_tokens} tokens"
    lines = [
        "\nThe KV cache in bytes, as vLLM accounts for it (bringup/plan/capacity.py):",
        f"  {memory.budget_bytes:>15,}  budget: gpu-memory-utilization × {memory.total_bytes:,} that CUDA sees",
        *inside,
        f"= {memory.kv_cache_bytes:>15,}  KV cache",
        f"/ {memory.bytes_per_token * memory.block_tokens:>15,}  a block: {block}",
        f"= {memory.kv_cache_tokens:>15,}  tokens in whole blocks",
        "\nThe rest of the card in bytes:",
        f"  {memory.total_bytes - memory.budget_bytes:>15,}  beyond the budget",
        *beyond,
        f"= {memory.left_bytes:>15,}  left for a display and other programs",
    ]
    return "\n".join(lines) + "\n"


def _context_formula(plan: Plan, memory: MemoryBudget) -> str:
    one = memory.kv_cache_tokens - memory.block_tokens
    return (
        f"\nThe longest single request: {memory.kv_cache_tokens:,} tokens - 1 block of {memory.block_tokens} = {one:,}; the server "
        f"would start with up to {plan.predicted.max_model_len:,}, planned are {int(plan.vllm['max-model-len']):,}\n"
    )


def compare_plans(before: dict[str, Any], after: dict[str, Any]) -> RenderableType:
    """What differs between two plans as `bringup plan --json` prints them, and why the second has its value."""
    old, new = ({item["key"]: item for item in plan["decisions"]} for plan in (before, after))
    table = _table("Setting", "Before", "After", "Why")
    for key in [*new, *(key for key in old if key not in new)]:
        was, now = old.get(key, {}).get("value", "unset"), new.get(key, {}).get("value", "unset")
        if was != now:
            why = _folded(new[key].get("why", "")) if key in new else "the second plan leaves it alone"
            table.add_row(key, escape(str(was)), escape(str(now)), escape(why))
    for name, what in _COMPARED.items():
        was, now = (_figure(plan.get("predicted", {}).get(name)) for plan in (before, after))
        if was != now:
            table.add_row(what, was, now, "predicted")
    verdicts = [{check["metric"]: check["verdict"] for check in plan.get("checks", [])} for plan in (before, after)]
    for metric in dict.fromkeys([*verdicts[0], *verdicts[1]]):
        was, now = (found.get(metric, "not checked") for found in verdicts)
        if was != now:
            table.add_row(metric, was, now, "acceptance line against its floor")
    return table if table.row_count else Text("The plans decide the same.", style="green")


_COMPARED = {
    "kv_cache_tokens": "KV cache, tokens",
    "max_model_len": "longest request, tokens",
    "ms_per_token_floor": "floor, ms a token",
    "e2e_floor_ms": "floor, ms an answer",
}


def _figure(value: float | None) -> str:
    return "not known" if value is None else f"{value:,}"
