"""What a decision is."""

from typing import Any

from bringup.hardware import Frozen


class Decision(Frozen):
    """One value of the plan, with its reason."""

    key: str
    value: Any
    why: str
    source: str
    """Where the reason comes from: a measurement with its date, a datasheet, a line of vLLM, ``inventory`` for the user's own."""
