"""Holds a stage's requests against acceptance lines: pure functions; the bounds are explained in `bringup.smoke.statistics`."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bringup.smoke import statistics
from bringup.smoke.model import AcceptanceLine, LineVerdict, MetricName, Outcome, RequestSample
from bringup.smoke.summary import measured, metric_parts, succeeded

_NEEDED_AT_MOST = 10_000
"""Beyond that, "more requests" is no advice."""


def judge(
    samples: Sequence[RequestSample],
    lines: Sequence[AcceptanceLine],
    max_tokens: int,
    confidence: float = 0.95,
    floors: Mapping[str, float] | None = None,
    unsent: int = 0,
) -> tuple[LineVerdict, ...]:
    """Hold the requests against the lines, and against `failed_requests` at most 0 unless a line says otherwise.

    Args:
        samples: of one stage; warm-up is left out.
        lines: what must not be exceeded.
        max_tokens: length of the answers. An E2E line passes only when each answer had it: another length says nothing about it.
        confidence: of each bound.
        floors: `ttft`, `itl`, `tpot`, `e2e` to the least milliseconds that are possible.
        unsent: requests that were planned and not sent. They count as misses where a line is to be proven, and as none where it is
            to be refuted, so that it does not matter why the stage was stopped.
    """
    if all(line.metric != "failed_requests" for line in lines):
        lines = (*lines, AcceptanceLine(metric="failed_requests", at_most=0))
    counted = measured(samples)
    return tuple(_judge_line(line, counted, max_tokens, confidence, floors or {}, unsent) for line in lines)


def overall(samples: Sequence[RequestSample], verdicts: Sequence[LineVerdict]) -> tuple[Outcome, str]:
    """Return the outcome of all lines, and one sentence on why it is not PASS (empty when it is).

    All lines must be proven, so that the run's false PASS is at most as likely as one line's.
    """
    counted = measured(samples)
    sent = counted or samples  # where not even the warm-up succeeded, nothing was measured
    errors = Counter(sample.error for sample in sent if sample.error is not None)
    [(most_frequent, times)] = errors.most_common(1) or [("", 0)]
    if not succeeded(counted):
        return "FAIL", f"No request succeeded; {times} of {len(sent)} failed with: {most_frequent}"
    failed = [verdict for verdict in verdicts if verdict.outcome == "FAIL"]
    if failed:
        return "FAIL", "; ".join(_why_failed(verdict, len(counted), str(most_frequent)) for verdict in failed)
    open_lines = [verdict for verdict in verdicts if verdict.outcome == "INCONCLUSIVE"]
    if open_lines:
        return "INCONCLUSIVE", "; ".join(_why_open(verdict) for verdict in open_lines)
    return "PASS", ""


def floors_of(plan: Mapping[str, Any] | None, prompt: str | None, max_tokens: int) -> dict[str, float]:
    """Return the floors that a plan.json holds; those of TTFT and E2E only for the very prompt and answer that it was made for."""
    predicted = (plan or {}).get("predicted") or {}
    smoke = (plan or {}).get("smoke") or {}
    floors = {"itl": predicted.get("ms_per_token_floor"), "tpot": predicted.get("ms_per_token_floor")}
    if smoke.get("prompt") == prompt:
        floors["ttft"] = predicted.get("ttft_floor_ms")
        if smoke.get("max_tokens") == max_tokens:
            floors["e2e"] = predicted.get("e2e_floor_ms")
    return {name: float(floor) for name, floor in floors.items() if isinstance(floor, int | float)}


def label(metric: MetricName) -> str:
    """Return a metric's name as people write it, such as `TTFT P90`."""
    if metric == "failed_requests":
        return "Failed requests"
    name, percent = metric_parts(metric)
    return f"{name.upper()} P{percent}"


def quantity(metric: MetricName, value: float | None) -> str:
    """Return a metric's value with its unit, such as `71.2 ms`."""
    if value is None:
        return "not measured"
    return f"{value:g}" if metric == "failed_requests" else f"{value:.1f} ms"


def _why_failed(verdict: LineVerdict, count: int, most_frequent: str) -> str:
    found, at_most = (quantity(verdict.metric, value) for value in (verdict.measured, verdict.at_most))
    if verdict.metric == "failed_requests":
        return f"{found} of {count} requests failed, above {at_most} (most often: {most_frequent})"
    bound = (
        f" (at least {quantity(verdict.metric, verdict.lower)} with {verdict.confidence:.0%} confidence)" if verdict.lower else ""
    )
    return f"{label(verdict.metric)} was {found}{bound}, above {at_most}"


def _why_open(verdict: LineVerdict) -> str:
    found, at_most = (quantity(verdict.metric, value) for value in (verdict.measured, verdict.at_most))
    return f"{label(verdict.metric)} at most {at_most} is neither proven nor refuted: it was {found}, {verdict.note}"


def _judge_line(
    line: AcceptanceLine,
    counted: Sequence[RequestSample],
    max_tokens: int,
    confidence: float,
    floors: Mapping[str, float],
    unsent: int,
) -> LineVerdict:
    if line.metric == "failed_requests":
        return _judge_failures(line, counted, max_tokens)
    name, percent = metric_parts(line.metric)
    find = _bounds_of_gaps if name == "itl" else _bounds_of_requests
    verdict = find(line, counted, percent / 100, confidence, unsent)
    notes = [verdict.note] if verdict.note else []
    outcome = verdict.outcome
    wrong_length = _wrong_length(counted, max_tokens)
    if name == "e2e" and wrong_length:
        outcome = "INCONCLUSIVE" if outcome == "PASS" else outcome
        notes.append(wrong_length)
    floor = floors.get(name)
    if floor is not None and floor > line.at_most:
        notes.append(f"no software can reach it: the floor is {floor:.1f} ms")
    ratio = round(verdict.measured / floor, 3) if floor and verdict.measured is not None else None
    return verdict.model_copy(update={"outcome": outcome, "note": "; ".join(notes), "floor_ms": floor, "ratio_to_floor": ratio})


def _judge_failures(line: AcceptanceLine, counted: Sequence[RequestSample], max_tokens: int) -> LineVerdict:
    """A count in this run, not a bound on all requests."""
    failed = len(counted) - len(succeeded(counted))
    return LineVerdict(
        metric=line.metric,
        at_most=line.at_most,
        measured=failed,
        outcome="PASS" if failed <= line.at_most else "FAIL",
        samples=len(counted),
        misses=failed,
        note=_wrong_length(counted, max_tokens),
    )


def _bounds_of_requests(
    line: AcceptanceLine, counted: Sequence[RequestSample], quantile: float, confidence: float, unsent: int
) -> LineVerdict:
    """Judge a line on one number a request; a failed request took for ever."""
    name, percent = metric_parts(line.metric)
    values = sorted(_value(sample, name) for sample in counted)
    count = len(values)
    misses = sum(value > line.at_most for value in values)
    upper_rank = statistics.upper_rank(count + unsent, quantile, confidence)
    lower_rank = statistics.lower_rank(count + unsent, quantile, confidence)
    upper = values[upper_rank - 1] if upper_rank and upper_rank <= count else None
    lower = values[lower_rank - unsent - 1] if lower_rank and lower_rank > unsent else None
    known = [value for value in values if value < math.inf]
    outcome: Outcome = "INCONCLUSIVE"
    if upper is not None and upper <= line.at_most:
        outcome = "PASS"
    elif lower is not None and lower > line.at_most:
        outcome = "FAIL"
    needed = _needed(misses, count, quantile, confidence) if outcome == "INCONCLUSIVE" else None
    return LineVerdict(
        metric=line.metric,
        at_most=line.at_most,
        measured=statistics.nearest_rank(known, percent),
        outcome=outcome,
        lower=_finite(lower),
        upper=_finite(upper),
        confidence=confidence,
        samples=count,
        misses=misses,
        needed=needed,
        note=_open_note(outcome, count, misses, bool(known), needed, confidence),
    )


def _bounds_of_gaps(
    line: AcceptanceLine, counted: Sequence[RequestSample], quantile: float, confidence: float, unsent: int
) -> LineVerdict:
    """Judge a line on ITL: each request is one draw of the share of its gaps that miss; a failed request missed with all."""
    with_gaps = [sample for sample in counted if sample.itl_ms or sample.error is not None]
    of_each = [sorted(sample.itl_ms) if sample.error is None else None for sample in with_gaps]
    gaps = sorted(gap for own in of_each if own for gap in own)
    count = len(of_each)

    def share(limit: float) -> float:
        missed = (1.0 if own is None else 1 - bisect_right(own, limit) / len(own) for own in of_each)
        return math.fsum(missed) / count

    planned = count + unsent

    def proven(limit: float) -> bool:
        return statistics.share_proves(planned, (share(limit) * count + unsent) / planned, quantile, confidence)

    def not_refuted(limit: float) -> bool:
        return not statistics.share_refutes(planned, share(limit) * count / planned, quantile, confidence)

    outcome: Outcome = "INCONCLUSIVE"
    if count and proven(line.at_most):
        outcome = "PASS"
    elif count and not not_refuted(line.at_most):
        outcome = "FAIL"
    mean = share(line.at_most) if count else 0.0
    # a line below the smallest gap is missed by all of them
    least = bool(gaps) and statistics.share_refutes(planned, count / planned, quantile, confidence)
    lower = _first_where(gaps, not_refuted) if least else None
    needed = None
    if outcome == "INCONCLUSIVE" and count and mean != 1 - quantile:
        needed = math.ceil(-math.log(1 - confidence) / statistics.relative_entropy(mean, 1 - quantile))
        needed = needed if needed <= _NEEDED_AT_MOST else None
    return LineVerdict(
        metric=line.metric,
        at_most=line.at_most,
        measured=statistics.nearest_rank(gaps, round(quantile * 100)),
        outcome=outcome,
        lower=lower,
        upper=_first_where(gaps, proven),
        confidence=confidence,
        samples=count,
        misses=sum(own is None or own[-1] > line.at_most for own in of_each),
        needed=needed,
        note=_open_note(outcome, count, None, bool(gaps), needed, confidence, mean),
    )


def _first_where(values: Sequence[float], holds: Callable[[float], bool]) -> float | None:
    """Return the first of ascending values at which a condition holds that stays true once it is; None where it never does."""
    found = statistics.first_true(0, len(values), lambda index: holds(values[index]))
    return values[found] if found < len(values) else None


def _needed(misses: int, count: int, quantile: float, confidence: float) -> int | None:
    """Return how many requests would settle the line if the share of misses stayed the same; None where no number would."""
    if count == 0:
        return statistics.requests_needed(quantile, confidence)
    share, p = misses / count, 1 - quantile

    def settled(n: int) -> bool:
        if share < p:
            return statistics.at_most(n, math.ceil(share * n), p) <= 1 - confidence
        return statistics.at_most(n, math.floor(share * n) - 1, p) >= confidence

    high = count + 1
    while share == p or not settled(high):
        high *= 2
        if high > _NEEDED_AT_MOST:
            return None
    return statistics.first_true(count + 1, high, settled)


def _open_note(
    outcome: Outcome, count: int, misses: int | None, known: bool, needed: int | None, confidence: float, share: float = 0.0
) -> str:
    if outcome != "INCONCLUSIVE":
        return ""
    if not known:
        return "there was nothing to measure it on"
    missed = (
        f"{misses} of {count} requests missed it"
        if misses is not None
        else f"{share:.1%} of the gaps of {count} requests missed it"
    )
    if misses == 0:
        missed += f", which proves P{100 * statistics.provable_quantile(count, confidence):.3g} at most"
    if needed is None:
        return f"{missed}, and no reasonable number of requests would settle it"
    return f"{missed}; about {needed} requests would settle it"


def _value(sample: RequestSample, name: str) -> float:
    value: float | None = getattr(sample, f"{name}_ms")
    return math.inf if value is None or sample.error is not None else value


def _finite(value: float | None) -> float | None:
    return value if value is not None and value < math.inf else None


def _wrong_length(counted: Sequence[RequestSample], max_tokens: int) -> str:
    """Say how the answers differ from the length that was asked for; empty when they do not."""
    good = succeeded(counted)
    other = [sample.completion_tokens for sample in good if sample.completion_tokens != max_tokens]
    counts = [count for count in other if count is not None]
    if not other:
        return ""
    if not counts:
        return f"the server reported no token count for {len(other)} of {len(good)} answers"
    length = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return f"{len(other)} of {len(good)} answers had {length} tokens instead of {max_tokens}"
