"""What a setting of the host is, and what one is that does nothing here."""

from typing import Literal

from bringup.hardware import Frozen, HostFacts

Evidence = Literal["measured", "vendor", "documentation", "folklore", "none"]
"""Why we believe that a setting helps: we measured it; its maker says so; documentation or source says what it does, and that
it is of use here follows; people say so; no reason at all."""

NO_EFFECT_SHOWN = "effect on latency not measured by us"


class HostSetting(Frozen):
    """One setting of the host outside vLLM."""

    key: str
    """The sysctl's name, or the field's name for it: ``cpu_governor``, ``gpu_power_limit_w``."""
    kind: Literal["sysctl", "sysfs", "irq", "limit", "gpu"]
    value: str
    now: str | None
    """What it is now; None where it could not be learnt."""
    why: str
    evidence: Evidence
    source: str
    read_back: str
    """Command that prints the live value."""
    writable: bool | None
    """Whether root can set it from inside this host; None where that is not known."""
    default_on: bool
    """Whether the plan sets it by itself; else it is offered, and set only where the inventory asks for it."""
    paths: tuple[str, ...] = ()
    """Files of the kernel that hold it, as shell patterns; empty where it has none."""
    state: Literal["set", "offered", "kept"] = "offered"
    """What the plan does about it, the inventory's wishes included; ``kept``: it would be set and the inventory says no."""


class Unneeded(Frozen):
    """A setting that does nothing here, or need not be listed."""

    key: str
    why: str
    setting: HostSetting | None = None
    """What it would be for an inventory that asks for it all the same; None where it can do nothing at all."""


Candidate = HostSetting | Unneeded


def as_found(facts: HostFacts, key: str, now: str | None) -> str | None:
    """What a setting was before bringup set it: judged on what it is now, a setting would be taken back as soon as it is made."""
    return facts.tuning.found.get(key, now)


def machine_writable(facts: HostFacts) -> bool:
    """Whether root of this host rules the machine; a container's machine is not its own."""
    return facts.root_access != "none" and facts.system.container is None
