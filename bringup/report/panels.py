"""Panels over time: one picture with its own y axis each, all on one time axis, the stages as bands behind them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from bringup.report.charts import round_up
from bringup.report.svg import Axis, bar, between, chart, line, number, steps, x_axis, y_axis
from bringup.smoke.model import Stage

PLACES = 240
"""Places along the axis; with more samples than that each place shows the least, the mean and the most of its samples."""
HEIGHT, TOP, BASE = 74.0, 8.0, 68.0
"""Of a panel, and of its upper and lower edge, in pixels."""
COLOURS = ("a", "b", "c", "d")
"""Classes of the style sheet, for curves in their order."""


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    name: str
    at_s: tuple[float, ...]
    values: tuple[float | None, ...]
    stepped: bool = False

    @property
    def known(self) -> list[float]:
        """The values without gaps."""
        return [value for value in self.values if value is not None]


@dataclass(frozen=True)
class Panel:
    """One picture with its own y axis and the page's time axis."""

    title: str
    unit: str
    svg: Markup
    names: tuple[tuple[str, str], ...] = ()
    """Colour and name of each curve."""
    note: str = ""


class Frame:
    """What all panels share: the time axis, and bands that show the stages."""

    def __init__(self, x: Axis, stages: Sequence[Stage]) -> None:
        """Take the axis, and the stages in their order."""
        self.x, self.stages = x, stages

    def panel(self, title: str, unit: str, high: float, parts: Iterable[Markup], description: str) -> Markup:
        """Put a panel together whose y axis ends at `high`."""
        y = Axis(0.0, high, BASE, TOP)
        axis = x_axis(self.x, BASE, TOP, "s", 6)
        return chart(HEIGHT + 12, f"{title} over time", description, *self.bands(), y_axis(y, 3), axis, *parts)

    def bands(self) -> list[Markup]:
        """Draw the stages."""
        return [
            bar(
                self.x.at(stage.begin_s),
                TOP,
                self.x.at(stage.end_s) - self.x.at(stage.begin_s),
                BASE - TOP,
                f"stage{index % 2}",
                stage_name(stage),
            )
            for index, stage in enumerate(self.stages)
        ]

    def curves(
        self, title: str, unit: str, found: Sequence[Curve], high: float | None = None, extra: Sequence[Markup] = ()
    ) -> Panel | None:
        """Draw curves into one panel, up to `high` or to the highest of them, with `extra` behind; None where nothing is known."""
        found = [curve for curve in found if curve.known]
        if not found:
            return None
        top = round_up(max(max(curve.known) for curve in found)) if high is None else high
        y = Axis(0.0, top, BASE, TOP)
        parts = [part for curve, colour in zip(found, COLOURS, strict=False) for part in self._curve(curve, y, colour)]
        said = "; ".join(f"{curve.name}: {number(min(curve.known))} to {number(max(curve.known))} {unit}" for curve in found)
        names = tuple((colour, curve.name) for curve, colour in zip(found, COLOURS, strict=False))
        return Panel(title, unit, self.panel(title, unit, top, [*extra, *parts], said), names)

    def _curve(self, curve: Curve, y: Axis, colour: str) -> list[Markup]:
        parts = []
        for run in _runs(curve):
            columns = [(self.x.at(at), value, value, value) for at, value in run] if curve.stepped else _columns(run, self.x)
            mean = [(x, y.at(value)) for x, _, value, _ in columns]
            if len(columns) < len(run):
                lower, upper = [(x, y.at(low)) for x, low, _, _ in columns], [(x, y.at(most)) for x, _, _, most in columns]
                parts.append(between(lower, upper, HEIGHT, f"shade {colour}"))
            parts.append(line(steps(mean) if curve.stepped else mean, HEIGHT, f"series {colour}"))
        return parts


def stage_name(stage: Stage) -> str:
    """Name a stage with its load, as in `ladder, 8 in flight`."""
    load = stage.load
    how = f"{load.concurrency} in flight" if load.kind == "closed" else f"{number(load.rate_rps or 0)} requests/s, {load.arrivals}"
    length = f", prompts of {load.prompt_tokens:,} tokens" if stage.name == "long" and load.prompt_tokens else ""
    return f"{stage.name}, {how}{length}"


def _runs(curve: Curve) -> list[list[tuple[float, float]]]:
    """Cut a curve where nothing could be sampled; a source that is read less often than others has no gaps by that."""
    known = [(at, value) for at, value in zip(curve.at_s, curve.values, strict=True) if value is not None]
    spaces = sorted(after[0] - before[0] for before, after in pairwise(known))
    longest = 3.5 * spaces[len(spaces) // 2] if spaces else 0.0
    runs: list[list[tuple[float, float]]] = []
    for at, value in known:
        if not runs or (not curve.stepped and at - runs[-1][-1][0] > longest):
            runs.append([])
        runs[-1].append((at, value))
    return runs


def _columns(run: Sequence[tuple[float, float]], x: Axis) -> list[tuple[float, float, float, float]]:
    """Return place, least, mean and most of a run of samples; as it is where there are few."""
    if len(run) <= PLACES:
        return [(x.at(at), value, value, value) for at, value in run]
    columns: dict[int, list[tuple[float, float]]] = {}
    for at, value in run:
        columns.setdefault(int(x.at(at) / 100 * PLACES), []).append((at, value))
    found = []
    for inside in columns.values():
        values = [value for _, value in inside]
        found.append((x.at(sum(at for at, _ in inside) / len(inside)), min(values), sum(values) / len(values), max(values)))
    return found
