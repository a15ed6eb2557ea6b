"""NVIDIA cards: what sysfs shows without a driver, and what the driver says."""

from bringup.hardware.base import Frozen


class PcieLink(Frozen):
    """Speed and width of one PCI Express link, or what one end of it can do at most."""

    generation: int | None
    """1 to 7, from the transfer rate (2.5 GT/s is 1, 32 GT/s is 5); None where the kernel does not know it."""
    lanes: int | None


class GpuProcess(Frozen):
    """A process that has memory on a card."""

    pid: int
    name: str
    kind: str
    """``C`` computes, ``G`` draws, ``C+G`` both."""
    memory_mib: int | None


class GpuPower(Frozen):
    """Power in watts."""

    draw_w: float | None
    limit_w: float | None
    default_limit_w: float | None
    min_limit_w: float | None
    max_limit_w: float | None


class GpuClocks(Frozen):
    """Clocks in MHz: now, and the highest that the card offers."""

    graphics_mhz: int | None
    sm_mhz: int | None
    memory_mhz: int | None
    max_graphics_mhz: int | None
    max_sm_mhz: int | None
    max_memory_mhz: int | None


class GpuTemperature(Frozen):
    """Degrees Celsius: now, and where the card slows down and switches off."""

    now_c: int | None
    slowdown_c: int | None
    """Where the card throttles to protect itself."""
    shutdown_c: int | None
    max_operating_c: int | None
    memory_c: int | None


class GpuState(Frozen):
    """A card as its driver sees it (`nvidia-smi -q -x`); None where this card or this driver does not tell."""

    pci_id: str | None
    architecture: str | None
    """``Ada Lovelace``, ``Hopper``…"""
    memory_total_mib: int | None
    memory_reserved_mib: int | None
    """Kept by the driver and the firmware."""
    memory_used_mib: int | None
    memory_free_mib: int | None
    power: GpuPower
    clocks: GpuClocks
    temperature: GpuTemperature
    performance_state: str | None
    """``P0`` (fastest) to ``P15``."""
    throttle_reasons: tuple[str, ...]
    """Active ones, as ``sw_power_cap``, ``hw_thermal_slowdown``; idling is not one."""
    persistence_mode: bool | None
    ecc_now: bool | None
    """None also where the card has no ECC."""
    ecc_after_reboot: bool | None
    uncorrectable_ecc_errors: int | None
    """Since the driver was loaded."""
    recovery_action: str | None
    """What the driver asks for after an error: ``Reset``, ``Reboot``…; None where nothing."""
    compute_mode: str | None
    """``Default``, ``Exclusive_Process``, ``Prohibited``."""
    mig: bool | None
    """Whether it is split into instances; None where it cannot be."""
    display_active: bool | None
    """Whether a desktop is drawn on it, which takes memory."""
    link_now: PcieLink
    link_max: PcieLink
    processes: tuple[GpuProcess, ...]


class Gpu(Frozen):
    """One NVIDIA display controller, as sysfs shows it without a driver; the driver refines it."""

    pci_address: str
    pci_id: str
    """``10de:2685``, lower case."""
    numa_node: int | None
    """None where the firmware names none, which is right on machines with a single node."""
    kernel_driver: str | None
    """``nvidia``, ``nouveau``, ``vfio-pci``, or None where nothing holds the card."""
    subsystem_id: str | None = None
    """Vendor and product of the board, ``1043:88e2``."""
    local_cpus: tuple[int, ...] = ()
    """Logical CPUs that are near the card, as the kernel says."""
    link_now: PcieLink | None = None
    """As trained; an idle card lowers its generation, but never its lanes."""
    link_max: PcieLink | None = None
    """What the card itself can do."""
    slot_max: PcieLink | None = None
    """What the port above it can do; None where the card hangs on no bridge (as in a virtual machine)."""
    responds: bool | None = None
    """False where the card no longer answers on the bus (its configuration space reads all ones)."""
    driver_version: str | None = None
    driver_name: str | None = None
    """The card's name as nvidia-smi prints it."""
    driver_memory_mib: int | None = None
    """Memory in MiB as nvidia-smi prints it."""
    state: GpuState | None = None
    """What the driver says of it beyond that; None without a driver."""
