"""What rules a host's clocks, idle states and interrupts, and what bringup changed of it before."""

from pydantic import Field

from bringup.hardware.base import Frozen


class TuningFacts(Frozen):
    """None: it could not be learnt, or the host has none."""

    idle_driver: str | None = None
    """cpuidle's: ``intel_idle``, ``acpi_idle``…"""
    deepest_idle_us: int | None = None
    """Most microseconds that one of the first CPU's idle states takes to leave."""
    latency_limits: bool = False
    """Whether each CPU takes a limit of its own (power/pm_qos_resume_latency_us)."""
    interrupts: int | None = None
    """How many interrupts have an affinity."""
    irqbalance: bool = False
    """Whether irqbalance runs."""
    irqbalance_banned: tuple[int, ...] = ()
    """CPUs that its owner's configuration keeps it from."""
    tuned_profile: str | None = None
    """Active profile of tuned, without bringup's own; None where tuned does not run."""
    iommu_types: tuple[str, ...] = ()
    """Kinds of the IOMMU's domains: ``DMA``, ``DMA-FQ``, ``identity``."""
    found: dict[str, str] = Field(default_factory=dict)
    """What a setting was before bringup set it, by its key; several values are joined by commas."""
    files: tuple[str, ...] = ()
    """Files of an earlier tuning that are on the host."""
    update_grub: bool = False
    """Whether the host has the program that writes GRUB's menu anew."""
    unit_enabled: bool = False
    """Whether bringup-tuning.service starts at boot."""
