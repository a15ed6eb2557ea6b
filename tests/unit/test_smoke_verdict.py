"""Bounds and verdicts on samples made by hand, and on simulated servers at the edge of a line."""

import random
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bringup.smoke.model import AcceptanceLine, LineVerdict, MetricName, Outcome, RequestSample
from bringup.smoke.statistics import (
    lower_rank,
    misses_allowed,
    misses_refuting,
    nearest_rank,
    provable_quantile,
    requests_needed,
    upper_rank,
)
from bringup.smoke.summary import summarise
from bringup.smoke.verdict import floors_of, judge, overall

MAX_TOKENS = 4


def good(ttft_ms: float = 100, e2e_ms: float = 200, tokens: int | None = MAX_TOKENS, at_s: float = 0) -> RequestSample:
    return RequestSample(
        intended_s=at_s,
        sent_s=at_s,
        ttft_ms=ttft_ms,
        itl_ms=(10, 20, 30),
        e2e_ms=e2e_ms,
        tpot_ms=20,
        prompt_tokens=7,
        completion_tokens=tokens,
    )


def bad(error: str = "HTTP 500: dead") -> RequestSample:
    return RequestSample(error=error)


def line(metric: MetricName, at_most: float) -> AcceptanceLine:
    return AcceptanceLine(metric=metric, at_most=at_most)


def judge_one(samples: list[RequestSample], metric: MetricName, at_most: float) -> LineVerdict:
    return judge(samples, [line(metric, at_most)], MAX_TOKENS)[0]


def outcome(samples: list[RequestSample], *lines: AcceptanceLine) -> tuple[list[Outcome], Outcome, str]:
    verdicts = judge(samples, lines, MAX_TOKENS)
    return [verdict.outcome for verdict in verdicts], *overall(samples, verdicts)


def exact(n: int, x: int, p: float) -> float:
    return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(x + 1))


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


def test_requests_that_prove_a_quantile_are_as_many_as_the_binomial_says() -> None:
    assert [requests_needed(0.9, 0.95, misses) for misses in range(6)] == [29, 46, 61, 76, 89, 103]
    assert (requests_needed(0.5, 0.95), requests_needed(0.99, 0.95)) == (5, 299)
    assert exact(103, 5, 0.1) <= 0.05 < exact(102, 5, 0.1)
    assert provable_quantile(28, 0.95) < 0.9 < provable_quantile(29, 0.95)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [1, 4, 5, 28, 29, 30, 103, 299, 500])
def test_misses_and_ranks_agree_with_the_binomial_distribution(n: int, quantile: float) -> None:
    p = 1 - quantile
    allowed, refuting = misses_allowed(n, quantile, 0.95), misses_refuting(n, quantile, 0.95)
    assert allowed < 0 or exact(n, allowed, p) <= 0.05 + 1e-12
    assert exact(n, allowed + 1, p) > 0.05
    assert refuting > n or 1 - exact(n, refuting - 1, p) <= 0.05 + 1e-12
    assert 1 - exact(n, refuting - 2, p) > 0.05
    upper, lower = upper_rank(n, quantile, 0.95), lower_rank(n, quantile, 0.95)
    assert upper is None or exact(n, upper - 1, quantile) >= 0.95 - 1e-12
    assert lower is None or 1 - exact(n, lower - 1, quantile) >= 0.95 - 1e-12


@pytest.mark.parametrize("metric", ["ttft_p50_ms", "ttft_p90_ms", "e2e_p90_ms", "itl_p50_ms", "itl_p90_ms"])
def test_simulated_servers_just_beyond_a_line_pass_in_at_most_5_of_100_runs(metric: MetricName) -> None:
    """The true quantile is a hair above the line: each PASS is a false one."""
    rng = random.Random(metric)  # noqa: S311
    quantile = int(metric.split("_p")[1][:2]) / 100
    share_above = 1 - quantile + 0.001
    runs, passes = 1500, 0
    n = requests_needed(quantile, 0.95, 3)
    for _ in range(runs):
        samples = []
        for _ in range(n):
            # gaps of one request resemble each other: half of all requests are slow in twice as many of their gaps
            slow = min(1.0, 2 * share_above) if rng.random() < 0.5 else max(0.0, 2 * share_above - 1)
            gaps = tuple(11.0 if rng.random() < slow else 9.0 for _ in range(3))
            time = 11.0 if rng.random() < share_above else 9.0
            samples.append(RequestSample(ttft_ms=time, e2e_ms=time, itl_ms=gaps, completion_tokens=MAX_TOKENS))
        passes += judge_one(samples, metric, 10).outcome == "PASS"
    # a proper share of 5 % would exceed 100 of 1500 in one of 500 tries; the seed makes it the same try each time
    assert passes <= 100
    assert passes > 0 or metric.startswith("itl")


def test_a_much_better_server_passes_and_a_much_worse_one_fails() -> None:
    fast, slow = [good(ttft_ms=50)] * 29, [good(ttft_ms=150)] * 29
    assert judge_one(fast, "ttft_p90_ms", 100).outcome == "PASS"
    assert judge_one(slow, "ttft_p90_ms", 100).outcome == "FAIL"
    assert judge_one(fast, "itl_p90_ms", 31).outcome == "PASS"
    assert judge_one(slow, "itl_p50_ms", 9).outcome == "FAIL"


def test_bounds_are_order_statistics_and_decide_the_outcome() -> None:
    samples = [good(ttft_ms=float(value)) for value in range(1, 104)]
    found = judge_one(samples, "ttft_p90_ms", 98)
    assert (found.upper, found.outcome, found.misses, found.samples) == (98, "PASS", 5, 103)
    assert judge_one(samples, "ttft_p90_ms", 97.5).outcome == "INCONCLUSIVE"
    assert found.lower is not None
    assert judge_one(samples, "ttft_p90_ms", found.lower - 0.5).outcome == "FAIL"
    assert judge_one(samples, "ttft_p90_ms", found.lower).outcome == "INCONCLUSIVE"


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=1, max_size=60), st.floats(1, 100))
def test_bounds_of_gaps_say_the_same_as_the_outcome(requests: list[tuple[float, float]], at_most: float) -> None:
    found = judge_one([good().model_copy(update={"itl_ms": gaps}) for gaps in requests], "itl_p50_ms", at_most)
    assert (found.outcome == "PASS") == (found.upper is not None and found.upper <= at_most)
    assert (found.outcome == "FAIL") == (found.lower is not None and found.lower > at_most)


def test_the_summary_counts_failures_and_leaves_them_and_the_warm_up_out_of_the_figures() -> None:
    partly = RequestSample(ttft_ms=9000, itl_ms=(9000,), error="ended early")
    warm_up = good(ttft_ms=7000).model_copy(update={"warm_up": True})
    summary = summarise([warm_up, good(ttft_ms=100, e2e_ms=200), good(ttft_ms=120, e2e_ms=300, at_s=0.2), partly])
    assert summary.ttft
    assert summary.e2e
    assert summary.itl
    assert (summary.ttft.p50, summary.ttft.p90, summary.ttft.mean) == (100, 120, 110)
    assert (summary.e2e.p50, summary.e2e.p90) == (200, 300)
    assert (summary.itl.p50, summary.itl.p90) == (20, 30)
    assert (summary.count, summary.failed) == (3, 1)
    assert summary.output_tokens_per_s == 16  # 8 tokens in 0.5 s
    assert summary.requests_per_s == 4


def test_tokens_of_requests_that_only_overlap_the_measured_ones_count_as_far_as_they_do() -> None:
    # four tokens at 0, 10, 30 and 60 ms after 100 ms; measured from 0.11 s on
    before = good(at_s=0.0).model_copy(update={"warm_up": True})
    summary = summarise([before, good(at_s=0.11, ttft_ms=100, e2e_ms=160)])
    assert summary.output_tokens_per_s == pytest.approx((3 + 4) / 0.16, abs=0.01)


def test_tokens_of_a_request_that_was_stopped_count_as_many_a_chunk_as_those_of_the_others() -> None:
    stopped = RequestSample(sent_s=0.0, ttft_ms=10, itl_ms=(10,), error="stopped by the tool", warm_up=True)
    two_a_chunk = good(tokens=8)
    assert summarise([two_a_chunk, stopped]).output_tokens_per_s == pytest.approx((8 + 4) / 0.2, abs=0.01)


def test_requests_that_were_not_sent_prove_and_refute_nothing() -> None:
    fast, slow = [good(ttft_ms=50)] * 29, [good(ttft_ms=150)] * 29
    lines = [line("ttft_p90_ms", 100), line("itl_p90_ms", 31)]
    assert [found.outcome for found in judge(fast, lines, MAX_TOKENS)[:2]] == ["PASS", "PASS"]
    assert [found.outcome for found in judge(fast, lines, MAX_TOKENS, unsent=17)[:2]] == ["INCONCLUSIVE", "INCONCLUSIVE"]
    assert judge(slow, lines, MAX_TOKENS, unsent=17)[0].outcome == "FAIL"
    assert judge([good(ttft_ms=150)] * 2, lines, MAX_TOKENS, unsent=27)[0].outcome == "INCONCLUSIVE"


def test_goodput_counts_requests_within_all_limits() -> None:
    samples = [good(), good(ttft_ms=500, e2e_ms=600, at_s=0.4), good(at_s=0.8)]
    assert summarise(samples, [line("ttft_p50_ms", 100)]).goodput_rps == 2
    assert summarise(samples, [line("ttft_p50_ms", 100), line("itl_p90_ms", 25)]).goodput_rps == 0
    assert summarise(samples).goodput_rps is None


def test_a_value_on_the_line_passes_and_one_above_it_fails_with_both_numbers() -> None:
    samples = [good(ttft_ms=100)] * 10
    assert outcome(samples, line("ttft_p50_ms", 100)) == (["PASS", "PASS"], "PASS", "")
    outcomes, run, reason = outcome(samples, line("ttft_p50_ms", 99.9))
    assert (outcomes, run) == (["FAIL", "PASS"], "FAIL")
    assert reason == "TTFT P50 was 100.0 ms (at least 100.0 ms with 95% confidence), above 99.9 ms"


def test_any_failed_request_fails_the_run_unless_a_line_allows_it() -> None:
    samples = [*[good()] * 9, bad()]
    outcomes, run, reason = outcome(samples, line("ttft_p50_ms", 100))
    assert (outcomes, run) == (["PASS", "FAIL"], "FAIL")
    assert reason == "1 of 10 requests failed, above 0 (most often: HTTP 500: dead)"
    assert outcome(samples, line("failed_requests", 1)) == (["PASS"], "PASS", "")


def test_a_failed_request_missed_every_line() -> None:
    found = judge_one([*[good(ttft_ms=1)] * 28, bad()], "ttft_p90_ms", 100)
    assert (found.outcome, found.misses, found.samples, found.upper) == ("INCONCLUSIVE", 1, 29, None)
    assert judge_one([*[good()] * 5, *[bad()] * 24], "itl_p50_ms", 100).outcome == "FAIL"


def test_when_nothing_succeeded_the_reason_is_the_most_frequent_error() -> None:
    samples = [bad("rare"), bad("frequent"), bad("frequent")]
    _, run, reason = outcome(samples, line("ttft_p50_ms", 100))
    assert run == "FAIL"
    assert reason == "No request succeeded; 2 of 3 failed with: frequent"
    assert outcome(samples, line("failed_requests", 3), line("ttft_p50_ms", 100))[2] == reason


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (2, "1 of 29 answers had 2 tokens instead of 4"),
        (5, "1 of 29 answers had 5 tokens instead of 4"),
        (None, "the server reported no token count for 1 of 29 answers"),
    ],
)
def test_answers_of_another_length_cannot_pass_an_e2e_line_and_are_named(tokens: int | None, says: str) -> None:
    samples = [*[good()] * 28, good(tokens=tokens)]
    e2e, ttft, failed = judge(samples, [line("e2e_p50_ms", 9999), line("ttft_p50_ms", 9999)], MAX_TOKENS)
    assert (e2e.outcome, ttft.outcome, failed.outcome) == ("INCONCLUSIVE", "PASS", "PASS")
    assert says in e2e.note
    assert says in failed.note
    assert says in overall(samples, [e2e, ttft, failed])[1]


def test_a_line_on_what_was_not_measured_is_open() -> None:
    samples = [RequestSample(ttft_ms=1, e2e_ms=1, completion_tokens=MAX_TOKENS)] * 3
    itl = judge_one(samples, "itl_p50_ms", 100)
    assert (itl.outcome, itl.measured) == ("INCONCLUSIVE", None)
    assert "nothing to measure it on" in itl.note


@pytest.mark.parametrize(("requests", "found"), [(10, "INCONCLUSIVE"), (28, "INCONCLUSIVE"), (29, "PASS")])
def test_a_p90_of_few_requests_is_open_and_says_what_they_prove_and_how_many_it_takes(requests: int, found: Outcome) -> None:
    p90, p50, _ = judge([good()] * requests, [line("ttft_p90_ms", 100), line("ttft_p50_ms", 100)], MAX_TOKENS)
    assert (p90.outcome, p50.outcome) == (found, "PASS")
    if found == "INCONCLUSIVE":
        assert p90.needed == 29
        assert f"0 of {requests} requests missed it, which proves P{100 * provable_quantile(requests, 0.95):.3g}" in p90.note


def test_the_number_needed_settles_a_line_if_misses_stay_as_frequent() -> None:
    found = judge_one([*[good(ttft_ms=1)] * 28, good(ttft_ms=999)], "ttft_p90_ms", 100)
    assert found.needed is not None
    assert misses_allowed(found.needed, 0.9, 0.95) >= found.needed / 29
    assert judge_one([*[good(ttft_ms=1)] * 9, good(ttft_ms=999)], "ttft_p90_ms", 100).needed is None


def test_the_floor_stands_beside_a_line_for_the_prompt_it_was_planned_for() -> None:
    plan = {
        "predicted": {"ms_per_token_floor": 8.0, "ttft_floor_ms": 50.0, "e2e_floor_ms": None},
        "smoke": {"prompt": "Hello", "max_tokens": MAX_TOKENS},
    }
    assert floors_of(plan, "Hello", MAX_TOKENS) == {"itl": 8, "tpot": 8, "ttft": 50}
    assert floors_of(plan, "Other", MAX_TOKENS) == {"itl": 8, "tpot": 8}
    assert floors_of(None, "Hello", MAX_TOKENS) == {}
    ttft, itl, _ = judge(
        [good()] * 29, [line("ttft_p50_ms", 40), line("itl_p50_ms", 25)], MAX_TOKENS, 0.95, floors_of(plan, "Hello", 4)
    )
    assert (ttft.floor_ms, ttft.ratio_to_floor, itl.ratio_to_floor) == (50, 2, 2.5)
    assert "no software can reach it: the floor is 50.0 ms" in ttft.note
