"""The smoke report for a terminal."""

from collections.abc import Iterator
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bringup.report.figures import (
    METRICS,
    against_plan,
    bounds,
    error_counts,
    floor,
    judged_stage,
    knee_words,
    ladder_steps,
    milliseconds,
    quality_words,
    token_range,
)
from bringup.report.host import commands
from bringup.report.panels import stage_name
from bringup.report.svg import number
from bringup.smoke.definitions import DEFINITIONS
from bringup.smoke.model import Quantiles, SmokeReport, Stage
from bringup.smoke.summary import measured, succeeded
from bringup.smoke.verdict import label

_STYLES = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}
_MOST_ERRORS = 3


def render(report: SmokeReport, record: Path | None = None) -> RenderableType:
    """Return the report with the verdict first; `record` is the file it is kept in, for the commands at the end."""
    return Group(*_parts(report, record))


def _parts(report: SmokeReport, record: Path | None) -> Iterator[RenderableType]:
    yield _verdict(report)
    yield Text()
    yield _lines(report)
    for verdict in report.verdicts:
        if verdict.note:
            yield Text(f"{label(verdict.metric)}: {verdict.note}", style="dim")
    yield from _causes(report)
    yield Text()
    yield _latency(report)
    yield from _counts(report)
    if ladder_steps(report):
        yield Text()
        yield _ladder(report)
        yield Text(knee_words(report))
    if rows := against_plan(report):
        yield Text()
        table = _table("Plan against measured", "Planned", "Found", "Difference")
        for row in rows:
            table.add_row(row.what, row.planned, row.found, row.difference)
        yield table
    if report.quality is not None:
        yield Text(f"\nAnswers: {quality_words(report)}")
    yield Text()
    yield Text(" ".join(f"{term}: {meaning}." for term, meaning in DEFINITIONS.items()), style="dim")
    yield Text()
    if record is not None:
        yield Text(f"Record: {record}", overflow="fold")
    for what, command in commands(report, record)[: 1 if record is None else None]:
        yield Text(f"{what}:\n  {command}", overflow="fold")


def _verdict(report: SmokeReport) -> Text:
    verdict = Text(f"{report.outcome}", style=_STYLES[report.outcome])
    verdict.append(f"  {report.request.model} on {report.host}", style="bold")
    if report.reason:
        verdict.append(f"\n{report.reason}", style="")
    served = [
        f"vLLM {report.server.vllm_version}" if report.server.vllm_version else "server version unknown",
        f"context {report.server.max_model_len:,} tokens" if report.server.max_model_len else "",
        f"profile {report.profile}" if report.profile else "",
        f"release {report.release}" if report.release else "",
        f"{report.started_at[:19].replace('T', ' ')} UTC",
        f"from {report.measured_from}" if report.measured_from else "",
    ]
    return verdict.append("\n" + ", ".join(filter(None, served)), style="dim")


def _table(first: str, *numeric: str) -> Table:
    table = Table(first, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in numeric:
        table.add_column(heading, justify="right")
    return table


def _lines(report: SmokeReport) -> Table:
    table = Table("Line, in ms", "Verdict", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("Measured", "At most", "Bounds", "Floor"):
        table.add_column(heading, justify="right", no_wrap=heading in ("Measured", "At most"))
    for verdict in report.verdicts:
        table.add_row(
            label(verdict.metric),
            Text(verdict.outcome, style=_STYLES[verdict.outcome]),
            "not measured" if verdict.measured is None else number(verdict.measured),
            number(verdict.at_most),
            bounds(verdict, ""),
            floor(verdict, ""),
        )
    return table


def _causes(report: SmokeReport) -> Iterator[RenderableType]:
    if report.causes:
        yield Text("\nWhy, most likely first", style="bold")
    for place, cause in enumerate(report.causes, 1):
        text = Text(f"{place}. {cause.title} ({cause.confidence} confidence)\n", style="")
        for evidence in cause.evidence:
            text.append(f"   - {evidence}\n", style="dim")
        yield text.append(f"   What to do: {cause.fix}")


def _latency(report: SmokeReport) -> Table:
    """P50, P90 and P99 of each metric where one stage ran; of several stages, what tells them apart."""
    if len(report.stages) <= 1:
        table = _table("Latency", "P50", "P90", "P99")
        for stage in report.stages:
            for metric in METRICS:
                found: Quantiles | None = getattr(stage.summary, metric)
                values = (found.p50, found.p90, found.p99) if found else (None, None, None)
                table.add_row(metric.upper(), *("not measured" if value is None else milliseconds(value) for value in values))
        return table
    table = _table("Stage, in ms", "TTFT P50", "P90", "ITL P50", "P90", "P99", "E2E P90", "tokens/s")
    for stage in report.stages:
        summary = stage.summary
        ttft, itl, e2e = summary.ttft, summary.itl, summary.e2e
        figures = (*((ttft.p50, ttft.p90) if ttft else (None,) * 2), *((itl.p50, itl.p90, itl.p99) if itl else (None,) * 3))
        last = (e2e.p90 if e2e else None, summary.output_tokens_per_s)
        table.add_row(stage_name(stage), *("–" if value is None else number(value) for value in (*figures, *last)))
    return table


def _counts(report: SmokeReport) -> Iterator[RenderableType]:
    stage = judged_stage(report)
    if stage is not None:
        yield Text(_counts_of(stage))
    for other in report.stages:
        if other is not stage and other.summary.failed:
            yield Text(f"{stage_name(other)}: {other.summary.failed} of {other.summary.count} requests failed", style="red")
        if other.note:
            yield Text(f"{stage_name(other)}: {other.note}", style="dim")
    for skipped in report.skipped:
        yield Text(f"{skipped.name} was not run: {skipped.reason}", style="dim")
    errors = error_counts(sample for one in report.stages for sample in one.requests)
    for text, times in errors[:_MOST_ERRORS]:
        yield Text(f"{times} × {text}", style="red")
    if len(errors) > _MOST_ERRORS:
        yield Text(f"and {len(errors) - _MOST_ERRORS} other errors; the record holds them all", style="red")


def _counts_of(stage: Stage) -> str:
    good = succeeded(measured(stage.requests))
    speed = stage.summary.output_tokens_per_s
    counts = f"{stage_name(stage)}: {len(good)} of {stage.summary.count} requests succeeded"
    if not good:
        return counts
    return (
        f"{counts};"
        f" prompt {token_range([sample.prompt_tokens for sample in good])} tokens,"
        f" answer {token_range([sample.completion_tokens for sample in good])} tokens,"
        f" {'unknown' if speed is None else f'{speed:.1f}'} tokens/s"
    )


def _ladder(report: SmokeReport) -> Table:
    table = _table("Ladder, in flight", "tokens/s", "at most", "TTFT P90", "ITL P90")
    knee = report.ladder.knee_concurrency if report.ladder is not None else None
    for step in ladder_steps(report):
        at_knee = step.concurrency == knee
        table.add_row(
            f"{number(step.concurrency)}{' ← knee' if at_knee else ''}",
            *("–" if value is None else number(value) for value in (step.tokens_per_s, step.ceiling)),
            *(milliseconds(value) for value in (step.ttft_p90_ms, step.itl_p90_ms)),
            style="bold" if at_knee else "",
        )
    return table
