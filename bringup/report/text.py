"""The smoke report for a terminal."""

import shlex
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bringup.smoke.definitions import DEFINITIONS
from bringup.smoke.model import Quantiles, SmokeReport, Stage
from bringup.smoke.summary import measured, succeeded
from bringup.smoke.verdict import label, quantity

_DEFINITIONS = " ".join(f"{term}: {meaning}." for term, meaning in DEFINITIONS.items())
_STYLES = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}


def render(report: SmokeReport, record: Path | None = None) -> RenderableType:
    """Return the report with the verdict first; `record` is the file it is kept in, for the command that repeats it."""
    return Group(
        _verdict(report),
        _lines(report),
        _figures(report),
        Text(_counts(report)),
        Text(_DEFINITIONS, style="dim"),
        Text(),
        _reproduce(report, record),
    )


def _verdict(report: SmokeReport) -> Text:
    request = report.request
    verdict = Text(report.outcome, style=_STYLES[report.outcome])
    verdict.append(f"  {request.model} on {request.host}", style="bold")
    if report.reason:
        verdict.append(f"\n{report.reason}")
    served = [
        f"vLLM {report.server.vllm_version}" if report.server.vllm_version else "server version unknown",
        f"context {report.server.max_model_len} tokens" if report.server.max_model_len else "",
        f"profile {request.profile}" if request.profile else "",
        f"release {request.release}" if request.release else "",
        f"{report.started_at[:19].replace('T', ' ')} UTC",
    ]
    return verdict.append("\n" + ", ".join(filter(None, served)), style="dim")


def _lines(report: SmokeReport) -> Table:
    table = Table("Line", box=box.SIMPLE)
    for heading in ("Measured", "At most"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Verdict")
    table.add_column("Note", overflow="fold")
    for verdict in report.verdicts:
        table.add_row(
            label(verdict.metric),
            quantity(verdict.metric, verdict.measured),
            quantity(verdict.metric, verdict.at_most),
            Text(verdict.outcome, style=_STYLES[verdict.outcome]),
            Text(verdict.note),
        )
    return table


def _figures(report: SmokeReport) -> Table:
    table = Table("Figure", box=box.SIMPLE)
    for heading in ("P50", "P90", "P99"):
        table.add_column(heading, justify="right")
    for stage in report.stages:
        for name in ("ttft", "itl", "tpot", "e2e"):
            found: Quantiles | None = getattr(stage.summary, name)
            values = (found.p50, found.p90, found.p99) if found else (None, None, None)
            table.add_row(name.upper(), *("not measured" if value is None else f"{value:.1f} ms" for value in values))
    return table


def _counts(report: SmokeReport) -> str:
    return "\n".join(_counts_of(stage) for stage in report.stages)


def _counts_of(stage: Stage) -> str:
    good = succeeded(measured(stage.requests))
    speed = stage.summary.output_tokens_per_s
    counts = f"{len(good)} of {stage.summary.count} requests succeeded"
    if stage.load.concurrency is not None:
        counts += f", {stage.load.concurrency} at a time"
    if not good:
        return counts
    return (
        f"{counts};"
        f" prompt {_range([sample.prompt_tokens for sample in good])} tokens,"
        f" answer {_range([sample.completion_tokens for sample in good])} tokens,"
        f" {'unknown' if speed is None else f'{speed:.1f}'} tokens/s"
    )


def _range(counts: list[int | None]) -> str:
    known = sorted({count for count in counts if count is not None})
    if not known:
        return "unknown"
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"


def _reproduce(report: SmokeReport, record: Path | None) -> Text:
    request = report.request
    if request.release is not None:  # made by a deploy, on the host itself
        command = f"pyinfra -y INVENTORY deploys/qwen.py --limit {shlex.quote(request.host)} --data smoke=always"
    else:
        command = shlex.join(["python", "-m", "bringup.smoke", str(record or "RECORD.json"), "--record-dir", "."])
    return Text(f"To repeat it against {request.base_url} on {request.host}:\n  {command}")
