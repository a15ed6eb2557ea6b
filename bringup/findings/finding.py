"""What a finding is."""

from typing import Literal

from bringup.hardware import Frozen

Level = Literal["problem", "impossible", "warning", "note"]
"""``problem``: broken, nothing can be served before it is mended. ``impossible``: a wish that this hardware cannot meet.
``warning``: wasted or about to go wrong. ``note``: good to know."""


class Finding(Frozen):
    """Something about a machine or a wish that its owner should know."""

    level: Level
    text: str
    """What it is, and what to do about it."""
    id: str = ""
    """Stable name for programs: ``pcie-lanes``; empty where nobody asked for one yet."""
    cost: str = ""
    """What it may cost, with where the figure comes from or that it was not measured."""


def problem(id: str, text: str, cost: str = "") -> Finding:  # noqa: A002
    """Something that must be mended first."""
    return Finding(level="problem", id=id, text=text, cost=cost)


def warning(id: str, text: str, cost: str = "") -> Finding:  # noqa: A002
    """Something wasted, or about to go wrong."""
    return Finding(level="warning", id=id, text=text, cost=cost)


def note(id: str, text: str, cost: str = "") -> Finding:  # noqa: A002
    """Something good to know."""
    return Finding(level="note", id=id, text=text, cost=cost)
