"""A comparison for a terminal."""

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bringup.report.compare import Comparison, Difference
from bringup.report.svg import number

_STYLES = {"slower": "bold red", "faster": "bold green", "no difference shown": "", "too few requests": "dim"}


def render_comparison(found: Comparison, before: str, after: str) -> RenderableType:
    """Put the comparison together; `before` and `after` name the records."""
    return Group(*_parts(found, before, after))


def _parts(found: Comparison, before: str, after: str) -> Iterator[RenderableType]:
    yield headline(found)
    yield Text(f"before: {before}\nafter:  {after}", style="dim")
    if found.loads:
        yield Text(f"The loads differ, so a difference may be the load's: {'; '.join(found.loads)}.", style="bold yellow")
    for table in _differences(found):
        yield Text()
        yield table
    yield Text()
    paired = {difference.paired for difference in found.differences}
    how = (
        "by prompt, request against request"
        if paired == {True}
        else "as two sets of requests"
        if paired == {False}
        else "by prompt where both runs sent the same"
    )
    yield Text(
        f"Compared {how}. The intervals hold together with {found.confidence:.0%} confidence (block bootstrap, seed {found.seed}): "
        "where one includes zero, no difference is shown, which does not mean that there is none within it. They are about "
        "these two runs; what is due to the settings takes several runs of each.",
        style="dim",
    )
    yield Text()
    yield _throughput(found)
    if found.answers is not None:
        yield Text(f"\nAnswers to the fixed questions: {found.answers.words}", style="bold red" if found.answers.worse else "")
    if found.other:
        yield Text()
        yield _three("What else is not the same", found.other)
    if found.plans:
        yield Text()
        yield _three("Decided differently by the plans", found.plans)
    if found.plan_note:
        yield Text(f"\n{found.plan_note}")


def headline(found: Comparison) -> Text:
    """Say in one line what was shown."""
    slower, faster = ([one for one in found.differences if one.verdict == verdict] for verdict in ("slower", "faster"))
    text = Text()
    for verdict, rows in (("slower", slower), ("faster", faster)):
        if rows:
            text.append("; " if text else "").append(f"{verdict.upper()}: ", style=_STYLES[verdict])
            text.append(", ".join(dict.fromkeys(f"{one.metric} {_percent(one)}" for one in rows)))
    if text:
        return text
    if all(one.verdict == "too few requests" for one in found.differences):
        return Text("NOTHING CAN BE SAID: too few requests succeeded", style="bold yellow")
    return Text("NO DIFFERENCE SHOWN", style="bold")


def _percent(found: Difference) -> str:
    if found.change is None or not found.before:
        return ""
    return f"{found.change / found.before:+.1%}"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"


def _differences(found: Comparison) -> Iterator[Table]:
    """One table a stage."""
    for stage in dict.fromkeys(one.stage for one in found.differences):
        rows = [one for one in found.differences if one.stage == stage]
        first, second = rows[0].requests
        counts = f"{first} pairs" if rows[0].paired else f"{first} and {second} requests"
        table = Table(
            title=escape(f"{stage}: {counts}"), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        table.show_edge, table.pad_edge = False, False
        table.add_column("In ms", no_wrap=True)
        for heading in ("Before", "After", "Change", "Interval"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("Verdict", no_wrap=True)
        for one in rows:
            interval = "–" if one.lower is None or one.upper is None else f"{_signed(one.lower)} to {_signed(one.upper)}"
            values = ("–" if value is None else number(value) for value in (one.before, one.after))
            table.add_row(one.metric, *values, _percent(one) or "–", interval, Text(one.verdict, style=_STYLES[one.verdict]))
        yield table


def _throughput(found: Comparison) -> Table:
    table = Table("One figure a run, so without an interval", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("Before", "After"):
        table.add_column(heading, justify="right")
    for one in found.throughput:
        rates = ("–" if rate is None else number(rate) for rate in (one.before, one.after))
        table.add_row(f"{one.stage}: tokens/s", *rates)
        if any(one.failed):
            table.add_row(f"{one.stage}: failed requests", *map(str, one.failed))
    return table


def _three(title: str, rows: tuple[tuple[str, str, str], ...]) -> Table:
    table = Table(title, "Before", "After", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row))
    return table
