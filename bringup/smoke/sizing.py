"""How many requests a stage measures: decided once, before the first of them, from its lines and the time that there is."""

from collections.abc import Sequence

from bringup.smoke.model import AcceptanceLine
from bringup.smoke.statistics import provable_quantile, requests_needed
from bringup.smoke.summary import metric_parts

_SPARE_MISSES = 5
"""So many requests may miss the strictest line where the time allows it: 103 requests for a P90. A server that misses a P90 line
with 3 % of its requests then passes in 9 of 10 runs, with 29 requests in 4 of 10."""
_WITHOUT_LINES = 29
_FEWEST = 5
"""What a P50 takes."""


def requests_for(lines: Sequence[AcceptanceLine], confidence: float, affordable: int) -> int:
    """Return how many requests to measure.

    Args:
        lines: what is to be proven; the highest quantile decides.
        confidence: of each bound.
        affordable: requests that the time allows for.
    """
    quantiles = [metric_parts(line.metric)[1] / 100 for line in lines if line.metric != "failed_requests"]
    if not quantiles:
        return max(_FEWEST, min(_WITHOUT_LINES, affordable))
    designs = [requests_needed(max(quantiles), confidence, misses) for misses in range(_SPARE_MISSES + 1)]
    fitting = [count for count in designs if count <= affordable]
    # where not even the smallest fits, the higher lines stay open, and the lower ones get what there is
    return fitting[-1] if fitting else max(_FEWEST, affordable)


def claim(count: int, lines: Sequence[AcceptanceLine], confidence: float) -> str:
    """Say in words what so many requests can prove."""
    quantiles = sorted({metric_parts(line.metric)[1] for line in lines if line.metric != "failed_requests"})
    beyond = [percent for percent in quantiles if requests_needed(percent / 100, confidence) > count]
    most = f"{count} requests without a miss prove P{100 * provable_quantile(count, confidence):.3g} at {confidence:.0%} confidence"
    if not beyond:
        return most
    return f"{most}; P{beyond[0]} would take {requests_needed(beyond[0] / 100, confidence)}"
