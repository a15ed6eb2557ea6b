"""The charts of a report, drawn from plain figures: pure functions that return SVG. Each has a table beside it on the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bringup.report.svg import Axis, area, bar, chart, dot, label, line, number, steps, stroke, ticks, x_axis, y_axis

_MOST_BARS = 40
_MOST_POINTS = 200
_FAR = 3.0
"""A line that is so many times as far as the slowest answers is named, not drawn: the answers would be one spike."""
_NARROW = 0.4
"""Where everything lies within the upper part of the axis from here on, the axis does not begin at zero, and says so."""
_CHARACTER = 2.6
"""Width of a letter in percent of the narrowest chart, on a phone."""


@dataclass(frozen=True)
class Mark:
    """A value that a chart is held against."""

    name: str
    value: float
    css: str
    """``limit``: must not be exceeded. ``floor``: cannot be gone below."""


def quantile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of sorted values, as the rest of bringup computes it."""
    return values[max(0, math.ceil(len(values) * percent / 100 - 1e-9) - 1)]


@dataclass(frozen=True)
class Distribution:
    """A distribution as it is drawn, and what had to be left out of the drawing."""

    svg: Markup
    notes: tuple[str, ...]


def distribution(name: str, values: Sequence[float], marks: Sequence[Mark], counted: str) -> Distribution:
    """Draw how values in ms are spread: bars for how many, a line for how many percent were at most so long.

    Args:
        name: of the metric, such as TTFT.
        values: at least one.
        marks: lines and floors of this metric.
        counted: what one value stands for: "requests", "gaps".
    """
    ordered = sorted(values)
    slowest, shown = ordered[-1], ordered[-1]
    if slowest > 4 * quantile(ordered, 99):  # a few stalls would squeeze all the others into one bar
        shown = 2 * quantile(ordered, 99)
    notes = []
    if beyond := sum(value > shown for value in ordered):
        notes.append(f"{beyond:,} of {len(ordered):,} {counted} took longer than the right edge, up to {number(slowest)} ms")
    drawn = [mark for mark in marks if mark.value <= _FAR * shown]
    notes += [f"{mark.name} {number(mark.value)} ms lies beyond the right edge" for mark in marks if mark not in drawn]
    high = max([shown, *(mark.value for mark in drawn)]) * 1.04 or 1.0
    low = min([ordered[0], *(mark.value for mark in drawn)]) * 0.98
    x = Axis(low if low > _NARROW * high else 0.0, high)
    if x.low > 0:
        notes.append(f"the axis begins at {number(x.low)} ms")
    height, top, base = 168.0, 34.0, 144.0
    percent = Axis(0, 100, base, top)
    width = (x.high - x.low) / _MOST_BARS
    counts = [0] * _MOST_BARS
    for value in ordered:
        if value <= shown:
            counts[min(_MOST_BARS - 1, int((value - x.low) / width))] += 1
    most = max(counts) or 1
    bars = [
        bar(
            100 / _MOST_BARS * index + 0.15,
            base - count / most * (base - top),
            100 / _MOST_BARS - 0.3,
            count / most * (base - top),
            "bar",
            f"{count:,} {counted}: {number(x.low + index * width)} to {number(x.low + (index + 1) * width)} ms",
        )
        for index, count in enumerate(counts)
        if count
    ]
    every = max(1, len(ordered) // _MOST_POINTS)
    kept = [*range(0, len(ordered), every), len(ordered) - 1]
    curve = [(0.0, base), *((x.at(ordered[i]), percent.at((i + 1) / len(ordered) * 100)) for i in kept if ordered[i] <= shown)]
    cumulative = line(steps(curve), height, "curve")
    points = []
    for share in (50, 90, 99):
        at = quantile(ordered, share)
        if at <= shown:
            points.append(dot(x.at(at), percent.at(share), "curve-dot", f"P{share}: {number(at)} ms"))
    return Distribution(
        chart(
            height,
            f"{name}: how {len(ordered):,} {counted} are spread",
            f"P50 {number(quantile(ordered, 50))} ms, P90 {number(quantile(ordered, 90))} ms, slowest {number(slowest)} ms. "
            + "; ".join(f"{mark.name} {number(mark.value)} ms" for mark in marks),
            y_axis(percent, values=(0, 50, 90, 100)),
            *bars,
            x_axis(x, base, top, "ms", 4),
            cumulative,
            *points,
            *_marks(drawn, x, top, base),
        ),
        tuple(notes),
    )


def _marks(marks: Sequence[Mark], x: Axis, top: float, base: float) -> list[Markup]:
    parts: list[Markup] = []
    taken = 0.0
    for mark in sorted(marks, key=lambda mark: mark.value):
        at, text = x.at(mark.value), f"{mark.name} {number(mark.value)}"
        width = len(text) * _CHARACTER
        anchor = "start" if at < width / 2 else "end" if at > 100 - width / 2 else "middle"
        left = {"start": at, "middle": at - width / 2, "end": at - width}[anchor]
        # names that stand close together go into two rows
        row = 1 if parts and left < taken else 0
        taken = left + width
        y = top - 20 + 13 * row
        parts += [stroke(at, y + 3, at, base, mark.css), label(at, y, text, f"{mark.css}-name", anchor)]
    return parts


@dataclass(frozen=True)
class Bullet:
    """What was measured beside its acceptance line; all in the line's unit."""

    measured: float | None
    at_most: float
    lower: float | None = None
    upper: float | None = None
    floor: float | None = None


def bullet(shown: Bullet, title: str, css: str) -> Markup:
    """Draw one acceptance line: what was measured with its bounds, the line, and the floor where there is one."""
    known = [value for value in (shown.measured, shown.lower, shown.upper, shown.floor) if value is not None]
    x = Axis(0, max([shown.at_most * 1.25, *(value * 1.05 for value in known)]) or 1.0)
    middle, parts = 11.0, [bar(0, 5, x.at(shown.at_most), 12, "allowed")]
    if shown.floor is not None:
        parts.append(stroke(x.at(shown.floor), 3, x.at(shown.floor), 19, "floor"))
    parts.append(stroke(x.at(shown.at_most), 1, x.at(shown.at_most), 21, "limit"))
    if shown.lower is not None or shown.upper is not None:
        low = 0.0 if shown.lower is None else x.at(shown.lower)
        high = 100.0 if shown.upper is None else x.at(shown.upper)
        parts.append(stroke(low, middle, high, middle, f"bounds {css}"))
        # an end that is open has no cap
        parts += [
            stroke(end, 7, end, 15, f"bounds {css}")
            for end, value in ((low, shown.lower), (high, shown.upper))
            if value is not None
        ]
    if shown.measured is not None:
        parts.append(dot(x.at(shown.measured), middle, f"measured {css}", radius=4.5))
    return chart(22, title, "", *parts)


@dataclass(frozen=True)
class Part:
    """One part of a stacked bar."""

    name: str
    size: float
    css: str


def stacked(parts: Sequence[Part], total: float, title: str, unit: str, height: float = 30) -> Markup:
    """Draw parts of a whole side by side, with a letter where there is room for one; sizes in the whole's unit."""
    x, at, drawn = Axis(0, total), 0.0, []
    for part in parts:
        share = part.size / total * 100
        drawn.append(bar(x.at(at), 0, share, height, f"part {part.css}", f"{part.name}: {number(part.size)} {unit}"))
        if share > 4:
            drawn.append(
                label(x.at(at) + share / 2, height / 2 + 4, part.name if share > 30 else part.name[:1].upper(), "part-name")
            )
        at += part.size
    return chart(height, title, ", ".join(f"{part.name} {number(part.size)} {unit}" for part in parts), *drawn)


@dataclass(frozen=True)
class LadderStep:
    """What one concurrency gave; None where nothing succeeded or nothing is known."""

    concurrency: float
    tokens_per_s: float | None
    ttft_p90_ms: float | None
    itl_p90_ms: float | None
    ceiling: float | None = None


def ladder(found: Sequence[LadderStep], knee: float | None) -> tuple[Markup, Markup]:
    """Draw throughput, and below it the latencies, over the requests in flight; the knee is marked in both."""
    x = Axis(found[0].concurrency, max(found[-1].concurrency, found[0].concurrency * 1.01), 3, 97, log=True)
    places = [step.concurrency for step in found]
    rates = [(step.concurrency, step.tokens_per_s) for step in found if step.tokens_per_s is not None]
    ceilings = [(step.concurrency, step.ceiling) for step in found if step.ceiling is not None]
    most = max([rate for _, rate in rates], default=1.0)
    # a ceiling far above would flatten what was measured
    ceilings = [(at, value) for at, value in ceilings if value <= _FAR * most]
    upper = _Panel(x, places, knee, max([most, *(value for _, value in ceilings)]) * 1.1)
    throughput = chart(
        upper.height,
        "Output tokens a second over requests in flight",
        "; ".join(f"{number(at)} in flight: {number(rate)} tokens/s" for at, rate in rates),
        *upper.frame("in flight"),
        upper.series(ceilings, "floor-line"),
        *upper.dotted(rates, "a", "tokens/s"),
    )
    ttft = [(step.concurrency, step.ttft_p90_ms) for step in found if step.ttft_p90_ms is not None]
    itl = [(step.concurrency, step.itl_p90_ms) for step in found if step.itl_p90_ms is not None]
    values = [value for _, value in (*ttft, *itl) if value > 0]
    low, high = (min(values) / 1.3, max(values) * 1.3) if values else (1.0, 10.0)
    lower = _Panel(x, places, knee, high, low)
    latency = chart(
        lower.height,
        "TTFT P90 and ITL P90 over requests in flight, in ms on a logarithmic scale",
        "; ".join(
            f"{number(step.concurrency)} in flight: TTFT P90 {_ms(step.ttft_p90_ms)}, ITL P90 {_ms(step.itl_p90_ms)}"
            for step in found
        ),
        *lower.frame("in flight"),
        *lower.dotted(ttft, "b", "ms, TTFT P90"),
        *lower.dotted(itl, "c", "ms, ITL P90"),
    )
    return throughput, latency


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{number(value)} ms"


class _Panel:
    """A chart over concurrency."""

    height, top, base = 178.0, 22.0, 152.0

    def __init__(self, x: Axis, places: Sequence[float], knee: float | None, high: float, low: float | None = None) -> None:
        self.x, self.places, self.knee = x, places, knee
        self.y = Axis(0.0 if low is None else low, high, self.base, self.top, log=low is not None)

    def frame(self, unit: str) -> list[Markup]:
        powers = [10.0**power for power in range(-3, 7)]
        halves = [factor * power for power in powers for factor in (1, 2, 5)]
        inside = [value for value in halves if self.y.low <= value <= self.y.high]
        values = (inside if len(inside) <= 5 else [value for value in inside if value in powers]) if self.y.log else None
        parts = [y_axis(self.y, 4, values), x_axis(self.x, self.base, self.top, unit, values=self.places)]
        if self.knee is not None:
            at = self.x.at(self.knee)
            parts.append(stroke(at, self.top - 4, at, self.base, "knee"))
            anchor = "start" if at < 15 else "end" if at > 85 else "middle"
            parts.append(label(at, self.top - 8, f"knee: {number(self.knee)}", "knee-name", anchor))
        return parts

    def series(self, points: Sequence[tuple[float, float]], css: str) -> Markup:
        return line([(self.x.at(at), self.y.at(value)) for at, value in points], self.height, css)

    def dotted(self, points: Sequence[tuple[float, float]], colour: str, unit: str) -> list[Markup]:
        return [
            self.series(points, f"series {colour}"),
            *(
                dot(self.x.at(at), self.y.at(value), f"dot {colour}", f"{number(at)} in flight: {number(value)} {unit}", 3.5)
                for at, value in points
            ),
        ]


def sparkline(values: Sequence[float], title: str) -> Markup:
    """Draw values in their order, from zero up."""
    height = 26.0
    if not values:
        return Markup("")
    y = Axis(0, max(values) or 1.0, height - 2, 3)
    every = max(1, -(-len(values) // 80))
    # of each column the slowest: what is left out is never what is worse
    kept = [max(values[start : start + every]) for start in range(0, len(values), every)]
    x = Axis(0, max(1, len(kept) - 1), 1, 99)
    points = [(x.at(index), y.at(value)) for index, value in enumerate(kept)]
    ends = [dot(*points[-1], "dot a", radius=2.5)]
    return chart(height, title, "", area(points, height - 2, height, "under"), line(points, height, "series a"), *ends)


def round_up(value: float) -> float:
    """Return the next round value above, for the top of an axis."""
    step = ticks(0, value * 1.02 or 1.0, 3)
    return max(value * 1.02, step[-1] if len(step) > 1 else value) or 1.0
