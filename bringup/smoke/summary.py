"""From requests to the figures of a stage: pure functions; the definitions stand in `bringup.smoke.definitions`."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from statistics import fmean

from bringup.smoke.model import AcceptanceLine, MetricName, Quantiles, RequestSample, Summary
from bringup.smoke.statistics import nearest_rank


def summarise(samples: Sequence[RequestSample], lines: Sequence[AcceptanceLine] = ()) -> Summary:
    """Reduce a stage's requests to its figures; failed requests are left out of the times, and counted."""
    counted = measured(samples)
    good = succeeded(counted)
    window = _window(counted)
    seconds = window[1] - window[0] if window else 0.0
    within = [sample for sample in good if all(_within(sample, line) for line in lines)]
    return Summary(
        count=len(counted),
        failed=len(counted) - len(good),
        ttft=_quantiles(sample.ttft_ms for sample in good),
        itl=_quantiles(gap for sample in good for gap in sample.itl_ms),
        tpot=_quantiles(sample.tpot_ms for sample in good),
        e2e=_quantiles(sample.e2e_ms for sample in good),
        output_tokens_per_s=_tokens_per_s(samples, window),
        requests_per_s=round(len(good) / seconds, 4) if good and seconds else None,
        goodput_rps=round(len(within) / seconds, 4) if lines and seconds else None,
    )


def measured(samples: Iterable[RequestSample]) -> list[RequestSample]:
    """Return the requests that count: without warm-up, and without those that only kept the load up."""
    return [sample for sample in samples if not sample.warm_up]


def succeeded(samples: Iterable[RequestSample]) -> list[RequestSample]:
    """Return the requests that did not fail."""
    return [sample for sample in samples if sample.error is None]


def metric_parts(metric: MetricName) -> tuple[str, int]:
    """Split `ttft_p90_ms` into `ttft` and 90; ValueError for `failed_requests`, which is no time."""
    name, _, rest = metric.partition("_p")
    return name, int(rest.removesuffix("_ms"))


def _quantiles(values: Iterable[float | None]) -> Quantiles | None:
    known = [value for value in values if value is not None]
    p50, p90, p99 = (nearest_rank(known, percent) for percent in (50, 90, 99))
    if p50 is None or p90 is None or p99 is None:
        return None
    return Quantiles(p50=p50, p90=p90, p99=p99, mean=round(fmean(known), 3))


def _window(counted: Sequence[RequestSample]) -> tuple[float, float] | None:
    """From the first measured request's start to the last one's end, in seconds; None where none succeeded."""
    ends = [sample.intended_s + sample.e2e_ms / 1000 for sample in counted if sample.e2e_ms is not None]
    return (min(sample.intended_s for sample in counted), max(ends)) if ends else None


def _tokens_per_s(samples: Sequence[RequestSample], window: tuple[float, float] | None) -> float | None:
    """Tokens that arrived in the window, those of requests that overlap it and do not count themselves included."""
    if window is None:
        return None
    begin, end = window
    begun = [sample for sample in samples if sample.ttft_ms is not None]
    told = [(sample.completion_tokens, len(sample.itl_ms) + 1) for sample in begun if sample.completion_tokens is not None]
    if not told or end <= begin:
        return None
    # of a request that was stopped the server told no count
    usual = sum(tokens for tokens, _ in told) / sum(chunks for _, chunks in told)
    total = 0.0
    for sample in begun:
        arrivals = [sample.intended_s + ms / 1000 for ms in accumulate(sample.itl_ms, initial=sample.ttft_ms)]
        inside = sum(begin <= at <= end + 1e-6 for at in arrivals)  # times in the record are rounded to a microsecond
        total += inside * (usual if sample.completion_tokens is None else sample.completion_tokens / len(arrivals))
    return round(total / (end - begin), 2)


def _within(sample: RequestSample, line: AcceptanceLine) -> bool:
    """Say whether one request keeps the limit of a line; of ITL, its own gaps' quantile."""
    if line.metric == "failed_requests":
        return True
    name, percent = metric_parts(line.metric)
    value: float | None = nearest_rank(sample.itl_ms, percent) if name == "itl" else getattr(sample, f"{name}_ms")
    return value is not None and value <= line.at_most
