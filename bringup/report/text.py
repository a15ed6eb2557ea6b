"""The smoke report for a terminal."""

import shlex
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bringup.smoke.model import SmokeReport
from bringup.smoke.verdict import label, quantity

_DEFINITIONS = (
    "TTFT: sending to first chunk with content. ITL: gap between chunks with content, over all requests. E2E: sending"
    " to last chunk with content. Percentiles: nearest rank. tokens/s: output tokens over E2E time, of one stream."
    " Prompts are salted, so that vLLM's prefix cache does not flatter TTFT."
)


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
    verdict = Text.assemble(("PASS", "bold green") if report.passed else ("FAIL", "bold red"))
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
            Text("pass", style="green") if verdict.passed else Text("FAIL", style="bold red"),
            Text(verdict.note),
        )
    return table


def _figures(report: SmokeReport) -> Table:
    summary = report.summary
    table = Table("Figure", box=box.SIMPLE)
    for heading in ("P50", "P90"):
        table.add_column(heading, justify="right")
    table.add_row("TTFT", quantity("ttft_p50_ms", summary.ttft_p50_ms), quantity("ttft_p90_ms", summary.ttft_p90_ms))
    table.add_row("ITL", quantity("itl_p50_ms", summary.itl_p50_ms), quantity("itl_p90_ms", summary.itl_p90_ms))
    table.add_row("E2E", quantity("e2e_p50_ms", summary.e2e_p50_ms), quantity("e2e_p90_ms", summary.e2e_p90_ms))
    return table


def _counts(report: SmokeReport) -> str:
    succeeded = [sample for sample in report.samples if sample.error is None]
    speed = report.summary.output_tokens_per_s
    counts = (
        f"{len(succeeded)} of {len(report.samples)} requests succeeded,"
        f" {report.request.concurrency} at a time after {report.request.warmup_requests} to warm up"
    )
    if not succeeded:
        return counts
    return (
        f"{counts};"
        f" prompt {_range([sample.prompt_tokens for sample in succeeded])} tokens,"
        f" answer {_range([sample.completion_tokens for sample in succeeded])} tokens,"
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
