"""Percentiles and verdicts on samples made by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bringup.smoke.model import AcceptanceLine, MetricName, RequestSample
from bringup.smoke.verdict import failure_reason, judge, nearest_rank, summarise

MAX_TOKENS = 4


def good(ttft_ms: float = 100, e2e_ms: float = 200, tokens: int | None = MAX_TOKENS) -> RequestSample:
    return RequestSample(ttft_ms=ttft_ms, itl_ms=(10, 20, 30), e2e_ms=e2e_ms, prompt_tokens=7, completion_tokens=tokens)


def bad(error: str = "HTTP 500: dead") -> RequestSample:
    return RequestSample(error=error)


def line(metric: MetricName, at_most: float) -> AcceptanceLine:
    return AcceptanceLine(metric=metric, at_most=at_most)


def outcome(samples: list[RequestSample], *lines: AcceptanceLine) -> tuple[list[bool], str]:
    verdicts = judge(samples, lines, MAX_TOKENS)
    return [verdict.passed for verdict in verdicts], failure_reason(samples, verdicts)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.integers(1, 100))
def test_nearest_rank_is_the_smallest_value_that_covers_the_share(values: list[float], percent: int) -> None:
    found = nearest_rank(values, percent)
    assert found in values
    covered = sum(value <= found for value in values)
    below = sum(value < found for value in values)
    assert covered * 100 >= percent * len(values)
    assert below * 100 < percent * len(values)


def test_nearest_rank_of_ten_values_takes_the_fifth_and_the_ninth() -> None:
    values = [90, 10, 30, 20, 50, 40, 70, 60, 100, 80]
    assert (nearest_rank(values, 50), nearest_rank(values, 90)) == (50, 90)
    assert nearest_rank([], 50) is None


def test_the_summary_counts_failures_and_leaves_them_out_of_the_figures() -> None:
    partly = RequestSample(ttft_ms=9000, itl_ms=(9000,), error="ended early")
    summary = summarise([good(ttft_ms=100, e2e_ms=200), good(ttft_ms=120, e2e_ms=300), partly])
    assert (summary.ttft_p50_ms, summary.ttft_p90_ms) == (100, 120)
    assert (summary.e2e_p50_ms, summary.e2e_p90_ms) == (200, 300)
    assert (summary.itl_p50_ms, summary.itl_p90_ms) == (20, 30)
    assert summary.failed_requests == 1
    assert summary.output_tokens_per_s == 16  # 8 tokens in 0.5 s


def test_a_value_on_the_line_passes_and_one_above_it_fails_with_both_numbers() -> None:
    samples = [good(ttft_ms=100)] * 10
    assert outcome(samples, line("ttft_p50_ms", 100)) == ([True, True], "")
    passed, reason = outcome(samples, line("ttft_p50_ms", 99.9))
    assert passed == [False, True]
    assert reason == "TTFT P50 was 100.0 ms, above 99.9 ms"


def test_any_failed_request_fails_the_run_unless_a_line_allows_it() -> None:
    samples = [good()] * 9 + [bad()]
    passed, reason = outcome(samples, line("ttft_p50_ms", 100))
    assert passed == [True, False]
    assert reason == "1 of 10 requests failed, above 0 (most often: HTTP 500: dead)"
    assert outcome(samples, line("failed_requests", 1)) == ([True], "")


def test_when_nothing_succeeded_the_reason_is_the_most_frequent_error() -> None:
    samples = [bad("rare"), bad("frequent"), bad("frequent")]
    passed, reason = outcome(samples, line("ttft_p50_ms", 100))
    assert passed == [False, False]
    assert reason == "No request succeeded; 2 of 3 failed with: frequent"
    assert outcome(samples, line("failed_requests", 3), line("ttft_p50_ms", 100))[1] == reason


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (2, "1 of 10 answers had 2 tokens instead of 4"),
        (5, "1 of 10 answers had 5 tokens instead of 4"),
        (None, "the server reported no token count for 1 of 10 answers"),
    ],
)
def test_answers_of_another_length_cannot_pass_an_e2e_line_and_are_named(tokens: int | None, says: str) -> None:
    samples = [good()] * 9 + [good(tokens=tokens)]
    e2e, ttft, failed = judge(samples, [line("e2e_p50_ms", 9999), line("ttft_p50_ms", 9999)], MAX_TOKENS)
    assert (e2e.passed, ttft.passed, failed.passed) == (False, True, True)
    assert says in e2e.note
    assert says in failed.note
    assert says in failure_reason(samples, [e2e, ttft, failed])


def test_a_line_on_what_was_not_measured_fails() -> None:
    samples = [RequestSample(ttft_ms=1, e2e_ms=1, completion_tokens=MAX_TOKENS)] * 3
    [itl, _] = judge(samples, [line("itl_p50_ms", 100)], MAX_TOKENS)
    assert not itl.passed
    assert itl.measured is None
    assert "ITL P50 was not measured" in failure_reason(samples, [itl])


@pytest.mark.parametrize(("requests", "cannot_prove"), [(10, True), (28, True), (29, False)])
def test_a_p90_of_few_requests_is_called_an_observation(requests: int, cannot_prove: bool) -> None:
    samples = [good()] * requests
    p90, p50, _ = judge(samples, [line("ttft_p90_ms", 100), line("ttft_p50_ms", 100)], MAX_TOKENS)
    assert (f"{requests} requests cannot prove a P90" in p90.note) is cannot_prove
    assert p50.note == ""
