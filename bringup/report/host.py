"""What the page says about one run: pure functions from the record to texts, tables and pictures; the template only places them."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from bringup.report.charts import Distribution, Mark, Part, distribution, ladder, stacked
from bringup.report.figures import (
    MEANINGS,
    METRICS,
    SYMBOLS,
    Metric,
    judged_stage,
    knee_words,
    ladder_steps,
    memory_parts,
    milliseconds,
    of_plan,
    quality_words,
    series_peak,
    token_range,
    values_of,
)
from bringup.report.host_tables import (
    OUTCOME_CSS,
    against_table,
    decisions_table,
    errors_table,
    findings_table,
    lines_table,
    quality_table,
    samples_table,
    spread_table,
    stages_table,
)
from bringup.report.panels import stage_name
from bringup.report.svg import number
from bringup.report.tables import TableView, table
from bringup.report.timeline_chart import TimeChart, time_chart
from bringup.smoke.diagnosis.model import Cause
from bringup.smoke.model import SmokeReport, Stage
from bringup.smoke.summary import measured, succeeded
from bringup.smoke.verdict import floors_of


@dataclass(frozen=True)
class Picture:
    """A chart with its words."""

    title: str
    svg: Markup
    notes: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    """Colour and name of each curve, where there are several."""


@dataclass(frozen=True)
class Memory:
    """The card's memory as planned, and as it was found."""

    planned: Markup
    found: Markup | None
    legend: tuple[tuple[str, str, str], ...]
    """Class, name and size of each part."""
    note: str


@dataclass(frozen=True)
class HostView:
    """Everything that stands on one host's page, in its order."""

    host: str
    outcome: str
    css: str
    symbol: str
    meaning: str
    reason: str
    served: tuple[tuple[str, str], ...]
    lines: TableView
    causes: tuple[Cause, ...]
    against: TableView | None
    memory: Memory | None
    distributions: tuple[Picture, ...]
    spread: TableView | None
    stages: TableView
    stage_notes: tuple[str, ...]
    errors: TableView | None
    time: TimeChart
    samples: TableView | None
    ladder: tuple[Picture, ...]
    ladder_table: TableView | None
    ladder_words: str
    quality: TableView | None
    quality_words: str
    findings: TableView | None
    decisions: TableView | None
    commands: tuple[tuple[str, str], ...]


def host_view(report: SmokeReport, record: Path | None) -> HostView:
    """Work out one host's page."""
    stage = judged_stage(report)
    pictures, ladder_table = _ladder(report)
    return HostView(
        host=report.host,
        outcome=report.outcome,
        css=OUTCOME_CSS[report.outcome],
        symbol=SYMBOLS[report.outcome],
        meaning=MEANINGS[report.outcome],
        reason=report.reason,
        served=tuple(served(report)),
        lines=lines_table(report),
        causes=report.causes,
        against=against_table(report),
        memory=_memory(report),
        distributions=tuple(_distributions(report, stage)) if stage is not None else (),
        spread=spread_table(stage) if stage is not None else None,
        stages=stages_table(report),
        stage_notes=tuple(_stage_notes(report)),
        errors=errors_table(report),
        time=time_chart(report),
        samples=samples_table(report),
        ladder=pictures,
        ladder_table=ladder_table,
        ladder_words=knee_words(report),
        quality=quality_table(report),
        quality_words=quality_words(report),
        findings=findings_table(report),
        decisions=decisions_table(report),
        commands=tuple(commands(report, record)),
    )


def served(report: SmokeReport) -> list[tuple[str, str]]:
    """Return what was served, where and when, by name."""
    stage, request = judged_stage(report), report.request
    from_where = report.measured_from
    pairs = [
        ("Model", request.model),
        ("Server", f"vLLM {report.server.vllm_version}" if report.server.vllm_version else "version unknown"),
        ("Card", _card(report)),
        ("Profile", report.profile or ""),
        ("Release", report.release or ""),
        ("Load", _load(stage) if stage is not None else "none ran"),
        ("Measured", f"{report.started_at[:19].replace('T', ' ')} UTC{f', from {from_where}' if from_where else ''}"),
    ]
    return [(name, value) for name, value in pairs if value]


def _card(report: SmokeReport) -> str:
    if report.timeline is not None and report.timeline.cards:
        return ", ".join(dict.fromkeys(card.name for card in report.timeline.cards))
    if report.plan is None:
        return ""
    return "none: served on the CPU" if of_plan(report, "gpu") is None else f"at {of_plan(report, 'gpu')}"


def _load(stage: Stage) -> str:
    good = succeeded(measured(stage.requests))
    prompt, answer = (token_range([getattr(sample, name) for sample in good]) for name in ("prompt_tokens", "completion_tokens"))
    counts = f"{len(good):,} of {len(measured(stage.requests)):,} requests succeeded"
    return f"{counts}; {stage_name(stage)}; prompt {prompt} tokens, answer {answer} tokens"


def _memory(report: SmokeReport) -> Memory | None:
    parts = memory_parts(report)
    if parts is None:
        return None
    planned, total = parts
    peak = series_peak(report, "gpu_memory_mib")
    found = None
    if peak is not None:
        used = peak / 1024
        found = stacked(
            [Part("in use", used, "found"), Part("free", max(0.0, total - used), "left")],
            total,
            "Memory that was found in use",
            "GiB",
        )
    legend = tuple((part.css, part.name, f"{part.size:.2f} GiB") for part in planned)
    note = (
        "No sample of the card's memory is in the record."
        if peak is None
        else f"Found in use: {peak / 1024:.2f} of {total:.2f} GiB, the most of all samples, other programs included."
    )
    return Memory(stacked(planned, total, "Planned use of the card's memory", "GiB"), found, legend, note)


def _distributions(report: SmokeReport, stage: Stage) -> list[Picture]:
    found = []
    for metric in METRICS:
        values = values_of(stage, metric)
        if not values:
            continue
        counts = "gaps" if metric == "itl" else "requests"
        drawn: Distribution = distribution(metric.upper(), values, _marks(report, metric), counts)
        found.append(Picture(f"{metric.upper()}, {len(values):,} {counts}", drawn.svg, drawn.notes))
    return found


def _marks(report: SmokeReport, metric: Metric) -> list[Mark]:
    lines = [verdict for verdict in report.verdicts if verdict.metric.startswith(f"{metric}_")]
    marks = [Mark(f"line {verdict.metric.split('_')[1].upper()}", verdict.at_most, "limit") for verdict in lines]
    least = floors_of(report.plan, report.request.prompt, report.request.max_tokens).get(metric)
    return [*marks, *([Mark("floor", least, "floor")] if least else [])]


def _stage_notes(report: SmokeReport) -> list[str]:
    notes = [f"{stage_name(stage)}: {stage.note}" for stage in report.stages if stage.note]
    return [*notes, *(f"{skipped.name} was not run: {skipped.reason}" for skipped in report.skipped)]


def _ladder(report: SmokeReport) -> tuple[tuple[Picture, ...], TableView | None]:
    found = ladder_steps(report)
    if not found:
        return (), None
    knee = report.ladder.knee_concurrency if report.ladder is not None else None
    throughput, latency = ladder(found, knee)
    rows = [
        (
            f"{number(step.concurrency)}{' (knee)' if step.concurrency == knee else ''}",
            "–" if step.tokens_per_s is None else number(step.tokens_per_s),
            "–" if step.ceiling is None else number(step.ceiling),
            milliseconds(step.ttft_p90_ms),
            milliseconds(step.itl_p90_ms),
        )
        for step in found
    ]
    headings = ("In flight", "tokens/s", "at most (plan)", "TTFT P90", "ITL P90")
    ceiling = ("dotted: what the plan says no software can exceed",) if any(step.ceiling is not None for step in found) else ()
    return (
        (
            Picture("Output tokens/s", throughput, ceiling),
            Picture("P90 in ms, logarithmic", latency, names=(("b", "TTFT"), ("c", "ITL"))),
        ),
        table("The ladder", headings, rows, (0, 1, 2, 3, 4)),
    )


def commands(report: SmokeReport, record: Path | None) -> list[tuple[str, str]]:
    """Return what each command is for, and the command: to repeat the run, and to see it again."""
    file = shlex.quote(str(record or "RECORD.json"))
    if report.release is not None:  # made by a deploy, on the host itself
        again = f"pyinfra -y INVENTORY deploys/qwen.py --limit {shlex.quote(report.host)} --data smoke=always"
    else:
        again = f"python -m bringup.smoke {file} --record-dir ."
    return [
        (f"To repeat it against {report.request.base_url} on {report.host}", again),
        ("To see it in a terminal", f"bringup report {file}"),
        ("To make this page from the record", f"bringup report html {file} -o report.html"),
        ("To hold another run against it", f"bringup report compare {file} OTHER.json"),
    ]
