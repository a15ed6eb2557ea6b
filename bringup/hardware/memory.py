"""Main memory: how much there is, and of what modules it is made."""

from bringup.hardware.base import Frozen


class Memory(Frozen):
    """Main memory in MiB, the container's limit applied."""

    total_mib: int
    available_mib: int
    swap_mib: int = 0


class MemoryModule(Frozen):
    """One populated slot, or one soldered package."""

    locator: str
    bank: str
    size_mib: int
    type: str | None
    """``DDR5``, ``LPDDR5``…; None where the firmware does not tell."""
    rated_mt_s: int | None
    configured_mt_s: int | None
    data_width_bits: int | None
    total_width_bits: int | None
    """Wider than the data by the bits of error correction."""


class MemoryFacts(Frozen):
    """The machine's main memory as its firmware describes it."""

    modules: tuple[MemoryModule, ...]
    empty_slots: int
    type: str | None
    rated_mt_s: int | None
    """Of the slowest module; the firmware's figure, which for a kit with XMP or EXPO is often the plain JEDEC speed."""
    configured_mt_s: int | None
    """What the slowest module runs at."""
    channels: int | None
    """Populated 64-bit channels, all sockets together; None where it cannot be told or inferred."""
    channels_inferred: bool
    """True where the channels come from the kind of machine and not from the names of the slots."""
    channels_reason: str
    """How the channels were found, or why not."""
    total_gib: float
    bandwidth_gb_s: float | None
    """Theoretical: channels × 8 bytes × configured MT/s."""
    ecc: bool | None
