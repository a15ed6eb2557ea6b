"""What a cause is."""

from typing import Literal

from bringup.hardware import Frozen

Confidence = Literal["high", "medium", "low"]
"""``high``: it was seen to act on the figures that missed their line, and its size fits. ``medium``: it was seen, and what it
cost was not measured. ``low``: it is there, and may be harmless."""


class Cause(Frozen):
    """Something that makes a run slow, with what was seen of it."""

    key: str
    """Stable name for programs: ``cpu-saturated``, ``queueing``…"""
    title: str
    """One sentence."""
    evidence: tuple[str, ...]
    """What was seen, with numbers; never empty."""
    confidence: Confidence
    fix: str
    """What to do about it."""
