"""What the page says about one run: pure functions from the record to texts, tables and pictures; the template only places them."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bringup.report.charts import Bullet, Distribution, Mark, Part, bullet, distribution, ladder, quantile, stacked
from bringup.report.figures import (
    MEANINGS,
    METRICS,
    SYMBOLS,
    Metric,
    against_plan,
    amount,
    bounds,
    error_counts,
    floor,
    judged_stage,
    knee_words,
    ladder_steps,
    line_note,
    memory_parts,
    milliseconds,
    of_plan,
    quality_words,
    series_peak,
    token_range,
    values_of,
)
from bringup.report.svg import number
from bringup.report.tables import Cell, TableView, table, tag
from bringup.report.timeline_chart import TimeChart, stage_name, time_chart
from bringup.smoke.diagnosis.model import Cause
from bringup.smoke.model import LineVerdict, SmokeReport, Stage
from bringup.smoke.summary import measured, succeeded
from bringup.smoke.verdict import floors_of, label

OUTCOME_CSS = {"PASS": "ok", "FAIL": "bad", "INCONCLUSIVE": "unsure"}
_MOST_CHARACTERS = 400
_SHARES = (10, 25, 50, 75, 90, 95, 99, 100)


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
        lines=_lines(report),
        causes=report.causes,
        against=_against(report),
        memory=_memory(report),
        distributions=tuple(_distributions(report, stage)) if stage is not None else (),
        spread=_spread(stage) if stage is not None else None,
        stages=_stages(report),
        stage_notes=tuple(_stage_notes(report)),
        errors=_errors(report),
        time=time_chart(report),
        samples=_samples(report),
        ladder=pictures,
        ladder_table=ladder_table,
        ladder_words=knee_words(report),
        quality=_quality(report),
        quality_words=quality_words(report),
        findings=_findings(report),
        decisions=_decisions(report),
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


def _lines(report: SmokeReport) -> TableView:
    return table(
        "Acceptance lines",
        ("Line", "Verdict", "", "Measured", "Bounds", "At most", "Floor"),
        [
            (
                label(verdict.metric),
                outcome_tag(verdict.outcome),
                line_bullet(verdict),
                amount(verdict.metric, verdict.measured),
                bounds(verdict),
                amount(verdict.metric, verdict.at_most),
                floor(verdict),
            )
            for verdict in report.verdicts
        ],
        (3, 4, 5, 6),
        [line_note(verdict) for verdict in report.verdicts],
    )


def outcome_tag(outcome: str) -> Markup:
    """An outcome that can be told without its colour."""
    return tag(f"{SYMBOLS[outcome]} {outcome}", OUTCOME_CSS[outcome])


def line_bullet(verdict: LineVerdict) -> Markup:
    """The line as a small picture; nothing for a count."""
    if verdict.metric == "failed_requests":
        return Markup("")
    shown = Bullet(verdict.measured, verdict.at_most, verdict.lower, verdict.upper, verdict.floor_ms)
    title = (
        f"{label(verdict.metric)}: {amount(verdict.metric, verdict.measured)}, at most {amount(verdict.metric, verdict.at_most)}"
    )
    return bullet(shown, title, OUTCOME_CSS[verdict.outcome])


def _against(report: SmokeReport) -> TableView | None:
    rows = against_plan(report)
    if not rows:
        return None
    return table(
        "What the plan said, and what was found",
        ("", "Planned", "Found", "Difference", "Note"),
        [(row.what, row.planned, row.found, row.difference, row.note) for row in rows],
        (1, 2, 3),
    )


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


def _spread(stage: Stage) -> TableView | None:
    ordered = {metric: sorted(values_of(stage, metric)) for metric in METRICS}
    rows = [
        (metric.upper(), f"{len(values):,}", *(milliseconds(quantile(values, share)) for share in _SHARES))
        for metric, values in ordered.items()
        if values
    ]
    headings = ("", "Values", *(f"P{share}" if share < 100 else "Slowest" for share in _SHARES))
    return table("Percentiles (nearest rank)", headings, rows, range(1, len(headings))) if rows else None


def _stages(report: SmokeReport) -> TableView:
    headings = (
        "Stage",
        "Requests",
        "Failed",
        "TTFT P50",
        "P90",
        "P99",
        "ITL P50",
        "P90",
        "P99",
        "TPOT P50",
        "E2E P50",
        "P90",
        "tokens/s",
        "goodput",
    )
    rows: list[tuple[Cell, ...]] = []
    for stage in report.stages:
        summary = stage.summary
        ttft, itl, tpot, e2e = summary.ttft, summary.itl, summary.tpot, summary.e2e
        figures = [
            *((ttft.p50, ttft.p90, ttft.p99) if ttft else (None, None, None)),
            *((itl.p50, itl.p90, itl.p99) if itl else (None, None, None)),
            tpot.p50 if tpot else None,
            *((e2e.p50, e2e.p90) if e2e else (None, None)),
        ]
        rows.append(
            (
                stage_name(stage),
                f"{summary.count:,}",
                f"{summary.failed:,}",
                *("–" if value is None else number(value) for value in figures),
                "–" if summary.output_tokens_per_s is None else number(summary.output_tokens_per_s),
                "–" if summary.goodput_rps is None else f"{number(summary.goodput_rps)}/s",
            )
        )
    return table("Latency in ms, by stage", headings, rows, range(1, len(headings)))


def _stage_notes(report: SmokeReport) -> list[str]:
    notes = [f"{stage_name(stage)}: {stage.note}" for stage in report.stages if stage.note]
    return [*notes, *(f"{skipped.name} was not run: {skipped.reason}" for skipped in report.skipped)]


def _errors(report: SmokeReport) -> TableView | None:
    counts = error_counts(sample for stage in report.stages for sample in stage.requests)
    if not counts:
        return None
    return table(
        "Errors of requests, in all stages", ("Times", "Error"), [(f"{times:,}", _cut(text)) for text, times in counts], (0,)
    )


def _samples(report: SmokeReport) -> TableView | None:
    if report.timeline is None:
        return None
    rows = []
    for series in report.timeline.series:
        known = [value for value in series.values if value is not None]
        if known:
            what = series.name.replace("_", " ")
            least, mean, most = (number(value) for value in (min(known), sum(known) / len(known), max(known)))
            rows.append((what, series.label or series.of, series.unit, f"{len(known):,}", least, mean, most))
    headings = ("Series", "Of", "Unit", "Samples", "Least", "Mean", "Most")
    return table("Everything that was sampled", headings, rows, (3, 4, 5, 6)) if rows else None


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


def _quality(report: SmokeReport) -> TableView | None:
    if report.quality is None:
        return None
    rows = [
        (
            tag("✓ right", "ok") if answer.correct else tag("✗ wrong", "bad"),
            answer.question,
            answer.expected,
            _cut(answer.answer),
        )
        for answer in report.quality.answers
    ]
    return table("Fixed questions", ("", "Question", "Expected", "Answer"), rows)


def _cut(text: str) -> str:
    return (
        text
        if len(text) <= _MOST_CHARACTERS
        else f"{text[:_MOST_CHARACTERS]}… ({len(text):,} characters; all of it is in the record)"
    )


def _dicts(found: Any) -> Sequence[dict[str, Any]]:
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list | tuple) else []


def _findings(report: SmokeReport) -> TableView | None:
    rows = [
        (
            tag(str(item.get("level", "note")), _LEVEL_CSS.get(str(item.get("level")), "quiet")),
            str(item.get("text", "")),
            str(item.get("cost", "")),
        )
        for item in _dicts(of_plan(report, "findings"))
    ]
    return table("What the plan found", ("", "Found", "What it may cost"), rows) if rows else None


_LEVEL_CSS = {"problem": "bad", "impossible": "bad", "warning": "unsure", "note": "quiet"}


def _decisions(report: SmokeReport) -> TableView | None:
    rows = [
        (str(item.get("key", "")), str(item.get("value", "")), str(item.get("why", "")), str(item.get("source", "")))
        for item in _dicts(of_plan(report, "decisions"))
    ]
    return table("Each value with its reason", ("Setting", "Value", "Why", "Source"), rows) if rows else None


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
