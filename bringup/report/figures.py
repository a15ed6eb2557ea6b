"""From a record to the figures that its views show, so that terminal, page and comparison say the same: pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from bringup.plan.capacity import MemoryBudget
from bringup.report.charts import LadderStep, Part
from bringup.report.svg import number
from bringup.smoke.model import LineVerdict, MetricName, Quantiles, RequestSample, SmokeReport, Stage
from bringup.smoke.summary import measured, succeeded
from bringup.smoke.verdict import floors_of

Metric = Literal["ttft", "itl", "tpot", "e2e"]
METRICS: tuple[Metric, ...] = ("ttft", "itl", "tpot", "e2e")
SYMBOLS = {"PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "?"}
MEANINGS = {
    "PASS": "every line is proven",
    "FAIL": "a line is missed",
    "INCONCLUSIVE": "the requests prove neither pass nor fail",
}
_MIB = 2**20


def judged_stage(report: SmokeReport) -> Stage | None:
    """Return the stage that the lines were held against: `smoke`, or the first that ran where it did not."""
    return next((stage for stage in report.stages if stage.name == "smoke"), report.stages[0] if report.stages else None)


def values_of(stage: Stage, metric: Metric) -> list[float]:
    """Return a metric's values in ms over the requests that succeeded; for ITL, all gaps of all of them."""
    good = succeeded(measured(stage.requests))
    if metric == "itl":
        return [gap for sample in good for gap in sample.itl_ms]
    return [value for sample in good if (value := getattr(sample, f"{metric}_ms")) is not None]


def amount(metric: MetricName, value: float | None) -> str:
    """Write a metric's value with its unit; `–` for None."""
    if value is None:
        return "–"
    return number(value) if metric == "failed_requests" else milliseconds(value)


def milliseconds(value: float | None) -> str:
    """Write a duration in ms with three digits, and `–` for None."""
    return "–" if value is None else f"{number(value)} ms"


def bounds(verdict: LineVerdict, unit: str = " ms") -> str:
    """Write the bounds of what was measured: `70.1 to 74.3 ms`, `at least 70.1 ms`, `at most 74.3 ms`."""
    low, high = verdict.lower, verdict.upper
    if low is not None and high is not None:
        return f"{number(low)} to {number(high)}{unit}"
    if high is not None:
        return f"at most {number(high)}{unit}"
    return f"at least {number(low)}{unit}" if low is not None else "–"


def floor(verdict: LineVerdict, unit: str = " ms") -> str:
    """Write the floor with how far above it the measured figure is: `7.98 ms (× 1.12)`."""
    if verdict.floor_ms is None:
        return "–"
    ratio = "" if verdict.ratio_to_floor is None else f" (× {verdict.ratio_to_floor:.2f})"
    return f"{number(verdict.floor_ms)}{unit}{ratio}"


def of_plan(report: SmokeReport, *path: str) -> Any:
    """Return a value of the plan in the record; None where there is no plan, or it does not say."""
    found: Any = report.plan
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def series_peak(report: SmokeReport, name: str) -> float | None:
    """Return the highest value of all series of that name; None where it was not sampled."""
    if report.timeline is None:
        return None
    values = [value for series in report.timeline.series if series.name == name for value in series.values if value is not None]
    return max(values, default=None)


def line_note(verdict: LineVerdict) -> str:
    """What limits the claim, or how many requests it rests on."""
    if verdict.note or verdict.metric == "failed_requests":
        return verdict.note
    return (
        f"{verdict.misses:,} of {verdict.samples:,} requests missed it; bounds hold with {verdict.confidence:.0%} confidence each"
    )


def knee_words(report: SmokeReport) -> str:
    """Say where the knee of the ladder is and by which rule; empty where no ladder was run."""
    found = report.ladder
    if found is None:
        return ""
    knee = (
        "No knee was found." if found.knee_concurrency is None else f"The knee is at {found.knee_concurrency:,} requests in flight."
    )
    note = found.note[:1].upper() + found.note[1:]
    return " ".join(part if part.endswith(".") else f"{part}." for part in (knee, note, f"Rule: {found.rule}") if part)


def quality_words(report: SmokeReport) -> str:
    """Say how many of the fixed questions were answered rightly; empty where none were asked."""
    found = report.quality
    if found is None:
        return ""
    counts = f"{found.correct} of {len(found.answers)} right, at least {found.at_least} were asked for beforehand"
    return f"{found.outcome}: {counts}. Rule: {found.rule}."


@dataclass(frozen=True)
class Against:
    """One figure of the plan beside what was found."""

    what: str
    planned: str
    found: str
    difference: str
    note: str = ""


def against_plan(report: SmokeReport) -> list[Against]:
    """Return what the plan said beside what was measured; what the plan says nothing of is left out."""
    rows = [*_capacity(report), *_memory(report), *_floors(report), *_ceilings(report)]
    return [row for row in rows if row.planned != "–"]


def _capacity(report: SmokeReport) -> list[Against]:
    context, served = of_plan(report, "vllm", "max-model-len"), report.server.max_model_len
    longest = max(
        (sample.prompt_tokens or 0 for stage in report.stages for sample in succeeded(measured(stage.requests))), default=0
    )
    kv_planned, kv_found = of_plan(report, "predicted", "kv_cache_tokens"), report.server.kv_cache_tokens
    return [
        Against("KV cache", _tokens(kv_planned), _tokens(kv_found), _share(kv_planned, kv_found), "as vLLM counts it"),
        Against(
            "Context",
            _tokens(context),
            _tokens(served),
            _share(context, served),
            f"longest prompt that was sent: {longest:,} tokens" if longest else "",
        ),
    ]


def _memory(report: SmokeReport) -> list[Against]:
    planned, peak = planned_memory_mib(report), series_peak(report, "gpu_memory_mib")
    return [
        Against(
            "GPU memory in use",
            "–" if planned is None else f"{planned / 1024:.2f} GiB",
            "–" if peak is None else f"{peak / 1024:.2f} GiB",
            _share(planned, peak),
            "vLLM's budget and what lies beside it; found: the most of all samples, other programs included",
        )
    ]


def planned_memory(report: SmokeReport) -> MemoryBudget | None:
    """Return the plan's use of the card's memory; None on the CPU, or where another version of bringup wrote it otherwise."""
    try:
        return MemoryBudget.model_validate(of_plan(report, "predicted", "memory"))
    except ValidationError:
        return None


def planned_memory_mib(report: SmokeReport) -> float | None:
    """Return what the plan says the card's memory in use will be; None on the CPU."""
    memory = planned_memory(report)
    if memory is None:
        return None
    beyond = memory.context_bytes
    beyond += 0 if memory.graphs_in_budget else memory.graphs_bytes
    beyond += 0 if memory.buffers_in_budget else memory.buffers_bytes
    return float(memory.budget_bytes + beyond) / _MIB


def _floors(report: SmokeReport) -> list[Against]:
    alone = next((stage for stage in report.stages if stage.load.concurrency == 1 and stage.name in ("smoke", "ladder")), None)
    if alone is None:
        return []
    summary = alone.summary
    floors = floors_of(report.plan, report.request.prompt, report.request.max_tokens)
    rows: list[tuple[str, float | None, Quantiles | None, str]] = [
        ("A token, one stream", floors.get("tpot"), summary.tpot, f"TPOT P50 of {alone.name}")
    ]
    if alone.name == "smoke":  # the plan's floors are those of its prompt and answer
        rows.append(("First token", floors.get("ttft"), summary.ttft, "TTFT P50"))
        rows.append(("Whole answer", floors.get("e2e"), summary.e2e, "E2E P50"))
    return [
        Against(
            what,
            "–" if least is None else f"at least {milliseconds(least)}",
            milliseconds(figures.p50 if figures else None),
            f"× {figures.p50 / least:.2f}" if figures and least else "–",
            f"{note}; no software can go below the floor",
        )
        for what, least, figures, note in rows
    ]


def _ceilings(report: SmokeReport) -> list[Against]:
    return [
        Against(
            f"Output, {number(step.concurrency)} in flight",
            "–" if step.ceiling is None else f"at most {number(step.ceiling)} tokens/s",
            "–" if step.tokens_per_s is None else f"{number(step.tokens_per_s)} tokens/s",
            f"{step.tokens_per_s / step.ceiling:.0%} of it" if step.tokens_per_s and step.ceiling else "–",
        )
        for step in ladder_steps(report)
    ]


def ladder_steps(report: SmokeReport) -> list[LadderStep]:
    """Return the rungs of the ladder in order, with the plan's ceilings where it has some."""
    ceilings = of_plan(report, "predicted", "tokens_per_s_ceiling")
    ceilings = ceilings if isinstance(ceilings, dict) else {}
    rungs = sorted(
        (stage for stage in report.stages if stage.name == "ladder" and stage.load.concurrency),
        key=lambda one: one.load.concurrency or 0,
    )
    return [
        LadderStep(
            concurrency=float(stage.load.concurrency or 0),
            tokens_per_s=stage.summary.output_tokens_per_s,
            ttft_p90_ms=stage.summary.ttft.p90 if stage.summary.ttft else None,
            itl_p90_ms=stage.summary.itl.p90 if stage.summary.itl else None,
            ceiling=ceilings.get(str(stage.load.concurrency)),
        )
        for stage in rungs
    ]


def memory_parts(report: SmokeReport) -> tuple[list[Part], float] | None:
    """Return the plan's use of the card's memory in GiB, and the whole of it; None on the CPU."""
    memory = planned_memory(report)
    if memory is None:
        return None
    gib = 2**30
    named = (
        ("weights", memory.weights_bytes, "weights"),
        ("KV cache", max(0, memory.kv_cache_bytes), "kv"),
        ("activations", memory.peak_bytes, "peak"),
        ("graphs", memory.graphs_bytes, "graphs"),
        ("libraries and buffers", memory.non_torch_bytes + memory.buffers_bytes, "other"),
        ("kept back", memory.margin_bytes, "kept"),
        ("context", memory.context_bytes, "context"),
    )
    parts = [Part(name, size / gib, css) for name, size, css in named if size > 0]
    total = memory.total_bytes / gib
    left = total - sum(part.size for part in parts)
    return [*parts, *([Part("left", left, "left")] if left > 0 else [])], max(total, total - left)


def error_counts(samples: Iterable[RequestSample]) -> list[tuple[str, int]]:
    """Return the errors of requests that count with how often each came, most frequent first."""
    counts: dict[str, int] = {}
    for sample in measured(samples):  # the tool itself stops those that only keep the load up
        if sample.error is not None:
            counts[sample.error] = counts.get(sample.error, 0) + 1
    return sorted(counts.items(), key=lambda item: -item[1])


def token_range(counts: Sequence[int | None]) -> str:
    """Write token counts as one number, or as `least to most`; `unknown` where the server told none."""
    known = sorted({count for count in counts if count is not None})
    if not known:
        return "unknown"
    return f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"


def _tokens(count: float | None) -> str:
    return "–" if count is None else f"{count:,} tokens"


def _share(planned: float | None, found: float | None) -> str:
    if not planned or found is None:
        return "–"
    return "as planned" if found == planned else f"{found / planned - 1:+.2%}"
