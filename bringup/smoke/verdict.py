"""From samples to figures and a verdict: pure functions."""

from collections import Counter
from collections.abc import Sequence

from bringup.smoke.model import AcceptanceLine, LineVerdict, MetricName, RequestSample, SmokeSummary

_P90_NEEDS_REQUESTS = 29  # smallest n with 0.9**n < 0.05: fewer, even all below a line, prove no P90 at 95 % confidence


def nearest_rank(values: Sequence[float], percent: int) -> float | None:
    """Return the smallest value that at least `percent` % (1 to 100) of the values do not exceed; None without any."""
    if not values:
        return None
    rank = -(-len(values) * percent // 100)  # rounded up, in integers: no floating-point slip at the edge
    return sorted(values)[rank - 1]


def summarise(samples: Sequence[RequestSample]) -> SmokeSummary:
    """Reduce the samples to the figures of the report; those of failed requests are left out, and counted."""
    good = _succeeded(samples)
    ttft = [sample.ttft_ms for sample in good if sample.ttft_ms is not None]
    e2e = [sample.e2e_ms for sample in good if sample.e2e_ms is not None]
    itl = [gap for sample in good for gap in sample.itl_ms]
    counted = [(s.completion_tokens, s.e2e_ms) for s in good if s.completion_tokens is not None and s.e2e_ms]
    return SmokeSummary(
        ttft_p50_ms=nearest_rank(ttft, 50),
        ttft_p90_ms=nearest_rank(ttft, 90),
        itl_p50_ms=nearest_rank(itl, 50),
        itl_p90_ms=nearest_rank(itl, 90),
        e2e_p50_ms=nearest_rank(e2e, 50),
        e2e_p90_ms=nearest_rank(e2e, 90),
        failed_requests=len(samples) - len(good),
        output_tokens_per_s=(
            round(1000 * sum(tokens for tokens, _ in counted) / sum(ms for _, ms in counted), 2) if counted else None
        ),
    )


def judge(samples: Sequence[RequestSample], lines: Sequence[AcceptanceLine], max_tokens: int) -> tuple[LineVerdict, ...]:
    """Hold the samples against the lines, and against `failed_requests` at most 0 unless a line says otherwise.

    An E2E line passes only when each answer had `max_tokens` tokens: the time of another length says nothing about it.
    """
    summary = summarise(samples)
    if all(line.metric != "failed_requests" for line in lines):
        lines = (*lines, AcceptanceLine(metric="failed_requests", at_most=0))
    return tuple(_judge_line(line, summary, samples, max_tokens) for line in lines)


def failure_reason(samples: Sequence[RequestSample], verdicts: Sequence[LineVerdict]) -> str:
    """Say in one sentence why the run failed; empty when every line passed."""
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if not failed:
        return ""
    errors = Counter(sample.error for sample in samples if sample.error is not None)
    [(most_frequent, times)] = errors.most_common(1) or [("", 0)]
    if not _succeeded(samples):
        return f"No request succeeded; {times} of {len(samples)} failed with: {most_frequent}"
    parts = []
    for verdict in failed:
        measured, at_most = (quantity(verdict.metric, value) for value in (verdict.measured, verdict.at_most))
        if verdict.metric == "failed_requests":
            parts.append(f"{measured} of {len(samples)} requests failed, above {at_most} (most often: {most_frequent})")
        elif verdict.measured is not None and verdict.measured > verdict.at_most:
            parts.append(f"{label(verdict.metric)} was {measured}, above {at_most}")
        else:
            parts.append(f"{label(verdict.metric)} was {measured}, but {verdict.note}")
    return "; ".join(parts)


def label(metric: MetricName) -> str:
    """Return a metric's name as people write it, such as `TTFT P90`."""
    if metric == "failed_requests":
        return "Failed requests"
    name, percentile, _ = metric.split("_")
    return f"{name.upper()} {percentile.upper()}"


def quantity(metric: MetricName, value: float | None) -> str:
    """Return a metric's value with its unit, such as `71.2 ms`."""
    if value is None:
        return "not measured"
    return f"{value:g}" if metric == "failed_requests" else f"{value:.1f} ms"


def _judge_line(line: AcceptanceLine, summary: SmokeSummary, samples: Sequence[RequestSample], max_tokens: int) -> LineVerdict:
    measured: float | None = getattr(summary, line.metric)  # the summary's fields bear the metrics' names
    passed = measured is not None and measured <= line.at_most
    wrong_length = _wrong_length(samples, max_tokens)
    notes = []
    if measured is None:
        notes.append("there was nothing to measure it on")
    elif line.metric == "failed_requests":
        notes += [wrong_length] if wrong_length else []
    else:
        if line.metric.startswith("e2e_") and wrong_length:
            passed = False
            notes.append(wrong_length)
        succeeded = len(_succeeded(samples))
        if line.metric in ("ttft_p90_ms", "e2e_p90_ms") and succeeded < _P90_NEEDS_REQUESTS:
            notes.append(f"observed, not a bound: {succeeded} requests cannot prove a P90, which takes {_P90_NEEDS_REQUESTS}")
    return LineVerdict(metric=line.metric, at_most=line.at_most, measured=measured, passed=passed, note="; ".join(notes))


def _wrong_length(samples: Sequence[RequestSample], max_tokens: int) -> str:
    """Say how the answers differ from the length that was asked for; empty when they do not."""
    good = _succeeded(samples)
    other = [sample.completion_tokens for sample in good if sample.completion_tokens != max_tokens]
    counts = [count for count in other if count is not None]
    if not other:
        return ""
    if not counts:
        return f"the server reported no token count for {len(other)} of {len(good)} answers"
    length = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return f"{len(other)} of {len(good)} answers had {length} tokens instead of {max_tokens}"


def _succeeded(samples: Sequence[RequestSample]) -> list[RequestSample]:
    return [sample for sample in samples if sample.error is None]
