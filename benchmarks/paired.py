"""What pairs of runs show: the ratio of B to A with its interval, from the logarithms of the pairs' ratios.

Each pair is measured one right after the other, so that what drifts (temperature, other work) is in both. The interval is
Student's t over the pairs: it assumes that the logarithms of the ratios scatter alike, which the A/A pairs of a run let one check.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

# Student's t, two-sided 95 %, by degrees of freedom (any table; R: qt(.975, df)); beyond 30 it changes by less than 4 %
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
LEAST_PAIRS = 5


@dataclass(frozen=True)
class Change:
    """By how much B differs from A, in percent of A, with 95 % bounds."""

    percent: float
    least_percent: float
    most_percent: float
    pairs: int

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.least_percent > 0 or self.most_percent < 0

    def __str__(self) -> str:
        """Return ``+1.2 % (-0.3 to +2.7)``."""
        return f"{self.percent:+.1f} % ({self.least_percent:+.1f} to {self.most_percent:+.1f})"


def change(pairs: Sequence[tuple[float, float]]) -> Change:
    """Compare B with A.

    Args:
        pairs: (A, B) of each pair, positive.

    Raises:
        ValueError: fewer than two pairs, or a figure that is not positive.
    """
    if len(pairs) < 2 or any(figure <= 0 for pair in pairs for figure in pair):
        raise ValueError("it takes two pairs or more of positive figures")
    ratios = [math.log(b / a) for a, b in pairs]
    middle = mean(ratios)
    half = _T95[min(len(ratios) - 1, len(_T95)) - 1] * stdev(ratios) / math.sqrt(len(ratios))
    return Change(*(100 * math.expm1(value) for value in (middle, middle - half, middle + half)), pairs=len(pairs))
