"""The tables of one run's page: pure functions from the record."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from bringup.report.charts import Bullet, bullet, quantile
from bringup.report.figures import (
    METRICS,
    SYMBOLS,
    against_plan,
    amount,
    bounds,
    error_counts,
    floor,
    line_note,
    milliseconds,
    of_plan,
    values_of,
)
from bringup.report.panels import stage_name
from bringup.report.svg import number
from bringup.report.tables import Cell, TableView, table, tag
from bringup.smoke.model import LineVerdict, SmokeReport, Stage
from bringup.smoke.verdict import label

OUTCOME_CSS = {"PASS": "ok", "FAIL": "bad", "INCONCLUSIVE": "unsure"}
_LEVEL_CSS = {"problem": "bad", "impossible": "bad", "warning": "unsure", "note": "quiet"}
_MOST_CHARACTERS = 400
_SHARES = (10, 25, 50, 75, 90, 95, 99, 100)


def lines_table(report: SmokeReport) -> TableView:
    """The acceptance lines, each with its picture."""
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


def against_table(report: SmokeReport) -> TableView | None:
    """What the plan said beside what was found; None where it says nothing."""
    rows = against_plan(report)
    if not rows:
        return None
    return table(
        "What the plan said, and what was found",
        ("", "Planned", "Found", "Difference", "Note"),
        [(row.what, row.planned, row.found, row.difference, row.note) for row in rows],
        (1, 2, 3),
    )


def spread_table(stage: Stage) -> TableView | None:
    """Percentiles of each metric; None where nothing succeeded."""
    ordered = {metric: sorted(values_of(stage, metric)) for metric in METRICS}
    rows = [
        (metric.upper(), f"{len(values):,}", *(milliseconds(quantile(values, share)) for share in _SHARES))
        for metric, values in ordered.items()
        if values
    ]
    headings = ("", "Values", *(f"P{share}" if share < 100 else "Slowest" for share in _SHARES))
    return table("Percentiles (nearest rank)", headings, rows, range(1, len(headings))) if rows else None


def stages_table(report: SmokeReport) -> TableView:
    """The figures of each stage."""
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


def errors_table(report: SmokeReport) -> TableView | None:
    """The errors with how often each came; None where there were none."""
    counts = error_counts(sample for stage in report.stages for sample in stage.requests)
    if not counts:
        return None
    return table(
        "Errors of requests, in all stages", ("Times", "Error"), [(f"{times:,}", _cut(text)) for text, times in counts], (0,)
    )


def samples_table(report: SmokeReport) -> TableView | None:
    """Each series that was sampled, in short: what the pictures are drawn from."""
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


def quality_table(report: SmokeReport) -> TableView | None:
    """The fixed questions with their answers; None where none were asked."""
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


def findings_table(report: SmokeReport) -> TableView | None:
    """What the plan found; None where it found nothing."""
    rows = [
        (
            tag(str(item.get("level", "note")), _LEVEL_CSS.get(str(item.get("level")), "quiet")),
            str(item.get("text", "")),
            str(item.get("cost", "")),
        )
        for item in _dicts(of_plan(report, "findings"))
    ]
    return table("What the plan found", ("", "Found", "What it may cost"), rows) if rows else None


def decisions_table(report: SmokeReport) -> TableView | None:
    """The plan's values with their reasons; None without a plan."""
    rows = [
        (str(item.get("key", "")), str(item.get("value", "")), str(item.get("why", "")), str(item.get("source", "")))
        for item in _dicts(of_plan(report, "decisions"))
    ]
    return table("Each value with its reason", ("Setting", "Value", "Why", "Source"), rows) if rows else None
