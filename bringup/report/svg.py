"""Small pieces of SVG for charts that stretch with the page.

A chart is as wide as its place: x is given in percent of the width, y in pixels from the top. Text, strokes and dots keep their
size on a phone and on paper. Nothing here decides a colour: the page's style sheet does, by class, once for light and once for
dark. All text is escaped (Markup.format escapes what it fills in).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Point = tuple[float, float]
"""x in percent of the width, y in pixels."""


@dataclass(frozen=True)
class Axis:
    """Values → places, linear or logarithmic."""

    low: float
    high: float
    start: float = 0.0
    """Where `low` is: percent along x, pixels along y."""
    end: float = 100.0
    log: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value; what is off the axis is put at its end."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        if high <= low:
            return self.start
        inside = min(max(value, self.low), self.high)
        share = ((math.log(inside) if self.log else inside) - low) / (high - low)
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most `most` + 1 round values (1, 2 or 5 times a power of ten) from `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Write a figure with three significant digits and no needless zeros: 7.98, 74,300, 0.05."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def chart(height: float, title: str, description: str, *parts: Markup) -> Markup:
    """Put a chart together; screen readers say its title and description instead of its parts."""
    return Markup('<svg class="chart" role="img" height="{}"><title>{}</title><desc>{}</desc>{}</svg>').format(
        _short(height), title, description, Markup("").join(parts)
    )


def line(points: Sequence[Point], height: float, css: str) -> Markup:
    """Draw an open line through the points."""
    return _path(f"M{_list(points)}", height, css) if points else Markup("")


def area(points: Sequence[Point], base: float, height: float, css: str) -> Markup:
    """Fill what lies between the points and the y of `base`."""
    if not points:
        return Markup("")
    return _path(f"M{_short(points[0][0])} {_short(base)}L{_list(points)}L{_short(points[-1][0])} {_short(base)}Z", height, css)


def between(lower: Sequence[Point], upper: Sequence[Point], height: float, css: str) -> Markup:
    """Fill what lies between two lines."""
    return _path(f"M{_list([*upper, *reversed(lower)])}Z", height, css) if lower and upper else Markup("")


def steps(points: Sequence[Point]) -> list[Point]:
    """Return the points of a line that keeps its y until the next x."""
    found: list[Point] = []
    for x, y in points:
        if found:
            found.append((x, found[-1][1]))
        found.append((x, y))
    return found


def bar(x: float, y: float, width: float, height: float, css: str, tip: str = "") -> Markup:
    """Draw a rectangle; x and width in percent."""
    return Markup('<rect class="{}" x="{}%" y="{}" width="{}%" height="{}">{}</rect>').format(
        css, _short(x), _short(y), _short(max(0.0, width)), _short(max(0.0, height)), _tip(tip)
    )


def dot(x: float, y: float, css: str, tip: str = "", radius: float = 3) -> Markup:
    """Draw a dot."""
    return Markup('<circle class="{}" cx="{}%" cy="{}" r="{}">{}</circle>').format(
        css, _short(x), _short(y), _short(radius), _tip(tip)
    )


def stroke(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """Draw a straight line."""
    return Markup('<line class="{}" x1="{}%" y1="{}" x2="{}%" y2="{}"/>').format(
        css, _short(x1), _short(y1), _short(x2), _short(y2)
    )


def label(x: float, y: float, text: str, css: str = "", anchor: str = "middle", dx: float = 0) -> Markup:
    """Write text at a place, moved by `dx` pixels; `anchor` is what of it stands there: start, middle or end."""
    return Markup('<text class="{}" x="{}%" y="{}" dx="{}" text-anchor="{}">{}</text>').format(
        css, _short(x), _short(y), _short(dx), anchor, text
    )


def x_axis(axis: Axis, y: float, top: float, unit: str, most: int = 5, values: Sequence[float] | None = None) -> Markup:
    """Draw ticks with their values under a chart and faint lines through it; the unit stands at the last value."""
    shown = list(ticks(axis.low, axis.high, most) if values is None else values)
    parts = []
    for index, value in enumerate(shown):
        x = axis.at(value)
        anchor = "start" if x < 3 else "end" if x > 90 else "middle"
        text = number(value) + (f" {unit}" if index == len(shown) - 1 else "")
        parts += [stroke(x, top, x, y, "grid"), label(x, y + 14, text, "tick", anchor)]
    return Markup("").join(parts)


def y_axis(axis: Axis, most: int = 3, values: Sequence[float] | None = None) -> Markup:
    """Draw faint lines across a chart with their values to the left of it."""
    shown = ticks(min(axis.low, axis.high), max(axis.low, axis.high), most) if values is None else values
    return Markup("").join(
        Markup("").join((stroke(0, axis.at(v), 100, axis.at(v), "grid"), label(0, axis.at(v) + 3.5, number(v), "tick", "end", -5)))
        for v in shown
    )


def _path(d: str, height: float, css: str) -> Markup:
    # stretched across, so x is in percent here too; the style sheet keeps the stroke's width
    return Markup(
        '<svg class="stretch" width="100%" height="{0}" viewBox="0 0 100 {0}" preserveAspectRatio="none">'
        '<path class="{1}" d="{2}"/></svg>'
    ).format(_short(height), css, d)


def _list(points: Iterable[Point]) -> str:
    return " ".join(f"{_short(x)} {_short(y)}" for x, y in points)


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _tip(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text) if text else Markup("")
