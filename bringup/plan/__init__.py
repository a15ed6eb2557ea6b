"""Facts → what the host should be, and why. Pure functions: no I/O, no clock, no pyinfra."""

from bringup.plan.decision import Decision
from bringup.plan.model import Plan
from bringup.plan.plan import make_plan

__all__ = ["Decision", "Plan", "make_plan"]
