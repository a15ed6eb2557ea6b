"""What the page of several records says above the hosts' own reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from markupsafe import Markup

from bringup.report.charts import sparkline
from bringup.report.figures import amount, judged_stage, milliseconds, values_of
from bringup.report.host import HostView, host_view
from bringup.report.host_tables import outcome_tag
from bringup.report.svg import number
from bringup.report.tables import Cell, TableView, table
from bringup.smoke.model import MetricName, Outcome, SmokeReport
from bringup.smoke.verdict import label

_ORDER: dict[Outcome, int] = {"FAIL": 0, "INCONCLUSIVE": 1, "PASS": 2}
_WORDS: dict[Outcome, str] = {"FAIL": "fail", "INCONCLUSIVE": "cannot tell yet", "PASS": "pass"}


@dataclass(frozen=True)
class FleetView:
    """The page of several records."""

    headline: str
    css: str
    hosts: TableView
    notes: tuple[str, ...]
    sections: tuple[tuple[str, HostView], ...]
    """Place on the page, and what stands there."""


def fleet_view(reports: Sequence[SmokeReport], records: Sequence[Path | None]) -> FleetView:
    """Put several records together, what needs attention first."""
    together = sorted(
        zip(reports, records, strict=True), key=lambda pair: (_ORDER[pair[0].outcome], pair[0].host, pair[0].started_at)
    )
    ordered = [report for report, _ in together]
    counts = {outcome: sum(report.outcome == outcome for report in ordered) for outcome in _ORDER}
    said = ", ".join(f"{count} {_WORDS[outcome]}" for outcome, count in counts.items() if count)
    hosts = len({report.host for report in ordered})
    runs = "" if hosts == len(ordered) else f" in {len(ordered)} runs"
    worst = min((report.outcome for report in ordered), key=lambda outcome: _ORDER[outcome])
    return FleetView(
        headline=f"{hosts} hosts{runs}: {said}",
        css={"FAIL": "bad", "INCONCLUSIVE": "unsure", "PASS": "ok"}[worst],
        hosts=_hosts(ordered),
        notes=tuple(_notes(ordered)),
        sections=tuple((f"host-{index}", host_view(report, record)) for index, (report, record) in enumerate(together, 1)),
    )


def _hosts(reports: Sequence[SmokeReport]) -> TableView:
    every = [verdict for report in reports for verdict in report.verdicts]
    # a column of nothing but zeros says nothing
    metrics = list(dict.fromkeys(verdict.metric for verdict in every if verdict.metric != "failed_requests" or verdict.measured))
    headings = ["Host", "Verdict", *map(label, metrics), "TPOT P50", "tokens/s", "E2E in order"]
    typical = _typical(reports)
    rows: list[list[Cell]] = []
    for index, report in enumerate(reports, 1):
        rows.append(
            [
                Markup('<a href="#host-{}">{}</a> <span class="when">{}</span>').format(
                    index, report.host, report.started_at[:16].replace("T", " ")
                ),
                outcome_tag(report.outcome),
                *(_line(report, metric) for metric in metrics),
                *_speed(report, typical),
                _order(report),
            ]
        )
    notes = [f"Most likely cause: {report.causes[0].title}." if report.causes else report.reason for report in reports]
    return table("The hosts, what needs attention first", headings, rows, range(2, 4 + len(metrics)), notes)


def _line(report: SmokeReport, metric: MetricName) -> Cell:
    verdict = next((verdict for verdict in report.verdicts if verdict.metric == metric), None)
    if verdict is None:
        return "–"
    symbol = {"PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "?"}[verdict.outcome]
    css = {"PASS": "ok", "FAIL": "bad", "INCONCLUSIVE": "unsure"}[verdict.outcome]
    said = f"{'–' if verdict.measured is None else number(verdict.measured)} / {amount(metric, verdict.at_most)}"
    return Markup('<span class="{}">{}</span> {}').format(css, symbol, said)


def _token_ms(report: SmokeReport) -> float | None:
    stage = judged_stage(report)
    return stage.summary.tpot.p50 if stage is not None and stage.summary.tpot is not None else None


def _typical(reports: Sequence[SmokeReport]) -> float | None:
    known = [value for report in reports if (value := _token_ms(report)) is not None]
    return median(known) if len(known) > 2 else None


def _speed(report: SmokeReport, typical: float | None) -> list[Cell]:
    stage, token_ms = judged_stage(report), _token_ms(report)
    rate = stage.summary.output_tokens_per_s if stage is not None else None
    against = "" if typical is None or token_ms is None else f" (× {token_ms / typical:.2f})"
    return [f"{milliseconds(token_ms)}{against}", "–" if rate is None else number(rate)]


def _order(report: SmokeReport) -> Cell:
    stage = judged_stage(report)
    values = values_of(stage, "e2e") if stage is not None else []
    return (
        sparkline(values, f"E2E of {len(values)} requests in their order, {number(min(values))} to {number(max(values))} ms")
        if values
        else "–"
    )


def _notes(reports: Sequence[SmokeReport]) -> list[str]:
    notes = ["Each line: measured / at most. E2E in order: from the first request to the last, from zero up."]
    if _typical(reports) is not None:
        notes.append("TPOT: in brackets, against the median of these hosts.")
    loads = {
        judged.load.model_dump_json(exclude={"requests"}) for report in reports if (judged := judged_stage(report)) is not None
    }
    if len(loads) > 1:
        notes.append("The hosts were measured under different loads, so their figures cannot be held against each other.")
    for what, values in (
        ("models", {report.request.model for report in reports}),
        ("versions of vLLM", {report.server.vllm_version or "unknown" for report in reports}),
        ("releases", {report.release for report in reports if report.release}),
    ):
        if len(values) > 1:
            notes.append(f"Different {what}: {', '.join(sorted(values))}.")
    return notes
