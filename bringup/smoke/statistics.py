"""What a sample of requests proves about all requests: exact bounds, without an assumption about the shape of the times.

**A line on a quantile** such as "TTFT P90 ≤ 240 ms" means: at most 10 % of all requests take longer than 240 ms. A request that
takes longer, or fails, is a miss. Were the true share of misses p, and requests independent of each other, then the number of
misses among n requests is binomial: X ~ Bin(n, p).

- The line is proven (PASS) when so few misses would be unlikely if the line did not hold: P(X ≤ x | p = 1 - q) ≤ 5 %. Any p
  above 1 - q makes few misses even less likely, so that a false PASS has at most 5 %, for every distribution of times. Without a
  miss that is q^n ≤ 0.05: n ≥ ln 0.05 / ln 0.9 = 28.4, hence 29 requests for a P90 (5 for a P50, 299 for a P99). With misses: 46
  for one, 61 for two, 76, 89, and 103 for five: P(Bin(103, 0.1) ≤ 5) = 0.0479, while 102 give 0.0510 (`misses_allowed`).
- It is refuted (FAIL) when so many misses would be unlikely if it held: P(X ≥ x | p = 1 - q) ≤ 5 %.
- Otherwise the sample cannot tell (INCONCLUSIVE).

This is the same as bounding the quantile by order statistics: the k-th smallest of n values is at or above the q-quantile with
probability P(Bin(n, q) ≤ k - 1), and at or below it with P(Bin(n, q) ≥ k). `upper_rank` and `lower_rank` give k (Hahn and Meeker,
Statistical Intervals, chapter 5). PASS is "upper bound ≤ line"; FAIL is "lower bound > line".

**A line on ITL** is about gaps, of which one request has many, and they resemble each other: they are no independent draws. Each
request counts as one draw of the share of its gaps that miss the line, a number from 0 to 1. For the mean m of n such draws with
true mean p, P(mean ≤ m) ≤ exp(-n·KL(m‖p)) with KL the relative entropy of two coins (Hoeffding 1963, theorem 1; `share_refutes`).
Without a miss the bound is (1 - p)^n: the same 29 requests.

The number of requests is fixed before the first is measured. Looking after each request and stopping at the first PASS would make
false ones more frequent than 5 %.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache


def nearest_rank(values: Sequence[float], percent: int) -> float | None:
    """Return the smallest value that at least `percent` % (1 to 100) of the values do not exceed; None without any."""
    if not values:
        return None
    rank = -(-len(values) * percent // 100)  # rounded up, in integers: no floating-point slip at the edge
    return sorted(values)[rank - 1]


@lru_cache(maxsize=10_000)
def at_most(n: int, x: int, p: float) -> float:
    """Return P(Bin(n, p) ≤ x) for 0 < p < 1."""
    if x < 0:
        return 0.0
    if x >= n:
        return 1.0
    log_p, log_not_p, log_n = math.log(p), math.log1p(-p), math.lgamma(n + 1)
    terms = (math.exp(log_n - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_p + (n - k) * log_not_p) for k in range(x + 1))
    return min(1.0, math.fsum(terms))


def first_true(low: int, high: int, holds_at: Callable[[int], bool]) -> int:
    """Return the smallest number from `low` on at which a condition holds that stays true once it is; `high` where none does."""
    while low < high:
        middle = (low + high) // 2
        if holds_at(middle):
            high = middle
        else:
            low = middle + 1
    return low


@lru_cache(maxsize=1000)
def misses_allowed(n: int, quantile: float, confidence: float) -> int:
    """Return the most misses among `n` requests with which the line is still proven; -1 where not even none is enough."""
    risk = 1 - confidence
    return first_true(0, n + 1, lambda x: at_most(n, x, 1 - quantile) > risk) - 1


@lru_cache(maxsize=1000)
def misses_refuting(n: int, quantile: float, confidence: float) -> int:
    """Return the fewest misses among `n` requests that refute the line; n + 1 where not even all would."""
    return first_true(0, n + 1, lambda x: 1 - at_most(n, x - 1, 1 - quantile) <= 1 - confidence)


def requests_needed(quantile: float, confidence: float, misses: int = 0) -> int:
    """Return the fewest requests of which `misses` may miss a line on this quantile and still prove it."""
    high = 1
    while misses_allowed(high, quantile, confidence) < misses:
        high *= 2
    return first_true(1, high, lambda n: misses_allowed(n, quantile, confidence) >= misses)


def upper_rank(n: int, quantile: float, confidence: float) -> int | None:
    """Return the rank (from 1) of the order statistic that is an upper bound of the quantile; None where `n` is too small."""
    allowed = misses_allowed(n, quantile, confidence)
    return None if allowed < 0 else n - allowed


def lower_rank(n: int, quantile: float, confidence: float) -> int | None:
    """Return the rank (from 1) of the order statistic that is a lower bound of the quantile; None where `n` is too small."""
    refuting = misses_refuting(n, quantile, confidence)
    # a line just below the k-th smallest value is missed by n - k + 1 values
    return None if refuting > n else n - refuting + 1


def relative_entropy(m: float, p: float) -> float:
    """Return KL(m‖p) of two coins, in nats, for 0 ≤ m ≤ 1 and 0 < p < 1."""
    first = m * math.log(m / p) if m > 0 else 0.0
    second = (1 - m) * math.log((1 - m) / (1 - p)) if m < 1 else 0.0
    return first + second


def share_proves(n: int, share: float, quantile: float, confidence: float) -> bool:
    """Say whether a mean share of misses over `n` requests proves that at most 1 - quantile of all gaps miss the line."""
    return share < 1 - quantile and n * relative_entropy(share, 1 - quantile) >= -math.log(1 - confidence)


def share_refutes(n: int, share: float, quantile: float, confidence: float) -> bool:
    """Say whether a mean share of misses over `n` requests refutes the line."""
    return share > 1 - quantile and n * relative_entropy(share, 1 - quantile) >= -math.log(1 - confidence)


def provable_quantile(n: int, confidence: float) -> float:
    """Return the highest quantile that `n` requests without a miss prove: q^n = 1 - confidence."""
    return float((1 - confidence) ** (1 / n))
