"""Where more requests at once stop bringing more tokens a second: a pure function on the rungs of a ladder."""

from collections.abc import Sequence
from itertools import pairwise

from bringup.smoke.model import Ladder, Stage

_LEAST_GAIN = 1.25
"""Of throughput, for twice as many streams. A quarter more tokens for twice as many streams means that each stream has lost more
than a third of its speed; beyond that, latency is paid and hardly any throughput is got."""
RULE = (
    f"the knee is the last rung before one that brings less than {_LEAST_GAIN - 1:.0%} more tokens a second for twice the requests"
)


def rungs(up_to: int) -> tuple[int, ...]:
    """Return the concurrencies to try: 1, 2, 4… and `up_to`."""
    powers = [2**n for n in range(up_to.bit_length()) if 2**n < up_to]
    return (*powers, up_to)


def find_knee(stages: Sequence[Stage]) -> Ladder:
    """Return the knee of rungs in ascending order of concurrency."""
    measured = [
        (stage.load.concurrency, stage.summary.output_tokens_per_s)
        for stage in stages
        if stage.load.concurrency is not None and stage.summary.output_tokens_per_s and not stage.summary.failed
    ]
    if len(measured) < len(stages):
        failed = [stage.load.concurrency for stage in stages if stage.summary.failed or not stage.summary.output_tokens_per_s]
        note = f"requests failed with {failed[0]} at once"
    else:
        note = ""
    for (below, slower), (above, faster) in pairwise(measured):
        # a rung that is not twice the one before needs not gain as much
        if faster / slower < _LEAST_GAIN ** _doublings(below, above):
            return Ladder(knee_concurrency=below, rule=RULE, note=note)
    return Ladder(knee_concurrency=None, rule=RULE, note=note or "throughput still grew at the highest rung")


def _doublings(below: int, above: int) -> float:
    return float(above / below - 1) if above < 2 * below else 1.0
